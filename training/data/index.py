"""An index of a nuScenes-format set, built once: plain .npy arrays, mapped into memory: epochs start at once.

Stored as DATA/.bev_index/<version>-<fingerprint of the tables>/, or in the user's cache where DATA cannot be written
(bev_perception.places).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.places import cache_places, in_first, is_own
from training.data.tables import index_arrays, read_tables, table_paths

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
    path = find_stored(dataroot, name)
    if path is None:
        print(f"{dataroot}: building the index of {version} (once)", flush=True)
        arrays, facts = index_arrays(read_tables(dataroot, version))
        path = store(dataroot, name, arrays, facts)
        for old in path.parent.glob(f"{version}-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
    arrays, facts = load_stored(path)
    return Index(
        dataroot, version, arrays, tuple(facts["channels"]), tuple(facts["scenes"]), tuple(facts["attributes"]),
        facts["motion_corrected"], facts["digest"],
    )  # fmt: skip


def _fingerprint(dataroot: Path, version: str) -> str:
    stats = {name: path.stat() for name, path in table_paths(dataroot, version).items()}
    facts = [FORMAT, version, {name: (s.st_size, s.st_mtime_ns) for name, s in stats.items()}]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _places(dataroot: Path) -> list[Path]:
    own = hashlib.sha256(str(dataroot).encode()).hexdigest()[:16]
    return [dataroot / ".bev_index", *(place / own for place in cache_places("index"))]


def find_stored(dataroot: Path, name: str) -> Path | None:
    """Where arrays of this name are stored for the set, if they are."""
    places = (place for place in _places(dataroot) if is_own(place))
    return next((place / name for place in places if (place / name / "facts.json").is_file()), None)


def store(dataroot: Path, name: str, arrays: Mapping[str, np.ndarray], facts: dict[str, Any]) -> Path:
    """Write arrays and facts (JSON) as a folder; whole under another name, then moved: nobody ever sees half of it.

    Beside the data, or where that cannot be written or is full in the next best place, which is said. Raises OSError
    naming the places and the variable to set when there is none.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key in sorted(arrays):
        digest.update(key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
    facts = {"arrays": sorted(arrays), "digest": digest.hexdigest(), **facts}
    return in_first(_places(dataroot), f"index of {dataroot}", print, lambda place: _write(place, name, arrays, facts))


def _write(parent: Path, name: str, arrays: Mapping[str, np.ndarray], facts: dict[str, Any]) -> Path:
    part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    try:
        for key, array in arrays.items():
            np.save(part / f"{key}.npy", array, allow_pickle=False)
        (part / "facts.json").write_text(json.dumps(facts))
        part.chmod(0o755)
        try:
            part.rename(parent / name)
        except OSError:
            if not (parent / name).is_dir():  # else another process was faster, and stored the same
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return parent / name


def load_stored(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays, mapped into memory, and facts. Raises ValueError for a damaged folder."""
    try:
        facts = json.loads((path / "facts.json").read_text())
        return {key: _load_array(path / f"{key}.npy") for key in facts["arrays"]}, facts
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete this folder, it is built again") from error


def _load_array(path: Path) -> np.ndarray:
    mapped = path.stat().st_size > 4096  # an empty array cannot be mapped
    return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
