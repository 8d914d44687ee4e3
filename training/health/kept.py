"""Drives in files: what took minutes to collect is not collected again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from bev_perception.array_file import read_arrays
from bev_perception.files import write_atomic
from training.health.collecting import Drive

LIMIT = 2**30  # bytes


def write_drive(path: Path, drive: Drive) -> None:
    arrays = {f"part.{name}": values for name, values in drive.found.items()}
    stream = io.BytesIO()
    np.savez_compressed(
        stream, stamps_ns=drive.stamps_ns, affected=np.array(sorted(drive.affected), dtype="U64"), **arrays
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stream.getvalue())


def read_drive(path: Path, scene: str) -> Drive:
    """Raises ValueError, OSError for a file that is none of `write_drive`."""
    arrays = read_arrays(path, LIMIT, LIMIT)
    if not {"stamps_ns", "affected"} <= set(arrays):
        raise ValueError(f"{path} is no drive of training.health; remove it, and it is collected again")
    found = {name.removeprefix("part."): values for name, values in arrays.items() if name.startswith("part.")}
    return Drive(scene, arrays["stamps_ns"], found, frozenset(map(str, arrays["affected"])))
