"""An MCAP file of a recording, as far as it can be read.

It is parsed by rosbags, which takes whole files of ROS 2 types only; here it is given one chunk after the other, so
that a damaged one costs itself alone, and a file that was cut off before its index is read from front to end. Damaged
bytes raise anything in a parser, so every Exception of one means damage.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, BinaryIO

from rosbags.interfaces import MessageDefinition
from rosbags.rosbag2.storage_mcap import McapReader, Schema, read_bytes

from bev_perception.bags.storage import FORMATS, NO_DEFINITION, BagError, Channel, Note, is_latched

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = 9  # operation code and length


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
            Channel(c.topic, c.msgtype, e.serialization_format, c.msgdef, is_latched(e.offered_qos_profiles))
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
