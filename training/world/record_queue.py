"""Messages into a bag in the order in which they were recorded, whatever the order in which they are made."""

from __future__ import annotations

import heapq
from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Writer

FOREVER = QosTime(9223372036, 854775807)
# Late subscribers to /tf_static must get it too, so players have to offer it transient local.
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)


class RecordQueue:
    """Writes messages by record time although they are made by stamp; among equals the first pushed goes first."""

    def __init__(self, writer: Writer, store: Any) -> None:
        self.writer, self.store = writer, store
        self.connections: dict[str, Any] = {}
        self.waiting: list[tuple[int, int, str, str, Any]] = []
        self.pushed = 0

    def push(self, record_ns: int, topic_name: str, message_type: str, message: Any) -> None:
        heapq.heappush(self.waiting, (record_ns, self.pushed, topic_name, message_type, message))
        self.pushed += 1

    def flush(self, until_ns: int | None) -> None:
        """Writes everything with a record time up to until_ns (None: all); nothing earlier may be pushed afterwards."""
        while self.waiting and (until_ns is None or self.waiting[0][0] <= until_ns):
            record_ns, _, name, message_type, message = heapq.heappop(self.waiting)
            if name not in self.connections:
                qos = [LATCHED] if name == "/tf_static" else []
                self.connections[name] = self.writer.add_connection(
                    name, message_type, typestore=self.store, offered_qos_profiles=qos
                )
            data = self.store.serialize_cdr(message, message_type)
            self.writer.write(self.connections[name], record_ns, data)
