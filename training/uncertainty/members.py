"""Several answers to one frame, as one: deep ensembles (Lakshminarayanan et al., NeurIPS 2017) and dropout that goes on
after training (Gal and Ghahramani, ICML 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bev_perception.evaluation.objects import make_objects
from bev_perception.spread import METRIC_CHANNELS, log_odds
from bev_perception.uncertainty import CHANNELS, in_line_of_sight
from training.models.detector import Detector
from training.models.spread_head import host_of
from training.uncertainty.driving import Frame

NEAR_M = 2.0  # how far a member's box may be from the strongest to be the same object
LEAST = 0.02  # of a deviation between members (m, rad, m/s): of what one alone has found it would be 0


@contextmanager
def dropout(detector: Detector, share: float, seed: int) -> Iterator[None]:
    """Within: channels of the map that the head reads are dropped, another draw for each frame."""
    generator = torch.Generator().manual_seed(seed)

    def drop(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        bev = args[0]
        kept = torch.rand(*bev.shape[:2], 1, 1, generator=generator).to(bev) >= share
        return (bev * kept / (1 - share), *args[1:])

    handle = host_of(detector).register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def fused(members: Sequence[Frame]) -> Frame:
    """One frame's detections of all members as one: the strongest of what is left takes from each other member the
    nearest of its class within NEAR_M. Boxes are the means of those that have one, scores the sums over the members'
    number; the variance is the mean of theirs and that of their means."""
    names = np.array([name for m in members for name in m.objects.names])
    boxes = np.concatenate([m.objects.boxes for m in members])
    velocity = np.concatenate([m.objects.velocity for m in members])
    scores = np.concatenate([m.objects.scores for m in members])
    said = np.concatenate([m.said for m in members])
    member = np.repeat(np.arange(len(members)), [len(m.objects) for m in members])
    free = np.ones(len(scores), dtype=bool)
    groups: list[np.ndarray] = []
    for first in np.argsort(-scores, kind="stable"):
        if not free[first]:
            continue
        metres = np.hypot(*(boxes[:, :2] - boxes[first, :2]).T)
        alike = free & (names == names[first]) & (metres <= NEAR_M) & (member != member[first])
        rows = np.flatnonzero(alike)
        rows = rows[np.argsort(metres[rows], kind="stable")]
        nearest = rows[np.unique(member[rows], return_index=True)[1]]
        group = np.concatenate([[first], nearest])
        free[group] = False
        groups.append(group)
    means = [_mean(boxes[g], velocity[g], scores[g], said[g], len(members)) for g in groups]
    order = np.argsort([-mean[2] for mean in means], kind="stable")
    found = make_objects(
        np.array([means[i][0] for i in order]).reshape(-1, 7),
        np.array([means[i][1] for i in order]).reshape(-1, 2),
        np.array([means[i][2] for i in order]),
        tuple(str(names[groups[i][0]]) for i in order),
    )
    return Frame(found, np.array([means[i][3] for i in order]).reshape(-1, len(METRIC_CHANNELS)))


def _mean(
    boxes: np.ndarray, velocity: np.ndarray, scores: np.ndarray, said: np.ndarray, members: int
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Box (7,), velocity (2,), score and deviations (METRIC_CHANNELS,) of one object's boxes, the strongest first."""
    off = (boxes[:, 6] - boxes[0, 6] + np.pi) % (2 * np.pi) - np.pi
    mean = boxes.mean(axis=0)
    mean[6] = boxes[0, 6] + off.mean()
    around = np.tile(mean, (len(boxes), 1))
    place = in_line_of_sight(around, boxes[:, :2] - mean[:2])
    speed = in_line_of_sight(around, velocity - velocity.mean(axis=0))
    of = np.column_stack([place, boxes[:, 2], off, speed, boxes[:, 3:6]])
    assert of.shape[1] == len(CHANNELS)
    whole = np.column_stack([of, log_odds(scores)])
    deviation = np.sqrt((said**2).mean(axis=0) + whole.var(axis=0))
    return mean, velocity.mean(axis=0), float(scores.sum() / members), np.maximum(deviation, LEAST)


def fused_drive(drives: Sequence[Sequence[Frame]]) -> list[Frame]:
    """Of several drives over the same keyframes."""
    return [fused(members) for members in zip(*drives, strict=True)]
