"""The data set that recorded drives are added to, one after the other.

    OUT/samples, OUT/sweeps, OUT/VERSION, OUT/splits.json, OUT/maps    as in nuScenes (training.tables.files)
    OUT/.drives/NAME/*.json   the rows of each scene of a drive that is whole, and drive.json: what it was made with

A drive is written below OUT/.drives/.NAME.part, where nothing reads it, and moves to its place when it is whole; then
the tables are written anew over all drives. An interrupted run leaves the data set as it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.tables.files import write_json, write_tables
from training.tables.rows import Row
from training.tables.vocabulary import token_of

FORMAT = 1  # raise it when the files of a drive change, so that old and new ones are never mixed
DRIVES, FACTS = ".drives", "drive.json"


class DriveFolder:
    """One drive while it is written."""

    def __init__(self, part: Path, name: str) -> None:
        self.name, self._part, self._scenes = name, part, 0

    def write(self, channel: str, name: str, data: bytes) -> bool:
        """A file of a sensor; False where there is one of that name already."""
        path = self._part / "sweeps" / channel / name
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return True

    def remove(self, channel: str, name: str) -> None:
        (self._part / "sweeps" / channel / name).unlink()

    def next_scene(self) -> str:
        return f"{self.name}-{self._scenes:04d}"

    def add_scene(self, tables: dict[str, list[Row]], keys: set[str]) -> None:
        """Of the name `next_scene` gave. keys: names of files that belong to samples/."""
        for row in tables["sample_data"]:
            path = Path(row["filename"])
            if path.name in keys:
                target = self._part / path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._part / "sweeps" / path.parent.name / path.name, target)
        write_json(self._part / f"{self._scenes:04d}.json", tables)
        self._scenes += 1


@contextmanager
def open_dataset(out: Path, version: str) -> Iterator[None]:
    """Of one process at a time. Raises ValueError where OUT is a data set of somebody else, or is being written to."""
    drives = out / DRIVES
    if (out / version).exists() and not drives.is_dir():
        raise ValueError(f"{out / version} was not written from recordings and is not replaced: name another OUT")
    made = [path for path in (out, *out.parents) if not path.exists()]
    drives.mkdir(parents=True, exist_ok=True)
    with open(drives / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{out} is being written to by another process; wait for it") from None
        try:
            yield
        finally:
            _forget_empty(drives, made)


def _forget_empty(drives: Path, made: list[Path]) -> None:
    """A run that wrote nothing leaves nothing."""
    if {entry.name for entry in drives.iterdir()} == {".lock"}:
        shutil.rmtree(drives)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def finished(out: Path, name: str, facts: dict[str, Any]) -> bool:
    """Whether the drive is there, made with the same facts. Raises ValueError where with others."""
    path = out / DRIVES / name / FACTS
    if not path.is_file():
        return False
    found, asked = json.loads(path.read_text())["made_with"], {"format": FORMAT, **facts}
    if found != asked:
        differ = ", ".join(f"{k} {found.get(k)!r}, asked for {v!r}" for k, v in asked.items() if found.get(k) != v)
        raise ValueError(f"{out} has a drive {name!r} already, made with {differ}; give --name another, or another OUT")
    return True


@contextmanager
def open_drive(
    out: Path, name: str, facts: dict[str, Any], split: str, sensors: dict[str, str]
) -> Iterator[DriveFolder]:
    """A drive to be written, which is added to the data set when the block ends, and is gone when the block raises.

    sensors: channel -> modality, filled within the block.
    """
    part, place = out / DRIVES / f".{name}.part", out / DRIVES / name
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        yield DriveFolder(part, name)
        for folder in ("samples", "sweeps"):
            for channel in sorted((part / folder).glob("*")):
                target = out / folder / channel.name
                target.mkdir(parents=True, exist_ok=True)
                for file in channel.iterdir():
                    os.replace(file, target / file.name)
            shutil.rmtree(part / folder, ignore_errors=True)
        write_json(part / FACTS, {"made_with": {"format": FORMAT, **facts}, "split": split, "sensors": sensors})
        os.replace(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def tables_of_drives(out: Path, version: str) -> int:
    """Writes the tables over all drives; returns how many there are."""
    drives = sorted(path for path in (out / DRIVES).iterdir() if (path / FACTS).is_file())
    facts = [json.loads((path / FACTS).read_text()) for path in drives]
    scenes = [sorted(path.glob("[0-9]*.json")) for path in drives]
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for path, fact, files in zip(drives, facts, scenes):
        splits.setdefault(fact["split"], []).extend(f"{path.name}-{file.stem}" for file in files)
    sensors = {name: kind for fact in facts for name, kind in fact["sensors"].items()}
    rows = (json.loads(file.read_text()) for files in scenes for file in files)
    write_tables(out, version, rows, dict(sorted(sensors.items())), splits, "recorded")
    return len(drives)


def log_row(name: str, vehicle: str, date: str, bag: Path) -> Row:
    """Of a drive; its scenes share it. vehicle: any but "synthetic", whose LiDAR turns while it drives."""
    return {
        "token": token_of("log", name),
        "logfile": bag.name,
        "vehicle": vehicle,
        "date_captured": date,
        "location": "recorded",
    }
