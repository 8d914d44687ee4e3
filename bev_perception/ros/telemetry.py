"""What the node counts and times while it runs, thread-safe and bounded. No ROS."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

# Stages of BevPipeline.timings_ms -> what the status calls them. `total` of both is another: a step's, and the frame's
# from its stamp to its messages.
OF_A_STEP = {"preprocess": "preprocess", "inference": "infer", "decode": "decode", "health": "health"}
STAGES = ("convert", "wait", "queue", *OF_A_STEP.values(), "publish", "total")
WINDOW = 256  # frames (of `convert`: messages) over which percentiles are taken
MAX_DETAILS = 64  # reasons whose last detail is remembered


@dataclass(frozen=True)
class Latency:
    """Percentiles of one stage over the window, ms; NaN when count is 0."""

    stage: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    count: int


@dataclass(frozen=True)
class Snapshot:
    """A consistent copy of everything, for one status message.

    seconds_since_output is inf before the first output. seconds_without_memory: since a frame had memory of earlier
    ones, or since the first frame.
    """

    counters: dict[str, int]
    details: dict[str, str]
    latencies: tuple[Latency, ...]
    age_at_publication_s: float
    seconds_since_output: float
    seconds_without_memory: float
    memory_resets: int
    last_memory_reset_reason: str
    frames_processed: int
    frames_dropped: int
    recent_failure: str


class Telemetry:
    """Counters by reason, details, and latency windows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Start anew, at activation."""
        with self._lock:
            self._counters: Counter[str] = Counter()
            self._details: dict[str, str] = {}
            self._windows = {stage: deque[float](maxlen=WINDOW) for stage in STAGES}
            self._age_s = float("nan")
            self._output_at = -np.inf
            self._memory_at = np.inf
            self._resets = 0
            self._reset_reason = ""
            self._processed = 0
            self._dropped = 0
            self._failure = ""

    def count(self, reason: str, detail: str = "") -> bool:
        """Count `reason`; True the first time, so that the caller can log it once."""
        with self._lock:
            first = reason not in self._counters
            self._counters[reason] += 1
            if detail and (reason in self._details or len(self._details) < MAX_DETAILS):
                self._details[reason] = detail
            return first

    def note(self, reason: str, detail: str) -> bool:
        """Remember the detail of a reason that somebody else counts; True the first time (not beyond MAX_DETAILS)."""
        with self._lock:
            known = reason in self._details
            if known or len(self._details) < MAX_DETAILS:
                self._details[reason] = detail
            return not known and reason in self._details

    def time(self, stage: str, ms: float) -> None:
        """One duration of a stage of STAGES."""
        with self._lock:
            self._windows[stage].append(ms)

    def output(self, age_s: float, memory_reset: str, memory_used: bool) -> None:
        """Detections were published, made from data `age_s` old."""
        with self._lock:
            self._age_s = age_s
            self._output_at = time.monotonic()
            if memory_used or self._processed == 0:
                self._memory_at = self._output_at
            self._processed += 1
            self._failure = ""
            if memory_reset:
                self._resets += 1
                self._reset_reason = memory_reset

    def dropped(self, n: int) -> None:
        """Frames were assembled, but newer ones were there."""
        with self._lock:
            self._dropped += n
            if n:
                self._counters["frame_dropped_newer_arrived"] += n

    def failed(self, text: str) -> None:
        """Detections of a frame were lost."""
        with self._lock:
            self._failure = text

    def snapshot(self) -> Snapshot:
        with self._lock:
            windows = {stage: list(window) for stage, window in self._windows.items()}
        latencies = tuple(_latency(stage, window) for stage, window in windows.items())  # not under the lock
        with self._lock:
            return Snapshot(
                counters=dict(self._counters),
                details=dict(self._details),
                latencies=latencies,
                age_at_publication_s=self._age_s,
                seconds_since_output=time.monotonic() - self._output_at,
                seconds_without_memory=max(0.0, time.monotonic() - self._memory_at),
                memory_resets=self._resets,
                last_memory_reset_reason=self._reset_reason,
                frames_processed=self._processed,
                frames_dropped=self._dropped,
                recent_failure=self._failure,
            )


def _latency(stage: str, window: list[float]) -> Latency:
    if not window:
        return Latency(stage, math.nan, math.nan, math.nan, math.nan, 0)
    p50, p95, p99, top = np.percentile(window, (50, 95, 99, 100))
    return Latency(stage, float(p50), float(p95), float(p99), float(top), len(window))
