"""A sqlite3 file of a recording, as far as it can be read."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rosbags.interfaces import MessageDefinition

from bev_perception.bags.storage import FORMATS, NO_DEFINITION, BagError, Channel, Note, is_latched


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
                is_latched(row.get("offered_qos_profiles", "")),
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
