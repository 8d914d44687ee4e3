"""How soon a network is as good as it can be after sensors were lost, and after they came back.

In the middle third of a scene the sensors of a loss send nothing. A frame is *correct* when at least 95 % as many
objects are found as by the same network that never had these sensors (while they are lost) or never lost them (after).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.evaluation.matching import greedy
from bev_perception.evaluation.objects import Objects
from bev_perception.model_spec import ModelSpec
from training.robustness.lost import Loss

CORRECT = 0.95
LIMIT_M = 2.0
SHORTEST = 3  # frames: a scene of fewer has no middle third


@dataclass(frozen=True)
class Interruption:
    """Sensors that are lost from the frame `first` on and back at the frame `back`."""

    loss: Loss
    first: int
    back: int

    def lost(self, index: int) -> bool:
        return self.first <= index < self.back


def interruptions(frames: int, losses: Sequence[Loss]) -> list[Interruption]:
    """For a scene of so many frames: of some cameras, of all of them, of all radars, as far as `losses` has them."""
    if frames < SHORTEST:
        return []
    chosen = [max(group, key=lambda loss: (loss.cameras, loss.radars)) for group in _groups(losses)]
    return [Interruption(loss, frames // 3, 2 * frames // 3) for loss in chosen]


def _groups(losses: Sequence[Loss]) -> Iterable[list[Loss]]:
    groups = (
        [loss for loss in losses if not loss.radars and loss.cameras in (1, 2)],
        [loss for loss in losses if not loss.radars],
        [loss for loss in losses if not loss.cameras],
    )
    return [group for group in groups if group]


def matched_share(wanted: Objects, found: Objects, reference: Objects, spec: ModelSpec) -> float:
    """Objects that `found` finds over those that `reference` finds, at the spec's thresholds; 1 where it finds none."""
    best = _matched(wanted, reference, spec)
    return _matched(wanted, found, spec) / best if best else 1.0


def _matched(wanted: Objects, found: Objects, spec: ModelSpec) -> int:
    count = 0
    for name in spec.classes:
        rows = [i for i, n in enumerate(found.names) if n == name and found.scores[i] >= spec.score_threshold[name]]
        targets = [i for i, n in enumerate(wanted.names) if n == name]
        if rows and targets:
            offset = found.boxes[rows][:, None, :2] - wanted.boxes[targets][None, :, :2]
            count += len(
                greedy(np.linalg.norm(offset, axis=2), np.argsort(-found.scores[rows], kind="stable"), LIMIT_M)
            )
    return count


def reaction_times(scenes: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Loss -> median over the scenes of the milliseconds from the first frame without the sensors (`lost_ms`), and from
    the first with them again (`back_ms`), to the first correct frame; NaN where half of the scenes have none.

    scenes: rows of each: loss, index, stamp_ns, lost, share (`matched_share`), in order of time.
    """
    names = list(dict.fromkeys(row["loss"] for rows in scenes for row in rows))
    return {name: {word: _median(scenes, name, word) for word in ("lost_ms", "back_ms")} for name in names}


def _median(scenes: Sequence[Sequence[Mapping[str, Any]]], name: str, word: str) -> float:
    times = []
    for rows in scenes:
        own = [row for row in rows if row["loss"] == name]
        begun = next((i for i, row in enumerate(own) if row["lost"]), len(own))
        back = next((i for i in range(begun, len(own)) if not own[i]["lost"]), len(own))
        part = own[begun:back] if word == "lost_ms" else own[back:]
        if part:
            correct = next((row["stamp_ns"] for row in part if row["share"] >= CORRECT), None)
            times.append(np.inf if correct is None else (correct - part[0]["stamp_ns"]) / 1e6)
    median = float(np.median(times)) if times else np.nan
    return median if np.isfinite(median) else float("nan")
