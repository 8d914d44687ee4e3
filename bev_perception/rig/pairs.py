"""Images of one camera that are some way apart, and what was found again from the one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import cv2
import numpy as np

from bev_perception.geometry import invert
from bev_perception.model_spec import ImageSpec
from bev_perception.preprocess.encodings import ImageError
from bev_perception.preprocess.images import img_from_cam, received_image, resample_received
from bev_perception.rig.epipolar import Pair, track
from bev_perception.rig.thinned import Thinned
from bev_perception.structures import CameraCalibration, CameraView, SensorFrame
from bev_perception.sync_config import NS

WIDTH = 640  # of the pictures
KEPT = 24  # pairs of each camera
STEP_M, LONGEST_S = 1.5, 1.0  # driven from one image of a pair to the other, at least, and within


class PairsHeard:
    """Give it every frame. pairs: camera -> what was found, evenly spread over the drive; poses: camera ->
    ego_from_cam (4, 4), the newest."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self._cameras = cameras
        self._pairs: dict[str, Thinned[Pair | None]] = {name: Thinned(KEPT) for name in cameras}
        self._before: dict[str, CameraView] = {}
        self.poses: dict[str, np.ndarray] = {}

    def add(self, frame: SensorFrame) -> None:
        for name, view in zip(self._cameras, frame.cameras):
            last = self._before.get(name)
            if view is None:
                self._before.pop(name, None)
                continue
            self.poses[name] = view.calibration.ego_from_cam
            if last is not None and _near(last, view):
                continue
            self._before[name] = view
            if last is not None and follows(last, view):
                self._pairs[name].offer(partial(pair_of, last, view))

    @property
    def pairs(self) -> Mapping[str, tuple[Pair, ...]]:
        found = {name: tuple(p for p in kept.values if p is not None) for name, kept in self._pairs.items()}
        return {name: kept for name, kept in found.items() if kept}


def picture_spec(calibration: CameraCalibration) -> ImageSpec:
    """The whole image, WIDTH columns wide."""
    return ImageSpec(height=round(calibration.height * WIDTH / calibration.width), width=WIDTH)


def moved_m(before: CameraView, after: CameraView) -> float:
    """How far the vehicle drove between the two images."""
    return float(np.linalg.norm(after.ego.odom_from_ego[:3, 3] - before.ego.odom_from_ego[:3, 3]))


def _near(before: CameraView, after: CameraView) -> bool:
    """Whether to wait for a later image: too little has moved as yet."""
    return follows(before, after) and moved_m(before, after) < STEP_M


def follows(before: CameraView, after: CameraView) -> bool:
    """Whether the later image is near enough in time, with the same odometry."""
    step_s = (after.frame.stamp_ns - before.frame.stamp_ns) / NS
    return 0 < step_s < LONGEST_S and before.ego.epoch == after.ego.epoch


def picture_of(view: CameraView) -> np.ndarray | None:
    """(H, WIDTH, 3) uint8 BGR without the lens's distortion; None for one that cannot be read."""
    spec = picture_spec(view.calibration)
    try:
        return resample_received(received_image(view, spec), view.calibration, spec)
    except ImageError:
        return None


def pair_of(before: CameraView, after: CameraView) -> Pair | None:
    """What is found again in the later image; None where one of the two cannot be read."""
    images = [image for view in (before, after) if (image := picture_of(view)) is not None]
    if len(images) < 2:
        return None
    points = track(*(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)) for image in images))
    matrix = img_from_cam(after.calibration, picture_spec(after.calibration))[:3, :3]
    return Pair(*points, matrix, invert(before.ego.odom_from_ego) @ after.ego.odom_from_ego)
