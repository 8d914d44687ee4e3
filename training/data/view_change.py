"""Training as if the cameras stood elsewhere: other heights, angles and lenses, from the images and clouds at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import rq

from bev_perception.geometry import rotation_from_yaw
from training.views.mesh import Photo, Scene

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ViewChange:
    """share: of the clips whose cameras are moved, all of them alike; (low, high) of what is drawn for each: metres up,
    degrees further up, to the left about the vertical, and times the focal length. The 2023 paper moves 25 to 50 % of a
    batch (Klinghoffer et al., ICCV 2023). Raises ValueError for what is no share or no range."""

    share: float = 0.0
    up_m: tuple[float, float] = (-0.3, 1.0)
    pitch_deg: tuple[float, float] = (-12.0, 6.0)
    yaw_deg: tuple[float, float] = (-15.0, 15.0)
    zoom: tuple[float, float] = (0.65, 1.15)

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"data.augmentation.view.share is a share of the clips from 0 to 1, found {self.share}")
        for name in ("up_m", "pitch_deg", "yaw_deg", "zoom"):
            low, high = getattr(self, name)
            if not low <= high or (name == "zoom" and low <= 0):
                above = ", above 0" if name == "zoom" else ""
                raise ValueError(f"data.augmentation.view.{name} must be (least, most){above}, found {(low, high)}")


STAYS = ViewChange()


@dataclass(frozen=True)
class Move:
    """What one clip's cameras are moved by; see ViewChange."""

    up_m: float = 0.0
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    zoom: float = 1.0


def draw_move(rng: np.random.Generator, change: ViewChange) -> Move | None:
    """None for a clip whose cameras stay."""
    if rng.random() >= change.share:
        return None
    return Move(
        *(float(rng.uniform(*limits)) for limits in (change.up_m, change.pitch_deg, change.yaw_deg, change.zoom))
    )


def photo(image: NDArray[np.uint8], img_from_ego: Floats) -> Photo:
    """An image and its projection (4, 4) -> the two with K and pose told apart."""
    K, cam_from_ego = rq(img_from_ego[:3, :3])
    signs = np.diag(np.sign(np.diag(K)))
    K, cam_from_ego = K @ signs, signs @ cam_from_ego
    ego_from_cam = np.eye(4)
    ego_from_cam[:3, :3] = cam_from_ego.T
    ego_from_cam[:3, 3] = -np.linalg.solve(img_from_ego[:3, :3], img_from_ego[:3, 3])
    return Photo(image, K / K[2, 2], ego_from_cam)


def moved(K: Floats, ego_from_cam: Floats, move: Move) -> tuple[Floats, Floats]:
    """The same of the camera after the move."""
    a = np.deg2rad(move.pitch_deg)
    upwards = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(a), -np.sin(a)], [0.0, np.sin(a), np.cos(a)]])
    pose = ego_from_cam.copy()
    pose[:3, :3] = rotation_from_yaw(np.deg2rad(move.yaw_deg)) @ ego_from_cam[:3, :3] @ upwards
    pose[2, 3] += move.up_m
    return K @ np.diag([move.zoom, move.zoom, 1.0]), pose


def projection(K: Floats, ego_from_cam: Floats) -> Floats:
    """(4, 4) img_from_ego."""
    cam_from_ego = np.eye(4)
    cam_from_ego[:3, :3] = ego_from_cam[:3, :3].T
    cam_from_ego[:3, 3] = -ego_from_cam[:3, :3].T @ ego_from_cam[:3, 3]
    img_from_cam = np.eye(4)
    img_from_cam[:3, :3] = K
    return img_from_cam @ cam_from_ego


def views(
    photos: Sequence[Photo],
    cameras: Sequence[Photo],
    affines: Sequence[Floats],
    move: Move,
    points: Floats,
    boxes: Floats,
    size: tuple[int, int],
) -> tuple[list[NDArray[np.uint8]], list[Floats]]:
    """What `cameras` (of which the images do not count) would take after the move, (h, w, 3) each, with img_from_ego.

    photos: what is known of the moment. affines: (3, 3) of pixels each, as images are augmented: they are part of the
    new camera, so that nothing is resampled twice. points (P, 3) of LiDAR, boxes (M, 7), in the ego frame.
    """
    scene = Scene(photos, points, boxes)
    pictures, projections = [], []
    for camera, affine in zip(cameras, affines, strict=True):
        K, pose = moved(camera.K, camera.ego_from_cam, move)
        pictures.append(scene.seen_from(affine @ K, pose, size)[0])
        projections.append(projection(affine @ K, pose))
    return pictures, projections
