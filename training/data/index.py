"""An index of a nuScenes-format set, built once: plain .npy arrays, mapped into memory: epochs start at once.

Stored as <version>-<fingerprint of the tables> (training.data.stored), with --classes and a fingerprint of that, by one
process while others wait; that one prints what the tables hold.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from training.data.class_names import ClassNames
from training.data.stored import load_stored, stored_or_made
from training.data.tables import index_arrays, table_paths
from training.data.tally import Tally, in_words, tally_from_plain

FORMAT = 3  # raise it when the arrays change: older indices are then built anew


@dataclass(frozen=True)
class Index:
    """Arrays of `tables.index_arrays` and the facts about them. classes: what --classes said. digest: sha256 over what
    a network is shown, for a run's record and for what is made of this set."""

    dataroot: Path
    version: str
    arrays: dict[str, np.ndarray]
    channels: tuple[str, ...]
    scenes: tuple[str, ...]
    attributes: tuple[str, ...]
    motion_corrected: bool
    digest: str
    classes: ClassNames
    tally: Tally

    def __reduce__(self) -> tuple:
        """Another process opens the index anew instead of being sent its arrays."""
        return open_index, (self.dataroot, self.version, self.classes)

    def path(self, row: int) -> str:
        """The file of a data row."""
        ends = self.arrays["data_name_end"]
        start = int(ends[row - 1]) if row else 0
        return str(self.dataroot / self.arrays["data_names"][start : int(ends[row])].tobytes().decode())


def open_index(dataroot: str | Path, version: str, classes: ClassNames = ()) -> Index:
    """The set's index, built first if there is none for the tables as they are now (sizes and times of change) and for
    these names of classes.

    Raises FileNotFoundError for a set without its tables and ValueError for broken ones.
    """
    root = Path(dataroot).resolve()
    return _open(root, version, classes, _fingerprint(root, version))


@lru_cache(maxsize=4)
def _open(dataroot: Path, version: str, classes: ClassNames, fingerprint: str) -> Index:
    name = f"{version}-{fingerprint}"
    if classes:
        name += f"-{hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:8]}"

    def make(folder: Path) -> dict[str, Any]:
        facts = _build(dataroot, version, classes, folder)
        _take_away_old(folder.parent, version, fingerprint)
        return facts

    path = stored_or_made(dataroot, name, "index", make)
    arrays, facts = load_stored(path)
    return Index(
        dataroot, version, arrays, tuple(facts["channels"]), tuple(facts["scenes"]), tuple(facts["attributes"]),
        facts["motion_corrected"], facts["digest"], classes, tally_from_plain(facts["tally"]),
    )  # fmt: skip


def _build(dataroot: Path, version: str, classes: ClassNames, folder: Path) -> dict[str, Any]:
    """Arrays of the tables into `folder`; their facts."""
    print(f"{dataroot}: building the index of {version} (once)", flush=True)
    arrays, facts, tally = index_arrays(table_paths(dataroot, version), classes)
    digest = hashlib.sha256(json.dumps(facts | ({"classes": classes} if classes else {}), sort_keys=True).encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(key.encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
        np.save(folder / f"{key}.npy", array, allow_pickle=False)
    print(_summary(version, arrays, facts, tally), flush=True)
    return {"arrays": sorted(arrays), "digest": digest.hexdigest(), "tally": tally.to_plain(), **facts}


def _summary(version: str, arrays: dict[str, np.ndarray], facts: dict[str, Any], tally: Tally) -> str:
    periods = np.diff(arrays["frame_stamp"])[np.diff(arrays["frame_scene"]) == 0] * 1e-9
    every = f", one every {np.median(periods):.2f} s" if len(periods) else ""
    read = (
        f"{version}: {len(facts['scenes'])} scenes, {len(arrays['frame_stamp'])} samples{every}, "
        f"{len(arrays['data_stamp'])} files of {len(facts['channels'])} sensors, {tally.annotations()} annotations"
    )
    remarks = [f"  note: {remark}" for remark in tally.remarks]
    return "\n".join([read, in_words(tally.kept(), tally.dropped()), *remarks])


def _take_away_old(place: Path, version: str, fingerprint: str) -> None:
    """Indices of the tables as they were before."""
    for old in place.iterdir():
        found = re.fullmatch(rf"{re.escape(version)}-([0-9a-f]{{16}})(-[0-9a-f]{{8}})?", old.name)
        if found and found[1] != fingerprint:
            shutil.rmtree(old, ignore_errors=True)


def _fingerprint(dataroot: Path, version: str) -> str:
    stats = {name: path.stat() for name, path in table_paths(dataroot, version).items()}
    facts = [FORMAT, version, {name: (s.st_size, s.st_mtime_ns) for name, s in stats.items()}]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
