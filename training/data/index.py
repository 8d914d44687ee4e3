"""An index of a nuScenes-format set, built once: plain .npy arrays, mapped into memory: epochs start at once.

Stored as <version>-<fingerprint of the tables> (training.data.stored), by one process while others wait.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from training.data.stored import load_stored, stored_or_made
from training.data.tables import index_arrays, table_paths

FORMAT = 1  # raise it when the arrays change: older indices are then built anew


@dataclass(frozen=True)
class Index:
    """Arrays of `tables.index_arrays` and the facts about them. digest: sha256 over all of them, for a run's record."""

    dataroot: Path
    version: str
    arrays: dict[str, np.ndarray]
    channels: tuple[str, ...]
    scenes: tuple[str, ...]
    attributes: tuple[str, ...]
    motion_corrected: bool
    digest: str

    def __reduce__(self) -> tuple:
        """Another process opens the index anew instead of being sent its arrays."""
        return open_index, (self.dataroot, self.version)

    def path(self, row: int) -> str:
        """The file of a data row."""
        ends = self.arrays["data_name_end"]
        start = int(ends[row - 1]) if row else 0
        return str(self.dataroot / self.arrays["data_names"][start : int(ends[row])].tobytes().decode())


def open_index(dataroot: str | Path, version: str) -> Index:
    """The set's index, built first if there is none for the tables as they are now (sizes and times of change).

    Raises FileNotFoundError for a set without its tables and ValueError for broken ones.
    """
    return _open(Path(dataroot).resolve(), version, _fingerprint(Path(dataroot).resolve(), version))


@lru_cache(maxsize=4)
def _open(dataroot: Path, version: str, fingerprint: str) -> Index:
    name = f"{version}-{fingerprint}"
    path = stored_or_made(dataroot, name, "index", lambda folder: _build(dataroot, version, folder))
    arrays, facts = load_stored(path)
    return Index(
        dataroot, version, arrays, tuple(facts["channels"]), tuple(facts["scenes"]), tuple(facts["attributes"]),
        facts["motion_corrected"], facts["digest"],
    )  # fmt: skip


def _build(dataroot: Path, version: str, folder: Path) -> dict[str, Any]:
    """Arrays of the tables into `folder`; their facts."""
    print(f"{dataroot}: building the index of {version} (once)", flush=True)
    arrays, facts = index_arrays(table_paths(dataroot, version))
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(key.encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
        np.save(folder / f"{key}.npy", array, allow_pickle=False)
    for old in folder.parent.glob(f"{version}-{'?' * 16}"):  # of the tables as they were before
        shutil.rmtree(old, ignore_errors=True)
    return {"arrays": sorted(arrays), "digest": digest.hexdigest(), **facts}


def _fingerprint(dataroot: Path, version: str) -> str:
    stats = {name: path.stat() for name, path in table_paths(dataroot, version).items()}
    facts = [FORMAT, version, {name: (s.st_size, s.st_mtime_ns) for name, s in stats.items()}]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
