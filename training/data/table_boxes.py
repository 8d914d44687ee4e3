"""The annotations of a nuScenes-format set as arrays: boxes of the model's classes, and bicycle racks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bev_perception.geometry import invert, transform_boxes
from training.data.class_names import RACK
from training.data.poses import numbers, pose_rows, poses_from_rows
from training.data.table_checks import not_between
from training.data.table_files import Samples
from training.data.table_plausible import check_boxes, check_counts, plausible_velocity
from training.data.table_rows import Row, find, in_no_scene, look_up

NONE = -1  # no row before or after
# nuscenes-devkit, NuScenes.box_velocity: between neighbours farther apart than this, per step, nothing is known.
LONGEST_STEP_S = 1.5


@dataclass
class _Columns:
    """Of every annotation, in the order of the table: token -> row, then arrays by block."""

    number: dict[str, int] = field(default_factory=dict)
    place: list[np.ndarray] = field(default_factory=list)  # (n, 3) m, global frame
    sample: list[np.ndarray] = field(default_factory=list)  # (n,) rows of `sample`
    instance: list[np.ndarray] = field(default_factory=list)  # (n,) rows of `instance`
    seen: list[np.ndarray] = field(default_factory=list)  # (n,) bool, by a LiDAR or radar point
    kept: list[np.ndarray] = field(default_factory=list)  # (k,) rows of a class or rack, as the arrays below
    pose: list[np.ndarray] = field(default_factory=list)
    size: list[np.ndarray] = field(default_factory=list)
    label: list[np.ndarray] = field(default_factory=list)
    frame: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    attribute: list[np.ndarray] = field(default_factory=list)
    before: list[str] = field(default_factory=list)  # tokens, "" for none
    after: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Annotations:
    """arrays: box_* and rack_* by keyframe. counts (scenes, categories, 2) int64: of all annotations, those without and
    those with a LiDAR or radar point. remarks: what is odd about them, and can be."""

    arrays: dict[str, np.ndarray]
    counts: np.ndarray
    remarks: list[str]


def read_annotations(
    blocks: Iterable[list[Row]],
    tables: Mapping[str, list[Row]],
    samples: Samples,
    frame_scene: np.ndarray,
    global_from_ego: np.ndarray,
    labels: Sequence[int],
    attributes: Mapping[str, int],
) -> Annotations:
    """Boxes of the classes, and racks, in the ego frames `global_from_ego` (frames, 4, 4) of keyframes of scenes
    `frame_scene` (frames,).

    blocks: rows of sample_annotation. labels: of the categories (class_names.labels_of). attributes: name -> number;
    others count as none. Raises ValueError naming the row that refers to nothing, or that is no box.
    """
    attribute_of = {row["token"]: attributes.get(row["name"], NONE) for row in tables["attribute"]}
    categories = {row["token"]: i for i, row in enumerate(tables["category"])}
    category = np.array(look_up(categories, tables["instance"], "category_token", "category"), dtype=np.int64)
    instances = {row["token"]: i for i, row in enumerate(tables["instance"])}
    label_of = np.array(labels, dtype=np.int64)[category]
    columns = _Columns()
    for rows in blocks:
        _read(rows, columns, instances, label_of, samples, attribute_of)
    instance = _joined(columns.instance, (), int)
    of_instance = np.bincount(instance, minlength=len(instances)).tolist()
    counts = _counts(columns, category[instance], samples.frame, frame_scene, (len(tables["scene"]), len(categories)))
    frame = _joined(columns.frame, (), int)
    order = np.argsort(frame, kind="stable")
    velocity, remarks = plausible_velocity(_velocity(columns, samples.stamp_us), lambda k: _name_of(columns, k))
    label, frame, velocity = _joined(columns.label, (), int)[order], frame[order], velocity[order]
    poses = poses_from_rows(_joined(columns.pose, (7,)))[order]
    boxes = np.zeros((len(order), 7))
    boxes[:, :3] = poses[:, :3, 3]
    boxes[:, 3:6] = _joined(columns.size, (3,))[order][:, [1, 0, 2]]  # w, l, h
    x, y = np.ascontiguousarray(poses[:, :2, 0].T)  # of strided columns numpy's arctan2 depends on where they lie
    boxes[:, 6] = np.arctan2(y, x)
    count = len(global_from_ego)
    ends = np.searchsorted(frame, np.arange(count), side="right")
    for i, (start, end) in enumerate(zip([0, *ends], ends)):
        of_frame, ego_from_global = slice(start, end), invert(global_from_ego[i])
        boxes[of_frame] = transform_boxes(ego_from_global, boxes[of_frame])
        velocity[of_frame] = velocity[of_frame] @ ego_from_global[:3, :3].T
    remarks += check_counts("instance", "nbr_annotations", tables["instance"], of_instance)
    remarks += check_boxes(boxes, lambda k: _name_of(columns, int(order[k])))
    scored, rack = label >= 0, label == RACK
    arrays = {
        "box_end": np.searchsorted(frame[scored], np.arange(count), side="right"),
        "box": boxes[scored],
        "box_velocity": velocity[scored],
        "box_class": label[scored],
        "box_attribute": _joined(columns.attribute, (), int)[order][scored],
        "box_points": _joined(columns.points, (2,), int)[order][scored],
        "rack_end": np.searchsorted(frame[rack], np.arange(count), side="right"),
        "rack": boxes[rack],
    }
    return Annotations(arrays, counts, remarks)


def _read(
    rows: list[Row],
    columns: _Columns,
    instances: Mapping[str, int],
    label_of: np.ndarray,
    samples: Samples,
    attribute_of: Mapping[str, int],
) -> None:
    """A block of the table into the columns."""
    instance = np.array(look_up(instances, rows, "instance_token", "instance"), dtype=np.int64)
    sample = np.array(look_up(samples.row_of, rows, "sample_token", "sample"), dtype=np.int64)
    points = np.array([(row["num_lidar_pts"], row["num_radar_pts"]) for row in rows], dtype=np.int64).reshape(-1, 2)
    label, frame = label_of[instance], samples.frame[sample]
    columns.instance.append(instance)
    columns.sample.append(sample)
    columns.seen.append(points.sum(axis=1) > 0)
    columns.place.append(numbers([row["translation"] for row in rows], 3))
    kept = np.flatnonzero(label >= RACK)
    columns.kept.append(kept + len(columns.number))
    columns.number.update(zip((row["token"] for row in rows), range(len(columns.number), 1 << 62)))
    for i in kept[frame[kept] < 0][:1]:
        raise in_no_scene(rows[i])
    chosen = [rows[i] for i in kept]
    columns.label.append(label[kept])
    columns.frame.append(frame[kept])
    columns.pose.append(pose_rows(chosen))
    columns.size.append(numbers([row["size"] for row in chosen], 3))
    columns.points.append(points[kept])
    columns.attribute.append(np.array(_attributes(attribute_of, chosen), dtype=np.int64))
    columns.before += [row["prev"] for row in chosen]
    columns.after += [row["next"] for row in chosen]


def _counts(
    columns: _Columns, category: np.ndarray, frames: np.ndarray, frame_scene: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """`Annotations.counts`; category (n,) of every annotation."""
    frame, seen = frames[_joined(columns.sample, (), int)], _joined(columns.seen, (), int)
    counts = np.zeros((*shape, 2), dtype=np.int64)
    known = frame >= 0
    np.add.at(counts, (frame_scene[frame[known]], category[known], seen[known]), 1)
    return counts


def _name_of(columns: _Columns, k: int) -> str:
    """Of the k-th row that is kept: what an error calls it."""
    row = int(_joined(columns.kept, (), int)[k])
    token = next(token for token, number in columns.number.items() if number == row)
    return f"row {row} (from 0), token {token!r}"


def _attributes(attribute_of: Mapping[str, int], rows: Sequence[Row]) -> list[int]:
    """The first attribute of each row, NONE for a row without."""
    first = [(row["attribute_tokens"] or [""])[0] for row in rows]
    try:
        known = {**attribute_of, "": NONE}
        return [known[token] for token in first]
    except KeyError:
        return [find(attribute_of, token, "attribute", row["token"]) for token, row in zip(first, rows) if token]


def _velocity(columns: _Columns, stamps_us: np.ndarray) -> np.ndarray:
    """(k, 3) m/s in the global frame from the neighbouring keyframes; NaN where they are missing or too far apart, as
    nuscenes-devkit's NuScenes.box_velocity."""
    own = _joined(columns.kept, (), int)
    place, stamp = _joined(columns.place, (3,)), stamps_us[_joined(columns.sample, (), int)]
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
