"""What a long run over a recording tells a person: warnings once, progress, and which reason cost most."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping

from bev_perception.bags.recording import warn

PROGRESS_S = 5.0
# Names of counters that begin so count frames, points or forgetting; all others count a sensor's messages or absence.
NOT_OF_SENSORS = ("frame", "reset", "memory", "radar", "output")
EXPLAINED = "docs/reasons.md explains it"


class WarnOnce:
    """Each text once, however often a file is opened."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            warn(text)


class Progress:
    """Called with the share that is done (0: unknown), writes a line to stderr every PROGRESS_S of the wall clock."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_S:
            return
        self._told = now
        passed = now - self._started
        done = f"{share:.0%} of the recording, about {passed / share - passed:.0f} s left" if share > 0 else "reading"
        print(f"{passed:.0f} s: {done}", file=sys.stderr, flush=True)

    def seconds(self) -> float:
        return time.monotonic() - self._started


def reason_lines(counters: Mapping[str, int], details: Mapping[str, str]) -> list[str]:
    """A line for each reason, with what is known of it; the one that refused most of a sensor's messages comes last.

    A reason without a detail was counted frame by frame, for what was absent: often the consequence of one that has.
    """
    names = sorted(counters, key=lambda name: (_of_sensor(name), name in details, counters[name], name))
    told = {name: f": {details[name]}" for name in names if name in details}
    told |= {name: f": {EXPLAINED}" for name in names[-1:] if name not in details}
    return [f"  {counters[name]:5d} x {name}{told.get(name, '')}" for name in names]


def main_reason(counters: Mapping[str, int], details: Mapping[str, str], sensors: Collection[str] = ()) -> str:
    """The last of reason_lines as part of a sentence, or that of the named sensors; "" where nothing was counted."""
    chosen = {
        name: count
        for name, count in counters.items()
        if not sensors or name.partition("/")[0].partition(" ")[0] in sensors
    }
    lines = reason_lines(chosen, details)
    return lines[-1].strip() if lines else ""


def _of_sensor(name: str) -> bool:
    sensor, slash, _ = name.partition("/")
    return bool(slash) and sensor not in NOT_OF_SENSORS
