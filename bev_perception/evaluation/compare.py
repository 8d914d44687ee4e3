"""Do two runs over the same frames give the same detections? Compared as recorded messages, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """Frames by stamp: identical ones, differing ones with the first reason seen, and those only one run has.

    largest: over boxes that both runs have, the largest difference of a number in a message (m, m/s, score ...).
    """

    identical: int
    differing: dict[int, str]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]
    largest: float

    @property
    def agrees(self) -> bool:
        return not (self.differing or self.only_first or self.only_second)

    def sentence(self, first: str = "live", second: str = "offline") -> str:
        """One line for a person."""
        total = self.identical + len(self.differing)
        if self.agrees:
            return f"identical: all {total} frames, bit for bit"
        parts = []
        if self.differing:
            stamp, reason = next(iter(self.differing.items()))
            parts.append(
                f"{len(self.differing)} of {total} frames differ, by {self.largest:.2g} at most "
                f"(first at {stamp}: {reason})"
            )
        for name, stamps in ((first, self.only_first), (second, self.only_second)):
            if stamps:
                parts.append(f"{len(stamps)} frames only {name}")
        return "; ".join(parts)


def compare_runs(first: Mapping[int, Any], second: Mapping[int, Any]) -> Agreement:
    """stamp -> Detection3DArray of two runs -> Agreement."""
    differing: dict[int, str] = {}
    largest = 0.0
    common = sorted(set(first) & set(second))
    for stamp in common:
        reason, difference = _difference(first[stamp], second[stamp])
        if reason:
            differing[stamp] = reason
            largest = max(largest, difference)
    only_first = tuple(sorted(set(first) - set(second)))
    only_second = tuple(sorted(set(second) - set(first)))
    return Agreement(len(common) - len(differing), differing, only_first, only_second, largest)


def _difference(a: Any, b: Any) -> tuple[str, float]:
    """("" or what differs, largest numeric difference)."""
    for field in ("sensors_used", "sensors_missing", "temporal_used", "model_sha256"):
        if _plain(getattr(a, field)) != _plain(getattr(b, field)):
            return f"{field} {_plain(getattr(a, field))} and {_plain(getattr(b, field))}", 0.0
    names = [[d.class_name for d in m.detections] for m in (a, b)]
    if names[0] != names[1]:
        return f"{len(names[0])} and {len(names[1])} boxes or another order of classes", 0.0
    numbers = [np.array([_numbers(d) for d in m.detections]) for m in (a, b)]
    if np.array_equal(numbers[0], numbers[1]):
        return "", 0.0
    difference = float(np.abs(numbers[0] - numbers[1]).max())
    return f"numbers differ by {difference:.2g}", difference


def _plain(value: Any) -> Any:
    return list(value) if not isinstance(value, (str, bool, np.bool_)) else value


def _numbers(d: Any) -> list[float]:
    position, turn, size, v = d.pose.pose.position, d.pose.pose.orientation, d.dimensions, d.twist.twist.linear
    return [d.score, position.x, position.y, position.z, turn.z, turn.w, size.x, size.y, size.z, v.x, v.y]
