"""The annotations of a nuScenes-format set as arrays: boxes of the benchmark's classes, and bicycle racks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from nuscenes.eval.detection.utils import category_to_detection_name

from bev_perception.geometry import invert, transform_boxes
from bev_perception.model_spec import CLASSES
from training.data.poses import numbers, pose_rows, poses_from_rows
from training.data.table_checks import not_between
from training.data.table_rows import Row, find, look_up

BIKE_RACK = "static_object.bicycle_rack"
RACK, OF_NO_CLASS = -1, -2  # beside indices into CLASSES
NONE = -1  # no row before or after
# nuscenes-devkit, NuScenes.box_velocity: between neighbours farther apart than this, per step, nothing is known.
LONGEST_STEP_S = 1.5


@dataclass
class _Columns:
    """Of every annotation, in the order of the table: token -> row, then arrays by block."""

    number: dict[str, int] = field(default_factory=dict)
    place: list[np.ndarray] = field(default_factory=list)  # (n, 3) m, global frame
    stamp: list[np.ndarray] = field(default_factory=list)  # (n,) us
    kept: list[np.ndarray] = field(default_factory=list)  # (k,) rows of a class or rack, as the arrays below
    pose: list[np.ndarray] = field(default_factory=list)
    size: list[np.ndarray] = field(default_factory=list)
    label: list[np.ndarray] = field(default_factory=list)
    frame: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    attribute: list[np.ndarray] = field(default_factory=list)
    before: list[str] = field(default_factory=list)  # tokens, "" for none
    after: list[str] = field(default_factory=list)


def box_arrays(
    blocks: Iterable[list[Row]],
    tables: Mapping[str, list[Row]],
    frame_of: Mapping[str, int],
    global_from_ego: np.ndarray,
    attributes: list[str],
) -> dict[str, np.ndarray]:
    """box_* and rack_* arrays, by keyframe, in the ego frames `global_from_ego` (frames, 4, 4).

    blocks: rows of sample_annotation. Raises ValueError naming the row that refers to nothing, or that is no box.
    """
    stamps = {row["token"]: row["timestamp"] for row in tables["sample"]}
    attribute_of = {row["token"]: attributes.index(row["name"]) for row in tables["attribute"]}
    label_of = _labels(tables)
    columns = _Columns()
    for rows in blocks:
        _read(rows, columns, label_of, stamps, frame_of, attribute_of)
    frame = _joined(columns.frame, (), int)
    order = np.argsort(frame, kind="stable")
    frame, label = frame[order], _joined(columns.label, (), int)[order]
    poses = poses_from_rows(_joined(columns.pose, (7,)))[order]
    boxes = np.zeros((len(order), 7))
    boxes[:, :3] = poses[:, :3, 3]
    boxes[:, 3:6] = _joined(columns.size, (3,))[order][:, [1, 0, 2]]  # w, l, h
    boxes[:, 6] = np.arctan2(poses[:, 1, 0], poses[:, 0, 0])
    velocity = _velocity(columns)[order]
    count = len(global_from_ego)
    ends = np.searchsorted(frame, np.arange(count), side="right")
    for i, (start, end) in enumerate(zip([0, *ends], ends)):
        of_frame, ego_from_global = slice(start, end), invert(global_from_ego[i])
        boxes[of_frame] = transform_boxes(ego_from_global, boxes[of_frame])
        velocity[of_frame] = velocity[of_frame] @ ego_from_global[:3, :3].T
    scored, rack = label >= 0, label == RACK
    return {
        "box_end": np.searchsorted(frame[scored], np.arange(count), side="right"),
        "box": boxes[scored],
        "box_velocity": velocity[scored, :2],
        "box_class": label[scored],
        "box_attribute": _joined(columns.attribute, (), int)[order][scored],
        "box_points": _joined(columns.points, (2,), int)[order][scored],
        "rack_end": np.searchsorted(frame[rack], np.arange(count), side="right"),
        "rack": boxes[rack],
    }


def _labels(tables: Mapping[str, list[Row]]) -> dict[str, int]:
    """Instance token -> index into CLASSES, RACK or OF_NO_CLASS."""
    labels = {}
    for row in tables["category"]:
        name = category_to_detection_name(row["name"])
        other = RACK if row["name"] == BIKE_RACK else OF_NO_CLASS
        labels[row["token"]] = CLASSES.index(name) if name in CLASSES else other
    of_instance = look_up(labels, tables["instance"], "category_token", "category")
    return dict(zip((row["token"] for row in tables["instance"]), of_instance, strict=True))


def _read(
    rows: list[Row],
    columns: _Columns,
    label_of: Mapping[str, int],
    stamps: Mapping[str, int],
    frame_of: Mapping[str, int],
    attribute_of: Mapping[str, int],
) -> None:
    """A block of the table into the columns."""
    label = np.array(look_up(label_of, rows, "instance_token", "instance"), dtype=np.int64)
    columns.stamp.append(np.array(look_up(stamps, rows, "sample_token", "sample"), dtype=np.int64))
    columns.place.append(numbers([row["translation"] for row in rows], 3))
    kept = np.flatnonzero(label != OF_NO_CLASS)
    columns.kept.append(kept + len(columns.number))
    columns.number.update(zip((row["token"] for row in rows), range(len(columns.number), 1 << 62)))
    chosen = [rows[i] for i in kept]
    columns.label.append(label[kept])
    columns.frame.append(np.array(frame_numbers(frame_of, chosen), dtype=np.int64))
    columns.pose.append(pose_rows(chosen))
    columns.size.append(numbers([row["size"] for row in chosen], 3))
    columns.points.append(
        np.array([(row["num_lidar_pts"], row["num_radar_pts"]) for row in chosen], dtype=np.int64).reshape(-1, 2)
    )
    columns.attribute.append(np.array(_attributes(attribute_of, chosen), dtype=np.int64))
    columns.before += [row["prev"] for row in chosen]
    columns.after += [row["next"] for row in chosen]


def frame_numbers(frame_of: Mapping[str, int], rows: Sequence[Row]) -> list[int]:
    """The keyframe of each row. Raises ValueError for one that `sample` has and no scene leads to."""
    try:
        return [frame_of[row["sample_token"]] for row in rows]
    except KeyError:
        row = next(row for row in rows if row["sample_token"] not in frame_of)
        raise ValueError(
            f"sample.json: no scene's chain of `next` leads to {row['sample_token']!r}, which {row['token']!r} refers "
            "to; unpack the metadata again"
        ) from None


def _attributes(attribute_of: Mapping[str, int], rows: Sequence[Row]) -> list[int]:
    """The first attribute of each row, NONE for a row without."""
    first = [(row["attribute_tokens"] or [""])[0] for row in rows]
    try:
        known = {**attribute_of, "": NONE}
        return [known[token] for token in first]
    except KeyError:
        return [find(attribute_of, token, "attribute", row["token"]) for token, row in zip(first, rows) if token]


def _velocity(columns: _Columns) -> np.ndarray:
    """(k, 3) m/s in the global frame from the neighbouring keyframes; NaN where they are missing or too far apart, as
    nuscenes-devkit's NuScenes.box_velocity."""
    own = _joined(columns.kept, (), int)
    place, stamp = _joined(columns.place, (3,)), _joined(columns.stamp, (), int)
    before, after = (_numbers(columns, of, own) for of in (columns.before, columns.after))
    first, last = np.where(before == NONE, own, before), np.where(after == NONE, own, after)
    steps = (before != NONE).astype(int) + (after != NONE)
    apart = 1e-6 * (stamp[last] - stamp[first])
    for k in np.flatnonzero((steps > 0) & (apart <= 0))[:1]:
        token = next(token for token, row in columns.number.items() if row == own[k])
        raise not_between(token, columns.before[k], columns.after[k])
    known = (steps > 0) & (apart <= LONGEST_STEP_S * steps)
    velocity = np.full((len(own), 3), np.nan)
    velocity[known] = (place[last] - place[first])[known] / apart[known, None]
    return velocity


def _numbers(columns: _Columns, tokens: list[str], own: np.ndarray) -> np.ndarray:
    """Row of each neighbour; own: those that name it."""
    number = columns.number
    try:
        return np.array([number[token] if token else NONE for token in tokens], dtype=np.int64)
    except KeyError:
        k = next(k for k, token in enumerate(tokens) if token and token not in number)
        asking = next(token for token, row in number.items() if row == own[k])
        find(number, tokens[k], "sample_annotation", asking)
        raise


def _joined(parts: list[np.ndarray], columns: tuple[int, ...], dtype: type = float) -> np.ndarray:
    return np.concatenate([np.zeros((0, *columns), dtype=dtype), *parts])
