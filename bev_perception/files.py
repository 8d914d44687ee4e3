"""Files and folders that are never seen half written, and files of others, read within bounds."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends and vanishes when the block raises.

    It lies beside the target, is synced and then replaces it: whatever happens, the file is the old one or the new one.
    Folders are made. Several processes may write the same file: the last one wins, whole. Raises OSError, which names
    the file also where the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming_the_full_disk(path):
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


@contextmanager
def naming_the_full_disk(path: str | Path) -> Iterator[None]:
    """An error of a disk or quota that is full says what was to be written: the system names no file in it."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A ValueError that is raised inside says first which file it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def sha256_of(path: str | Path) -> str:
    """Of a file of any size, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def work_folder(target: str | Path) -> Iterator[Path]:
    """An empty folder beside `target` to fill, for `replace_folder`; what is left of it goes when the block ends.

    Folders are made. What a killed process left in its own goes as well: each is locked while its process lives. (One
    that was killed before it had its lock leaves an empty folder.)
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        _remove_unless_held(left)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    held = _hold(made)
    work = made.with_name(f"{made.name}.part")  # from here on others look at it, and find it held
    os.rename(made, work)
    try:
        with naming_the_full_disk(target):
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(held)


def replace_folder(new: str | Path, target: str | Path) -> None:
    """Give the whole folder `new` the name `target`, whose predecessor goes once its successor is in its place.

    new: on the same file system as `target`; synced here, and readable for all, as folders are. Whenever the process
    is killed or the power goes, one whole folder is there: as `target`, or as `aside(target)`, from where the next
    call of this or of `restore_folder` brings it back. Raises ValueError where `target` is a link or no folder, and
    OSError.
    """
    new, target = Path(new), Path(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{target} is a link or a file, expected a folder or nothing; name the folder itself")
    os.chmod(new, 0o755)
    _sync_folder(new)
    restore_folder(target)
    if target.exists():
        os.rename(target, aside(target))
    os.rename(new, target)
    sync(target.parent)
    restore_folder(target)


def restore_folder(target: str | Path) -> None:
    """Undo or end what a kill interrupted in `replace_folder`; nothing where nothing was."""
    target = Path(target)
    before, doomed = aside(target), target.with_name(f".{target.name}.doomed")
    if before.exists() and not target.exists():
        os.rename(before, target)
    elif before.exists():
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(before, doomed)  # what is under the other name is whole, always
    shutil.rmtree(doomed, ignore_errors=True)


def aside(target: str | Path) -> Path:
    """Where `replace_folder` keeps the predecessor of `target` until the successor is in its place."""
    target = Path(target)
    return target.with_name(f".{target.name}.before")


def _sync_folder(folder: Path) -> None:
    for file in (*folder.rglob("*"), folder):
        sync(file)


def sync(path: Path) -> None:
    """What a file holds, or which names a folder has, is on the disk afterwards. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hold(folder: Path) -> int:
    """A descriptor that holds the folder's lock. Raises BlockingIOError where another process does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_unless_held(folder: Path) -> None:
    try:
        descriptor = _hold(folder)
    except OSError:  # held by another process, or no folder
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)
