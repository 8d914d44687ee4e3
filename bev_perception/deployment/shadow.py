"""A second model on the frames of the first, without publishing: in a thread of its own, at low priority.

The thread takes the newest frame only, and the first model never waits for it. Where the machine cannot do both, the
second one sees a share of the frames, which is stated. A network with memory needs an earlier frame of the right age:
every n-th frame still gives that while n periods are no longer than the oldest state that it takes; beyond that, frames
are seen in pairs that are `interval_s` apart, of which the later one is compared.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from bev_perception.deployment.agreement import Agreement, compare
from bev_perception.deployment.goal import SCORE_BINS
from bev_perception.model_spec import TemporalSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.structures import Detections, SensorFrame
from bev_perception.worker import NewestWorker

NICE = 10
LEAST_SHARE = 0.02
WINDOW = 4096  # steps over which percentiles are taken
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Plan:
    """Of each `cycle` frames those at `takes` are seen. share: of all frames, why: in words."""

    cycle: int
    takes: frozenset[int]
    why: str

    @property
    def share(self) -> float:
        return len(self.takes) / self.cycle

    def wants(self, number: int) -> bool:
        """number: of the frame, counted from 0."""
        return number % self.cycle in self.takes


@dataclass(frozen=True)
class Pace:
    """From one frame to the next: period_ms by the wall clock (a replay may be slower than the drive), apart_s by their
    stamps."""

    period_ms: float
    apart_s: float


def plan(pace: Pace, in_service_ms: float, candidate_ms: float, temporal: TemporalSpec) -> Plan:
    """What is left of a period beside the model in service, divided by what the candidate takes of it."""
    apart_s = pace.apart_s
    left_ms = max(pace.period_ms - in_service_ms, 0.0)
    share = max(min(left_ms / candidate_ms, 1.0), LEAST_SHARE)
    took = f"{in_service_ms:.0f} and {candidate_ms:.0f} ms of a period of {pace.period_ms:.0f} ms"
    if share == 1.0:
        return Plan(1, frozenset({0}), f"both models run on every frame ({took})")
    every = math.ceil(1 / share)
    ages = [k * every * apart_s for k in range(1, 1 + math.ceil(temporal.max_age_s / (every * apart_s)))]
    if not temporal.state_channels or any(temporal.min_age_s <= age <= temporal.max_age_s for age in ages):
        return Plan(every, frozenset({0}), f"the candidate sees one frame in {every} ({took})")
    apart = max(1, round(temporal.interval_s / apart_s))
    cycle = max(2 * every, apart + 1)
    return Plan(cycle, frozenset({0, apart}), f"the candidate sees two frames in {cycle}, {apart} apart ({took})")


@dataclass
class Findings:
    """What the shadow has seen. seen: frames stepped; `agreement` is over those where both had memory, or neither.

    boxes: of the shadow and the model in service on the compared frames; scores (2, SCORE_BINS): how often a score
    fell into each tenth. errors: what steps raised, the first of them kept. ms: of each step.
    """

    seen: int = 0
    without_memory: int = 0
    agreement: Agreement = field(default_factory=Agreement)
    boxes: tuple[int, int] = (0, 0)
    scores: np.ndarray = field(default_factory=lambda: np.zeros((2, SCORE_BINS), dtype=np.int64))
    ms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    not_finite: int = 0
    errors: int = 0
    first_error: str = ""

    def percentile(self, q: float) -> float:
        """Of the steps, ms; NaN before the first."""
        return float(np.percentile(list(self.ms), q)) if self.ms else math.nan

    def figures(self) -> dict[str, float]:
        """For the journal."""
        mean = [float(row @ (np.arange(SCORE_BINS) + 0.5) / SCORE_BINS / max(row.sum(), 1)) for row in self.scores]
        figures = {
            "seen": float(self.seen),
            **self.agreement.figures(),
            "boxes_shadow": float(self.boxes[0]),
            "boxes_serving": float(self.boxes[1]),
            "score_shadow": mean[0],
            "score_serving": mean[1],
            "shadow_p50_ms": self.percentile(50),
            "shadow_p99_ms": self.percentile(99),
            "not_finite": float(self.not_finite),
            "errors": float(self.errors),
            "without_memory": float(self.without_memory),
        }
        return {name: value for name, value in figures.items() if math.isfinite(value)}


class Shadow:
    """From `start` to `stop` the thread is the only one that steps the pipeline; before and after it is the caller's.

    their_classes: of the model in service, by label.
    """

    def __init__(self, pipeline: BevPipeline, plan: Plan, their_classes: tuple[str, ...], mine: str = "") -> None:
        self.pipeline, self.plan = pipeline, plan
        self._classes, self._theirs = pipeline.spec.classes, their_classes
        self._lock = threading.Lock()
        self._findings = Findings()
        self._number = 0
        self._worker: NewestWorker[tuple[SensorFrame, Detections]] = NewestWorker(
            f"bev_shadow{mine}", self._step, lambda dropped: None
        )
        self._niced = False

    def start(self) -> None:
        self._worker.start()

    def offer(self, frame: SensorFrame, detections: Detections) -> None:
        """What the model in service found in `frame`. Returns at once."""
        number, self._number = self._number, self._number + 1
        if self.plan.wants(number):
            self._worker.offer([(frame, detections)])

    def stop(self) -> bool:
        """Finish the step that runs. False where it did not end: its engine was interrupted and is of no use."""
        if self._worker.stop(PATIENCE_S):
            return True
        self.pipeline.backend.interrupt()
        self._worker.stop(PATIENCE_S)
        return False

    def findings(self) -> Findings:
        """A copy."""
        with self._lock:
            f = self._findings
            return Findings(
                f.seen, f.without_memory, f.agreement, f.boxes, f.scores.copy(), deque(f.ms, WINDOW), f.not_finite,
                f.errors, f.first_error,
            )  # fmt: skip

    def _step(self, offered: tuple[SensorFrame, Detections]) -> None:
        self._be_nice()
        frame, theirs = offered
        before = self.pipeline.counters["output/not_finite"]
        started = time.perf_counter()
        try:
            mine = self.pipeline.step(frame)
        except Exception:
            last_line = traceback.format_exc().strip().rsplit("\n", 1)[-1]
            with self._lock:
                self._findings.seen += 1
                self._findings.errors += 1
                self._findings.first_error = self._findings.first_error or last_line
            return
        ms = (time.perf_counter() - started) * 1e3
        alike = mine.temporal_used == theirs.temporal_used
        agreement = compare(mine, self._classes, theirs, self._theirs) if alike else Agreement()
        with self._lock:
            f = self._findings
            f.seen += 1
            f.ms.append(ms)
            f.not_finite += self.pipeline.counters["output/not_finite"] - before
            f.without_memory += not alike
            f.agreement += agreement
            if alike:
                f.boxes = (f.boxes[0] + len(mine), f.boxes[1] + len(theirs))
                for row, found in enumerate((mine, theirs)):
                    bins = np.clip((found.scores * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
                    f.scores[row] += np.bincount(bins, minlength=SCORE_BINS)

    def _be_nice(self) -> None:
        """Once, in the thread itself: Linux has priorities for threads. Those of the engine's own keep theirs."""
        if not self._niced:
            self._niced = True
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
