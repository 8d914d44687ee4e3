"""Folders of plain arrays that are made once of a data set and then mapped into memory by every process.

They lie in DATA/.bev_index/, or in the user's cache where DATA cannot be written (bev_perception.places).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.files import write_atomic
from bev_perception.places import cache_places, in_first, is_own

FACTS = "facts.json"  # written last: a folder that has it is whole
# Errors of a place, for which the next one is tried; all others are of what is stored.
OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOLCK)
HEADER_BYTES = 128  # of a .npy file, however many rows it has: numpy leaves room for a growing first axis


def stored_or_made(dataroot: Path, name: str, what: str, make: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder `name` of the set. Where there is none one process makes it, under a lock, and all others wait.

    make(folder) fills a folder with arrays (.npy) and gives the facts (JSON) about them, "arrays" naming the files. The
    folder gets its name when that is done: nobody ever sees half of it. What a process that ended early has left in it
    is there when the next one is asked to make it.
    Raises OSError naming the places and the variable to set when there is none, and whatever `make` raises.
    """
    found = _find(dataroot, name)
    if found is not None:
        return found
    made = in_first(_places(dataroot), f"{what} of {dataroot}", print, lambda p: _make_once(p, name, what, make))
    if isinstance(made, Exception):
        raise made
    return made


def load_stored(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays, mapped into memory, and facts. Raises ValueError for a damaged folder."""
    try:
        facts = json.loads((path / FACTS).read_text())
        return {key: _load_array(path / f"{key}.npy") for key in facts["arrays"]}, facts
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete this folder, it is built again") from error


class GrowingArray:
    """A .npy file of rows that are appended: what is in it never is in memory.

    rows: how many of an earlier process's are kept, 0 to begin. The file is a valid .npy after `flush`.
    """

    def __init__(self, path: Path, dtype: str, columns: tuple[int, ...], rows: int = 0) -> None:
        """Raises ValueError when the file has fewer rows than are to be kept."""
        self.dtype, self.columns, self.rows = np.dtype(dtype), columns, rows
        row_bytes = self.dtype.itemsize * int(np.prod(columns))
        self._file = open(path, "r+b" if rows else "w+b")
        kept = HEADER_BYTES + rows * row_bytes
        if rows and os.fstat(self._file.fileno()).st_size < kept:
            raise ValueError(f"{path} has fewer than {rows} rows; delete {path.parent}, it is built again")
        self._file.truncate(kept)
        self._file.seek(kept)

    def append(self, rows: np.ndarray) -> None:
        """(n, *columns), converted to the file's type."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype).reshape(-1, *self.columns)
        self._file.write(rows.data)
        self.rows += len(rows)

    def flush(self) -> None:
        """What was appended is on the disk after this."""
        shape = (self.rows, *self.columns)
        self._file.seek(0)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        assert self._file.tell() == HEADER_BYTES
        self._file.seek(0, os.SEEK_END)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _find(dataroot: Path, name: str) -> Path | None:
    places = (place for place in _places(dataroot) if is_own(place))
    return next((place / name for place in places if (place / name / FACTS).is_file()), None)


def _places(dataroot: Path) -> list[Path]:
    own = hashlib.sha256(str(dataroot).encode()).hexdigest()[:16]
    return [dataroot / ".bev_index", *(place / own for place in cache_places("index"))]


def _make_once(place: Path, name: str, what: str, make: Callable[[Path], dict[str, Any]]) -> Path | Exception:
    """The folder, or what `make` raised because of anything but the place."""
    with _alone(place / f".{name}.lock", what):
        if (place / name / FACTS).is_file():  # made while this process waited
            return place / name
        part = place / f".{name}.part"
        part.mkdir(exist_ok=True)
        try:
            facts = make(part)
            write_atomic(part / FACTS, json.dumps(facts))
            shutil.rmtree(place / name, ignore_errors=True)  # without facts: of no use
            part.rename(place / name)
        except OSError as error:
            if error.errno not in OF_THE_PLACE:
                return error
            shutil.rmtree(part, ignore_errors=True)
            raise
    return place / name


@contextmanager
def _alone(path: Path, what: str) -> Iterator[None]:
    """Within: this process has the lock of the file, which is gone afterwards. Waits while another has it, and says so.

    A lock ends with its process, however that ends.
    """
    lock = open(path, "a")
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process makes the {what}: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                break
        lock.close()  # the one before took the file away when it was done
        lock = open(path, "a")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: loader processes that were begun within have it open
        lock.close()


def _load_array(path: Path) -> np.ndarray:
    mapped = path.stat().st_size > 4096  # an empty array cannot be mapped
    return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
