"""One annotated object over time: where it was and how it moved, and what was said of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.judged import Judged
from bev_perception.evaluation.objects import Objects

GONE_S = 2.0  # after which an object that is not seen is another
MOVES_MPS = 1.0


@dataclass(frozen=True)
class Moment:
    """Of one frame. seconds: since the drive's first. metres: from the vehicle. along, across: velocity in the line of
    sight (away from the vehicle) and to its left, m/s over ground; found_*: as detected, None where it was missed.
    off_m: between the centres."""

    seconds: float
    metres: float
    along: float
    across: float
    found_along: float | None = None
    found_across: float | None = None
    off_m: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class FollowedObject:
    """name: its class; id: as the ground truth has it."""

    id: str
    name: str
    moments: tuple[Moment, ...]

    def found(self) -> int:
        return sum(moment.off_m is not None for moment in self.moments)

    def worth(self) -> tuple[int, int]:
        """What makes one worth following: frames in which it moves, then frames."""
        moving = sum(np.hypot(moment.along, moment.across) > MOVES_MPS for moment in self.moments)
        return int(moving), len(self.moments)


class Follower:
    """Add the frames of a drive in their order; `best` is the object that moved in most frames.

    What has left the scene is forgotten unless it is the best so far, so memory does not grow with the drive.
    """

    def __init__(self) -> None:
        self._start_ns: int | None = None
        self._open: dict[tuple[str, str], list[Moment]] = {}
        self._best: FollowedObject | None = None

    def add(self, stamp_ns: int, wanted: Objects, found: Objects, judged: Judged) -> None:
        """Objects that count (hit or missed) and have an id."""
        self._start_ns = stamp_ns if self._start_ns is None else self._start_ns
        seconds = (stamp_ns - self._start_ns) / 1e9
        for key in [k for k, moments in self._open.items() if seconds - moments[-1].seconds > GONE_S]:
            self._close(key)
        hit_by = {int(j): int(i) for i, j in enumerate(judged.partner) if j >= 0}
        for k in range(len(wanted)):
            if wanted.ids[k] and (k in hit_by or judged.missed[k]):
                key = wanted.ids[k], wanted.names[k]
                self._open.setdefault(key, []).append(_moment(seconds, wanted, k, found, hit_by.get(k)))

    def best(self) -> FollowedObject | None:
        """None where no object has an id."""
        for key in list(self._open):
            self._close(key)
        return self._best

    def _close(self, key: tuple[str, str]) -> None:
        followed = FollowedObject(*key, tuple(self._open.pop(key)))
        if self._best is None or followed.worth() > self._best.worth():
            self._best = followed


def _moment(seconds: float, wanted: Objects, k: int, found: Objects, i: int | None) -> Moment:
    place = wanted.boxes[k, :2]
    metres = float(np.linalg.norm(place))
    sight = place / metres if metres > 0 else np.array([1.0, 0.0])
    left = np.array([-sight[1], sight[0]])
    velocity = np.nan_to_num(wanted.velocity[k])
    seen = Moment(seconds, metres, float(velocity @ sight), float(velocity @ left))
    if i is None:
        return seen
    said = np.nan_to_num(found.velocity[i])
    off = float(np.linalg.norm(found.boxes[i, :2] - place))
    return Moment(
        seconds, metres, seen.along, seen.across, float(said @ sight), float(said @ left), off, float(found.scores[i])
    )
