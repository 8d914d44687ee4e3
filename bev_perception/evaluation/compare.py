"""Do two runs over the same frames give the same detections? Compared as recorded messages, bit for bit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bev_perception.evaluation.bag import composition_of

UNEXPLAINED = "nothing that the runs recorded explains it"
MATCH_M = 2.0  # boxes of one class further apart are two objects


@dataclass(frozen=True)
class Difference:
    """Of one frame. cause: why, or UNEXPLAINED and what was seen. metres, score: the largest difference of matched
    boxes (of the same class, each with its nearest); unmatched: boxes that only one of the runs has."""

    cause: str
    metres: float
    score: float
    unmatched: int


@dataclass(frozen=True)
class Agreement:
    """Frames by stamp: identical ones, differing ones, and those that only one run has."""

    identical: int
    differing: dict[int, Difference]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]

    @property
    def agrees(self) -> bool:
        return not (self.differing or self.only_first or self.only_second)

    @property
    def explained(self) -> bool:
        """Both runs have the same frames, and each difference has a cause."""
        unexplained = any(d.cause.startswith(UNEXPLAINED) for d in self.differing.values())
        return not (self.only_first or self.only_second or unexplained)

    def sentence(self, first: str = "live", second: str = "offline") -> str:
        """One line for a person; `there` and `here` in causes are the first and the second run."""
        total = self.identical + len(self.differing)
        if self.agrees:
            return f"identical: all {total} frames, bit for bit"
        parts = []
        if self.differing:
            found = self.differing.values()
            causes = Counter(d.cause for d in found).most_common()
            parts.append(
                f"{len(found)} of {total} frames differ, boxes by at most {max(d.metres for d in found):.2g} m and "
                f"{max(d.score for d in found):.2g} in score, {sum(d.unmatched for d in found)} boxes in one run only ("
                + "; ".join(f"{times} x {cause}" for cause, times in causes)
                + ")"
            )
        for name, stamps in ((first, self.only_first), (second, self.only_second)):
            if stamps:
                parts.append(f"{len(stamps)} frames only {name}")
        return "; ".join(parts)


def compare_runs(first: Mapping[int, Any], second: Mapping[int, Any]) -> Agreement:
    """stamp -> Detection3DArray of two runs -> Agreement."""
    differing: dict[int, Difference] = {}
    common = sorted(set(first) & set(second))
    start = min((*first, *second), default=0)
    spoiled = False  # the memory holds a frame that differed
    for stamp in common:
        a, b = first[stamp], second[stamp]
        spoiled = spoiled and bool(a.temporal_used or b.temporal_used)
        if _content(a) != _content(b):
            differing[stamp] = _difference(a, b, spoiled, first_of_all=stamp == start)
            spoiled = True
    only_first = tuple(sorted(set(first) - set(second)))
    only_second = tuple(sorted(set(second) - set(first)))
    return Agreement(len(common) - len(differing), differing, only_first, only_second)


def _difference(a: Any, b: Any, spoiled: bool, first_of_all: bool) -> Difference:
    metres, score, unmatched = _match(a.detections, b.detections)
    return Difference(_cause(a, b, spoiled, first_of_all), metres, score, unmatched)


def _cause(a: Any, b: Any, spoiled: bool, first_of_all: bool) -> str:
    """What the runs were given differently, or what an earlier difference has left behind. What they made differently
    of the same is a symptom, and explains nothing."""
    if a.model_sha256 != b.model_sha256:
        return "another model"
    there, here = composition_of(a), composition_of(b)
    if there is not None and here is not None:
        for name in sorted(set(there.stamps_ns) | set(here.stamps_ns)):
            one, other = set(there.stamps_ns.get(name, ())), set(here.stamps_ns.get(name, ()))
            if one - other:
                return f"{name} was used there and is not here ({here.missing.get(name) or 'another measurement'})"
            if other - one:
                return f"{name} is used here and was not there ({there.missing.get(name) or 'another measurement'})"
        if there.poses_crc32 != here.poses_crc32:
            return "other poses of the odometry were known"
    if names := sorted(set(a.sensors_used) ^ set(b.sensors_used)):  # the memory has no part in that
        return f"{UNEXPLAINED}: {', '.join(names)} used in one run only"
    if spoiled:
        return "the memory holds a frame that differed"
    if a.temporal_used != b.temporal_used and first_of_all:  # so that run had one before those that are compared
        return f"the memory holds a frame {'there' if a.temporal_used else 'here'} that was not recorded"
    return f"{UNEXPLAINED}: the memory used in one run only" if a.temporal_used != b.temporal_used else UNEXPLAINED


def _content(m: Any) -> tuple[Any, ...]:
    """Everything that a run found and said of a frame, comparable."""
    named = [d.class_name for d in m.detections]
    used = (list(m.sensors_used), list(m.sensors_missing), bool(m.temporal_used), m.model_sha256)
    return (*used, composition_of(m), named, [_numbers(d) for d in m.detections])


def _numbers(d: Any) -> list[float]:
    position, turn, size, v = d.pose.pose.position, d.pose.pose.orientation, d.dimensions, d.twist.twist.linear
    return [d.score, position.x, position.y, position.z, turn.z, turn.w, size.x, size.y, size.z, v.x, v.y]


def _match(first: Any, second: Any) -> tuple[float, float, int]:
    """(largest distance of centres in m, largest difference of scores, number of boxes without a partner)."""
    left = list(second)
    metres, score, unmatched = 0.0, 0.0, 0
    for d in first:
        p = d.pose.pose.position
        best, nearest = None, MATCH_M
        for other in left:
            q = other.pose.pose.position
            distance = math.dist((p.x, p.y, p.z), (q.x, q.y, q.z))
            if other.class_name == d.class_name and distance <= nearest:
                best, nearest = other, distance
        if best is None:
            unmatched += 1
            continue
        left.remove(best)
        metres, score = max(metres, nearest), max(score, abs(d.score - best.score))
    return metres, score, unmatched + len(left)
