"""A bounded, sorted buffer of stamped measurements of one sensor, and how alive the sensor is."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

NS = 1_000_000_000


class Stamped(Protocol):
    @property
    def stamp_ns(self) -> int: ...


T = TypeVar("T", bound=Stamped)


class StampedBuffer(Generic[T]):
    """At most `limit` items sorted by stamp, the oldest go first. newest_ns: the newest stamp taken, or None."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget everything, also what was refused."""
        self.items: list[T] = []
        self.newest_ns: int | None = None
        self._floor_ns: int | None = None
        self._recent: deque[int] = deque(maxlen=20)

    def add(self, item: T) -> str:
        """ "" or why it is refused: `duplicate`, or `too_late` when nothing can use it any more."""
        if self._floor_ns is not None and item.stamp_ns < self._floor_ns:
            return "too_late"
        i = bisect.bisect_left(self.items, item.stamp_ns, key=_stamp)
        if i < len(self.items) and self.items[i].stamp_ns == item.stamp_ns:
            return "duplicate"
        self.items.insert(i, item)
        if len(self.items) > self.limit:
            self.forget_before(self.items[1].stamp_ns)
        self._recent.append(item.stamp_ns)
        self.newest_ns = item.stamp_ns if self.newest_ns is None else max(item.stamp_ns, self.newest_ns)
        return ""

    def get(self, stamp_ns: int | None) -> T | None:
        """The item of exactly this stamp, or None."""
        found = self.between(stamp_ns, stamp_ns) if stamp_ns is not None else []
        return found[0] if found else None

    def between(self, low_ns: int, high_ns: int) -> list[T]:
        """Items with low <= stamp <= high, oldest first."""
        low = bisect.bisect_left(self.items, low_ns, key=_stamp)
        return self.items[low : bisect.bisect_right(self.items, high_ns, key=_stamp)]

    def forget_before(self, stamp_ns: int) -> None:
        """Drop older items and refuse such from now on."""
        self._floor_ns = stamp_ns if self._floor_ns is None else max(stamp_ns, self._floor_ns)
        del self.items[: bisect.bisect_left(self.items, stamp_ns, key=_stamp)]

    def rate_hz(self) -> float:
        """Measurements per second over the newest stamps, 0 while there are fewer than two."""
        return mean_rate_hz(self._recent)


def mean_rate_hz(stamps_ns: Collection[int]) -> float:
    """Measurements per second, 0 while there are fewer than two."""
    span = max(stamps_ns) - min(stamps_ns) if stamps_ns else 0
    return (len(stamps_ns) - 1) * NS / span if span > 0 else 0.0


def _stamp(item: Stamped) -> int:
    return item.stamp_ns
