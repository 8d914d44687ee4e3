"""Some of any number of values, evenly spread: what keeps an hour of a recording in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Thinned(Generic[Value]):
    """At most `limit` (even, at least 2) of the values that are offered. When it is full every second one goes, and
    from then on half as many are taken: the k-th is there where k is a multiple of the stride."""

    def __init__(self, limit: int) -> None:
        self.values: list[Value] = []
        self.stride = 1
        self.offered = 0
        self._limit = limit

    def offer(self, make: Callable[[], Value]) -> None:
        """make() is called only where its value is kept."""
        if self.offered % self.stride == 0 and len(self.values) == self._limit:
            del self.values[1::2]
            self.stride *= 2
        if self.offered % self.stride == 0:
            self.values.append(make())
        self.offered += 1
