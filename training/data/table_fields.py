"""Which fields of nuScenes' tables are read, and what each may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

MOST_TURNED = 1e-2  # how far from 1 the length of a quaternion may be: what is written with few digits still is one
EDGES_M = (0.005, 100.0)  # of an object: nothing is annotated beyond, and centimetres, millimetres, kilometres are
REACH_M = 30.0  # of a sensor from the vehicle's origin


@dataclass(frozen=True)
class Kind:
    """What a field may hold: in words, and whether each of some values is that (fast for many)."""

    words: str
    fits_all: Callable[[Sequence[Any]], bool]


def _of_types(*types: type) -> Callable[[Sequence[Any]], bool]:
    return lambda values: set(map(type, values)) <= set(types)


def _texts(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {str} and "" not in values


def _files(values: Sequence[Any]) -> bool:
    return _texts(values) and not any("\0" in value for value in values)


def _lists_of_texts(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {list} and _of_types(str)(list(chain.from_iterable(values)))


def _whole(least: int, most: int, *others: Any) -> Callable[[Sequence[Any]], bool]:
    def fits(values: Sequence[Any]) -> bool:
        numbers = [value for value in values if value is not None and value != ""] if others else values
        return not numbers or (set(map(type, numbers)) == {int} and min(numbers) >= least and max(numbers) <= most)

    return fits


def _vectors(length: int, check: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sequence[Any]], bool]:
    def fits(values: Sequence[Any]) -> bool:
        if set(map(type, values)) - {list} or set(map(len, values)) - {length}:
            return False
        flat = list(chain.from_iterable(values))
        if set(map(type, flat)) - {int, float}:
            return False
        try:
            numbers = np.array(flat, dtype=np.float64).reshape(-1, length)
        except OverflowError:  # a whole number beyond measure
            return False
        return bool((np.isfinite(numbers).all(axis=1) & check(numbers)).all())

    return fits


def _intrinsics(values: Sequence[Any]) -> bool:
    if set(map(type, values)) - {list}:
        return False
    rows = [row for value in values for row in value]
    if not all(len(value) in (0, 3) for value in values) or not _vectors(3, _any_numbers)(rows):
        return False
    return all(value[0][0] > 0 and value[1][1] > 0 for value in values if value)


def _any_numbers(numbers: np.ndarray) -> np.ndarray:
    return np.abs(numbers).max(axis=1, initial=0) < 1e9  # metres from the map's origin, pixels


def _unit(numbers: np.ndarray) -> np.ndarray:
    return np.abs(np.linalg.norm(numbers, axis=1) - 1) < MOST_TURNED


def _edges(numbers: np.ndarray) -> np.ndarray:
    return ((numbers >= EDGES_M[0]) & (numbers <= EDGES_M[1])).all(axis=1)


def _on_vehicle(numbers: np.ndarray) -> np.ndarray:
    return np.abs(numbers).max(axis=1, initial=0) <= REACH_M


TEXT = Kind("a text that is not empty", _texts)
REFERENCE = Kind("a token, or an empty text for none", _of_types(str))
REFERENCES = Kind("a list of tokens", _lists_of_texts)
FILE = Kind("the name of a file", _files)
FLAG = Kind("true or false", _of_types(bool))
STAMP = Kind("whole microseconds above 0", _whole(1, 2**63 // 1000 - 1))
COUNT = Kind("a whole number from 0 on", _whole(0, 2**31))
PIXELS = Kind("a whole number from 0 on, or null", _whole(0, 2**20, None))
POINT = Kind("3 finite numbers", _vectors(3, _any_numbers))
MOUNT = Kind(f"3 finite numbers, metres from the vehicle's origin, at most {REACH_M:.0f}", _vectors(3, _on_vehicle))
SIZE = Kind(f"3 finite numbers of metres from {EDGES_M[0]} to {EDGES_M[1]:.0f}", _vectors(3, _edges))
QUATERNION = Kind("4 finite numbers of length 1 (w x y z)", _vectors(4, _unit))
INTRINSICS = Kind("3 x 3 finite numbers with focal lengths above 0, or an empty list", _intrinsics)

FIELDS: dict[str, dict[str, Kind]] = {
    "attribute": {"token": TEXT, "name": TEXT},
    "calibrated_sensor": {
        "token": TEXT, "sensor_token": TEXT, "translation": MOUNT, "rotation": QUATERNION,
        "camera_intrinsic": INTRINSICS,
    },
    "category": {"token": TEXT, "name": TEXT},
    "ego_pose": {"token": TEXT, "translation": POINT, "rotation": QUATERNION},
    "instance": {"token": TEXT, "category_token": TEXT},
    "log": {"token": TEXT, "vehicle": REFERENCE},
    "sample": {"token": TEXT, "timestamp": STAMP, "next": REFERENCE, "scene_token": TEXT},
    "sample_annotation": {
        "token": TEXT, "sample_token": TEXT, "instance_token": TEXT, "attribute_tokens": REFERENCES,
        "translation": POINT, "size": SIZE, "rotation": QUATERNION, "prev": REFERENCE, "next": REFERENCE,
        "num_lidar_pts": COUNT, "num_radar_pts": COUNT,
    },
    "sample_data": {
        "token": TEXT, "sample_token": TEXT, "ego_pose_token": TEXT, "calibrated_sensor_token": TEXT,
        "timestamp": STAMP, "is_key_frame": FLAG, "width": PIXELS, "height": PIXELS, "filename": FILE,
    },
    "scene": {"token": TEXT, "name": TEXT, "log_token": TEXT, "first_sample_token": TEXT},
    "sensor": {"token": TEXT, "channel": TEXT},
}  # fmt: skip
