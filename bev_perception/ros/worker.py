"""The one thread that runs the pipeline: a slot for the newest frame, and a tick that lets deadlines fire. No ROS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bev_perception.structures import SensorFrame


class Worker:
    """Calls `process(frame)` in its own thread, always with the newest frame offered; older ones count as dropped.

    While it is idle, `tick()` is called every `tick_s`: frames whose deadline passes when no message arrives come from
    there. Neither may raise.
    """

    def __init__(
        self,
        process: Callable[[SensorFrame], None],
        tick: Callable[[], None],
        on_dropped: Callable[[int], None],
        tick_s: float = 0.02,
    ) -> None:
        self._process = process
        self._tick = tick
        self._on_dropped = on_dropped
        self._tick_s = tick_s
        self._condition = threading.Condition()
        self._frame: SensorFrame | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="bev_pipeline", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, frames: Sequence[SensorFrame]) -> None:
        """Put the newest of `frames` (in stamp order) into the slot. Returns at once."""
        if not frames:
            return
        with self._condition:
            dropped = len(frames) - 1 + (self._frame is not None)
            self._frame = frames[-1]
            self._condition.notify()
        if dropped:
            self._on_dropped(dropped)

    def stop(self) -> None:
        """Finish the step that runs, drop what waits, end the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._frame is None and not self._stopping:
                    self._condition.wait(self._tick_s)
                if self._stopping:
                    return
                frame, self._frame = self._frame, None
            if frame is None:
                self._tick()
            else:
                self._process(frame)
