"""Augmentation keeps pixels, projection, points and boxes together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bev_perception.geometry import box_corners, project, transform_points
from training.data.augment import NO_AUGMENTATION, Augmentation, augment_boxes, augment_image, draw_bev, drop_sensors

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
        aug_from_ego = draw_bev(np.random.default_rng(seed), Augmentation())
        point = np.array([[8.0, -2.0, 1.0]])
        before, depth = project(IMG_FROM_EGO, point)
        after, depth_after = project(IMG_FROM_EGO @ np.linalg.inv(aug_from_ego), transform_points(aug_from_ego, point))
        np.testing.assert_allclose(after, before, atol=1e-9)
        np.testing.assert_allclose(depth_after, depth)  # metres of the real world: the projection absorbs the scale


def test_boxes_scale_turn_and_mirror_with_their_corners() -> None:
    wide = dataclasses.replace(Augmentation(), bev_scale=(0.5, 2.0))
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
