"""A data set in nuScenes' format whose boxes beyond a range are pseudo boxes: two tables are new, all else is links.

A pseudo box is an instance of its own: it has no track, so that its velocity is unknown, which losses leave out. What
is within the range stays as it is, but that a row whose neighbour in time is gone is linked to the one after that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bev_perception.files import open_atomic, replace_folder, work_folder, write_atomic
from bev_perception.geometry import invert, rotation_from_yaw, transform_points
from training.data.class_names import labels_of
from training.data.index import Index
from training.data.poses import poses_from_rows
from training.data.table_rows import Row, row_blocks
from training.long_range.views import Floats
from training.tables.rows import pose_fields
from training.tables.vocabulary import token_of

FACTS = "far.json"  # says that the folder was written here, and how
ANNOTATIONS, INSTANCES = "sample_annotation.json", "instance.json"
UNCERTAINTY = "depth_scale"  # field of a pseudo box: Laplace scale of the logarithm of its depth
KEPT, PSEUDO, DROPPED = 0, 1, 2


@dataclass(frozen=True)
class Labels:
    """Of a keyframe's M objects: far (M,) bool; boxes (M, 7) in the world, level, and scale (M,) of their depths, NaN
    for objects that are near or get no box."""

    far: NDArray[np.bool_]
    boxes: Floats
    scale: Floats


def write_far_set(
    out: Path, index: Index, labelled_to: float, labels: Mapping[int, Labels], facts: Mapping[str, Any]
) -> dict[str, int]:
    """labels: row of the keyframe in the index -> of its objects; rows that are not in it stay as they are. Returns how
    many annotations were kept, made anew and dropped.

    An earlier set of the same name is replaced. Raises ValueError where `out` is something else, or where tables and
    index do not fit together; OSError.
    """
    root, version = index.dataroot, index.version
    if out.is_dir() and any(out.iterdir()) and not (out / FACTS).is_file():
        raise ValueError(f"{out} is there and was not written here (it holds no {FACTS}); name another folder")
    with work_folder(out) as work:
        for path in root.iterdir():
            if not path.name.startswith(".") and path.name != version:
                (work / path.name).symlink_to(os.path.relpath(path, out))
        (work / version).mkdir()
        for path in (root / version).iterdir():
            if path.name not in (ANNOTATIONS, INSTANCES):
                (work / version / path.name).symlink_to(os.path.relpath(path, out / version))
        plan = _plan(root / version, index, labelled_to, labels)
        _write_rows(work / version / ANNOTATIONS, _annotations(root / version, plan))
        _write_rows(work / version / INSTANCES, _instances(root / version, plan))
        counts = np.bincount(plan.action, minlength=3).tolist()
        told = dict(zip(("kept", "pseudo", "dropped"), counts))
        write_atomic(work / FACTS, json.dumps({**facts, **told}, indent=1))
        replace_folder(work, out)
    return told


@dataclass(frozen=True)
class _Plan:
    """Of each row of the table of annotations: what becomes of it, its instance (row of that table), its token, and the
    kept rows before and after it (-1: none). pseudo: row -> box (7,) and scale."""

    action: NDArray[np.int8]
    instance: NDArray[np.int64]
    token: NDArray[np.bytes_]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    pseudo: dict[int, tuple[Floats, float]]


def _plan(tables: Path, index: Index, labelled_to: float, labels: Mapping[int, Labels]) -> _Plan:
    arrays = index.arrays
    frame_of = {token.decode(): i for i, token in enumerate(arrays["frame_token"])}
    categories = _rows(tables / "category.json")
    numbers = labels_of([row["name"] for row in categories], index.classes)
    label_of = dict(zip((row["token"] for row in categories), numbers))
    instances = {row["token"]: (i, label_of[row["category_token"]]) for i, row in enumerate(_rows(tables / INSTANCES))}
    ego_from_world = invert(poses_from_rows(np.array(arrays["frame_pose"])))
    met: dict[int, int] = dict.fromkeys(labels, 0)
    action: list[int] = []
    instance: list[int] = []
    stamp: list[int] = []
    token: list[bytes] = []
    pseudo: dict[int, tuple[Floats, float]] = {}
    for rows in row_blocks(tables / ANNOTATIONS):
        for row in rows:
            frame, (number, label) = frame_of.get(row["sample_token"], -1), instances[row["instance_token"]]
            becomes = KEPT
            if frame in labels:
                place = transform_points(ego_from_world[frame], np.array([row["translation"]]))[0]
                distance = float(np.hypot(*place[:2]))
                becomes = KEPT if distance <= labelled_to else DROPPED
                if label >= 0 and row["num_lidar_pts"] + row["num_radar_pts"] > 0:
                    own, k = labels[frame], met[frame]
                    met[frame] += 1
                    _check_order(own, k, distance, labelled_to, row)
                    becomes = KEPT if not own.far[k] else DROPPED if np.isnan(own.scale[k]) else PSEUDO
                    if becomes == PSEUDO:
                        pseudo[len(action)] = own.boxes[k], float(own.scale[k])
            action.append(becomes)
            instance.append(number)
            stamp.append(int(arrays["frame_stamp"][frame]) if frame >= 0 else 0)
            token.append(row["token"].encode())
    for frame, count in met.items():
        if count != len(labels[frame].far):
            raise _other_tables(f"{len(labels[frame].far)} objects in keyframe {frame}, {count} in the table")
    chosen, of = np.array(action, np.int8), np.array(instance, np.int64)
    before, after = _links(chosen == KEPT, of, np.array(stamp, np.int64))
    return _Plan(chosen, of, np.array(token), before, after, pseudo)


def _check_order(own: Labels, k: int, distance: float, labelled_to: float, row: Row) -> None:
    """The index has a keyframe's objects in the order of the table; were it otherwise, boxes would change places."""
    if k >= len(own.far) or (own.far[k] != (distance > labelled_to) and abs(distance - labelled_to) > 1e-6):
        raise _other_tables(f"{row['token']!r} is {distance:.2f} m away")


def _other_tables(what: str) -> ValueError:
    return ValueError(f"the tables are not those of the index ({what}); delete .bev_index in the data set's folder")


def _links(
    kept: NDArray[np.bool_], instance: NDArray[np.int64], stamp: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each kept row the kept one of its instance before and after it in time, -1 for none."""
    rows = np.flatnonzero(kept)
    rows = rows[np.lexsort((stamp[rows], instance[rows]))]
    before, after = np.full(len(kept), -1), np.full(len(kept), -1)
    same = instance[rows][1:] == instance[rows][:-1]
    before[rows[1:][same]] = rows[:-1][same]
    after[rows[:-1][same]] = rows[1:][same]
    return before, after


def _annotations(tables: Path, plan: _Plan) -> Iterator[Row]:
    number = 0
    for rows in row_blocks(tables / ANNOTATIONS):
        for row in rows:
            if plan.action[number] == KEPT:
                yield row | {"prev": _token(plan, plan.before[number]), "next": _token(plan, plan.after[number])}
            elif plan.action[number] == PSEUDO:
                yield row | _pseudo_fields(row["token"], *plan.pseudo[number])
            number += 1


def _pseudo_fields(token: str, box: Floats, scale: float) -> Row:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_from_yaw(box[6]), box[:3]
    length, width, height = box[3:6].tolist()
    return {
        **pose_fields(pose), "size": [width, length, height], "instance_token": token_of("pseudo", token),
        "attribute_tokens": [], "prev": "", "next": "", UNCERTAINTY: scale,
    }  # fmt: skip


def _instances(tables: Path, plan: _Plan) -> Iterator[Row]:
    """Those that are left, then one for each pseudo box."""
    kept = np.flatnonzero(plan.action == KEPT)
    count = np.bincount(plan.instance[kept], minlength=plan.instance.max(initial=-1) + 1)
    first = {int(plan.instance[i]): int(i) for i in kept[plan.before[kept] < 0]}
    last = {int(plan.instance[i]): int(i) for i in kept[plan.after[kept] < 0]}
    rows = _rows(tables / INSTANCES)
    for i, row in enumerate(rows):
        if i in first:
            yield row | {
                "nbr_annotations": int(count[i]),
                "first_annotation_token": _token(plan, first[i]),
                "last_annotation_token": _token(plan, last[i]),
            }
    for i in plan.pseudo:
        token = _token(plan, i)
        yield {
            "token": token_of("pseudo", token),
            "category_token": rows[plan.instance[i]]["category_token"],
            "nbr_annotations": 1,
            "first_annotation_token": token,
            "last_annotation_token": token,
        }


def _token(plan: _Plan, row: int) -> str:
    return str(plan.token[row].decode()) if row >= 0 else ""


def _rows(path: Path) -> list[Row]:
    return [row for rows in row_blocks(path) for row in rows]


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    file: BinaryIO
    with open_atomic(path) as file:
        separator = "["
        for row in rows:
            file.write((separator + json.dumps(row, separators=(",", ":"), allow_nan=False)).encode())
            separator = ","
        file.write(b"[]" if separator == "[" else b"]")
