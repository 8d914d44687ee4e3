"""Where in a scene a frame is spoilt: what the draws of a condition depend on, and how the vehicle moves there."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bev_perception.geometry import interpolate_pose
from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.encodings import decode_image, source_size
from bev_perception.structures import CameraView, EgoPose, RadarSweep, SensorFrame
from training.data.nuscenes import Keyframe

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Track:
    """Every ego pose that the files of a scene have: stamps_ns (N,) rising, global_from_ego (N, 4, 4)."""

    stamps_ns: np.ndarray
    global_from_ego: np.ndarray

    def at(self, stamp_ns: int) -> np.ndarray:
        """(4, 4) global_from_ego: between two poses, or beyond the ends as the nearest two go on."""
        if len(self.stamps_ns) < 2:
            return self.global_from_ego[0]
        i = int(np.clip(np.searchsorted(self.stamps_ns, stamp_ns) - 1, 0, len(self.stamps_ns) - 2))
        first, second = int(self.stamps_ns[i]), int(self.stamps_ns[i + 1])
        fraction = (stamp_ns - first) / (second - first)
        return interpolate_pose(self.global_from_ego[i], self.global_from_ego[i + 1], fraction)


def track_of(keyframes: Sequence[Keyframe]) -> Track:
    """Of the keyframes of one scene."""
    poses = {k.stamp_ns: k.global_from_ego for k in keyframes}
    for keyframe in keyframes:
        files = [*keyframe.cameras.values(), *(file for sweeps in keyframe.radars.values() for file in sweeps)]
        poses |= {file.stamp_ns: file.global_from_ego for file in files}
    stamps = sorted(poses)
    return Track(np.array(stamps, dtype=np.int64), np.stack([poses[stamp] for stamp in stamps]))


@dataclass(frozen=True)
class Moment:
    """The frame `index` of a scene of a run. Draws depend on seed, condition, scene, frame and sensor alone: cells can
    be made in any order, by any number of processes, and again."""

    spec: ModelSpec
    scene: str
    index: int
    track: Track
    condition: str
    seed: int = 0

    def rng(self, sensor: str = "") -> np.random.Generator:
        """Another one for every sensor of every frame."""
        return self._rng(self.scene, str(self.index), sensor)

    def rng_of_run(self) -> np.random.Generator:
        """The same in every frame of every scene."""
        return self._rng()

    def rng_of_scene(self) -> np.random.Generator:
        """The same in every frame of the scene."""
        return self._rng(self.scene)

    def _rng(self, *words: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *(zlib.crc32(word.encode()) for word in (self.condition, *words))])


def change_images(
    frame: SensorFrame, moment: Moment, change: Change, only: Collection[str] | None = None
) -> SensorFrame:
    """`change` of every image, as a camera gives it: (H, W, 3) uint8 BGR, and that camera's generator -> the same.
    only: names of the cameras that it is of."""

    def changed(view: CameraView | None) -> CameraView | None:
        if view is None or (only is not None and view.frame.sensor not in only):
            return view
        image = decode_image(view.frame, source_size(view.frame)[0])
        image = np.ascontiguousarray(change(image, moment.rng(view.frame.sensor)))
        return replace(view, frame=replace(view.frame, encoding="bgr8", data=image, bits=16, mosaic=""))

    return replace(frame, cameras=tuple(changed(view) for view in frame.cameras))


def change_scans(frame: SensorFrame, moment: Moment, change: Change) -> SensorFrame:
    """`change` of every radar scan: (P, 6) float32 of RADAR_COLUMNS, and a generator of that scan -> the same."""

    def changed(sweep: RadarSweep) -> RadarSweep:
        scan = sweep.scan
        points = change(scan.points, moment.rng(f"{scan.sensor} {scan.stamp_ns}"))
        return replace(sweep, scan=replace(scan, points=np.asarray(points, dtype=np.float32).reshape(-1, 6)))

    return replace(frame, radars=tuple(tuple(map(changed, sweeps)) for sweeps in frame.radars))


def change_poses(frame: SensorFrame, change: Callable[[int, np.ndarray], np.ndarray]) -> SensorFrame:
    """`change`(stamp_ns, odom_from_ego) of the frame's ego pose and of every measurement's."""

    def changed(pose: EgoPose) -> EgoPose:
        return replace(pose, odom_from_ego=change(pose.stamp_ns, pose.odom_from_ego))

    return replace(
        frame,
        ego=changed(frame.ego),
        cameras=tuple(view and replace(view, ego=changed(view.ego)) for view in frame.cameras),
        radars=tuple(tuple(replace(s, ego=changed(s.ego)) for s in sweeps) for sweeps in frame.radars),
    )
