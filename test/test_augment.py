"""Augmentation keeps pixels, projection, points and boxes together."""

from __future__ import annotations

import colorsys
import dataclasses
from functools import cache

import cv2
import numpy as np
import pytest

from bev_perception.geometry import box_corners, project, transform_points
from bev_perception.model_spec import ImageSpec
from bev_perception.preprocess.images import image_from_source, network_image, received_image, samples_per_pixel
from bev_perception.structures import CameraCalibration, CameraFrame, CameraView, EgoPose
from training.data.augment import (
    COVER_BGR,
    NO_AUGMENTATION,
    Augmentation,
    augment_boxes,
    augment_image,
    cover,
    draw_bev,
    draw_image,
    drop_sensors,
)
from training.data.photometric import CONTRAST, HUE_DEG, SATURATION, distort
from training.data.resample import Source, resample

STRONG = Augmentation(image_scale=(0.8, 1.3), image_rotation_deg=8, brightness=0, contrast=0)
SPEC = ImageSpec(64, 128, zoom=1.1)
K = np.array([[90.0, 0, 63.5, 0], [0, 90, 31.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
IMG_FROM_EGO = K @ np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def view_of(picture: np.ndarray, encoding: str) -> CameraView:
    """A picture as a data set has it."""
    suffix, quality = {"jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]), "png": (".png", [])}[encoding]
    data = np.asarray(cv2.imencode(suffix, picture, quality)[1]).ravel()
    height, width = picture.shape[:2]
    calibration = CameraCalibration(width, height, np.diag([width, width, 1.0]), np.eye(4))
    return CameraView(CameraFrame("CAM", 0, encoding, data), calibration, EgoPose(0, np.eye(4)))


def source_of(view: CameraView, spec: ImageSpec) -> Source:
    return Source(received_image(view, spec), samples_per_pixel(view.calibration.width, spec))


def at_zoom(zoom: float) -> Augmentation:
    return dataclasses.replace(NO_AUGMENTATION, image_scale=(zoom, zoom))


@pytest.mark.parametrize("seed", range(8))
def test_a_bright_spot_stays_under_its_point(seed: int) -> None:
    point = np.array([[10.0, 1.2, 0.6]])
    u, v = project(IMG_FROM_EGO, point)[0][0]
    scale_x, scale_y, top, left = image_from_source(480, 270, SPEC)
    rows, cols = np.mgrid[:270, :480]
    at = (v + top + 0.5) / scale_y - 0.5, (u + left + 0.5) / scale_x - 0.5
    spot = (255 * np.exp(-((cols - at[1]) ** 2 + (rows - at[0]) ** 2) / (8 / scale_x**2))).astype(np.uint8)
    source = Source(np.repeat(spot[..., None], 3, 2), samples_per_pixel(480, SPEC))
    still = resample(source, SPEC, np.eye(3))
    image, projection = augment_image(still, source, IMG_FROM_EGO, SPEC, np.random.default_rng(seed), STRONG)
    rows, cols = np.mgrid[: SPEC.height, : SPEC.width]
    for shown, seen_by in ((still, IMG_FROM_EGO), (image, projection)):
        weights = shown[..., 0].astype(float)
        found = np.array([(weights * cols).sum(), (weights * rows).sum()]) / weights.sum()
        np.testing.assert_allclose(found, project(seen_by, point)[0][0], atol=0.1)


@cache
def natural(height: int = 900, width: int = 1600) -> np.ndarray:
    """(H, W, 3) uint8 whose amplitudes fall with the frequency, as those of photographs do, behind a lens as soft as
    nuScenes'."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random(frequency.shape))
    grey = np.fft.irfft2(phases / frequency, (height, width))
    picture = np.clip(128 + 45 * grey / grey.std(), 0, 255).astype(np.uint8)
    return np.repeat(cv2.GaussianBlur(picture, (0, 0), 1.0)[..., None], 3, 2)


def gradient(image: np.ndarray) -> float:
    grey = image[8:-8, 8:-8, 0].astype(float)
    return float(np.hypot(np.diff(grey, axis=1)[:-1], np.diff(grey, axis=0)[:, :-1]).mean())


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
@pytest.mark.parametrize(
    "spec", [ImageSpec(256, 704), ImageSpec(256, 704, zoom=12 / 11), ImageSpec(128, 352)], ids=["704", "768", "352"]
)
def test_images_are_as_sharp_at_every_zoom_as_on_the_vehicle(spec: ImageSpec, encoding: str) -> None:
    """Sharpness: the mean gradient beside that of the mean of 6 x 6 samples of the whole picture at that zoom."""
    view = view_of(natural(), encoding)
    source, whole = source_of(view, spec), Source(natural(), 6)
    vehicle = network_image(view, spec)
    ratios = [gradient(vehicle) / gradient(resample(whole, spec, np.eye(3)))]
    for zoom in (0.8, 0.9, 1.0, 1.1, 1.25):
        rng = np.random.default_rng(0)
        image, _ = augment_image(vehicle, source, IMG_FROM_EGO, spec, rng, at_zoom(zoom))
        same = draw_image(np.random.default_rng(0), at_zoom(zoom), spec)
        ratios.append(gradient(image) / gradient(resample(whole, spec, same)))
    assert max(ratios) / min(ratios) < 1.15


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_an_augmentation_that_does_nothing_gives_the_vehicles_image(encoding: str, order: str) -> None:
    spec = ImageSpec(128, 352, order)
    picture = natural().copy()
    picture[..., 0] //= 2
    view = view_of(picture, encoding)
    vehicle = network_image(view, spec)
    again = resample(source_of(view, spec), spec, np.eye(3))
    assert np.abs(again.astype(int) - vehicle).max() <= 2  # fixed-point weights
    rng = np.random.default_rng(0)
    flips = dataclasses.replace(NO_AUGMENTATION, image_flip=1e-9)
    image, _ = augment_image(vehicle, source_of(view, spec), IMG_FROM_EGO, spec, rng, flips)
    np.testing.assert_array_equal(image, vehicle)


def test_a_smaller_image_shows_what_was_cut_away_and_stands_at_the_left() -> None:
    spec = ImageSpec(64, 128)
    white = view_of(np.full((225, 400, 3), 255, np.uint8), "png")
    image, _ = augment_image(
        network_image(white, spec), source_of(white, spec), IMG_FROM_EGO, spec, np.random.default_rng(0), at_zoom(0.9)
    )
    assert image[:, :115].min() > 250, "the rows above the crop are there"
    assert not image[:, 116:].any(), "nine tenths of 128 columns"


def test_of_a_larger_image_every_part_of_its_columns_is_shown_alike_and_the_bottom_rows() -> None:
    """The scaled image is 1.2 x 1.1 x 128 columns wide: the crop begins anywhere in the first 41."""
    wide = at_zoom(1.2)
    matrices = [draw_image(np.random.default_rng(seed), wide, SPEC) for seed in range(400)]
    scaled_left = (SPEC.scaled_width - SPEC.width) // 2
    begins = np.array([1.2 * (scaled_left + 0.5) - 0.5 - m[0, 2] for m in matrices])
    room = 1.2 * SPEC.scaled_width - SPEC.width
    assert begins.min() == pytest.approx(0, abs=0.5) and begins.max() == pytest.approx(room, abs=0.5)
    assert begins.mean() == pytest.approx(room / 2, rel=0.1)
    for m in matrices[:3]:
        assert m @ [0, SPEC.height - 0.5, 1] == pytest.approx([m[0, 2], SPEC.height - 0.5, 1])


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
        found, projection = augment_image(image, None, IMG_FROM_EGO, SPEC, rng, colours)
        np.testing.assert_array_equal(projection, IMG_FROM_EGO)
        same += np.array_equal(found, image)
    # Five coins, and one order of channels in six is the old one.
    assert same / 640 == pytest.approx(0.5**4 * (0.5 + 0.5 / 6), abs=0.025)


def test_no_augmentation_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 128, 3)).astype(np.uint8)
    same, projection = augment_image(image, None, IMG_FROM_EGO, SPEC, rng, NO_AUGMENTATION)
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


def covered_by(seed: int) -> np.ndarray:
    """(H, W) bool, of two white cameras."""
    images = np.full((2, 64, 128, 3), 255, np.uint8)
    found = cover(images, SPEC, np.random.default_rng(seed), dataclasses.replace(NO_AUGMENTATION, grid_mask=1.0))
    assert images.min() == 255 and (found[0] == found[1]).all()
    dark = (found[0] != 255).all(axis=-1)
    assert (found[0][dark] == COVER_BGR).all()
    return dark


@pytest.mark.parametrize("seed", range(20))
def test_grid_mask_covers_squares_of_half_a_period_at_equal_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rng.random()
    period = int(rng.integers(2, 64))
    dark = covered_by(seed)
    rows, columns = dark.any(axis=1), dark.any(axis=0)
    np.testing.assert_array_equal(dark, rows[:, None] & columns, "squares")
    for line in (rows, columns):
        np.testing.assert_array_equal(line[period:], line[:-period], f"period {period}")
        if len(line) >= period:
            assert int(line[:period].sum()) == period - min(max(int(period * 0.5 + 0.5), 1), period - 1)


def test_grid_mask_has_its_rate_its_colour_and_the_colour_order_of_the_spec() -> None:
    mostly = dataclasses.replace(NO_AUGMENTATION, grid_mask=0.7)
    image = np.full((1, 64, 128, 3), 255, np.uint8)
    rng = np.random.default_rng(0)
    assert np.mean([cover(image, SPEC, rng, mostly).min() < 255 for _ in range(1000)]) == pytest.approx(0.7, abs=0.05)
    rgb = cover(image, dataclasses.replace(SPEC, color_order="rgb"), np.random.default_rng(1), mostly)
    assert {tuple(pixel) for pixel in rgb.reshape(-1, 3)} == {(255, 255, 255), COVER_BGR[::-1]}
