"""Files that are never seen half written, and files of others, read within bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends and vanishes when the block raises.

    It lies beside the target, is synced and then replaces it: whatever happens, the file is the old one or the new one.
    Folders are made. Several processes may write the same file: the last one wins, whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the name must not become visible before the bytes, even if the power goes
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """All of a file at once, as open_atomic writes it."""
    with open_atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def read_bytes(path: str | Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes. Raises ValueError for others, OSError where it cannot be read."""
    path = Path(path)
    size = path.stat().st_size
    if not path.is_file():  # a pipe or a device would be read for ever
        raise ValueError("is no regular file")
    if size > limit:
        raise ValueError(f"has {size} bytes, at most {limit} are read")
    with open(path, "rb") as file:
        data = file.read(size + 1)  # which takes so much memory at once: not that of the limit
    if len(data) > size:
        raise ValueError(f"grew beyond {size} bytes while it was read")
    return data


def read_text(path: str | Path, limit: int) -> str:
    """The text of a file as `read_bytes` reads it. Raises ValueError where it is not UTF-8."""
    data = read_bytes(path, limit)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start}: 0x{data[error.start]:02x})") from error
