"""The rows of one scene: files of sensors, keyframes and their objects, as they come in a drive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.objects import Objects
from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.structures import CameraCalibration
from training.recorded.drive import Moment, Stretch, Taken
from training.recorded.lidar import LIDAR
from training.recorded.tracks import link
from training.tables.rows import Row, annotation_row, data_row, pose_fields, sample_token, scene_tables
from training.tables.vocabulary import ATTRIBUTES, CATEGORIES, CATEGORY_OF, token_of

# A key frame of the LiDAR: the nearest sweep, not farther than half a turn of a slow one.
LIDAR_TOLERANCE_NS = 60_000_000
UNKNOWN_VISIBILITY = ""
LONGEST_STEP_NS = 1_500_000_000  # from keyframe to keyframe, over which velocities are known (nuscenes-devkit)


MENDS = {
    "unknown_class": "names are the benchmark's ten classes or nuScenes' categories",
    "no_box": "boxes are of finite numbers, with sizes above 0",
    "id_twice": "an id is of one object in a frame",
}
Count = Callable[[str, str, str], None]  # sensor, reason, detail


@dataclass(frozen=True)
class Stored:
    """A file that is written below sweeps/CHANNEL: where and when it is from."""

    name: str
    channel: str
    stamp_ns: int
    ego: np.ndarray
    ego_from_sensor: np.ndarray
    K: np.ndarray | None
    size: tuple[int, int]

    @classmethod
    def of(cls, taken: Taken, name: str, size: tuple[int, int]) -> Stored:
        calibration = taken.calibration
        camera = isinstance(calibration, CameraCalibration)
        return cls(
            name, taken.channel, taken.stamp_ns, taken.ego.odom_from_ego,
            calibration.ego_from_cam if isinstance(calibration, CameraCalibration) else calibration,
            calibration.K if camera else None, size,  # type: ignore[union-attr]
        )  # fmt: skip


class Scenes:
    """Files and keyframes of a drive as they come -> scenes: of one stretch of unbroken odometry, and at most
    length_ns from the first keyframe to the last. Only rows of the open scene are kept."""

    def __init__(self, length_ns: int) -> None:
        self._length_ns = length_ns
        self._files: list[tuple[Stretch, Stored]] = []
        self._moments: list[Moment] = []

    def add_file(self, stretch: Stretch, file: Stored) -> None:
        self._files.append((stretch, file))

    def add_moment(self, moment: Moment) -> tuple[list[Moment], list[Stored]] | None:
        """The scene that ends before this keyframe, where one does."""
        closed = None
        if self._moments:
            same = moment.stretch == self._moments[-1].stretch
            if not same or moment.stamp_ns - self._moments[0].stamp_ns > self._length_ns:
                closed = self._close(ends=not same)
        self._moments.append(moment)
        return closed

    def finish(self) -> tuple[list[Moment], list[Stored]] | None:
        """The last scene."""
        return self._close(ends=True) if self._moments else None

    def left(self) -> list[Stored]:
        """Files of stretches without a keyframe, once `finish` was called."""
        return [file for _, file in self._files]

    def _close(self, ends: bool) -> tuple[list[Moment], list[Stored]]:
        """ends: no later keyframe shares the stretch, so that what comes after the last is of this scene, too."""
        moments, self._moments = self._moments, []
        stretch, last_ns = moments[-1].stretch, moments[-1].stamp_ns
        named = {of_channel for moment in moments for of_channel in moment.stamps_ns.items()}

        def belongs(file: Stored) -> bool:
            reach_ns = last_ns + (LIDAR_TOLERANCE_NS if file.channel == LIDAR else 0)
            return ends or file.stamp_ns <= reach_ns or (file.channel, file.stamp_ns) in named

        chosen = [file for of, file in self._files if of == stretch and belongs(file)]
        names = {file.name for file in chosen}
        self._files = [(of, file) for of, file in self._files if file.name not in names]
        return moments, chosen


def make_scene(
    name: str, log: Row, moments: list[Moment], files: list[Stored], count: Count
) -> tuple[dict[str, list[Row]], set[str]]:
    """(tables of a scene, names of the files that belong to samples/, not to sweeps/).

    A file that is no key frame belongs to the keyframe that follows, as in nuScenes, or to the last. count: is told
    of each object that cannot be annotated.
    """
    files = sorted(files, key=lambda file: (file.stamp_ns, file.channel))
    stamps = [moment.stamp_ns for moment in moments]
    key_of = _key_frames(moments, files)
    calibrated: dict[str, Row] = {}
    data, poses = [], []
    for file in files:
        row = _calibrated(name, file)
        calibrated.setdefault(row["token"], row)
        after = min(int(np.searchsorted(stamps, file.stamp_ns)), len(stamps) - 1)
        sample = key_of.get(file.name, after)
        folder = "samples" if file.name in key_of else "sweeps"
        token, stamp_us = token_of("sample_data", file.name), file.stamp_ns // 1000
        path = f"{folder}/{file.channel}/{file.name}"
        data.append(
            data_row(token, sample_token(name, sample), row["token"], stamp_us, path, file.name in key_of, file.size)
        )
        poses.append({"token": token, "timestamp": stamp_us, **pose_fields(file.ego)})
    tracks = _tracks(name, moments, count)
    labelled = "annotated" if any(moment.objects is not None for moment in moments) else "not annotated"
    tables = scene_tables(
        name, f"recorded, {labelled}", log, [stamp // 1000 for stamp in stamps], data, poses,
        list(calibrated.values()), tracks,
    )  # fmt: skip
    return tables, set(key_of)


def _key_frames(moments: list[Moment], files: list[Stored]) -> dict[str, int]:
    """File name -> the keyframe whose image or scan it is. Each file is one of at most one keyframe."""
    at = {(file.channel, file.stamp_ns): file.name for file in files}
    sweeps = [file for file in files if file.channel == LIDAR]
    key_of: dict[str, int] = {}
    for k, moment in enumerate(moments):
        wanted = list(moment.stamps_ns.items())
        nearest = min(sweeps, key=lambda file: abs(file.stamp_ns - moment.stamp_ns), default=None)
        if nearest is not None and abs(nearest.stamp_ns - moment.stamp_ns) <= LIDAR_TOLERANCE_NS:
            wanted.append((LIDAR, nearest.stamp_ns))
        for channel_and_stamp in wanted:
            if channel_and_stamp in at:
                key_of.setdefault(at[channel_and_stamp], k)
    return key_of


def _calibrated(scene: str, file: Stored) -> Row:
    """One row for each calibration that a sensor had."""
    row = {
        "sensor_token": token_of("sensor", file.channel),
        **pose_fields(file.ego_from_sensor),
        "camera_intrinsic": [] if file.K is None else file.K.tolist(),
    }
    return {"token": token_of("calibrated_sensor", scene, file.channel, file.size, row), **row}


def _tracks(scene: str, moments: list[Moment], count: Count) -> dict[str, list[Row]]:
    """Instance -> its annotations: by the ids of the labels, or by where objects without one must have come from."""
    tracks: dict[str, list[Row]] = {}
    before: _Known | None = None
    for k, moment in enumerate(moments):
        if moment.objects is None:
            before = None
            continue
        objects = _annotatable(moment.objects, count).in_world(moment.ego.odom_from_ego)
        before = _Known(moment.stamp_ns, objects, _names_of_tracks(k, moment.stamp_ns, objects, before))
        for i, (track, box) in enumerate(zip(before.tracks, objects.boxes)):
            attribute = objects.attributes[i] if objects.attributes[i] in ATTRIBUTES else ""
            row = annotation_row(
                scene,
                k,
                track,
                _category(objects.names[i]),
                make_transform(rotation_from_yaw(box[6]), box[:3]),
                box[3:6].tolist(),
                attribute,
                UNKNOWN_VISIBILITY,
                0,
                int(objects.num_points[i]),
            )
            tracks.setdefault(track, []).append(row)
    return tracks


@dataclass(frozen=True)
class _Known:
    """The objects of the keyframe before, in the global frame, and the track of each."""

    stamp_ns: int
    objects: Objects
    tracks: list[str]


def _names_of_tracks(k: int, stamp_ns: int, objects: Objects, before: _Known | None) -> list[str]:
    names = [f"id {found}" if found else f"{k} {i}" for i, found in enumerate(objects.ids)]
    if before is None or stamp_ns - before.stamp_ns > LONGEST_STEP_NS:
        return names
    bare = [i for i, found in enumerate(objects.ids) if not found]
    seconds = (stamp_ns - before.stamp_ns) * 1e-9
    earlier = objects.boxes[bare, :2] - np.nan_to_num(objects.velocity[bare]) * seconds
    of_class = tuple(objects.names[i] for i in bare)
    for i, j in zip(bare, link(earlier, of_class, before.objects.boxes[:, :2], before.objects.names)):
        if j >= 0 and not before.objects.ids[j]:
            names[i] = before.tracks[j]
    return names


def _category(name: str) -> str:
    return CATEGORY_OF.get(name, name)


def _annotatable(objects: Objects, count: Count) -> Objects:
    """Without those that tables cannot have."""
    keep = np.ones(len(objects), dtype=bool)
    taken: set[str] = set()
    for i, (box, name, of) in enumerate(zip(objects.boxes, objects.names, objects.ids)):
        if fault := _fault(_category(name), box, bool(of) and of in taken):
            detail = f"{name!r} with id {of!r} and x y z l w h yaw {box.round(2).tolist()} is left out"
            count("label", fault, f"{detail}; {MENDS[fault]}")
            keep[i] = False
            continue
        taken.add(of)
    return objects.select(keep)


def _fault(category: str, box: np.ndarray, seen: bool) -> str:
    """Why an object cannot be annotated, or ""."""
    if category not in CATEGORIES:
        return "unknown_class"
    if not np.isfinite(box).all() or (box[3:6] <= 0).any():
        return "no_box"
    return "id_twice" if seen else ""
