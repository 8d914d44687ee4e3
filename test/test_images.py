"""Images: the kernel against OpenCV on whole images, the intrinsics against bright dots, encodings, and bad input."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from bev_perception.geometry import make_transform, project, rotation_from_yaw
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec
from bev_perception.preprocess.encodings import ImageError, decode_image, source_size
from bev_perception.preprocess.images import (
    image_from_source,
    img_from_cam,
    prepare_images,
    resize_crop,
    samples_per_pixel,
)
from bev_perception.structures import CameraCalibration, CameraFrame, CameraView, EgoPose, SensorFrame

K = np.array([[1260.0, 0.0, 802.0], [0.0, 1240.0, 470.0], [0.0, 0.0, 1.0]])
EGO = EgoPose(0, np.eye(4))
EGO_FROM_CAM = make_transform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([1.7, 0.0, 1.5]))
CALIBRATION = CameraCalibration(1600, 900, K, EGO_FROM_CAM)
SPEC = ModelSpec("m", ("a", "b"), (), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0))


def smooth_scene(width, height, channels=3, seed=0):
    """A picture without detail finer than a few pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20 + 2, width // 20 + 2, channels), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


def frame_of(*views):
    return SensorFrame(0, EGO, tuple(views), ())


def view_of(encoding, data, calibration=CALIBRATION, ego=EGO):
    return CameraView(CameraFrame("a", 0, encoding, data), calibration, ego)


def reasons(problems):
    assert all(fault.detail for fault in problems.values())
    return {name: fault.reason for name, fault in problems.items()}


@pytest.mark.parametrize(
    "size", [(1600, 900), (1920, 1080), (1280, 720), (800, 450), (704, 396), (352, 198), (176, 99), (640, 480)]
)
@pytest.mark.parametrize("kernel", ["area", "linear"])
def test_resize_equals_opencv_on_the_whole_image(size, kernel):
    spec = ImageSpec(interpolation=kernel)
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    _, _, crop_top, _ = image_from_source(*size, spec)
    samples = samples_per_pixel(size[0], spec)
    rows = crop_top + spec.height
    sampled = cv2.resize(image, (samples * spec.width, samples * rows), interpolation=cv2.INTER_LINEAR)
    whole = sampled.reshape(rows, samples, spec.width, samples, 3).mean(axis=(1, 3))[crop_top:]
    found = resize_crop(image, spec)
    assert found.shape == (spec.height, spec.width, 3)
    assert np.abs(found - whole).max() <= 1.0  # rounding of fixed-point weights only


def test_area_is_close_to_the_true_area_kernel_and_linear_is_not():
    noise = np.random.default_rng(0).normal(0, 40, (900, 1600, 3))  # finer than a target pixel: only averaging kills it
    image = (0.5 * smooth_scene(1600, 900) + 64 + noise).clip(0, 255).astype(np.uint8)
    true = cv2.resize(image, (352, 198), interpolation=cv2.INTER_AREA)[70:].astype(float)
    area = (resize_crop(image, ImageSpec()) - true).std()
    linear = (resize_crop(image, ImageSpec(interpolation="linear")) - true).std()
    assert area < 10.5 and linear > 2.4 * area


@pytest.mark.parametrize("size", [(1600, 900), (1280, 720), (960, 604)])
@pytest.mark.parametrize("kernel", ["area", "linear"])
def test_intrinsics_follow_a_bright_dot(size, kernel):
    """A blob drawn where a 3D point projects in the source lies, resized, where img_from_cam puts the point."""
    spec = ImageSpec(interpolation=kernel)
    scale = size[0] / 1600
    calibration = CameraCalibration(*size, np.diag([scale, scale, 1.0]) @ K, np.eye(4))
    for point in ([0.5, 1.0, 9.0], [-5.0, 2.0, 12.0], [6.0, 0.3, 14.0]):
        u, v, w = calibration.K @ point
        u, v = u / w, v / w
        ys, xs = np.mgrid[: size[1], : size[0]]
        blob = 255 * np.exp(-((xs - u) ** 2 + (ys - v) ** 2) / (2 * 6.0**2))
        small = resize_crop(blob.astype(np.uint8), spec).astype(float)
        centroid = [(small.sum(axis=1 - axis) * np.arange(small.shape[axis])).sum() / small.sum() for axis in (1, 0)]
        pixels, depth = project(img_from_cam(calibration, spec), np.array([point]))
        assert np.abs(pixels[0] - centroid).max() < 0.05
        assert depth[0] == pytest.approx(point[2])


def encoded(image, encoding):
    """A BGR image as another encoding would carry it."""
    if encoding == "bgr8":
        return image
    if encoding in ("rgb8", "rgba8", "bgra8"):
        return cv2.cvtColor(image, getattr(cv2, f"COLOR_BGR2{encoding[:-1].upper()}"))
    if encoding == "mono8":
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        return cv2.cvtColor(image, cv2.COLOR_BGR2YUV_UYVY if encoding in ("yuv422", "uyvy") else cv2.COLOR_BGR2YUV_YUYV)
    pattern = {"r": 2, "g": 1, "b": 0}
    mosaic = np.zeros(image.shape[:2], np.uint8)
    for i, letter in enumerate(encoding[6:10]):
        mosaic[i // 2 :: 2, i % 2 :: 2] = image[i // 2 :: 2, i % 2 :: 2, pattern[letter]]
    return mosaic


@pytest.mark.parametrize(
    ("encoding", "mean_error"),
    [("bgr8", 0), ("rgb8", 0), ("bgra8", 0), ("rgba8", 0), ("yuv422", 2), ("uyvy", 2), ("yuv422_yuy2", 2), ("yuyv", 2)]
    + [(f"bayer_{p}8", 2) for p in ("rggb", "bggr", "gbrg", "grbg")],
)
def test_every_encoding_gives_the_same_image(encoding, mean_error):
    image = cv2.GaussianBlur(smooth_scene(1600, 900), (0, 0), 8)
    reference, *_ = prepare_images(frame_of(view_of("bgr8", image), None), SPEC)
    found, _, valid, problems = prepare_images(frame_of(view_of(encoding, encoded(image, encoding)), None), SPEC)
    assert valid.tolist() == [1.0, 0.0] and problems == {}
    assert np.abs(found[0].astype(float) - reference[0]).mean() <= mean_error
    assert not found[1].any()


def test_mono_becomes_grey():
    grey = smooth_scene(1600, 900, channels=1)[..., 0]
    found, _, valid, _ = prepare_images(frame_of(view_of("mono8", grey), None), SPEC)
    assert valid[0] == 1.0 and (found[0] == resize_crop(grey, SPEC.image)[..., None]).all()


def test_rgb_models_get_rgb():
    image = smooth_scene(1600, 900)
    spec = dataclasses.replace(SPEC, image=ImageSpec(color_order="rgb"))
    bgr, *_ = prepare_images(frame_of(view_of("bgr8", image), None), SPEC)
    rgb, *_ = prepare_images(frame_of(view_of("bgr8", image), None), spec)
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


@pytest.mark.parametrize(("encoding", "suffix"), [("jpeg", ".jpg"), ("png", ".png")])
def test_compressed_images_are_decoded_reduced_and_look_the_same(encoding, suffix):
    image = smooth_scene(1600, 900)
    data = cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].ravel()
    frame = CameraFrame("a", 0, encoding, data)
    assert source_size(frame) == (1600, 900)
    for width, factor in ((801, 1), (800, 2), (400, 4), (100, 4)):  # 900 is no multiple of 8
        factor = factor if encoding == "jpeg" else 1  # decoding a PNG smaller would save nothing
        assert decode_image(frame, width).shape == (900 // factor, 1600 // factor, 3)
    raw, *_ = prepare_images(frame_of(view_of("bgr8", image), None), SPEC)
    found, img_from_ego, valid, _ = prepare_images(frame_of(view_of(encoding, data), None), SPEC)
    assert valid[0] == 1.0 and np.abs(found[0].astype(float) - raw[0]).mean() < 1.0
    # The projection follows the original size, whatever the decoder reduced.
    expected = img_from_cam(CALIBRATION, SPEC.image) @ CALIBRATION.cam_from_ego
    np.testing.assert_allclose(img_from_ego[0], expected, rtol=1e-5, atol=1e-4)


def test_a_linear_kernel_reads_compressed_images_at_their_full_size():
    """One sample per pixel: a reduced image would have others. PNG loses nothing."""
    spec = dataclasses.replace(SPEC, image=ImageSpec(interpolation="linear"))
    image = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    raw, *_ = prepare_images(frame_of(view_of("bgr8", image), None), spec)
    found, *_ = prepare_images(frame_of(view_of("png", cv2.imencode(".png", image)[1].ravel()), None), spec)
    np.testing.assert_array_equal(found, raw)


def test_jpeg_orientation_tags_do_not_turn_the_image():
    data = cv2.imencode(".jpg", smooth_scene(160, 90))[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: quarter turn
    data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    frame = CameraFrame("a", 0, "jpeg", np.frombuffer(data, np.uint8))
    assert source_size(frame) == (160, 90) and decode_image(frame, 160).shape == (90, 160, 3)


def test_samples_lie_at_most_two_and_a_half_pixels_apart():
    spec = ImageSpec(width=100)
    widths = (1, 250, 251, 500, 501, 1000, 1001)
    assert [samples_per_pixel(width, spec) for width in widths] == [1, 1, 2, 2, 4, 4, 8]
    assert samples_per_pixel(1001, dataclasses.replace(spec, interpolation="linear")) == 1


JPEG = cv2.imencode(".jpg", smooth_scene(1600, 900))[1].ravel()
EMPTY_PNG = cv2.imencode(".png", np.zeros((900, 1600, 3), np.uint8))[1].tobytes()
EMPTY_PNG = EMPTY_PNG[:33] + EMPTY_PNG[-12:]


@pytest.mark.parametrize(
    ("encoding", "data", "reason"),
    [
        ("bgr8", np.zeros((720, 1280, 3), np.uint8), "size_mismatch"),
        ("bgr8", np.zeros((900, 1600), np.uint8), "bad_layout"),
        ("bgr8", np.zeros((900, 1600, 3), np.uint16), "bad_layout"),
        ("bgr8", np.zeros(1000, np.uint8), "bad_layout"),
        ("mono8", np.zeros((0, 0), np.uint8), "empty"),
        ("32FC1", np.zeros((900, 1600), np.uint8), "unknown_encoding"),
        ("mono16", np.zeros((900, 1600), np.uint8), "bad_layout"),
        ("nv12", np.zeros((1349, 1600), np.uint8), "bad_layout"),
        ("yuv422", np.zeros((900, 1599, 2), np.uint8), "odd_size"),
        ("nv12", np.zeros((1350, 1599), np.uint8), "odd_size"),
        ("jpeg", JPEG[: len(JPEG) // 2], "truncated"),
        ("jpeg", JPEG[:10], "undecodable"),
        ("jpeg", np.zeros(5000, np.uint8), "undecodable"),
        ("jpeg", np.zeros(0, np.uint8), "undecodable"),
        ("png", JPEG, "undecodable"),
        ("png", cv2.imencode(".png", smooth_scene(1600, 900))[1].ravel()[:5000], "truncated"),
        ("png", np.frombuffer(EMPTY_PNG, np.uint8), "undecodable"),
    ],
)
def test_unusable_images_mask_their_camera_only(encoding, data, reason):
    good = view_of("bgr8", smooth_scene(1600, 900))
    images, img_from_ego, valid, problems = prepare_images(frame_of(view_of(encoding, data), good), SPEC)
    assert reasons(problems) == {"a": reason} and valid.tolist() == [0.0, 1.0]
    assert not images[0].any() and images[1].any()
    np.testing.assert_array_equal(img_from_ego[0], np.eye(4))


@pytest.mark.parametrize(
    "change",
    [
        {"K": np.full((3, 3), np.nan)},
        {"K": np.zeros((3, 3))},
        {"K": K + np.array([[0, np.nan, 0], [0, 0, 0], [0, 0, 0]])},
        {"K": K * np.array([[0.0], [1.0], [1.0]])},
        {"K": K * np.array([[1.0], [-1.0], [1.0]])},
        {"K": np.eye(4)},
        {"ego_from_cam": np.full((4, 4), np.nan)},
        {"ego_from_cam": EGO_FROM_CAM + np.diag([0.0, 0, 0, np.inf])},
        {"D": (0.1,) * 5, "distortion_model": "unheard_of"},
        {"D": (0.1,) * 3, "distortion_model": "plumb_bob"},
        {"D": (0.1,) * 7, "distortion_model": "rational_polynomial"},
        {"D": (0.1,) * 2, "distortion_model": "equidistant"},
        {"ego_from_cam": 1e200 * EGO_FROM_CAM},
        {"D": (np.nan,) * 5, "distortion_model": "plumb_bob"},
        {"D": (0.1, np.nan, 0, 0, 0), "distortion_model": "plumb_bob"},
        {"K": CALIBRATION.K + np.array([[0, 0, np.nan], [0, 0, 0], [0, 0, 0]])},
    ],
)
def test_unusable_calibrations_mask_their_camera(change):
    calibration = dataclasses.replace(CALIBRATION, **change)
    view = view_of("bgr8", smooth_scene(1600, 900), calibration)
    _, _, valid, problems = prepare_images(frame_of(view, None), SPEC)
    assert reasons(problems) == {"a": "bad_calibration"} and not valid.any()


def test_images_too_flat_for_the_model_are_named():
    with pytest.raises(ImageError, match=r"too_flat: 1600x400 .* 88 rows, the model needs 128"):
        image_from_source(1600, 400, ImageSpec())


def test_an_image_across_a_pose_jump_is_not_used():
    view = view_of("bgr8", smooth_scene(1600, 900), ego=dataclasses.replace(EGO, epoch=1))
    assert reasons(prepare_images(frame_of(view, None), SPEC)[3]) == {"a": "pose_jump"}


def test_motion_between_image_and_frame_is_in_the_projection():
    """A fixed point of the world, given in the ego frame at the frame's stamp, projects where it was seen."""
    then = EgoPose(0, make_transform(rotation_from_yaw(0.30), np.array([10.0, 2.0, 0.0])))
    now = EgoPose(50_000_000, make_transform(rotation_from_yaw(0.34), np.array([10.6, 2.2, 0.0])))
    view = view_of("bgr8", smooth_scene(1600, 900), ego=then)
    frame = SensorFrame(now.stamp_ns, now, (view, None), ())
    img_from_ego = prepare_images(frame, SPEC)[1][0]
    point_odom = np.array([25.0, 8.0, 1.0, 1.0])
    seen = CALIBRATION.cam_from_ego @ np.linalg.inv(then.odom_from_ego) @ point_odom
    u, v, w = K @ seen[:3]
    s = 352 / 1600
    expected = [(u / w + 0.5) * s - 0.5, (v / w + 0.5) * s - 0.5 - 70]
    found, depth = project(img_from_ego.astype(float), (np.linalg.inv(now.odom_from_ego) @ point_odom)[None, :3])
    np.testing.assert_allclose(found[0], expected, atol=2e-3)
    assert depth[0] == pytest.approx(seen[2], abs=1e-4)
