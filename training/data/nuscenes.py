"""Keyframes of a nuScenes-format data set, real or synthetic: files, calibrations and boxes (read: `sensor_frame`)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from nuscenes.utils.splits import create_splits_scenes

from bev_perception.model_spec import CLASSES, ModelSpec
from training.data.config import PLAIN, DataConfig
from training.data.index import Index, open_index
from training.data.poses import poses_from_rows
from training.data.source import Source
from training.data.table_checks import check_splits

LIDAR = "LIDAR_TOP"
# Frames between keyframes: a file this old is not part of one, and one this young is the frame itself.
STALE_NS = 150_000_000
LEAST_AGE_S = 0.06


@dataclass(frozen=True)
class SensorFile:
    """One sample_data row: the file, its calibration and the ego pose at its own stamp.

    global_from_ego_begin: of a LiDAR sweep that is not motion corrected, the ego pose when its turn began.
    """

    path: str
    stamp_ns: int
    ego_from_sensor: np.ndarray
    global_from_ego: np.ndarray
    K: np.ndarray | None = None
    width: int = 0
    height: int = 0
    global_from_ego_begin: np.ndarray | None = None


@dataclass(frozen=True)
class Keyframe:
    """A sample: sensor files and annotations.

    boxes (M, 7) and velocity (M, 3; NaN where unknown) in the ego frame at stamp_ns; labels (M,) int64 into the spec's
    classes; num_points (M,) int64 LiDAR and radar points inside; racks (R, 7) bicycle racks, where
    the benchmark scores no cycles. radars, lidar: sweeps, newest first.
    """

    token: str
    scene: str
    stamp_ns: int
    global_from_ego: np.ndarray
    cameras: dict[str, SensorFile]
    radars: dict[str, tuple[SensorFile, ...]]
    lidar: tuple[SensorFile, ...]
    boxes: np.ndarray
    velocity: np.ndarray
    labels: np.ndarray
    attributes: tuple[str, ...] = ()
    num_points: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    racks: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))
    prev: int = -1  # index of the previous keyframe of the scene in the list, -1 at its start


def read_split(source: Source, split: str) -> list[str]:
    """Scene names of a split: from the set's own splits.json (synthetic sets), else the devkit's official ones.

    `train` and `val` of v1.0-mini are its own mini_train and mini_val. Raises ValueError naming the splits there are.
    """
    path = source.root / "splits.json"
    if path.is_file():
        splits = _read_splits(path)
    else:
        splits = create_splits_scenes()
        if source.version == "v1.0-mini":
            splits = {"train": splits["mini_train"], "val": splits["mini_val"]}
    if split not in splits:
        raise ValueError(f"{source.root} ({source.version}) has no split {split!r}; it has {sorted(splits)}")
    return splits[split]


def _read_splits(path: Path) -> dict[str, list[str]]:
    try:
        return check_splits(json.loads(path.read_bytes()), path)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); write it again: split -> names of scenes") from error


class Keyframes(Sequence[Keyframe]):
    """The keyframes of some scenes in time order, made from the index when asked for; nothing is kept."""

    def __init__(self, index: Index, scenes: Sequence[str], spec: ModelSpec, config: DataConfig = PLAIN) -> None:
        """Raises ValueError naming scenes that the tables do not have, or sensors without which there is no input."""
        known = {name: i for i, name in enumerate(index.scenes)}
        absent = sorted(set(scenes) - set(known))
        if absent:
            raise ValueError(
                f"{index.dataroot} ({index.version}) has no scenes {absent[:5]}; "
                f"it has {len(known)}, such as {sorted(known)[:3]}"
            )
        _require_channels(index, spec, config)
        self.data_index, self.spec, self.config = index, spec, config
        classes = [spec.classes.index(name) if name in spec.classes else -1 for name in CLASSES]
        self._label_of = np.array(classes, dtype=np.int64)
        of_scene = index.arrays["frame_scene"]
        spans = [np.searchsorted(of_scene, [known[name], known[name] + 1]) for name in scenes]
        self.rows = np.concatenate([np.arange(*span) for span in spans] or [np.zeros(0, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Keyframe: ...
    @overload
    def __getitem__(self, i: slice) -> list[Keyframe]: ...
    def __getitem__(self, i: int | slice) -> Keyframe | list[Keyframe]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        arrays, row = self.data_index.arrays, int(self.rows[i])
        scene = int(arrays["frame_scene"][row])
        follows = i > 0 and self.rows[i - 1] == row - 1 and arrays["frame_scene"][row - 1] == scene
        return self._keyframe(row, i - 1 if follows else -1)

    def _keyframe(self, row: int, prev: int) -> Keyframe:
        arrays = self.data_index.arrays
        rows = {c: int(r) for c, r in zip(self.data_index.channels, arrays["frame_data"][row]) if r >= 0}
        return Keyframe(
            token=arrays["frame_token"][row].decode(),
            scene=self.data_index.scenes[arrays["frame_scene"][row]],
            stamp_ns=int(arrays["frame_stamp"][row]),
            global_from_ego=poses_from_rows(arrays["frame_pose"][row : row + 1])[0],
            prev=prev,
            **self._sensors(rows),
            **self._objects(row),
        )

    def earlier(self, frame: Keyframe, age_s: float, max_age_s: float) -> Keyframe | None:
        """The frame of the same scene about `age_s` before `frame`, at most max_age_s; None where there is none.

        Frames are taken where the spec's last camera fired (without cameras: its first radar, or the LiDAR): keyframes,
        and sweeps between them where the set has them. What lies between keyframes has no boxes and no token.
        """
        arrays, channels = self.data_index.arrays, self.data_index.channels
        anchor = (*self.spec.cameras[-1:], *self.spec.radars[:1], LIDAR)[0]
        if anchor not in channels:
            return None
        scene, channel = self.data_index.scenes.index(frame.scene), channels.index(anchor)
        start = int(np.searchsorted(arrays["data_scene"], scene))
        end = int(np.searchsorted(arrays["data_scene"], scene, side="right"))
        of_channel = np.searchsorted(arrays["data_channel"][start:end], [channel, channel + 1]) + start
        stamps = np.array(arrays["data_stamp"][slice(*of_channel)])
        frames = slice(*np.searchsorted(arrays["frame_scene"], [scene, scene + 1]))
        keys = arrays["frame_data"][frames, channel] - of_channel[0]  # of each keyframe, its place in `stamps`
        stamps[keys[keys >= 0]] = arrays["frame_stamp"][frames][keys >= 0]  # a keyframe has a stamp of its own
        ages = (frame.stamp_ns - stamps) * 1e-9
        ages[(ages < LEAST_AGE_S) | (ages > max_age_s)] = np.inf
        if not np.isfinite(ages).any():
            return None
        place = int(np.abs(ages - age_s).argmin())
        if (keys == place).any():
            return self._keyframe(frames.start + int(np.flatnonzero(keys == place)[0]), -1)
        row = int(of_channel[0]) + place
        stamp, rows = int(arrays["data_stamp"][row]), {}
        for number, name in enumerate(channels):
            first, last = np.searchsorted(arrays["data_channel"][start:end], [number, number + 1]) + start
            newest = first + int(np.searchsorted(arrays["data_stamp"][first:last], stamp, side="right")) - 1
            if newest >= first and stamp - arrays["data_stamp"][newest] <= STALE_NS:
                rows[name] = int(newest)
        pose = poses_from_rows(arrays["data_pose"][row : row + 1])[0]
        none = np.zeros((0, 7))
        return Keyframe(
            "", frame.scene, stamp, pose, boxes=none, velocity=none[:, :3], labels=none[:, 0].astype(np.int64),
            **self._sensors(rows),
        )  # fmt: skip

    def tokens(self) -> list[str]:
        """`token` of each keyframe, at once."""
        return [self.data_index.arrays["frame_token"][row].decode() for row in self.rows]

    def labels(self, i: int) -> np.ndarray:
        """`self[i].labels` alone, at once."""
        _, used, labels = self._seen(int(self.rows[i]))
        return labels[used]

    def _sensors(self, rows: dict[str, int]) -> dict[str, Any]:
        """Files of the spec's sensors; rows: channel -> data row of its newest file."""
        virtual, lidar = self.config.virtual, self.config.lidar
        cameras = dict.fromkeys((*self.spec.cameras, *(virtual.cameras if virtual else ())))
        counts = dict.fromkeys(cameras, 1) | dict.fromkeys(self.spec.radars, self.spec.radar.sweeps)
        counts[LIDAR] = lidar.sweeps if lidar else 1
        chains = {c: self._chain(rows[c], count) for c, count in counts.items() if c in rows}
        files = iter(self._files([row for chain in chains.values() for row in chain]))
        found = {c: tuple(next(files) for _ in chain) for c, chain in chains.items()}
        return {
            "cameras": {c: found[c][0] for c in cameras if c in found},
            "radars": {c: found[c] for c in self.spec.radars if c in found},
            "lidar": found.get(LIDAR, ()),
        }

    def _chain(self, row: int, count: int) -> list[int]:
        """Data rows of one sensor, newest first, not leaving its scene."""
        arrays = self.data_index.arrays
        same = slice(max(0, row - count + 1), row + 1)
        of_chain = (arrays["data_scene"][same] == arrays["data_scene"][row]) & (
            arrays["data_channel"][same] == arrays["data_channel"][row]
        )
        return (np.flatnonzero(of_chain) + same.start)[::-1].tolist()

    def _files(self, rows: list[int]) -> list[SensorFile]:
        arrays = self.data_index.arrays
        calibrations = arrays["data_calibration"][rows]
        mounts = poses_from_rows(arrays["calibration_pose"][calibrations])
        poses = poses_from_rows(arrays["data_pose"][rows])
        begins = None if self.data_index.motion_corrected else poses_from_rows(arrays["data_begin_pose"][rows])
        files = []
        for k, (row, calibration) in enumerate(zip(rows, calibrations)):
            K = np.array(arrays["calibration_K"][calibration])
            width, height = arrays["calibration_size"][calibration].tolist()
            begin = None if begins is None or np.isnan(begins[k]).any() else begins[k]
            files.append(
                SensorFile(
                    path=self.data_index.path(row),
                    stamp_ns=int(arrays["data_stamp"][row]),
                    ego_from_sensor=mounts[k],
                    global_from_ego=poses[k],
                    K=None if np.isnan(K).any() else K,
                    width=width,
                    height=height,
                    global_from_ego_begin=begin,
                )
            )
        return files

    def _seen(self, row: int) -> tuple[slice, np.ndarray, np.ndarray]:
        """The boxes of a keyframe; of them those that the benchmark scores, of one of the spec's classes and seen by at
        least one LiDAR or radar point, (n,) bool; and their classes (n,) int64."""
        arrays = self.data_index.arrays
        ends = arrays["box_end"]
        span = slice(int(ends[row - 1]) if row else 0, int(ends[row]))
        labels = self._label_of[arrays["box_class"][span]]
        return span, (labels >= 0) & (arrays["box_points"][span].sum(axis=1) > 0), labels

    def _objects(self, row: int) -> dict[str, Any]:
        arrays = self.data_index.arrays
        span, used, labels = self._seen(row)
        ends = arrays["rack_end"]
        racks = slice(int(ends[row - 1]) if row else 0, int(ends[row]))
        names = (*self.data_index.attributes, "")  # -1: none
        return {
            "boxes": np.array(arrays["box"][span][used]),
            "velocity": np.array(arrays["box_velocity"][span][used]),
            "labels": labels[used],
            "attributes": tuple(names[k] for k in arrays["box_attribute"][span][used]),
            "num_points": arrays["box_points"][span][used].sum(axis=1),
            "racks": np.array(arrays["rack"][racks]),
        }


def _require_channels(index: Index, spec: ModelSpec, config: DataConfig) -> None:
    """Raises ValueError where nothing would be left to see; warns of sensors that will always be missing."""
    wanted = (*spec.cameras, *spec.radars)
    absent = [name for name in wanted if name not in index.channels]
    if wanted and len(absent) == len(wanted):
        raise ValueError(
            f"{index.dataroot} ({index.version}) has none of the sensors of {spec.name}, {list(wanted)}; it has "
            f"{sorted(index.channels)}. Take a run whose spec names those, or mend sensor.json"
        )
    if config.lidar is not None:
        require_lidar(index, f"{spec.name} takes LiDAR points", "take a run without data.lidar")
    if absent:
        warnings.warn(
            f"{index.dataroot} ({index.version}) has no {absent}: {spec.name} sees them as missing in every frame",
            stacklevel=1,  # the same place for every split, so that it is said once
        )


def require_lidar(index: Index, why: str, instead: str) -> None:
    """Raises ValueError when the tables have no LiDAR: points would be empty and depths unknown, without a word."""
    if LIDAR not in index.channels:
        raise ValueError(
            f"{index.dataroot} ({index.version}) has no channel {LIDAR}, but {why}; it has {sorted(index.channels)}. "
            f"Add the LiDAR's files and rows, or {instead}"
        )


def open_nuscenes(source: Source, split: str | Sequence[str], spec: ModelSpec, config: DataConfig = PLAIN) -> Keyframes:
    """Keyframes of a split (or of named scenes). Raises as `open_index`, `read_split` and `Keyframes` do."""
    index = open_index(source.root, source.version, source.classes)
    scenes = read_split(source, split) if isinstance(split, str) else split
    return Keyframes(index, scenes, spec, config)
