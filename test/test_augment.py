"""Augmentation keeps pixels, projection, points and boxes together."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest

from bev_perception.geometry import box_corners, project, transform_points
from training.data.augment import NO_AUGMENTATION, Augmentation, augment_boxes, augment_image, draw_bev, drop_sensors
from training.data.photometric import CONTRAST, HUE_DEG, SATURATION, distort

STRONG = Augmentation(image_scale=(0.9, 1.3), image_rotation_deg=8, brightness=0, contrast=0)
K = np.array([[90.0, 0, 63.5, 0], [0, 90, 31.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
IMG_FROM_EGO = K @ np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("seed", range(8))
def test_a_bright_spot_stays_under_its_point(seed: int) -> None:
    point = np.array([[10.0, 1.2, 0.6]])
    (u, v), _ = project(IMG_FROM_EGO, point)[0][0], None
    rows, cols = np.mgrid[:64, :128]
    spot = (255 * np.exp(-((cols - u) ** 2 + (rows - v) ** 2) / 8)).astype(np.uint8)
    image, projection = augment_image(
        np.repeat(spot[..., None], 3, 2), IMG_FROM_EGO, np.random.default_rng(seed), STRONG
    )
    weights = image[..., 0].astype(float)
    found = np.array([(weights * cols).sum(), (weights * rows).sum()]) / weights.sum()
    np.testing.assert_allclose(found, project(projection, point)[0][0], atol=0.35)


def test_bev_augmentation_keeps_a_point_in_its_pixel() -> None:
    for seed in range(8):
        aug_from_ego = draw_bev(np.random.default_rng(seed), dataclasses.replace(Augmentation(), bev_shift_m=0.5))
        point = np.array([[8.0, -2.0, 1.0]])
        before, depth = project(IMG_FROM_EGO, point)
        after, depth_after = project(IMG_FROM_EGO @ np.linalg.inv(aug_from_ego), transform_points(aug_from_ego, point))
        np.testing.assert_allclose(after, before, atol=1e-9)
        np.testing.assert_allclose(depth_after, depth)  # metres of the real world: the projection absorbs the scale


def test_boxes_scale_turn_and_mirror_with_their_corners() -> None:
    wide = dataclasses.replace(Augmentation(), bev_scale=(0.5, 2.0), bev_shift_m=1.0)
    box = np.array([[8.0, -2.0, 1.0, 4.5, 2.0, 1.5, 0.7]])
    scales = []
    for seed in range(8):
        aug_from_ego = draw_bev(np.random.default_rng(seed), wide)
        scales.append(abs(np.linalg.det(aug_from_ego)) ** (1 / 3))
        expected = transform_points(aug_from_ego, box_corners(box)[0])
        found = box_corners(augment_boxes(aug_from_ego, box))[0]
        distance = np.linalg.norm(expected[:, None] - found[None], axis=2)
        assert distance.min(axis=0).max() < 1e-9 and distance.min(axis=1).max() < 1e-9
    assert min(scales) < 0.8 and max(scales) > 1.2


def test_the_scene_is_shifted_by_its_standard_deviation_after_everything_else() -> None:
    still = draw_bev(np.random.default_rng(3), Augmentation())
    shifted = draw_bev(np.random.default_rng(3), dataclasses.replace(Augmentation(), bev_shift_m=0.5))
    np.testing.assert_array_equal(shifted[:3, :3], still[:3, :3])
    assert not still[:3, 3].any() and shifted[:3, 3].all()
    alone = dataclasses.replace(NO_AUGMENTATION, bev_shift_m=0.5)
    rng = np.random.default_rng(0)
    shifts = np.array([draw_bev(rng, alone)[:3, 3] for _ in range(4000)])
    np.testing.assert_allclose(shifts.mean(axis=0), 0.0, atol=0.03)
    np.testing.assert_allclose(shifts.std(axis=0), 0.5, atol=0.02)


@pytest.mark.parametrize("seed", range(40))
def test_photometric_distortion_against_a_pixel_at_a_time(seed: int) -> None:
    image = np.random.default_rng(1000 + seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    rng = np.random.default_rng(seed)
    contrast = rng.uniform(*CONTRAST) if rng.random() < 0.5 else 1.0
    first = rng.random() < 0.5
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-HUE_DEG, HUE_DEG) if rng.random() < 0.5 else 0.0
    order = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
    image = np.maximum(image, 33)  # below zero saturation has no meaning, here and there
    expected = np.empty(image.shape)
    for row, col in np.ndindex(4, 5):
        blue, green, red = (image[row, col].astype(float) + brightness) * (contrast if first else 1.0)
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        red, green, blue = colorsys.hsv_to_rgb((h + hue / 360) % 1.0, s * saturation, v)
        expected[row, col] = (np.array([blue, green, red]) * (1.0 if first else contrast))[order]
    found = distort(image, np.random.default_rng(seed))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=0.51)


def test_photometric_distortion_keeps_the_geometry_and_often_the_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (8, 16, 3)).astype(np.uint8)
    colours = dataclasses.replace(NO_AUGMENTATION, photometric=True)
    same = 0
    for _ in range(640):
        found, projection = augment_image(image, IMG_FROM_EGO, rng, colours)
        np.testing.assert_array_equal(projection, IMG_FROM_EGO)
        same += np.array_equal(found, image)
    # Five coins, and one order of channels in six is the old one.
    assert same / 640 == pytest.approx(0.5**4 * (0.5 + 0.5 / 6), abs=0.025)


def test_no_augmentation_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 128, 3)).astype(np.uint8)
    same, projection = augment_image(image, IMG_FROM_EGO, rng, NO_AUGMENTATION)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(projection, IMG_FROM_EGO)
    np.testing.assert_array_equal(draw_bev(rng, NO_AUGMENTATION), np.eye(4))
    cameras, radars = drop_sensors(np.ones(6, dtype=np.float32), np.ones(5, dtype=np.float32), rng, NO_AUGMENTATION)
    assert cameras.all() and radars.all()


def test_dropout_has_its_rates_and_leaves_a_kind_alive() -> None:
    rng, n = np.random.default_rng(0), 4000
    wish = Augmentation(drop_camera=0.1, drop_all_cameras=0.2, drop_radar=0.0, drop_all_radars=0.3)
    masks = [drop_sensors(np.ones(6, dtype=np.float32), np.ones(5, dtype=np.float32), rng, wish) for _ in range(n)]
    no_cameras = np.mean([not c.any() for c, _ in masks])
    no_radars = np.mean([not r.any() for _, r in masks])
    assert no_cameras == pytest.approx(0.2, abs=0.03) and no_radars == pytest.approx(0.3, abs=0.03)
    assert all(c.any() or r.any() for c, r in masks)
    alive = [c for c, _ in masks if c.any()]
    assert np.mean(alive) == pytest.approx(0.9, abs=0.02)
