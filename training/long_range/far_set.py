"""A data set in nuScenes' format whose boxes beyond a range are pseudo boxes: two tables are new, all else is links.

A pseudo box is an instance of its own: it has no track, so that its velocity is unknown, which losses leave out. What
is within the range stays as it is, but that a row whose neighbour in time is gone is linked to the one after that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_perception.files import write_atomic
from bev_perception.geometry import invert, rotation_from_yaw, transform_points
from training.data.class_names import labels_of
from training.data.index import Index
from training.data.poses import poses_from_rows
from training.data.table_rows import table_rows
from training.long_range.views import Floats
from training.tables.chains import ANNOTATIONS, INSTANCES, Chains
from training.tables.files import write_rows
from training.tables.linked import linked_set
from training.tables.rows import Row, pose_fields
from training.tables.vocabulary import token_of

FACTS = "far.json"  # says that the folder was written here, and how
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
    tables = index.dataroot / index.version
    with linked_set(out, index.dataroot, index.version, (ANNOTATIONS, INSTANCES), FACTS) as work:
        plan = _plan(tables, index, labelled_to, labels)
        for name, rows in ((ANNOTATIONS, _annotations(tables, plan)), (INSTANCES, _instances(tables, plan))):
            write_rows(work / index.version / f"{name}.json", rows)
        counts = np.bincount(plan.action, minlength=3).tolist()
        told = dict(zip(("kept", "pseudo", "dropped"), counts))
        write_atomic(work / FACTS, json.dumps({**facts, **told}, indent=1))
    return told


@dataclass(frozen=True)
class _Plan:
    """action: of each row of the table of annotations, what becomes of it; chains: of those that are kept. pseudo: row
    -> box (7,) and scale."""

    action: NDArray[np.int8]
    chains: Chains
    pseudo: dict[int, tuple[Floats, float]]


def _plan(tables: Path, index: Index, labelled_to: float, labels: Mapping[int, Labels]) -> _Plan:
    arrays = index.arrays
    frame_of = {token.decode(): i for i, token in enumerate(arrays["frame_token"])}
    categories = list(table_rows(tables / "category.json"))
    numbers = labels_of([row["name"] for row in categories], index.classes)
    label_of = dict(zip((row["token"] for row in categories), numbers))
    rows_of = table_rows(tables / f"{INSTANCES}.json")
    instances = {row["token"]: (i, label_of[row["category_token"]]) for i, row in enumerate(rows_of)}
    ego_from_world = invert(poses_from_rows(np.array(arrays["frame_pose"])))
    met: dict[int, int] = dict.fromkeys(labels, 0)
    action: list[int] = []
    instance: list[int] = []
    stamp: list[int] = []
    token: list[bytes] = []
    pseudo: dict[int, tuple[Floats, float]] = {}
    for row in table_rows(tables / f"{ANNOTATIONS}.json"):
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
    chosen = np.array(action, np.int8)
    return _Plan(chosen, Chains.of(chosen == KEPT, instance, stamp, token), pseudo)


def _check_order(own: Labels, k: int, distance: float, labelled_to: float, row: Row) -> None:
    """The index has a keyframe's objects in the order of the table; were it otherwise, boxes would change places."""
    if k >= len(own.far) or (own.far[k] != (distance > labelled_to) and abs(distance - labelled_to) > 1e-6):
        raise _other_tables(f"{row['token']!r} is {distance:.2f} m away")


def _other_tables(what: str) -> ValueError:
    return ValueError(f"the tables are not those of the index ({what}); delete .bev_index in the data set's folder")


def _annotations(tables: Path, plan: _Plan) -> Iterator[Row]:
    for number, row in enumerate(table_rows(tables / f"{ANNOTATIONS}.json")):
        if plan.action[number] == KEPT:
            yield row | plan.chains.neighbours(number)
        elif plan.action[number] == PSEUDO:
            yield row | _pseudo_fields(row["token"], *plan.pseudo[number])


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
    ends, categories = plan.chains.ends(), []
    for number, row in enumerate(table_rows(tables / f"{INSTANCES}.json")):
        categories.append(row["category_token"])
        if number in ends:
            yield row | ends[number]
    for i in plan.pseudo:
        token = plan.chains.token[i].decode()
        yield {
            "token": token_of("pseudo", token),
            "category_token": categories[plan.chains.instance[i]],
            "nbr_annotations": 1,
            "first_annotation_token": token,
            "last_annotation_token": token,
        }
