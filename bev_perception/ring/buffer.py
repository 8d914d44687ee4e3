"""Messages of the last seconds, still serialised: references to bytes, bounded by time and by memory."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

OVERHEAD = 150  # bytes that a message takes beside its own: tuple, numbers, the object of its bytes
LASTING = 100  # messages of a topic that says things once (/tf_static): all that DDS itself would keep


class Kept(NamedTuple):
    """A message. stamp_ns: when it was taken, by the node's clock; kind: `package/msg/Kind`."""

    topic: str
    kind: str
    stamp_ns: int
    data: bytes


class Ring:
    """Thread-safe. What is said once and holds on is kept apart, and begins every recording."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._span_ns, self._most = round(seconds * 1e9), most_bytes
        self._lock = threading.Lock()
        self._kept: deque[Kept] = deque()
        self._lasting: deque[Kept] = deque(maxlen=LASTING)  # the last word on a transform comes last
        self._now_ns = 0
        self.bytes = 0  # of what goes round

    def add(self, message: Kept, lasting: bool = False) -> None:
        """One that was taken just now. The oldest go as soon as they are older than the ring is long, or memory asks
        for it. What lasts is kept once, where it was said last."""
        with self._lock:
            if lasting:
                others = (k for k in self._lasting if (k.topic, k.data) != (message.topic, message.data))
                self._lasting = deque([*others, message], LASTING)
                return
            self._pass(message.stamp_ns)
            self._append(message)

    def add_late(self, message: Kept) -> None:
        """One that has waited since it was taken. It says nothing of the time now: where the ring has gone on by more
        than its length, or time has gone back since, it is not kept."""
        with self._lock:
            if abs(self._now_ns - message.stamp_ns) <= self._span_ns:
                self._append(message)

    def pass_time(self, now_ns: int) -> None:
        """It is so late by the node's clock, though nothing is added. Time that went back empties the ring: what was
        before is of another drive."""
        with self._lock:
            self._pass(now_ns)

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns - self._span_ns:
            self._kept.clear()
            self.bytes = 0
        self._now_ns = now_ns

    def _append(self, message: Kept) -> None:
        kept, oldest_ns = self._kept, self._now_ns - self._span_ns
        kept.append(message)
        self.bytes += len(message.data) + OVERHEAD
        while kept[0].stamp_ns < oldest_ns or (self.bytes > self._most and len(kept) > 1):
            self.bytes -= len(kept.popleft().data) + OVERHEAD

    def taken(self) -> list[Kept]:
        """All that is there now, in the order in which it came; what lasts at the time of the first."""
        with self._lock:
            kept = list(self._kept)
            first_ns = kept[0].stamp_ns if kept else 0
            return [message._replace(stamp_ns=first_ns) for message in self._lasting] + kept if kept else []
