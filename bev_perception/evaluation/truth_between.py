"""Annotated objects at any moment between two stamps that have annotations: frames that no camera set the time of lie
between them."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from bev_perception.evaluation.objects import Objects

LONGEST_NS = 250_000_000  # between two annotations that are joined by a straight line


def nearest(rising: Sequence[int], value: int) -> int:
    """Index of the entry nearest to a value; at least one entry."""
    k = bisect_left(rising, value)
    return min((i for i in (k - 1, k) if 0 <= i < len(rising)), key=lambda i: abs(rising[i] - value))


def truth_at(truth: Mapping[int, Objects], stamp: int) -> Objects | None:
    """truth: stamp (ns) -> objects in the ego frame then. Of the nearest stamp, each on the straight line to where the
    other neighbour has its id, so that the vehicle's own motion is in it, too; None beyond the ends, and where the
    neighbours are more than LONGEST_NS apart."""
    if stamp in truth:
        return truth[stamp]
    rising = sorted(truth)
    k = bisect_left(rising, stamp)
    if not 0 < k < len(rising) or rising[k] - rising[k - 1] > LONGEST_NS:
        return None
    near = rising[nearest(rising, stamp)]
    far = rising[k] + rising[k - 1] - near
    return _between(truth[near], truth[far], (stamp - near) / (far - near))


def _between(here: Objects, there: Objects, share: float) -> Objects:
    """The objects of `here`, that share of the way to `there`."""
    rows = {name: row for row, name in enumerate(there.ids) if name}
    boxes = here.boxes.copy()
    for row, name in enumerate(here.ids):
        if name in rows:
            step = there.boxes[rows[name]] - here.boxes[row]
            step[6] = (step[6] + np.pi) % (2 * np.pi) - np.pi
            boxes[row] += share * step
    return dataclasses.replace(here, boxes=boxes)
