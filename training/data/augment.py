"""Augmentation in image and BEV space that keeps geometry true: pixels, projection, points and boxes move together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.geometry import rotation_from_yaw, transform_boxes
from bev_perception.model_spec import ImageSpec
from training.data.photometric import distort
from training.data.resample import Source, resample
from training.data.view_change import STAYS, ViewChange

COVER_BGR = (104, 116, 124)  # ImageNet's mean, which is zero to a network


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random choices. BEV values are BEVDet's; probabilities of dropout are per frame.

    image_scale: of the network's image, 1 for the size that the vehicle sees (ImageSpec.zoom is in it).
    bev_shift_m: standard deviation of the scene's shift along each axis (CenterPoint's voxels: 0.5). photometric: SSD's
    colour distortion, too (BEVFormer). grid_mask: how often squares of the current frame's images are covered
    (BEVFormer: 0.7).
    """

    image_scale: tuple[float, float] = (0.94, 1.15)
    image_rotation_deg: float = 2.0
    image_flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    bev_flip_x: float = 0.5
    bev_flip_y: float = 0.5
    bev_rotation_deg: float = 22.5
    bev_scale: tuple[float, float] = (0.95, 1.05)
    drop_camera: float = 0.05  # each camera by itself
    drop_all_cameras: float = 0.1
    drop_radar: float = 0.05  # each radar by itself
    drop_all_radars: float = 0.15
    drop_prev: float = 0.15
    bev_shift_m: float = 0.0
    photometric: bool = False
    grid_mask: float = 0.0
    view: ViewChange = STAYS  # cameras that stand elsewhere


NO_AUGMENTATION = Augmentation((1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0)


def draw_bev(rng: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    """(4, 4) aug_from_ego: flips of x and y, a rotation about +z, a scale, a shift. `geometry.invert` is for rigid
    transforms and does not hold for it."""
    angle = np.radians(rng.uniform(-1, 1) * augmentation.bev_rotation_deg)
    flips = [-1.0 if rng.random() < p else 1.0 for p in (augmentation.bev_flip_x, augmentation.bev_flip_y)]
    aug_from_ego = np.eye(4)
    scale = rng.uniform(*augmentation.bev_scale)
    aug_from_ego[:3, :3] = scale * rotation_from_yaw(angle) @ np.diag([*flips, 1.0])
    if augmentation.bev_shift_m:
        aug_from_ego[:3, 3] = rng.normal(0.0, augmentation.bev_shift_m, 3)
    return aug_from_ego


def augment_boxes(aug_from_ego: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(M, 7) boxes in the augmented frame; their sizes scale too."""
    moved = transform_boxes(aug_from_ego, boxes)
    moved[:, 3:6] *= np.linalg.norm(aug_from_ego[:3, 0])
    return moved


def changes(augmentation: Augmentation) -> tuple[str, ...]:
    """Names of the fields by which something is changed. The ranges of cameras that never move change nothing."""
    off = NO_AUGMENTATION if augmentation.view.share else dataclasses.replace(NO_AUGMENTATION, view=augmentation.view)
    names = (field.name for field in dataclasses.fields(augmentation))
    return tuple(name for name in names if getattr(augmentation, name) != getattr(off, name))


def moves_pixels(augmentation: Augmentation) -> bool:
    """Whether images are scaled, turned, mirrored or drawn from elsewhere, and not their colours alone changed."""
    return bool({"image_scale", "image_rotation_deg", "image_flip", "view"} & set(changes(augmentation)))


def draw_image(rng: np.random.Generator, augmentation: Augmentation, spec: ImageSpec) -> np.ndarray:
    """(3, 3) aug_from_img in pixels of the network's image: scale, crop, rotation about the centre, flip.

    Of the scaled image the bottom rows are kept, and of its columns a random part; where it is narrower than the
    network's it stands at the left (BEVDet and BEVDepth, `sample_augmentation`).
    """
    height, width = spec.height, spec.width
    scaling = np.eye(3)
    if augmentation.image_scale != (1.0, 1.0):
        scale, left = rng.uniform(*augmentation.image_scale), (spec.scaled_width - width) // 2
        crop = rng.uniform(0.0, max(0.0, scale * spec.scaled_width - width))
        # A pixel's centre lies half a pixel from its edges, which is where the scaled image begins and ends.
        u, v = scale * (left + 0.5) - crop - 0.5, (height - 0.5) * (1 - scale)
        scaling = np.array([[scale, 0, u], [0, scale, v], [0, 0, 1]])
    angle = np.radians(rng.uniform(-1, 1) * augmentation.image_rotation_deg)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, cx - c * cx + s * cy], [s, c, cy - s * cx - c * cy], [0, 0, 1]])
    flip = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) if rng.random() < augmentation.image_flip else np.eye(3)
    return flip @ rotation @ scaling


def augment_image(
    image: np.ndarray,
    source: Source | None,
    img_from_ego: np.ndarray,
    spec: ImageSpec,
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and its (4, 4) projection -> both after a random affine and a photometric change.

    source: what the image was made of, and is made of anew; None where the affine is always the identity.
    """
    aug_from_img = draw_image(rng, augmentation, spec)
    if source is not None and not np.allclose(aug_from_img, np.eye(3)):
        image = resample(source, spec, aug_from_img)
    # Homogeneous pixels are (u d, v d, d): the affine acts on the first three rows of the projection.
    projection = img_from_ego.copy()
    projection[:3] = aug_from_img @ img_from_ego[:3]
    return change_colours(image, rng, augmentation), projection


def change_colours(image: np.ndarray, rng: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    """(H, W, 3) uint8 -> the same with other brightness, contrast and colours."""
    if augmentation.brightness or augmentation.contrast:
        gain = 1 + rng.uniform(-1, 1) * augmentation.contrast
        shift = 255 * rng.uniform(-1, 1) * augmentation.brightness * 0.5
        image = cv2.convertScaleAbs(image, alpha=gain, beta=max(shift, 0.0))
        if shift < 0:  # convertScaleAbs would mirror what falls below zero
            image = cv2.subtract(image, np.array([-shift, -shift, -shift, 0.0]))
    return distort(image, rng) if augmentation.photometric else image


def cover(images: np.ndarray, spec: ImageSpec, rng: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    """(N, H, W, 3) uint8 images of a frame -> the same, as often as augmentation.grid_mask says with squares painted
    over.

    GridMask (Chen et al., 2020) as BEVFormer calls it: a period of 2 pixels up to the height, squares of half a period
    that begin anywhere and are not turned, the same in all cameras.
    """
    if rng.random() >= augmentation.grid_mask:
        return images
    period = int(rng.integers(2, spec.height))
    seen = min(max(int(0.5 * period + 0.5), 1), period - 1)
    rows, columns = ((np.arange(n) + rng.integers(period)) % period >= seen for n in (spec.height, spec.width))
    covered = images.copy()
    covered[:, rows[:, None] & columns] = COVER_BGR if spec.color_order == "bgr" else COVER_BGR[::-1]
    return covered


def drop_sensors(
    camera_valid: np.ndarray, radar_valid: np.ndarray, rng: np.random.Generator, augmentation: Augmentation
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (R,) float32 masks with random sensors, or one whole kind of sensor, switched off; never both kinds."""
    camera_valid = camera_valid * (rng.random(len(camera_valid)) >= augmentation.drop_camera).astype(np.float32)
    radar_valid = radar_valid * (rng.random(len(radar_valid)) >= augmentation.drop_radar).astype(np.float32)
    choice = rng.random()
    if choice < augmentation.drop_all_cameras:
        camera_valid = np.zeros_like(camera_valid)
    elif choice < augmentation.drop_all_cameras + augmentation.drop_all_radars:
        radar_valid = np.zeros_like(radar_valid)
    return camera_valid, radar_valid
