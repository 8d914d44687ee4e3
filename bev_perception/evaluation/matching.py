"""Which detections are true, by the rules of the nuScenes detection benchmark (Caesar et al., CVPR 2020, section 3.1;
configuration detection_cvpr_2019).

Frames are matched one by one and their rows put together afterwards: so a drive is matched while it is read, drives are
matched by several processes, and a score of any choice of them needs no box again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.objects import Objects

# Class -> how far from the vehicle it is scored, m.
CLASS_RANGE = {
    "car": 50.0, "truck": 50.0, "bus": 50.0, "trailer": 50.0, "construction_vehicle": 50.0, "pedestrian": 40.0,
    "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0,
}  # fmt: skip
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # m between centres seen from above, below which a detection is true
TRUE_AT = DISTANCES.index(2.0)  # where errors are measured
MAX_BOXES = 500  # of a frame
PERIOD = {"barrier": np.pi}  # of the heading, rad; of all others a whole turn
ERRORS = ("ate", "ase", "aoe", "ave", "aae")


@dataclass(frozen=True)
class Matched:
    """N detections of one class, in any frames, in their order.

    scores (N,); true (N, 4) bool, at each of DISTANCES; errors (N, 5), ERRORS at 2 m, NaN where it is not true there or
    the error is not defined; wanted: how many objects there were.
    """

    scores: np.ndarray
    true: np.ndarray
    errors: np.ndarray
    wanted: int


NOTHING = Matched(np.zeros(0), np.zeros((0, len(DISTANCES)), bool), np.zeros((0, len(ERRORS))), 0)


def match(
    wanted: Objects, found: Objects, vehicle: np.ndarray | None = None, low: float = 0.0, high: float = np.inf
) -> dict[str, Matched]:
    """One frame: class -> what its detections are.

    vehicle: (2,) or more, where it is in the frame of the boxes, m; None: in its origin. Taken is what lies `low` to
    `high` metres from it and within its class's range; objects in which no sensor has a point (0) are not.
    Raises ValueError for sizes that are not above 0.
    """
    origin = np.zeros(2) if vehicle is None else np.asarray(vehicle, dtype=np.float64)[:2]
    found = strongest(found, MAX_BOXES)
    wanted, found = wanted.select(counts(wanted, origin, low, high)), found.select(counts(found, origin, low, high))
    names, found_names = np.array(wanted.names, dtype=object), np.array(found.names, dtype=object)
    return {
        name: _match_class(wanted.select(names == name), found.select(found_names == name), name)
        for name in CLASS_RANGE
        if name in wanted.names or name in found.names
    }


def join(parts: Sequence[Matched]) -> Matched:
    """Frames after each other."""
    if not parts:
        return NOTHING
    return Matched(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.true for part in parts]),
        np.concatenate([part.errors for part in parts]),
        sum(part.wanted for part in parts),
    )


def strongest(objects: Objects, limit: int) -> Objects:
    """The `limit` objects of the highest scores, in the same order: the benchmark takes no more of a frame."""
    if len(objects) <= limit:
        return objects
    mask = np.zeros(len(objects), dtype=bool)
    mask[np.argsort(-objects.scores, kind="stable")[:limit]] = True
    return objects.select(mask)


def descending(scores: np.ndarray) -> np.ndarray:
    """(N,) -> indices by falling score; of equal ones the last comes first, as the devkit sorts them."""
    return len(scores) - 1 - np.argsort(-scores[::-1], kind="stable")


def counts(objects: Objects, origin: np.ndarray, low: float = 0.0, high: float = np.inf) -> np.ndarray:
    """(M,) bool: which objects the benchmark looks at, those `low` to `high` metres from (2,) origin among them."""
    distance = np.linalg.norm(objects.boxes[:, :2] - origin, axis=1)
    limit = np.array([CLASS_RANGE.get(name, 0.0) for name in objects.names])
    return (distance < limit) & (low <= distance) & (distance < high) & (objects.num_points != 0)


def _match_class(wanted: Objects, found: Objects, name: str) -> Matched:
    """The strongest detection takes the nearest object that is left, at each of DISTANCES by itself."""
    true = np.zeros((len(found), len(DISTANCES)), dtype=bool)
    errors = np.full((len(found), len(ERRORS)), np.nan)
    if len(wanted) and len(found):
        offsets = found.boxes[:, None, :2] - wanted.boxes[None, :, :2]
        metres = np.sqrt(offsets[..., 0] ** 2 + offsets[..., 1] ** 2)
        order = descending(found.scores)
        for column, limit in enumerate(DISTANCES):
            pairs = greedy(metres, order, limit)
            true[[i for i, _ in pairs], column] = True
            if column == TRUE_AT and pairs:
                rows, partners = (np.array(side) for side in zip(*pairs))
                errors[rows] = _errors(wanted, found, rows, partners, name)
    return Matched(found.scores, true, errors, len(wanted))


def greedy(metres: np.ndarray, order: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """metres (N, M) from detections to objects -> pairs. Only rows with an object within `limit` can be in one."""
    left = np.where(metres < limit, metres, np.inf)
    near = np.isfinite(left).any(axis=1)
    pairs = []
    for i in order[near[order]]:
        j = int(left[i].argmin())
        if np.isfinite(left[i, j]):
            pairs.append((int(i), j))
            left[:, j] = np.inf
    return pairs


def _errors(wanted: Objects, found: Objects, rows: np.ndarray, partners: np.ndarray, name: str) -> np.ndarray:
    """(K, 5) of K pairs, as ERRORS."""
    a, b = wanted.boxes[partners], found.boxes[rows]
    sizes_a, sizes_b = a[:, 3:6], b[:, 3:6]
    if min(sizes_a.min(), sizes_b.min()) <= 0:
        raise ValueError(f"a {name} has a size of {min(sizes_a.min(), sizes_b.min()):g} m; expected sizes above 0")
    shared = np.minimum(sizes_a, sizes_b).prod(axis=1)
    union = sizes_a.prod(axis=1) + sizes_b.prod(axis=1) - shared
    period = PERIOD.get(name, 2 * np.pi)
    turn = (a[:, 6] - b[:, 6] + period / 2) % period - period / 2
    attributes = [(wanted.attributes[j], found.attributes[i]) for i, j in zip(rows, partners)]
    wrong = np.array([np.nan if not there else float(there != said) for there, said in attributes])
    speed = np.linalg.norm(found.velocity[rows] - wanted.velocity[partners], axis=1)
    return np.column_stack(
        [np.linalg.norm(b[:, :2] - a[:, :2], axis=1), 1 - shared / union, np.abs(turn), speed, wrong]
    )
