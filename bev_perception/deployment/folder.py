"""A vehicle's folder of bundles: which one serves, copies of those that may, and the journal.

in_service.json   the record (bev_perception.deployment.record), replaced as a whole
journal.jsonl     one line for each step of each deployment
bundles/          copies, with a hash of all files in the name: what others do to the originals is no matter
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from bev_perception.bundle import FILES_LIMIT, MODEL_LIMIT, Bundle, load_bundle
from bev_perception.deployment import journal
from bev_perception.deployment.journal import Line
from bev_perception.deployment.record import FORMAT, Record, Stored
from bev_perception.files import naming_the_full_disk, read_text, sync, write_atomic
from bev_perception.model_spec import BundleError
from bev_perception.plain import from_plain, parse_json, to_plain

RECORD, JOURNAL, BUNDLES, LOCK = "in_service.json", "journal.jsonl", "bundles", ".lock"
PART = ".taking-"  # a copy that is not finished
RECORD_LIMIT = 2**20
COPY = re.compile(r"[A-Za-z0-9_-]+_[0-9a-f]{16}")  # names that `take` gives
CHUNK = 2**20


class DeployError(ValueError):
    """The folder of bundles cannot be used; the message says why and how to mend it."""


class VehicleFolder:
    """Held by one process at a time, from `open` to `close`. Methods raise OSError where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1
        self._changing = threading.Lock()

    def open(self) -> None:
        """Make it and lock it. Raises DeployError where another process holds it."""
        try:
            (self.path / BUNDLES).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise DeployError(f"deploy.folder {self.path}: there is a file in its place; name a folder") from error
        lock = _open_lock(self.path / LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DeployError(
                f"deploy.folder {self.path} is in use by another node; give each node a folder of its own"
            ) from None
        self._lock = lock
        self.drop_parts()

    def close(self) -> None:
        """Idempotent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def record(self) -> Record:
        """Raises DeployError where it is malformed."""
        path = self.path / RECORD
        if not path.exists():
            return Record()
        try:
            data = parse_json(read_text(path, RECORD_LIMIT))
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f"expected an object of format {FORMAT}")
            found: Record = from_plain(Record, data, "record")
        except ValueError as error:
            raise DeployError(
                f"{path} cannot be read ({error}); move it away, then the parameter `bundle` is what serves"
            ) from error
        return found

    def write(self, record: Record) -> None:
        write_atomic(self.path / RECORD, json.dumps(to_plain(record), indent=2) + "\n")
        sync(self.path)  # the name, too

    def change(self, rule: Callable[[Record], Record]) -> Record:
        """One of the record's rules, from any thread; what it raises is raised, and nothing written."""
        with self._changing:
            changed = rule(self.record())
            self.write(changed)
        return changed

    def note(self, line: Line) -> None:
        journal.append(self.path / JOURNAL, line)

    def history(self) -> journal.Journal:
        return journal.read(self.path / JOURNAL)

    def take(self, source: Path, at: Callable[[str], None]) -> Bundle:
        """A verified copy of a bundle. Raises BundleError where it is none, or does not fit on the disk."""
        files = _files_of(source)
        size = sum(file.stat().st_size for file in files)
        free = shutil.disk_usage(self.path).free
        if size > free - CHUNK:
            raise BundleError(f"{source} has {size} bytes, {self.path} has {free} left; make room there")
        part = self.path / BUNDLES / f"{PART}{os.getpid()}"
        part.mkdir()
        try:
            digest = hashlib.sha256()
            for file in files:
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                with naming_the_full_disk(self.path):
                    _copy(file, part / file.name, digest.update)
                at("copying")
            sync(part)
            try:
                spec = load_bundle(part).spec
            except BundleError as error:  # people know it by the name that they gave
                raise BundleError(str(error).replace(str(part), str(source))) from error
            target = self.path / BUNDLES / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', spec.name)}_{digest.hexdigest()[:16]}"
            at("copied")
            if target.exists() and not _whole(target):  # damaged since: its name is of what it was
                os.replace(target, self.path / BUNDLES / f"{PART}damaged-{os.getpid()}")
            if not target.exists():
                os.replace(part, target)
                sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self.drop_parts()
        return load_bundle(target)

    def path_of(self, bundle: Stored) -> Path:
        return self.path / bundle.path

    def stored(self, bundle: Bundle, since: str) -> Stored:
        """A copy of this folder, as the record has it: by its place in the folder, which may be moved as a whole."""
        return Stored(f"{BUNDLES}/{bundle.path.name}", bundle.spec.name, bundle.spec.onnx_sha256, since)

    def drop_parts(self) -> None:
        """Copies that a process which is gone did not finish."""
        for part in (self.path / BUNDLES).glob(f"{PART}*"):
            shutil.rmtree(part, ignore_errors=True)

    def drop_copies(self) -> None:
        """Copies of bundles that were refused, or that served before the one before: nothing leads to them."""
        record = self.record()
        kept = {self.path_of(bundle).name for bundle in (record.serving, record.before, record.trial) if bundle}
        for copy in (self.path / BUNDLES).iterdir():
            if COPY.fullmatch(copy.name) and copy.name not in kept:
                shutil.rmtree(copy, ignore_errors=True)


def _whole(path: Path) -> bool:
    try:
        load_bundle(path)
    except BundleError:
        return False
    return True


def _open_lock(path: Path) -> int:
    """On a disk that takes no writes what is there can be locked all the same."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _files_of(source: Path) -> list[Path]:
    if source.is_file():
        raise BundleError(
            f"bundle {source}: is a file, expected the folder of a bundle; an archive is unpacked first, with `archive "
            "unpack`"
        )
    if not source.is_dir():
        raise BundleError(f"bundle {source}: there is no such folder on the node's machine")
    entries = sorted(source.iterdir())
    odd = [entry.name for entry in entries if entry.is_symlink() or not entry.is_file()]
    if odd:
        what = "is no regular file" if len(odd) == 1 else "are no regular files"
        raise BundleError(
            f"bundle {source}: {', '.join(odd[:5])} {what}, as a bundle's are; take out what is no part of it, and put "
            "a copy where a link is"
        )
    if len(entries) > FILES_LIMIT:
        raise BundleError(
            f"bundle {source}: has {len(entries)} files, expected at most {FILES_LIMIT}; name the bundle's own folder"
        )
    large = [file.name for file in entries if file.stat().st_size > MODEL_LIMIT]
    if large:
        raise BundleError(f"bundle {source}: {large} are larger than {MODEL_LIMIT} bytes")
    return entries


def _copy(source: Path, target: Path, note: Callable[[bytes], None]) -> None:
    with open(source, "rb") as reading, open(target, "xb") as writing:
        left = os.fstat(reading.fileno()).st_size
        while left > 0 and (data := reading.read(min(CHUNK, left))):
            left -= len(data)
            note(data)
            writing.write(data)
        writing.flush()
        os.fsync(writing.fileno())
