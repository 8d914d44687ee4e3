"""What the tables of a nuScenes-format set must be, row by row and together; an error names the file and the row.

Every field that is read is checked for its type, its shape, and for numbers that can be. Columns are looked at as
wholes, since the largest tables have millions of rows; the row at fault is looked for where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from training.data.table_fields import FIELDS, Kind

Row = dict[str, Any]
COPY_AGAIN = "correct the row, or unpack the metadata again"
# A key frame is of the moment of its sample: by nuScenes within 0.1 s, here within what no other unit of time gives.
LONGEST_US = 2_000_000
FASTEST_MPS, JUMP_M = 100.0, 2.0  # of the vehicle between two files of a sensor; what localisation may jump besides


@dataclass
class TableChecks:
    """The checks of one table, whose rows are given block by block, in order; `end` after the last."""

    path: Path
    count: int = 0
    tokens: list[np.ndarray] = field(default_factory=list)

    def rows(self, rows: Any) -> list[Row]:
        """The block as it is. Raises ValueError naming the first row at fault that is found."""
        if not isinstance(rows, list) or set(map(type, rows)) - {dict}:
            if not isinstance(rows, list):
                raise ValueError(f"{self.path}: holds a {type(rows).__name__}, expected a list of rows; {COPY_AGAIN}")
            wrong = next(i for i, row in enumerate(rows) if not isinstance(row, dict))
            raise self._fault(wrong, {}, f"is {rows[wrong]!r:.60}, expected an object")
        fields = FIELDS.get(self.path.stem, {})
        for name, kind in fields.items():
            self._column(rows, name, kind)
        if "token" in fields:
            self.tokens.append(np.array([hash(row["token"]) for row in rows], dtype=np.int64))
        self.count += len(rows)
        return rows

    def end(self) -> None:
        """Raises ValueError when two rows have one token."""
        hashes = np.concatenate([np.zeros(0, dtype=np.int64), *self.tokens])
        order = np.argsort(hashes, kind="stable")
        (same,) = np.nonzero(np.diff(hashes[order]) == 0)
        if len(same):
            first, second = (int(order[same[0] + k]) for k in (0, 1))
            raise ValueError(f"{self.path}: rows {first} and {second} (from 0) have the same token; {COPY_AGAIN}")

    def _column(self, rows: list[Row], name: str, kind: Kind) -> None:
        try:
            values = [row[name] for row in rows]
        except KeyError:
            wrong = next(i for i, row in enumerate(rows) if name not in row)
            raise self._fault(wrong, rows[wrong], f"has no {name!r}") from None
        if not kind.fits_all(values):
            for i, value in enumerate(values):
                if not kind.fits_all([value]):
                    raise self._fault(i, rows[i], f"has {name} = {value!r:.80}, expected {kind.words}")

    def _fault(self, number: int, row: Row, what: str) -> ValueError:
        token = f", token {row['token']!r:.40}" if "token" in row else ""
        return ValueError(f"{self.path}: row {self.count + number} (from 0){token}, {what}; {COPY_AGAIN}")


def samples_of(scene: Row, samples: Mapping[str, Row], find: Callable[..., Row]) -> list[Row]:
    """A scene's samples in their order. find(samples, token, table, asked by): one of them, or an error.

    Raises ValueError for a chain of `next` that comes back to a sample, leads into another scene or back in time.
    """
    order: list[Row] = []
    token, seen = scene["first_sample_token"], set()
    while token:
        row = find(samples, token, "sample", order[-1]["token"] if order else scene["token"])
        where = f"sample.json: the chain of `next` of scene {scene['name']!r}, at {token!r},"
        if token in seen:
            raise ValueError(f"{where} comes back to a sample that it had; {COPY_AGAIN}")
        if row["scene_token"] != scene["token"]:
            raise ValueError(f"{where} leads into another scene, {row['scene_token']!r}; {COPY_AGAIN}")
        if order and row["timestamp"] <= order[-1]["timestamp"]:
            raise ValueError(
                f"{where} goes back in time, from {order[-1]['timestamp']} to {row['timestamp']}; {COPY_AGAIN}"
            )
        seen.add(token)
        order.append(row)
        token = row["next"]
    return order


def check_names(tables: Mapping[str, Sequence[Row]]) -> None:
    """Raises ValueError where two rows of `scene`, `sensor`, `category` or `attribute` have one name."""
    for table, name in (("scene", "name"), ("sensor", "channel"), ("category", "name"), ("attribute", "name")):
        seen: dict[str, str] = {}
        for row in tables[table]:
            if row[name] in seen:
                raise ValueError(
                    f"{table}.json: {row['token']!r} and {seen[row[name]]!r} have the same {name}, {row[name]!r}; "
                    f"{COPY_AGAIN}"
                )
            seen[row[name]] = row["token"]


def check_key_frames(
    frame: np.ndarray, channel: np.ndarray, stamp: np.ndarray, frame_stamp: np.ndarray, name_of: Callable[[int], str]
) -> None:
    """Key frames of one row each: (n,) frame and channel numbers and microseconds; frame_stamp: those of the samples.

    Raises ValueError, with the file that name_of(row) gives, for a second one of a sensor and sample, and for one that
    is far from its sample in time.
    """
    far = np.flatnonzero(np.abs(stamp - frame_stamp[frame]) > LONGEST_US)
    if len(far):
        k = int(far[0])
        raise ValueError(
            f"sample_data.json: the key frame {name_of(k)} has timestamp {stamp[k]}, its sample "
            f"{frame_stamp[frame[k]]} (microseconds); {COPY_AGAIN}"
        )
    pairs, first = np.unique(np.stack([frame, channel]), axis=1, return_index=True)
    if pairs.shape[1] < len(frame):
        second = int(np.setdiff1d(np.arange(len(frame)), first)[0])
        raise ValueError(f"sample_data.json: {name_of(second)} is a second key frame of its sample; {COPY_AGAIN}")


def check_motion(data: Mapping[str, np.ndarray], pose: np.ndarray, name_of: Callable[[int], str]) -> None:
    """data_* of the index; pose (n,): rows of `ego_pose`. Raises ValueError, with the file that name_of(row) gives,
    where the vehicle is somewhere else from one file of a sensor to the next."""
    sensor = np.stack([data["data_scene"], data["data_channel"]])
    moved = np.linalg.norm(np.diff(data["data_pose"][:, :3], axis=0), axis=1)
    seconds = np.diff(data["data_stamp"]) * 1e-9
    (jumps,) = np.nonzero((np.diff(sensor, axis=1) == 0).all(axis=0) & (moved > FASTEST_MPS * seconds + JUMP_M))
    if len(jumps):
        k = int(jumps[0]) + 1
        raise ValueError(
            f"ego_pose.json: row {pose[k]} (from 0), at {name_of(k)} of sample_data.json, the vehicle is "
            f"{moved[k - 1]:.0f} m from where it was {seconds[k - 1]:.3f} s before; expected metres in the global "
            f"frame; {COPY_AGAIN}"
        )


def one_size(known: np.ndarray, calibration: np.ndarray, sizes: np.ndarray, rows: Sequence[Row], first: int) -> None:
    """Enter the sizes (n, 2) of the images of a block that begins with row `first`, into known (calibrations, 2), -1
    for none yet. Raises ValueError for a calibration with images of two sizes."""
    before = known[calibration]
    fresh = (before < 0).any(axis=1)
    known[calibration[fresh]] = sizes[fresh]
    for i in np.flatnonzero((known[calibration] != sizes).any(axis=1))[:1]:
        width, height = known[calibration[i]]
        raise ValueError(
            f"sample_data.json: row {first + i} (from 0), {rows[i]['filename']}, has width and height "
            f"{sizes[i].tolist()}, other files of its calibrated_sensor {[int(width), int(height)]}; expected one size "
            f"for a calibration; {COPY_AGAIN}"
        )


def not_between(token: str, before: str, after: str) -> ValueError:
    """Of an annotation whose neighbours are not earlier and later than it: its velocity would be of no time."""
    return ValueError(
        f"sample_annotation.json: {token!r} has prev {before!r} and next {after!r}, which are not before and after it "
        f"in time; {COPY_AGAIN}"
    )


def check_splits(splits: Any, path: Path) -> dict[str, list[str]]:
    """Of splits.json. Raises ValueError unless it is name -> names of scenes, none of them twice."""
    if not isinstance(splits, dict):
        raise ValueError(f"{path}: holds a {type(splits).__name__}, expected split -> names of scenes")
    for name, scenes in splits.items():
        if not isinstance(scenes, list) or not all(isinstance(scene, str) for scene in chain(scenes)):
            raise ValueError(f"{path}: {name!r} is {scenes!r:.60}, expected a list of names of scenes")
        twice = sorted({scene for scene in scenes if scenes.count(scene) > 1})
        if twice:
            raise ValueError(f"{path}: {name!r} has {twice[:3]} more than once")
    return splits
