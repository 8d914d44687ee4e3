"""The tables of a nuScenes-format set as plain arrays: all that a keyframe needs, for any model, in any split."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES

from training.data.class_names import ClassNames, check_known, labels_of
from training.data.poses import poses_from_rows
from training.data.table_boxes import read_annotations
from training.data.table_checks import check_names, samples_of
from training.data.table_files import Samples, begin_poses, read_files
from training.data.table_plausible import check_counts, check_periods, missing_key_frames
from training.data.table_rows import Row, find, look_up, row_blocks
from training.data.tally import Tally

TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "sample", "sample_annotation",
    "sample_data", "scene", "sensor",
)  # fmt: skip
SMALL_TABLES = ("attribute", "calibrated_sensor", "category", "instance", "log", "sample", "scene", "sensor")


def table_paths(dataroot: Path, version: str) -> dict[str, Path]:
    """Name -> file of every table. Raises FileNotFoundError that names what is missing and what is there."""
    if not (dataroot / version).is_dir():
        found = sorted(p.name for p in dataroot.glob("v1.0-*")) if dataroot.is_dir() else []
        raise FileNotFoundError(
            f"{dataroot}: no folder {version} with the tables of a nuScenes-format set; found {found}. "
            "Give --data the folder that holds v1.0-*/, samples/ and sweeps/, and --version one of those found"
        )
    paths = {name: dataroot / version / f"{name}.json" for name in TABLES}
    absent = [name for name, path in paths.items() if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{dataroot / version}: tables {absent} are missing; unpack the set's metadata archive again"
        )
    return paths


def index_arrays(
    paths: Mapping[str, Path], classes: ClassNames = ()
) -> tuple[dict[str, np.ndarray], dict[str, Any], Tally]:
    """Tables -> arrays, facts (channels, scenes, attributes, motion_corrected), and what was read.

    data_*: one row per file, by scene, channel and stamp; frame_*: one row per keyframe, by scene and time; box_*: one
    row per annotation of one of the model's classes, in the ego frame of its keyframe; rack_*: bicycle racks alike.
    The large tables are read a block at a time and kept as numbers. classes: what --classes says of category names.
    Raises ValueError for a table that is not JSON, naming the row when the tables do not fit together or say what
    cannot be, and for annotations of categories that nobody knows.
    """
    with _without_collector():
        return _index_arrays(paths, classes)


def _index_arrays(
    paths: Mapping[str, Path], classes: ClassNames
) -> tuple[dict[str, np.ndarray], dict[str, Any], Tally]:
    tables = {name: [row for rows in row_blocks(paths[name]) for row in rows] for name in SMALL_TABLES}
    scenes = sorted(tables["scene"], key=lambda row: row["name"])
    channels = sorted(row["channel"] for row in tables["sensor"])
    check_names(tables)
    order, samples = _samples(tables, scenes)
    files = read_files(paths, tables, channels, samples)
    data, frame_data = files.arrays, files.frame_data
    _require_sensors(order, frame_data)
    vehicles = {row["token"]: row["vehicle"] for row in tables["log"]}
    corrected = all(vehicles.get(scene["log_token"]) != "synthetic" for scene in scenes)
    if not corrected:
        data["data_begin_pose"] = begin_poses(data, channels)
    rows = np.array([samples.row_of[row["token"]] for row in order], dtype=np.int64)
    frames = {
        "frame_token": np.array([row["token"] for row in order], dtype=bytes),
        "frame_stamp": samples.stamp_us[rows] * 1000,
        "frame_scene": samples.scene[rows],
        "frame_data": frame_data,
    }
    periods = check_periods(
        samples.stamp_us[rows], samples.scene[rows], lambda k: f"row {rows[k]} (from 0), token {order[k]['token']!r}"
    )
    frames["frame_pose"] = data["data_pose"][_pose_of(frame_data, channels, data["data_stamp"], frames["frame_stamp"])]
    attributes = sorted(row["name"] for row in tables["attribute"])
    categories = [row["name"] for row in tables["category"]]
    labels = labels_of(categories, classes)
    annotations = read_annotations(
        row_blocks(paths["sample_annotation"]), tables, samples, frames["frame_scene"],
        poses_from_rows(frames["frame_pose"]), labels, {n: i for i, n in enumerate(attributes) if n in ATTRIBUTE_NAMES},
    )  # fmt: skip
    check_known(categories, labels, annotations.counts.sum(axis=(0, 2)))
    per_scene = np.bincount(frames["frame_scene"], minlength=len(scenes)).tolist()
    remarks = (
        *periods, *check_counts("scene", "nbr_samples", scenes, per_scene), *files.remarks,
        *missing_key_frames(frame_data, channels), *annotations.remarks, *_unused(classes, categories),
        *_foreign(attributes),
    )  # fmt: skip
    facts = {
        "channels": channels,
        "scenes": [row["name"] for row in scenes],
        "attributes": attributes,
        "motion_corrected": corrected,
    }
    tally = Tally(tuple(categories), tuple(labels), annotations.counts, remarks)
    return data | frames | annotations.arrays, facts, tally


def _samples(tables: Mapping[str, list[Row]], scenes: Sequence[Row]) -> tuple[list[Row], Samples]:
    """Rows of `sample` by scene and time, each of which is a keyframe, and all of them as arrays."""
    rows = tables["sample"]
    by_token = {row["token"]: row for row in rows}
    order = [row for scene in scenes for row in samples_of(scene, by_token, find)]
    frame_of = {row["token"]: i for i, row in enumerate(order)}
    scene_of = {row["token"]: i for i, row in enumerate(scenes)}
    return order, Samples(
        {row["token"]: i for i, row in enumerate(rows)},
        np.array(look_up(scene_of, rows, "scene_token", "scene"), dtype=np.int64),
        np.array([row["timestamp"] for row in rows], dtype=np.int64),
        np.array([frame_of.get(row["token"], -1) for row in rows], dtype=np.int64),
    )


def _pose_of(
    frame_data: np.ndarray, channels: Sequence[str], data_stamp: np.ndarray, frame_stamp: np.ndarray
) -> np.ndarray:
    """(frames,) the data row whose ego pose is the keyframe's: of LIDAR_TOP, since its stamp is the sample's by
    nuScenes' definition; without it of the key frame nearest to that, the earlier of two."""
    apart = data_stamp[frame_data] - frame_stamp[:, None]
    apart = np.where(frame_data >= 0, 2 * np.abs(apart) + (apart > 0), np.iinfo(np.int64).max)
    if "LIDAR_TOP" in channels:
        lidar = channels.index("LIDAR_TOP")
        apart[frame_data[:, lidar] >= 0, lidar] = -1
    return frame_data[np.arange(len(frame_data)), apart.argmin(axis=1)]


def _unused(classes: ClassNames, categories: Sequence[str]) -> list[str]:
    unused = sorted({name for name, _ in classes} - set(categories))
    return [f"--classes: category.json has none of {unused}"] if unused else []


def _foreign(attributes: Sequence[str]) -> list[str]:
    foreign = [name for name in attributes if name not in ATTRIBUTE_NAMES]
    return [f"attribute.json: {foreign} are none of the benchmark's and count as no attribute"] if foreign else []


@contextmanager
def _without_collector() -> Iterator[None]:
    """Within: no search for cycles, which rows of tables have none of. With millions of them it takes a third of the
    time."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _require_sensors(order: list[Row], frame_data: np.ndarray) -> None:
    bare = np.flatnonzero((frame_data < 0).all(axis=1))
    if len(bare):
        raise ValueError(
            f"sample_data.json: sample {order[bare[0]]['token']} has no key frame of any sensor; unpack the metadata "
            "again"
        )
