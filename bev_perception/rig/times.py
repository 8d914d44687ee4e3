"""Stamps of one topic: how often, how regularly, in which order, and how far from when they came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.rig.thinned import Thinned
from bev_perception.sync_config import NS

KEPT = 4096  # values for medians and percentiles
WINDOWS = 8  # of a recording, in each of which the fastest message shows the clock


@dataclass(frozen=True)
class Times:
    """count: messages, with or without a stamp; the rest is of those that have one, in ns.

    period_ns: median from stamp to stamp; jitter_ns: how far nine of ten such steps are from it at most. back,
    repeated: steps that go back, or are none. longest_gap_ns: from stamp to stamp. delay_ns: median from the stamp to
    when the message came; least_delay_ns: the smallest. drift_ns: how much the smallest delay of a stretch grew from
    the first eighth to the last, which no queue explains. span_ns: from the first to the last stamp.
    """

    count: int = 0
    unstamped: int = 0
    period_ns: int = 0
    jitter_ns: int = 0
    back: int = 0
    repeated: int = 0
    longest_gap_ns: int = 0
    delay_ns: int = 0
    least_delay_ns: int = 0
    drift_ns: int = 0
    span_ns: int = 0

    @property
    def rate_hz(self) -> float:
        return NS / self.period_ns if self.period_ns else 0.0


class TimesHeard:
    """Give it every message's stamp; `finish` says what was found. Bounded."""

    def __init__(self) -> None:
        self.count = self.unstamped = self.back = self.repeated = 0
        self.newest_ns: int | None = None
        self._first_ns = 0
        self._last_ns = 0
        self._longest_ns = 0
        self._steps: Thinned[int] = Thinned(KEPT)
        self._delays: Thinned[tuple[int, int]] = Thinned(KEPT)  # when it came, and how long it took

    def add(self, stamp_ns: int, received_ns: int) -> None:
        """stamp_ns 0: it was never set."""
        self.count += 1
        if stamp_ns <= 0:
            self.unstamped += 1
            return
        self._delays.offer(lambda: (received_ns, received_ns - stamp_ns))
        if self.newest_ns is None:
            self._first_ns = stamp_ns
        else:
            step = stamp_ns - self._last_ns
            self.back += step < 0
            self.repeated += step == 0
            if step > 0:
                self._longest_ns = max(self._longest_ns, step)
                self._steps.offer(lambda: step)
        self._last_ns = stamp_ns
        self.newest_ns = max(stamp_ns, self.newest_ns or stamp_ns)

    def finish(self) -> Times:
        if self.newest_ns is None:
            return Times(self.count, self.unstamped)
        steps = np.array(self._steps.values or [0], dtype=np.int64)
        period = int(np.median(steps))
        delays = np.array(self._delays.values, dtype=np.int64)
        return Times(
            count=self.count,
            unstamped=self.unstamped,
            period_ns=period,
            jitter_ns=int(np.percentile(np.abs(steps - period), 90)),
            back=self.back,
            repeated=self.repeated,
            longest_gap_ns=self._longest_ns,
            delay_ns=int(np.median(delays[:, 1])),
            least_delay_ns=int(delays[:, 1].min()),
            drift_ns=_drift(delays),
            span_ns=self.newest_ns - self._first_ns,
        )


def _drift(delays: np.ndarray) -> int:
    """(N, 2) when and how long, ns -> change of the smallest delay from the first to the last stretch."""
    if len(delays) < 4 * WINDOWS:
        return 0
    parts = np.array_split(delays[np.argsort(delays[:, 0], kind="stable"), 1], WINDOWS)
    return int(parts[-1].min() - parts[0].min())


def fold(delta_ns: int, period_ns: int) -> int:
    """A difference of stamps within one period: -period / 2 to period / 2."""
    return (delta_ns + period_ns // 2) % period_ns - period_ns // 2


def phase_of(deltas_ns: list[int], period_ns: int) -> tuple[int, float]:
    """(mean ns within a period, 0 to 1 how much all agree) of the steps from one camera's stamps to another's.

    Mean and length of the vectors on the circle of one period: cameras that run freely, each by its own clock, have a
    length near 0.
    """
    angles = np.array(deltas_ns, dtype=np.float64) * (2 * np.pi / period_ns)
    mean = np.exp(1j * angles).mean() if len(angles) else 0j
    return round(float(np.angle(mean)) * period_ns / (2 * np.pi)), float(np.abs(mean))
