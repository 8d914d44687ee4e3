"""Where a camera looks, judged by what moves in its images: how well its extrinsics fit, and which turn fits better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bev_perception.rig.epipolar import Pair, mean_distance
from bev_perception.rig.perturb import TURNS, perturbed

SEARCH_DEG = (2.0, 1.0, 0.5, 0.25)
FARTHEST_DEG = 10.0
LOST_PX = 1.0  # worse than this at its best, points were not the same ones
SURE_PX = 0.05  # a turn that gains less is none


@dataclass(frozen=True)
class Direction:
    """pairs: of images, 0 where nothing moved. here_px: off the lines of motion as it is; a_degree_px: turned by one
    about an axis, mean of both ways; turn: yaw, pitch, roll in degrees that fit best, those that are not 0; least_px:
    there."""

    pairs: int
    here_px: float = math.nan
    a_degree_px: Mapping[str, float] = field(default_factory=dict)
    turn: Mapping[str, float] = field(default_factory=dict)
    least_px: float = math.nan

    @property
    def tells(self) -> bool:
        return self.pairs > 0 and self.least_px <= LOST_PX

    @property
    def is_off(self) -> bool:
        """Whether another direction fits better, beyond doubt."""
        return self.tells and self.here_px - self.least_px >= SURE_PX

    def turn_words(self) -> str:
        return ", ".join(f"{name} {degrees:+.2f}" for name, degrees in self.turn.items()) + " degrees"

    def text(self) -> str:
        if not self.pairs:
            return "nothing moves in its images: it takes a drive at more than 2 m/s past standing things"
        degrees = ", ".join(f"{name} {value:.2f}" for name, value in self.a_degree_px.items())
        text = (
            f"{self.here_px:.2f} px off the lines of motion in {self.pairs} pairs of images; a degree more: {degrees}"
        )
        if not self.tells:
            return f"{text}; nothing can be said: points cannot be followed that far, images closer together are needed"
        if not self.is_off:
            return f"{text}; no turn is better"
        return f"{text}; least, {self.least_px:.2f} px, when it is turned by {self.turn_words()}"


def direction_of(
    pairs: Sequence[Pair], pose: np.ndarray | None, change: Mapping[str, float] | None = None
) -> Direction:
    """Of a camera at its pose ego_from_cam (4, 4), or turned and moved by `change` (perturbed)."""
    if pose is None or not pairs or math.isnan(mean_distance(pairs, pose)):
        return Direction(0)
    pose = perturbed(pose, change or {})
    turned = {
        name: float(np.mean([mean_distance(pairs, perturbed(pose, {name: sign})) for sign in (-1.0, 1.0)]))
        for name in TURNS
    }
    best, least = best_turn(pairs, pose)
    return Direction(
        len(pairs),
        mean_distance(pairs, pose),
        turned,
        {name: degrees for name, degrees in best.items() if degrees},
        least,
    )


def best_turn(pairs: Sequence[Pair], pose: np.ndarray) -> tuple[dict[str, float], float]:
    """({yaw, pitch, roll: degrees} that fit best, pixels): downhill in steps that become smaller."""
    best = dict.fromkeys(TURNS, 0.0)
    least = mean_distance(pairs, pose)
    seen = [name for name in TURNS if _shows(pairs, pose, name, least)]
    for step in SEARCH_DEG:
        gained = True
        while gained:
            gained = False
            for name in seen:
                for sign in (-1.0, 1.0):
                    turn = best | {name: best[name] + sign * step}
                    if max(map(abs, turn.values())) > FARTHEST_DEG:
                        continue
                    found = mean_distance(pairs, perturbed(pose, turn))
                    if found < least - 1e-4:
                        best, least, gained = turn, found, True
    return best, least


def _shows(pairs: Sequence[Pair], pose: np.ndarray, name: str, here: float) -> bool:
    """Whether a turn about this axis changes anything: one about the direction of travel does not."""
    turned = [mean_distance(pairs, perturbed(pose, {name: sign * 2.0})) for sign in (-1.0, 1.0)]
    return max(abs(found - here) for found in turned) > SURE_PX / 2
