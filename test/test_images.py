"""Images: the kernel against OpenCV on whole images, the intrinsics against bright dots, encodings, and bad input."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from bev_perception.geometry import make_transform, project, rotation_from_yaw
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec
from bev_perception.preprocess.encodings import COMPRESSED, ImageError, decode_image, source_size
from bev_perception.preprocess.images import (
    image_from_source,
    img_from_cam,
    prepare_images,
    resize_crop,
    samples_per_pixel,
)
from bev_perception.preprocess.undistort import is_distorted, undistort
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


@pytest.mark.parametrize(
    "size", [(1600, 900), (1920, 1080), (1280, 720), (800, 450), (704, 396), (352, 198), (176, 99), (640, 480)]
)
@pytest.mark.parametrize("kernel", ["area", "linear"])
def test_resize_equals_opencv_on_the_whole_image(size, kernel):
    spec = ImageSpec(interpolation=kernel)
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    _, _, crop_top = image_from_source(*size, spec)
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
    assert decode_image(frame, 801).shape == (900, 1600, 3)
    assert decode_image(frame, 800).shape == (450, 800, 3)
    assert decode_image(frame, 400).shape == (225, 400, 3)
    assert decode_image(frame, 100).shape == (225, 400, 3)  # 900 is no multiple of 8
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


def segment(marker, body):
    """Of a JPEG."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def size_in(encoding, data):
    return source_size(CameraFrame("a", 0, encoding, np.frombuffer(data, np.uint8)))


@pytest.mark.parametrize("kind", sorted({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}))
def test_the_size_of_a_jpeg_is_in_its_frame_header_of_any_kind(kind):
    """Behind its tables and what cameras write before them; bytes 0xFF may fill the gaps (ITU-T T.81, B.1.1)."""
    tables = b"".join(segment(marker, bytes(range(20))) for marker in (0xE1, 0xDB, 0xC4, 0xC8, 0xCC))
    data = b"\xff\xd8" + tables + b"\xff\xff" + segment(kind, b"\x08" + bytes([1, 2, 3, 4]))
    assert size_in("jpeg", data) == (0x0304, 0x0102)
    for cut in (data[:-1], data[:2], data[: 2 + len(tables)], data[2:]):
        with pytest.raises(ImageError, match="undecodable"):
            size_in("jpeg", cut)


def test_the_size_of_a_png_is_in_its_first_chunk():
    data = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + bytes([1, 2, 3, 4, 5, 6, 7, 8])
    assert size_in("png", data) == (0x01020304, 0x05060708)
    for cut in (data[:-1], data.replace(b"IHDR", b"iHDR"), data[1:]):
        with pytest.raises(ImageError, match="undecodable"):
            size_in("png", cut)


@pytest.mark.parametrize(("encoding", "end"), [("jpeg", b"\xff\xd9"), ("png", b"IEND")])
def test_a_whole_image_has_its_end_in_its_last_bytes(encoding, end):
    """Not before: a preview inside the image has an end of its own."""
    for after, whole in ((0, True), (64 - len(end), True), (65 - len(end), False)):
        data = bytes(1000) + end + bytes(after)
        assert COMPRESSED[encoding].is_whole(np.frombuffer(data, np.uint8)) is whole


def test_samples_lie_at_most_two_and_a_half_pixels_apart():
    spec = ImageSpec(width=100)
    widths = (1, 250, 251, 500, 501, 1000, 1001)
    assert [samples_per_pixel(width, spec) for width in widths] == [1, 1, 2, 2, 4, 4, 8]
    assert samples_per_pixel(1001, dataclasses.replace(spec, interpolation="linear")) == 1


JPEG = cv2.imencode(".jpg", smooth_scene(1600, 900))[1].ravel()
EMPTY_PNG = cv2.imencode(".png", np.zeros((900, 1600, 3), np.uint8))[1].tobytes()[:24] + b"IEND"


@pytest.mark.parametrize(
    ("encoding", "data", "reason"),
    [
        ("bgr8", np.zeros((720, 1280, 3), np.uint8), "size_mismatch"),
        ("bgr8", np.zeros((900, 1600), np.uint8), "bad_layout"),
        ("bgr8", np.zeros((900, 1600, 3), np.uint16), "bad_layout"),
        ("bgr8", np.zeros(1000, np.uint8), "bad_layout"),
        ("mono8", np.zeros((0, 0), np.uint8), "empty"),
        ("32FC1", np.zeros((900, 1600), np.uint8), "unknown_encoding"),
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
    assert problems == {"a": reason} and valid.tolist() == [0.0, 1.0]
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
        {"D": (np.nan,) * 5, "distortion_model": "plumb_bob"},
        {"D": (0.1, np.nan, 0, 0, 0), "distortion_model": "plumb_bob"},
    ],
)
def test_unusable_calibrations_mask_their_camera(change):
    calibration = dataclasses.replace(CALIBRATION, **change)
    view = view_of("bgr8", smooth_scene(1600, 900), calibration)
    _, _, valid, problems = prepare_images(frame_of(view, None), SPEC)
    assert problems == {"a": "bad_calibration"} and not valid.any()


def test_images_too_flat_for_the_model_are_named():
    with pytest.raises(ImageError, match=r"too_flat: 1600x400 .* 88 rows, the model needs 128"):
        image_from_source(1600, 400, ImageSpec())


def test_an_image_across_a_pose_jump_is_not_used():
    view = view_of("bgr8", smooth_scene(1600, 900), ego=dataclasses.replace(EGO, epoch=1))
    assert prepare_images(frame_of(view, None), SPEC)[3] == {"a": "pose_jump"}


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
