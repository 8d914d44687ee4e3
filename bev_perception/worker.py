"""Threads that do one thing after the other: the newest item only, or every item in order; and how much one that comes
last may do. No ROS."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestWorker(Generic[T]):
    """Calls `process(item)` in its own thread, always with the newest item offered; older ones count as dropped.

    process may not raise.
    """

    def __init__(self, name: str, process: Callable[[T], None], on_dropped: Callable[[int], None]) -> None:
        self._process = process
        self._on_dropped = on_dropped
        self._condition = threading.Condition()
        self._item: T | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, items: Sequence[T]) -> None:
        """Put the newest of `items` (in order) into the slot. Returns at once."""
        if not items:
            return
        with self._condition:
            dropped = len(items) - 1 + (self._item is not None)
            self._item = items[-1]
            self._condition.notify()
        if dropped:
            self._on_dropped(dropped)

    def stop(self, patience_s: float) -> bool:
        """Finish the item in work, drop what waits, end the thread. False where the item has not ended by then."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._item is None and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                item, self._item = self._item, None
            assert item is not None
            self._process(item)


class EveryWorker(Generic[T]):
    """Calls `process(item)` in its own thread with every item, in order; `put` waits while two are ahead.

    process may not raise.
    """

    def __init__(self, name: str, process: Callable[[T], None]) -> None:
        self._process = process
        self._queue: queue.Queue[T | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: T) -> None:
        """Raises RuntimeError where the thread has ended: nobody would ever take the item."""
        while True:
            try:
                return self._queue.put(item, timeout=1.0)
            except queue.Full:
                if not self._thread.is_alive():
                    raise RuntimeError(f"the thread {self._thread.name} has ended") from None

    def stop(self) -> None:
        """Finish what was put, end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._process(item)


class Budget:
    """A share of a core that must not be exceeded: who works says so, and waits or leaves out what it cannot afford.

    share: over all that was used since the last time that nothing was owed. used_s: what `work` counts: CPU time of its
    thread, or the wall clock where other threads do a part of it. clock: by which it is waited.
    """

    def __init__(
        self,
        share: float,
        used_s: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._used_s, self._clock = share, used_s, clock
        self._free_at = clock()

    def spend(self, used_s: float) -> None:
        """So much was used just now."""
        self._free_at = max(self._free_at, self._clock()) + used_s / self._share

    def owed_s(self) -> float:
        """How long nothing more may be spent; 0 where it may."""
        return max(0.0, self._free_at - self._clock())

    @contextmanager
    def work(self) -> Iterator[Callable[[], None]]:
        """What is used inside is spent, also where it raises. What goes on for long calls the function that it gets:
        what was used up to then is spent at once."""
        began = self._used_s()

        def spend_so_far() -> None:
            nonlocal began
            before, began = began, self._used_s()
            self.spend(began - before)

        try:
            yield spend_so_far
        finally:
            spend_so_far()
