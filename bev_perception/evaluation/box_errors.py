"""How far detections are off their objects, with signs: what deviations and intervals are about."""

from __future__ import annotations

import numpy as np

from bev_perception.evaluation.benchmark import UNDEFINED
from bev_perception.evaluation.matching import PERIOD
from bev_perception.evaluation.objects import Objects

# Columns of `box_errors`: x, y and height of the centre (m), heading (rad), velocity in x and y (m/s), sizes (m).
BOX_ERRORS = ("x", "y", "z", "yaw", "vx", "vy", "length", "width", "height")
# Classes of which the benchmark asks neither heading nor velocity.
NO_HEADING, NO_SPEED = (tuple(name for name, none in UNDEFINED.items() if error in none) for error in ("aoe", "ave"))


def box_errors(wanted: Objects, found: Objects, rows: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """found[rows] minus wanted[partners] of K pairs of one class each -> (K, 9) as BOX_ERRORS, along the axes of
    base_link; NaN where the class has no such error. A barrier's heading is right by half a turn, too."""
    ours, theirs = found.boxes[rows], wanted.boxes[partners]
    names = np.array([found.names[row] for row in rows], dtype=object)
    errors = np.column_stack([ours - theirs, found.velocity[rows] - wanted.velocity[partners]])
    errors = errors[:, [0, 1, 2, 6, 7, 8, 3, 4, 5]]
    period = np.array([PERIOD.get(name, 2 * np.pi) for name in names])
    errors[:, 3] = (errors[:, 3] + period / 2) % period - period / 2
    errors[np.isin(names, NO_HEADING), 3] = np.nan
    errors[np.isin(names, NO_SPEED), 4:6] = np.nan
    return errors
