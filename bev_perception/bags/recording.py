"""A rosbag2 recording, one file or several, read without ROS in the order of recording, also where it is damaged."""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from bev_perception.bags.mcap_file import McapFile
from bev_perception.bags.metadata import METADATA, read_metadata
from bev_perception.bags.sqlite_file import SqliteFile
from bev_perception.bags.storage import BagError, Channel, Note, Storage

STORAGES: dict[str, Callable[[Path, Note], Storage]] = {".mcap": McapFile, ".db3": SqliteFile}
CDR = "cdr"
COMPRESSED = ".zstd"
IDL_SEPARATOR = "=" * 80 + "\n"
CHUNK = 1 << 20


class UnreadableMessage(ValueError):
    """A message whose bytes are not what its type says, or whose type is not known; the text says which."""


def warn(text: str) -> None:
    """What is wrong with a recording that is read all the same."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Recording:
    """An open recording. start_ns, end_ns: from the first to after the last message, 0 where it does not say."""

    path: Path
    files: tuple[Storage, ...]
    unpack: Callable[[bytes], bytes]  # of messages that were compressed one by one

    @property
    def connections(self) -> tuple[Channel, ...]:
        """All channels, each once."""
        return tuple(dict.fromkeys(channel for file in self.files for channel in file.channels))

    @property
    def start_ns(self) -> int:
        return min((file.start_ns for file in self.files if file.start_ns is not None), default=0)

    @property
    def end_ns(self) -> int:
        return max((file.end_ns for file in self.files if file.end_ns is not None), default=0)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[Channel, int, bytes]]:
        """(channel, record time ns, serialised message) of the named topics, or of all. One reader at a time."""
        wanted = {channel.topic for channel in self.connections} if topics is None else set(topics)
        for file in self.files:
            if wanted.isdisjoint(channel.topic for channel in file.channels):
                continue
            for channel, record_ns, raw in file.messages(wanted):
                yield channel, record_ns, self.unpack(raw)

    def deserialize(self, raw: bytes, channel: Channel) -> Any:
        """The message, with the fields of the ROS message, by the definition in the recording itself.

        Only recordings older than rosbag2's embedded definitions (sqlite3 of Humble) fall back to the standard Jazzy
        types. Raises UnreadableMessage.
        """
        if channel.encoding != CDR:
            raise UnreadableMessage(f"{channel.topic} is encoded as {channel.encoding!r}, {CDR!r} is expected")
        types = _typestore(channel.msgtype, channel.definition)
        if isinstance(types, str):
            raise UnreadableMessage(f"{channel.topic}: {types}")
        try:
            return types.deserialize_cdr(raw, channel.msgtype)
        except Exception as error:  # whatever a parser stumbles over in damaged bytes
            raise UnreadableMessage(
                f"{channel.topic}: {len(raw)} bytes are no {channel.msgtype}: {error or type(error).__name__}"
            ) from error


@contextmanager
def open_bag(path: str | Path, note: Note = warn) -> Iterator[Recording]:
    """A recording, to be used in a `with`: a rosbag2 directory, or one of its files.

    Its types come from the recording itself, so messages of any package can be read; a topic that cannot be read keeps
    no other from being read. note(text) is told what is damaged and how to mend it. Raises BagError where nothing can
    be read.
    """
    path = Path(path)
    with ExitStack() as stack:
        files, compressed = _files_of(path, note)
        opened = []
        problems: list[BagError] = []
        for file in files:
            try:
                storage = _open_storage(_unpacked(file, stack) if file.suffix == COMPRESSED else file, note)
            except BagError as error:
                problems.append(error)
                continue
            stack.callback(storage.close)
            opened.append(storage)
        if not opened:
            raise problems[0]
        for problem in problems:
            note(f"{problem}; the recording's other files are read")
        yield Recording(path, tuple(opened), _unzip if compressed else bytes)


def _open_storage(path: Path, note: Note) -> Storage:
    """Raises BagError where nothing can be read."""
    if path.suffix not in STORAGES:
        mend = "; convert it: rosbags-convert --src FILE --dst FOLDER" if path.suffix == ".bag" else ""
        raise BagError(f"{path} is not a readable rosbag2 file: expected {' or '.join(STORAGES)}{mend}")
    try:
        return STORAGES[path.suffix](path, note)
    except (OSError, sqlite3.OperationalError) as error:
        raise BagError(f"{path} cannot be opened: {error}") from error


def _files_of(path: Path, note: Note) -> tuple[list[Path], bool]:
    """(files in the order of recording, whether each message is compressed)."""
    if path.is_file():
        return [path], False
    if not path.exists():
        raise BagError(f"{path} does not exist; a bag is the directory that holds {METADATA}, or an .mcap file")
    try:
        facts = read_metadata(path)
        listed = [path / Path(name).name for name in facts["relative_file_paths"]]
        compressed = str(facts.get("compression_mode", "")).lower() == "message"
    except FileNotFoundError:
        problem = "is missing, as after a recorder that was killed"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"is not readable ({type(error).__name__}: {error})"
    else:
        gone = [file.name for file in listed if not file.is_file()]
        there = [file for file in listed if file.is_file()]
        if gone and there:
            note(f"{path}: {METADATA} names {', '.join(gone)}, which is not there; the other files are read")
        if there:
            return there, compressed
        problem = f"names {', '.join(gone) or 'no file'}, and there is none"
    found = sorted((file for file in path.iterdir() if _is_storage(file)), key=_number)
    if not found:
        raise BagError(f"{path} is not a readable rosbag2 recording: {METADATA} {problem}, and no file of one is there")
    note(f"{path}: {METADATA} {problem}; its files are read all the same; mend it: ros2 bag reindex {path}")
    return found, False


def _is_storage(file: Path) -> bool:
    return Path(file.name.removesuffix(COMPRESSED)).suffix in STORAGES


def _number(file: Path) -> tuple[int, str]:
    """Files of one recording are counted: drive_0.mcap ... drive_10.mcap."""
    number = re.search(r"_(\d+)\.\w+(\.zstd)?$", file.name)
    return int(number.group(1)) if number else 0, file.name


def _unpacked(file: Path, stack: ExitStack) -> Path:
    """A file that was compressed as a whole, in a temporary folder; of a damaged one as much as there is."""
    zstd = _zstd()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bev_perception.")))
    target = folder / file.name.removesuffix(COMPRESSED)
    try:
        with zstd.open(file, "rb") as packed, open(target, "wb") as plain:
            try:
                while data := packed.read(CHUNK):
                    plain.write(data)
            except (EOFError, zstd.ZstdError):
                pass  # the file behind is cut off then, and told of when it is opened
    except OSError as error:
        mend = "set TMPDIR to where there is room"
        raise BagError(f"{file} cannot be unpacked into {folder} ({error.strerror or error}); {mend}") from error
    return target


def _zstd() -> Any:
    """The compression that comes with rosbags, or with Python from 3.14 on."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _unzip(raw: bytes) -> bytes:
    """Bytes that are damaged stay as they are, and are found to be no message."""
    zstd = _zstd()
    try:
        return bytes(zstd.decompress(raw))
    except zstd.ZstdError:
        return raw


@lru_cache(maxsize=256)  # parsing takes a tenth of a second, and a recording is opened several times
def _typestore(msgtype: str, definition: MessageDefinition) -> Typestore | str:
    """The types of a message, or why there are none."""
    if definition.format == MessageDefinitionFormat.NONE:
        store = get_typestore(Stores.ROS2_JAZZY)
        return store if msgtype in store.types else f"the recording has no definition of {msgtype}"
    store = get_typestore(Stores.EMPTY)
    try:
        if definition.format == MessageDefinitionFormat.MSG:
            store.register(get_types_from_msg(definition.data, msgtype))
        else:
            found: dict[str, Any] = {}
            for part in definition.data.split(IDL_SEPARATOR):
                text = part.partition("\n")[2] if part.startswith("IDL: ") else part
                found |= get_types_from_idl(text) if text.strip() else {}
            store.register(found)
        store.types[msgtype]
    except Exception as error:  # of a parser of definitions
        return f"the definition of {msgtype} is not readable: {error or type(error).__name__}"
    return store
