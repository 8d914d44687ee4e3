"""One file of a rosbag2 recording, MCAP or sqlite3: its topics, and its messages as far as they can be read.

MCAP is parsed by rosbags, which takes whole files of ROS 2 types only; here it is given one chunk after the other, so
that a damaged one costs itself alone, and a file that was cut off before its index is read from front to end. Damaged
bytes raise anything in a parser, so every Exception of one means damage.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import McapReader, Schema, read_bytes

Note = Callable[[str], None]
MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = 9  # operation code and length
FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")


class BagError(ValueError):
    """A recording that cannot be read or lacks what is asked of it."""


@dataclass(frozen=True)
class Channel:
    """A topic of a file. encoding: of its messages, "cdr" for those of ROS 2; latched: recorded as transient local."""

    topic: str
    msgtype: str
    encoding: str
    definition: MessageDefinition
    latched: bool


class Storage(Protocol):
    """A file that is open. start_ns, end_ns: of the first and the last message, None where the file does not say."""

    channels: tuple[Channel, ...]
    start_ns: int | None
    end_ns: int | None

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, bytes]]:
        """(channel, record time ns, serialised message) of the named topics, in the order of recording."""

    def close(self) -> None: ...


def open_storage(path: Path, note: Note) -> Storage:
    """note(text) is told what is damaged and how it is mended. Raises BagError where nothing can be read."""
    try:
        return STORAGES[path.suffix](path, note)
    except KeyError:
        known = " or ".join(STORAGES)
        mend = "; convert it: rosbags-convert --src FILE --dst FOLDER" if path.suffix == ".bag" else ""
        raise BagError(f"{path} is not a readable rosbag2 file: expected {known}{mend}") from None
    except (OSError, sqlite3.OperationalError) as error:
        raise BagError(f"{path} cannot be opened: {error}") from error


def _read_text(file: BinaryIO) -> str:
    """As rosbags reads a text; schemas of other languages than ROS 2's are binary."""
    return read_bytes(file).decode(errors="replace")


def _definition_of(schema: Schema | None) -> MessageDefinition:
    if schema is None or schema.encoding not in FORMATS:
        return NO_DEFINITION
    return MessageDefinition(FORMATS[schema.encoding], schema.data)


def _tolerant(function: Any) -> Any:
    """A function of rosbags' reader with helpers that let pass what is not of ROS 2."""
    helpers = {"read_string": _read_text, "get_msgdef": _definition_of}
    return FunctionType(function.__code__, function.__globals__ | helpers, function.__name__)


class _Reader(McapReader):
    """rosbags' reader for files that also hold topics of other kinds, which it would refuse as a whole."""

    read_index = _tolerant(McapReader.read_index)
    meta_scan = _tolerant(McapReader.meta_scan)


class McapFile:
    """Memory is that of the chunks that overlap in time, one chunk as a rule."""

    def __init__(self, path: Path, note: Note) -> None:
        self._path, self._note = path, note
        self._reader = _Reader(path)
        self._indexed = True
        self._lost = 0
        self.start_ns: int | None = None
        self.end_ns: int | None = None
        try:
            self._reader.open()
            if not self._reader.connections:
                raise BagError("it names no topics")
            times = self._reader.metadata
            if times.message_count:
                self.start_ns, self.end_ns = times.start_time, times.end_time
            self._end = self._reader.data_end
        except Exception as error:
            if self._reader.bio is not None:
                self._reader.close()
            self._indexed = False
            self._open_without_index(error)
        found = self._reader.connections
        extras: list[Any] = [connection.ext for connection in found]
        self.channels = tuple(
            Channel(c.topic, c.msgtype, e.serialization_format, c.msgdef, _latched(e.offered_qos_profiles))
            for c, e in zip(found, extras)
        )
        self._channel_of = {c.id: channel for c, channel in zip(found, self.channels)}

    def close(self) -> None:
        self._reader.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, bytes]]:
        wanted = [c for c in self._reader.connections if c.topic in topics]
        waiting: list[tuple[int, int, Channel, bytes]] = []
        count = 0
        for start_ns, begin, end in self._spans({c.id for c in wanted}):
            found = self._read(begin, end, wanted)
            if not found:
                continue
            first_ns = found[0][0] if start_ns is None else start_ns
            while waiting and waiting[0][0] < first_ns:  # no later span has an earlier message
                record_ns, _, channel, data = heapq.heappop(waiting)
                yield channel, record_ns, data
            for record_ns, channel, data in found:
                heapq.heappush(waiting, (record_ns, count, channel, data))
                count += 1
        while waiting:
            record_ns, _, channel, data = heapq.heappop(waiting)
            yield channel, record_ns, data
        if self._lost > 1:
            self._note(f"{self._path}: {self._lost} damaged parts were left out")

    def _spans(self, wanted: Collection[int]) -> Iterator[tuple[int | None, int, int]]:
        """(time of the first message, begin, end) of the parts to read, in the order of times; None: as stored."""
        chunks = self._reader.chunks if self._indexed else []
        for chunk in sorted(chunks, key=lambda chunk: chunk.message_start_time):
            if not chunk.channel_count or not chunk.channel_count.keys().isdisjoint(wanted):
                begin = chunk.chunk_start_offset
                yield chunk.message_start_time, begin, begin + chunk.chunk_length
        if not chunks:
            yield from ((None, begin, end) for begin, end in self._records())

    def _records(self) -> Iterator[tuple[int, int]]:
        """(begin, end) of each whole record, from the front."""
        bio, begin = self._reader.bio, len(MAGIC)
        assert bio is not None
        while True:
            bio.seek(begin)
            head = bio.read(RECORD_HEAD)
            end = begin + RECORD_HEAD + int.from_bytes(head[1:], "little")
            if len(head) < RECORD_HEAD or end > self._end:
                return
            yield begin, end
            begin = end

    def _read(self, begin: int, end: int, wanted: Collection[Any]) -> list[tuple[int, Channel, bytes]]:
        """(record time, channel, data) of the messages in a part of the file, by time; up to where it is damaged."""
        self._reader.data_start, self._reader.data_end = begin, end
        found = []
        try:
            for connection, record_ns, data in self._reader.messages_scan(wanted):
                found.append((record_ns, self._channel_of[connection.id], data))
        except Exception as error:
            self._lost += 1
            if self._lost == 1:
                self._note(f"{self._path} is damaged at byte {begin} ({error}): that part is left out; {self._mend}")
        return sorted(found, key=lambda message: message[0])

    def _open_without_index(self, error: Exception) -> None:
        """Channels and times of all whole records."""
        reader = self._reader
        reader.bio = bio = self._path.open("rb")
        begins, size = bio.read(len(MAGIC)) == MAGIC, bio.seek(0, 2)
        bio.seek(max(0, size - len(MAGIC)))
        whole = size > 2 * len(MAGIC) and bio.read() == MAGIC
        self._end = size - len(MAGIC) if whole else size
        read, times = 0, []
        for begin, end in self._records() if begins else ():
            reader.data_start, reader.data_end = begin, end
            try:
                reader.meta_scan()
            except Exception:  # a damaged chunk is told of when its messages are asked for
                continue
            read, counted = end, reader.statistics
            if counted is not None and counted.message_count:
                times += [counted.start_time, counted.end_time]
        if not reader.connections and not (begins and whole):
            reader.close()
            raise BagError(f"{self._path} is not a readable rosbag2 file: {error or type(error).__name__}") from error
        if times:
            self.start_ns, self.end_ns = min(times), max(times) + 1
        if not whole:
            found = f"was cut off: {read} of {size} bytes are whole records, and are read"
            self._note(f"{self._path} {found}; {self._mend}")
        elif reader.connections:
            self._note(f"{self._path} has no index that can be used ({error}): it is read from front to end")

    @property
    def _mend(self) -> str:
        return f"mend it: mcap recover {self._path} -o {self._path.stem}_mended.mcap"


class SqliteFile:
    """Messages are fetched row by row; memory is one message's."""

    def __init__(self, path: Path, note: Note) -> None:
        self._path, self._note = path, note
        self._cut_at = _cut_page(path)
        # What a recorder that was killed left beside the file belongs to it.
        pending = path.with_name(f"{path.name}-wal")
        mode = "mode=ro" if pending.is_file() and pending.stat().st_size else "immutable=1"
        self._database = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True)
        try:
            # Else a file that is shorter than it says is refused as a whole.
            self._database.execute("PRAGMA writable_schema = on")
            topics = list(self._rows("SELECT * FROM topics"))
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise BagError(f"{path} is not a readable rosbag2 file: {error}; {self._mend}") from error
        if self._cut_at:
            note(f"{path} was cut off: its messages are read in the order of storing up to the cut; {self._mend}")
        definitions = self._definitions()
        self._channel_of = {
            int(row["id"]): Channel(
                str(row["name"]),
                str(row["type"]),
                str(row["serialization_format"]),
                definitions.get(row["type"], NO_DEFINITION),
                _latched(row.get("offered_qos_profiles", "")),
            )
            for row in topics
        }
        self.channels = tuple(self._channel_of.values())
        self.start_ns, self.end_ns = self._times()

    def close(self) -> None:
        self._database.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, bytes]]:
        ids = sorted(key for key, channel in self._channel_of.items() if channel.topic in topics)
        of_topics = f"topic_id IN ({','.join('?' * len(ids))})"
        select = "SELECT id, topic_id, timestamp, data FROM messages"
        last_ns, last = -1, -1
        if not self._cut_at:
            try:
                for row, topic, time_ns, data in self._database.execute(
                    f"{select} WHERE {of_topics} ORDER BY timestamp, id", ids
                ):
                    yield self._channel_of[topic], time_ns, data
                    last_ns, last = time_ns, row
                return
            except sqlite3.DatabaseError as error:
                found = f"{self._path} is damaged ({error})"
                self._note(f"{found}: messages are read in the order of storing, as far as they go; {self._mend}")
        left = f"(timestamp > ? OR timestamp = ? AND id > ?) AND {of_topics}"
        stored = f"{select} NOT INDEXED WHERE {left} ORDER BY id"
        for _, topic, time_ns, data in self._up_to_damage(stored, [last_ns, last_ns, last, *ids]):
            yield self._channel_of[topic], time_ns, data

    def _up_to_damage(self, query: str, values: list[int]) -> Iterator[tuple[int, int, int, bytes]]:
        """The rows of a query up to where the file is damaged. A page that was cut reads as zeros from there: of the
        last rows before the cut, a page of messages is not to be trusted."""
        held: deque[tuple[int, int, int, bytes]] = deque()
        size = 0
        with suppress(sqlite3.DatabaseError):  # it has been told
            for row in self._database.execute(query, values):
                held.append(row)
                size += len(row[3])
                while held and size - len(held[0][3]) >= self._cut_at:
                    size -= len(held[0][3])
                    yield held.popleft()
            if not self._cut_at:
                yield from held

    def _definitions(self) -> dict[str, MessageDefinition]:
        """Message type -> definition, of those that can be read; none in recordings of Humble and before."""
        found = {}
        try:
            for row in self._rows("SELECT * FROM message_definitions"):
                found[row["topic_type"]] = _definition(row)
        except sqlite3.DatabaseError:
            pass  # whose messages cannot be read then is said when they are
        return found

    def _times(self) -> tuple[int | None, int | None]:
        try:
            (row,) = self._rows("SELECT MIN(timestamp) AS first, MAX(timestamp) AS last FROM messages")
        except sqlite3.DatabaseError:
            return None, None
        return (None, None) if row["first"] is None else (row["first"], row["last"] + 1)

    def _rows(self, query: str) -> Iterator[dict[str, Any]]:
        with closing(self._database.execute(query)) as cursor:
            names = [column[0] for column in cursor.description]
            for row in cursor:
                yield dict(zip(names, row))

    @property
    def _mend(self) -> str:
        mended = f"{self._path.stem}_mended.db3"
        return f"mend it: sqlite3 {self._path} .recover | sqlite3 {mended}, then ros2 bag reindex its folder"


def _cut_page(path: Path) -> int:
    """The size of a page where the file has fewer bytes than its header says, else 0 (the format: sqlite.org)."""
    with open(path, "rb") as file:
        header, size = file.read(100), file.seek(0, 2)
    page = int.from_bytes(header[16:18], "big")
    page = 65536 if page == 1 else page
    return page if size < int.from_bytes(header[28:32], "big") * page else 0


def _definition(row: dict[str, Any]) -> MessageDefinition:
    encoding = FORMATS.get(row["encoding"])
    return MessageDefinition(encoding, row["encoded_message_definition"]) if encoding else NO_DEFINITION


def _latched(profiles: Any) -> bool:
    """Of rosbags' profiles, or the YAML of them."""
    try:
        found = parse_qos(profiles) if isinstance(profiles, str) else profiles
    except Exception:
        return False
    return any(profile.durability.name == "TRANSIENT_LOCAL" for profile in found)


STORAGES: dict[str, Callable[[Path, Note], Storage]] = {".mcap": McapFile, ".db3": SqliteFile}
