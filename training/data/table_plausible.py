"""Whether what a data set's tables say can be: moments, places and speeds, of whole columns at once.

What is so of most of the rows is another unit or another frame, and an error; what is so of a few rows is a remark that
is printed when the tables are read. Both name the first row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from training.data.table_checks import COPY_AGAIN, FASTEST_MPS

MOST = 0.5  # of the rows
LEAST_PERIOD_US, LONGEST_PERIOD_US = 1_000, 60_000_000
FARTHEST_M = 300.0  # of a box from the vehicle

NameOf = Callable[[int], str]


def _judged(wrong: np.ndarray, table: str, name_of: NameOf, what: str, mend: str) -> list[str]:
    """A remark about the rows that are wrong (n,) bool, if any. Raises ValueError for most of them."""
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return []
    found = f"{table}.json: {len(rows)} of {len(wrong)} {what}, the first is {name_of(int(rows[0]))}"
    if len(rows) > MOST * len(wrong):
        raise ValueError(f"{found}; {mend}")
    return [found]


def check_periods(stamps_us: np.ndarray, scenes: np.ndarray, name_of: NameOf) -> list[str]:
    """Samples (n,) by scene and time. Remarks. Raises ValueError for stamps of another unit."""
    same = np.diff(scenes) == 0
    periods, later = np.diff(stamps_us)[same], np.flatnonzero(same) + 1
    return _judged(
        (periods < LEAST_PERIOD_US) | (periods > LONGEST_PERIOD_US), "sample", lambda k: name_of(int(later[k])),
        f"steps from sample to sample take less than {LEAST_PERIOD_US} or more than {LONGEST_PERIOD_US} microseconds",
        "expected timestamps in microseconds; convert them",
    )  # fmt: skip


def check_file_moments(apart_us: np.ndarray, rows: Sequence[Mapping[str, Any]], first: int) -> None:
    """Of a block of `sample_data` that begins with row `first`: stamps minus those of their samples. Raises ValueError
    for a file that is of another time."""
    for i in np.flatnonzero(np.abs(apart_us) > LONGEST_PERIOD_US)[:1]:
        raise ValueError(
            f"sample_data.json: row {first + i} (from 0), {rows[i]['filename']}, has timestamp {rows[i]['timestamp']}, "
            f"{apart_us[i] / 1e6:.0f} s from that of its sample (microseconds); {COPY_AGAIN}"
        )


def same_moments(scene: np.ndarray, channel: np.ndarray, stamp: np.ndarray, name_of: NameOf) -> list[str]:
    """Files (n,) by scene, sensor and stamp. Remarks about those of one sensor and moment."""
    twice = np.diff(stamp) == 0
    twice &= (np.diff(scene) == 0) & (np.diff(channel) == 0)
    again = np.flatnonzero(twice) + 1
    found = f"sample_data.json: {len(again)} of {len(stamp)} files have the sensor and timestamp of another"
    return [f"{found}, the first is {name_of(int(again[0]))}"] if len(again) else []


def check_intrinsics(calibrations: Sequence[Mapping[str, Any]], K: np.ndarray, sizes: np.ndarray) -> None:
    """K (n, 3, 3), NaN for what is no camera; sizes (n, 2) of its images, pixels; (-1, -1) where there is no file.

    Raises ValueError for a camera without sizes, or whose principal point lies outside its images: intrinsics of
    another size.
    """
    principal = K[:, :2, 2]
    used = np.isfinite(K).all(axis=(1, 2)) & (sizes >= 0).all(axis=1)
    for i in np.flatnonzero(used & ((principal < 0) | (principal > sizes)).any(axis=1))[:1]:
        (u, v), (width, height) = principal[i].tolist(), sizes[i].tolist()
        raise ValueError(
            f"calibrated_sensor.json: row {i} (from 0), token {calibrations[i]['token']!r}, has its principal point at "
            f"({u:.0f}, {v:.0f}), and its images are {width}x{height} (sample_data.json: width, height); expected "
            f"camera_intrinsic of images of that size; {COPY_AGAIN}"
        )


def plausible_velocity(velocity: np.ndarray, name_of: NameOf) -> tuple[np.ndarray, list[str]]:
    """(n, 3) m/s, NaN for unknown -> the same with unknown for what no object does, and remarks about that."""
    fast = np.linalg.norm(velocity, axis=1) > FASTEST_MPS  # False for NaN
    remarks = _judged(
        fast, "sample_annotation", name_of,
        f"annotations move faster than {FASTEST_MPS:.0f} m/s from one to the next of their chain and have no velocity",
        "expected places in metres in the global frame and chains (prev, next) of one object each",
    )  # fmt: skip
    return np.where(fast[:, None], np.nan, velocity), remarks


def check_boxes(boxes: np.ndarray, name_of: NameOf) -> list[str]:
    """(n, 7) in the ego frame of their keyframe. Remarks. Raises ValueError where most are nowhere near the vehicle."""
    return _judged(
        np.hypot(boxes[:, 0], boxes[:, 1]) > FARTHEST_M, "sample_annotation", name_of,
        f"annotations are more than {FARTHEST_M:.0f} m from the vehicle",
        "expected translation in metres in the global frame, that of ego_pose.json; convert them",
    )  # fmt: skip


def check_counts(table: str, field: str, rows: Sequence[Mapping[str, Any]], found: Sequence[int]) -> list[str]:
    """Remarks about rows that say how many they have (`field`, where a set has it) and have another number."""
    wrong = [i for i, (row, count) in enumerate(zip(rows, found)) if row.get(field, count) != count]
    if not wrong:
        return []
    first = f"{rows[wrong[0]]['token']!r}, {field} {rows[wrong[0]][field]}, found {found[wrong[0]]}"
    return [f"{table}.json: {len(wrong)} of {len(rows)} rows say another {field} than there are, the first is {first}"]


def missing_key_frames(frame_data: np.ndarray, channels: Sequence[str]) -> list[str]:
    """(frames, channels) data rows, -1 for none. Remarks about sensors that miss some samples, and not all."""
    missing = (frame_data < 0).sum(axis=0)
    return [
        f"sample_data.json: {channel} has no key frame in {count} of {len(frame_data)} samples"
        for channel, count in zip(channels, missing.tolist())
        if 0 < count < len(frame_data)
    ]
