"""Undistortion: against OpenCV's forward models over the range of coefficients, and black where a model folds."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from test_images import CALIBRATION, SPEC, K, frame_of, smooth_scene, view_of

from bev_perception.geometry import project
from bev_perception.preprocess.images import img_from_cam, prepare_images, resize_crop, samples_per_pixel
from bev_perception.preprocess.undistort import DISTORTION_MODELS, fold, is_distorted, undistort


@pytest.mark.parametrize(
    ("model", "D"),
    [
        ("plumb_bob", (-0.30, 0.09, 0.001, -0.002, 0.0)),
        ("rational_polynomial", (0.2, -0.1, 0.0, 0.0, 0.01, 0.5, -0.12, 0.02)),
        ("equidistant", (0.05, -0.01, 0.002, 0.0)),
        ("fisheye", (0.05, -0.01, 0.002, 0.0)),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_undistortion_moves_dots_to_where_the_pinhole_camera_sees_them(model, D, compressed):
    calibration = dataclasses.replace(CALIBRATION, distortion_model=model, D=D)
    for point in ([0.3, 0.8, 8.0], [-4.0, 1.5, 10.0], [3.5, 2.0, 11.0]):
        if model in ("equidistant", "fisheye"):
            distorted, _ = cv2.fisheye.projectPoints(np.array([[point]]), np.zeros(3), np.zeros(3), K, np.array(D))
        else:
            distorted, _ = cv2.projectPoints(np.array([point]), np.zeros(3), np.zeros(3), K, np.array(D))
        u, v = distorted.ravel()
        ys, xs = np.mgrid[:900, :1600]
        blob = (255 * np.exp(-((xs - u) ** 2 + (ys - v) ** 2) / (2 * 6.0**2))).astype(np.uint8)
        data = cv2.cvtColor(blob, cv2.COLOR_GRAY2BGR)
        view = view_of("bgr8", data, calibration)
        if compressed:
            view = view_of("png", cv2.imencode(".png", data)[1].ravel(), calibration)
        image = prepare_images(frame_of(view, None), SPEC)[0][0, ..., 0].astype(float)
        pixels, _ = project(img_from_cam(calibration, SPEC.image), np.array([point]))
        centroid = [(image.sum(axis=1 - axis) * np.arange(image.shape[axis])).sum() / image.sum() for axis in (1, 0)]
        assert np.abs(pixels[0] - centroid).max() < 0.1


def test_undistortion_without_distortion_is_the_plain_resize():
    image = smooth_scene(1600, 900)
    spec = SPEC.image
    samples = samples_per_pixel(1600, spec)
    calibration = dataclasses.replace(CALIBRATION, distortion_model="plumb_bob", D=(0.0,) * 5)
    sampled = undistort(image, calibration, img_from_cam(calibration, spec), (spec.width, spec.height), samples)
    mean = sampled.reshape(spec.height, samples, spec.width, samples, 3).mean(axis=(1, 3))
    assert np.abs(mean - resize_crop(image, spec)).max() <= 3.0  # remap rounds its positions to 1/32 pixel


def test_where_the_camera_does_not_look_is_black():
    """A barrel camera sees less of the pinhole image's corners than of its middle."""
    distorted = dataclasses.replace(CALIBRATION, distortion_model="plumb_bob", D=(0.8, 0.0, 0.0, 0.0, 0.0))
    white = np.full((900, 1600, 3), 255, np.uint8)
    image = prepare_images(frame_of(view_of("bgr8", white, distorted), None), SPEC)[0][0]
    assert (image[64, 176] == 255).all() and (image[-1, 0] == 0).all() and (image[-1, -1] == 0).all()


def test_what_counts_as_distorted():
    for D, bends in (((), False), ((0.0,) * 5, False), ((1.0,), True), ((0.0, 0.0, 0.001, 0.0, 0.0), True)):
        assert is_distorted(dataclasses.replace(CALIBRATION, D=D)) is bends


# Draws of each model's coefficients, as wide as calibrations of lenses are: (lowest, highest) of each.
RANGES = {
    ("plumb_bob", 4): [(-0.5, 0.5), (-0.4, 0.4), (-0.01, 0.01), (-0.01, 0.01)],
    ("plumb_bob", 5): [(-0.5, 0.5), (-0.4, 0.4), (-0.01, 0.01), (-0.01, 0.01), (-0.3, 0.3)],
    ("rational_polynomial", 8): [(-1, 8), (-2, 8), (-0.01, 0.01), (-0.01, 0.01), (-1, 1), (-1, 8), (-2, 8), (-1, 3)],
    ("rational_polynomial", 12): [(-1, 2), (-1, 1), (-0.01, 0.01), (-0.01, 0.01), (-1, 1), (-1, 2), (-1, 1), (-1, 1)]
    + [(-0.01, 0.01)] * 4,
    ("rational_polynomial", 14): [(-0.5, 1), (-1, 1), (-0.01, 0.01), (-0.01, 0.01), (-1, 1), (-0.5, 1)]
    + [(-1, 1)] * 2 + [(-0.01, 0.01)] * 4 + [(-0.1, 0.1)] * 2,
    ("equidistant", 4): [(-0.3, 0.3), (-0.2, 0.2), (-0.1, 0.1), (-0.05, 0.05)],
    ("fisheye", 4): [(-0.3, 0.3), (-0.2, 0.2), (-0.1, 0.1), (-0.05, 0.05)],
}  # fmt: skip
GRADIENT = np.dstack(np.broadcast_arrays(np.zeros((90, 160)), *np.mgrid[:90, :160])).astype(np.float32)


def distorted(model, D, rays):
    """(P, 2) pixels where OpenCV's forward model sees (P, 3) rays, in a camera of 160x90."""
    small = np.array([[100.0, 0, 79.5], [0, 100.0, 44.5], [0, 0, 1]])
    if DISTORTION_MODELS[model].fisheye:
        return cv2.fisheye.projectPoints(rays[None], np.zeros(3), np.zeros(3), small, np.array(D))[0][0]
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), small, np.array(D))[0][:, 0]


@pytest.mark.parametrize(("model", "length"), RANGES)
def test_every_model_over_the_range_of_its_coefficients(model, length):
    """The source's pixel of each target pixel is where OpenCV projects its ray; from the fold on there is none.

    The image holds its own coordinates, so that what comes out says where it was taken.
    """
    assert {name for name, _ in RANGES} == set(DISTORTION_MODELS)
    K_small = np.array([[100.0, 0, 79.5], [0, 100.0, 44.5], [0, 0, 1]])
    wide = np.array([[60.0, 0, 79.5], [0, 60.0, 44.5], [0, 0, 1]])
    v, u = np.mgrid[:90, :160]
    rays = np.dstack([(u - 79.5) / 60, (v - 44.5) / 60, np.ones((90, 160))]).reshape(-1, 3)
    radius = np.hypot(rays[:, 0], rays[:, 1]).reshape(90, 160)
    projection = np.eye(4)
    projection[:3, :3] = wide
    rng = np.random.default_rng(0)
    folded = 0
    for _ in range(40):
        D = tuple(float(rng.uniform(*limits)) for limits in RANGES[model, length])
        calibration = dataclasses.replace(CALIBRATION, width=160, height=90, K=K_small, distortion_model=model, D=D)
        image = undistort(GRADIENT + 1, calibration, projection, (160, 90), 1)
        at = distorted(model, D, rays).reshape(90, 160, 2)
        inside = (at >= 1).all(axis=2) & (at <= [158, 88]).all(axis=2)
        edge = fold(model, D)
        seen = inside & (radius < 0.97 * edge) & image.any(axis=2)
        assert seen.sum() > 500
        (u_down, u_right), (v_down, v_right) = (np.gradient(at[..., axis]) for axis in (0, 1))
        upright = u_right * v_down - u_down * v_right > 0.05  # tangential terms fold, too
        assert image[inside & (radius < 0.97 * edge) & upright].any(axis=1).all()
        assert np.abs(image[seen][:, [2, 1]] - 1 - at[seen]).max() < 0.04  # remap rounds to 1/32 of a pixel
        assert not image[radius >= edge].any()
        folded += (inside & (radius > edge)).any()
    assert folded or model in ("equidistant", "fisheye")


@pytest.mark.parametrize(("model", "length"), RANGES)
def test_the_fold_is_where_the_radius_stops_growing(model, length):
    """Against the forward model by small steps along one direction, without its tangential terms."""
    rng = np.random.default_rng(1)
    slopes = np.linspace(0, 6, 6001)
    found = 0
    for _ in range(100):
        D = [float(rng.uniform(*limits)) for limits in RANGES[model, length]]
        if not DISTORTION_MODELS[model].fisheye:
            D[2:4] = [0.0, 0.0]
            D[8:] = [0.0] * len(D[8:])
        rays = np.column_stack([slopes, np.zeros_like(slopes), np.ones_like(slopes)])
        along = distorted(model, D, rays)[:, 0]
        falls = np.flatnonzero(np.diff(along) <= 0)
        expected = slopes[falls[0]] if len(falls) else np.inf
        if fold(model, tuple(D)) < 5.9 or np.isfinite(expected):
            assert fold(model, tuple(D)) == pytest.approx(expected, abs=0.02)
            found += 1
    assert found > 10


def test_beyond_the_fold_nothing_is_mirrored():
    """k1 = -0.5 turns back at a slope of 0.816: a bright dot at 0.6 would be seen a second time at 1.0."""
    D = (-0.5, 0.0, 0.0, 0.0)
    assert fold("plumb_bob", D) == pytest.approx((2 / 3) ** 0.5)
    wide = np.array([[600.0, 0, 799.5], [0, 600.0, 449.5], [0, 0, 1]])
    calibration = dataclasses.replace(CALIBRATION, K=wide, distortion_model="plumb_bob", D=D)
    white = np.full((900, 1600, 3), 255, np.uint8)
    image = prepare_images(frame_of(view_of("bgr8", white, calibration), None), SPEC)[0][0]
    slopes = np.hypot(*np.meshgrid((np.arange(352) - 175.5) / 132, (np.arange(128) - 28.4) / 132))
    assert (image[slopes < 0.78] == 255).all() and not image[slopes > 0.85].any()
