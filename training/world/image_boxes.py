"""How large objects stand in the images, and how many of them the images' edges cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_perception.geometry import box_corners, invert, transform_boxes, transform_points
from training.world.observation import camera_matrix, inside_image, outline
from training.world.radar_scans import KeyScan
from training.world.rig import IMAGE_HEIGHT, IMAGE_WIDTH, RIG
from training.world.world import World

Floats = NDArray[np.float64]

CAMERAS = tuple(name for name, mount in RIG.items() if mount.kind == "camera")
WHOLE = 0.98  # of its outline inside the image: not cut


@dataclass(frozen=True)
class ImageBoxes:
    """N boxes in `images` images: `image` (N,) int from 0, class `name` (N,), `height` (N,) of the part inside the
    image over the image's, `inside` (N,) share of the outline's area that is in the image, above 0."""

    images: int
    image: NDArray[np.int64]
    name: NDArray[np.str_]
    height: Floats
    inside: Floats

    def of(self, names: Iterable[str]) -> ImageBoxes:
        """Those of these classes."""
        kept = np.isin(self.name, list(names))
        return ImageBoxes(self.images, self.image[kept], self.name[kept], self.height[kept], self.inside[kept])


def in_images(frames: Sequence[tuple[Sequence[str], Floats]]) -> ImageBoxes:
    """frames: (classes, boxes (M, 7) in the ego frame) of each. All cameras of the rig look at each frame at its time,
    and at what is hidden, too."""
    found: list[tuple[int, float, float]] = []
    of_class: list[str] = []
    for number, (names, boxes) in enumerate(frames):
        corners = box_corners(boxes).reshape(-1, 3)
        for k, channel in enumerate(CAMERAS):
            K = camera_matrix(RIG[channel], 1.0)
            seen = transform_points(invert(RIG[channel].ego_from_sensor), corners).reshape(-1, 8, 3)
            for name, eight in zip(names, seen):
                hull = outline(eight, K)
                area, part = inside_image(hull, IMAGE_WIDTH, IMAGE_HEIGHT)
                if area > 0:
                    height = float(np.ptp(part[:, 1])) / IMAGE_HEIGHT
                    found.append((number * len(CAMERAS) + k, height, area / cv2.contourArea(hull)))
                    of_class.append(name)
    table = np.array(found).reshape(-1, 3)
    classes: NDArray[np.str_] = np.array(of_class, dtype=np.str_)
    return ImageBoxes(len(frames) * len(CAMERAS), table[:, 0].astype(np.int64), classes, table[:, 1], table[:, 2])


def of_world(world: World, stamps_ns: Iterable[int], reach_m: float) -> ImageBoxes:
    """What is within reach_m of the ego's rear axle at each stamp."""
    frames = []
    for stamp in stamps_ns:
        states = world.actor_states(stamp, reach_m)
        boxes = np.array([[*state.center, *state.size_lwh, state.yaw] for state in states]).reshape(-1, 7)
        frames.append(([state.name for state in states], transform_boxes(invert(world.ego_pose(stamp)), boxes)))
    return in_images(frames)


def of_recorded(scans: Sequence[KeyScan], reach_m: float) -> ImageBoxes:
    """Recorded boxes as this rig's cameras would have them, so that places and sizes are compared and no lenses.

    The front radar stands for the vehicle, as in compare_traffic.
    """
    frames = []
    for scan in scans:
        if scan.boxes is not None:
            near = scan.boxes.distances < reach_m
            ego_from_global = RIG["RADAR_FRONT"].ego_from_sensor @ invert(scan.global_from_radar)
            boxes = transform_boxes(ego_from_global, scan.boxes.boxes[near])
            frames.append((scan.boxes.names[near].tolist(), boxes))
    return in_images(frames)
