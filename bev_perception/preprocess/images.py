"""Received images -> the network's images and their projection matrices."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

import cv2
import numpy as np

from bev_perception.fault import Fault
from bev_perception.geometry import invert
from bev_perception.model_spec import ImageSpec, ModelSpec
from bev_perception.preprocess.encodings import POINTWISE, ImageError, decode_image, eight_bits, source_size
from bev_perception.preprocess.undistort import DISTORTION_MODELS, is_distorted, undistort
from bev_perception.structures import CameraCalibration, CameraView, EgoPose, SensorFrame

ImageReady = Callable[[int, np.ndarray], None]  # (index of the camera, its (H, W, 3) uint8 image)


def samples_per_pixel(width: int, spec: ImageSpec) -> int:
    """f: a pixel of the network's image is the mean of f x f bilinear samples of the source, `width` columns wide.

    `linear` takes one. `area` takes 1, 2, 4 ... so that the samples lie at most 2.5 source pixels apart: on real
    1600x900 images 50 dB from cv2.INTER_AREA in a sixth of its time (one sample: 37 dB).
    """
    if spec.interpolation == "linear":
        return 1
    samples = 1
    while width > 2.5 * samples * spec.scaled_width:
        samples *= 2
    return samples


def image_from_source(width: int, height: int, spec: ImageSpec) -> tuple[float, float, int, int]:
    """(scale_x, scale_y, crop_top, crop_left): u' = (u + 0.5) * scale_x - 0.5 - crop_left and
    v' = (v + 0.5) * scale_y - 0.5 - crop_top.

    The scales are equal up to the rounding of the resized height to whole rows. Raises ImageError when the source
    is too flat to fill the network's image.
    """
    resized_height = round(height * spec.scaled_width / width)
    crop_top = resized_height - spec.height
    if crop_top < 0:
        raise ImageError(
            "too_flat",
            f"{width}x{height} scaled to width {spec.scaled_width} has {resized_height} rows, the model needs "
            f"{spec.height}",
        )
    return spec.scaled_width / width, resized_height / height, crop_top, (spec.scaled_width - spec.width) // 2


def pixels_from_source(width: int, height: int, spec: ImageSpec) -> np.ndarray:
    """(3, 3) float64: pixels (u, v, 1) of the source -> of the network's image. Raises as `image_from_source`."""
    scale_x, scale_y, crop_top, crop_left = image_from_source(width, height, spec)
    return np.array(
        [
            [scale_x, 0.0, 0.5 * scale_x - 0.5 - crop_left],
            [0.0, scale_y, 0.5 * scale_y - 0.5 - crop_top],
            [0.0, 0.0, 1.0],
        ]
    )


def img_from_cam(calibration: CameraCalibration, spec: ImageSpec) -> np.ndarray:
    """(4, 4) float64: camera frame (m) -> (u * depth, v * depth, depth, 1) in the network's image."""
    matrix = np.eye(4)
    matrix[:3, :3] = pixels_from_source(calibration.width, calibration.height, spec) @ calibration.K
    return matrix


def resize_crop(image: np.ndarray, spec: ImageSpec, samples: int | None = None) -> np.ndarray:
    """(h, w[, C]) uint8 or uint16 -> (H, W[, C]) with the spec's kernel, top rows and sides cut away.

    samples: as `samples_per_pixel` says for the received image, when `image` is a reduced copy of it.
    Source rows that only feed cut rows are dropped first, where a whole number of source rows makes a whole number
    of resized ones: the same pixels for less work.
    """
    height, width = image.shape[:2]
    _, _, crop_top, crop_left = image_from_source(width, height, spec)
    samples = samples or samples_per_pixel(width, spec)
    rows = crop_top + spec.height
    skipped = 0
    if rows * samples <= height:  # a shrinking bilinear kernel never looks across a block's edge
        blocks = gcd(height, rows)
        block_rows = rows // blocks
        skipped = crop_top // block_rows * block_rows
        image = image[skipped // block_rows * (height // blocks) :]
    size = (samples * spec.scaled_width, samples * (rows - skipped))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return mean_over_samples(image, samples)[crop_top - skipped :, crop_left : crop_left + spec.width]


def mean_over_samples(image: np.ndarray, samples: int) -> np.ndarray:
    """(f * H, f * W[, C]) -> (H, W[, C]), the mean of each f x f block."""
    if samples == 1:
        return image
    size = (image.shape[1] // samples, image.shape[0] // samples)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def received_image(view: CameraView, spec: ImageSpec) -> np.ndarray:
    """(h, w, 3) uint8 BGR as it is decoded for this spec: whole, or a JPEG's reduced copy. Raises ImageError."""
    width = view.calibration.width
    least_width = width if spec.interpolation == "linear" else samples_per_pixel(width, spec) * spec.scaled_width
    return decode_image(view.frame, least_width)


def resample_received(image: np.ndarray, calibration: CameraCalibration, spec: ImageSpec) -> np.ndarray:
    """What `received_image` gives -> the network's image (H, W, 3), BGR, without the lens's distortion."""
    samples = samples_per_pixel(calibration.width, spec)
    if is_distorted(calibration):
        size = spec.width, spec.height
        return mean_over_samples(undistort(image, calibration, img_from_cam(calibration, spec), size, samples), samples)
    return resize_crop(image, spec, samples)


def in_color_order(image: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """(H, W, 3) BGR -> the spec's order."""
    return image if spec.color_order == "bgr" else image[..., ::-1]


def network_image(view: CameraView, spec: ImageSpec) -> np.ndarray:
    """One image, (H, W, 3); resized first and converted afterwards where that gives the same. Raises ImageError."""
    frame = view.frame
    if frame.encoding in POINTWISE and not is_distorted(view.calibration):
        image = POINTWISE[frame.encoding].to_bgr(eight_bits(resize_crop(frame.data, spec), frame.bits))
    else:
        image = resample_received(received_image(view, spec), view.calibration, spec)
    return in_color_order(image, spec)


def prepare_images(
    frame: SensorFrame,
    spec: ModelSpec,
    make: Callable[[CameraView, ImageSpec], np.ndarray] = network_image,
    ready: ImageReady | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Fault]]:
    """SensorFrame -> images (N, H, W, 3) uint8, img_from_ego (N, 4, 4) float32, camera_valid (N,) float32, problems.

    make: for who wants more of a view than its network image (training keeps what it was decoded to). ready: called
    with each image that can be used while the next is not made yet; what it raises is raised.

    img_from_ego starts in the ego frame at the frame's stamp; the vehicle's motion until the image was taken is in it.
    A camera that is absent or cannot be used has zeros, identity and valid 0; problems: camera -> why the latter.
    Whatever one camera raises is that camera's fault (`image_failed` where it has no better name), never the frame's.
    """
    count = len(spec.cameras)
    images = np.zeros((count, spec.image.height, spec.image.width, 3), dtype=np.uint8)
    img_from_ego = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    camera_valid = np.zeros(count, dtype=np.float32)
    problems: dict[str, Fault] = {}
    for i, (name, view) in enumerate(zip(spec.cameras, frame.cameras)):
        if view is None:
            continue
        try:
            images[i], img_from_ego[i] = _prepare(view, frame.ego, spec.image, make)
            camera_valid[i] = 1.0
        except ImageError as error:
            problems[name] = Fault(error.reason, error.detail)
        except Exception as error:  # OpenCV's own, too: what a sensor sends must not reach the other sensors
            problems[name] = Fault("image_failed", f"{type(error).__name__}: {error}")
        if ready is not None and camera_valid[i]:
            ready(i, images[i])
    return images, img_from_ego, camera_valid, problems


def _prepare(
    view: CameraView, ego: EgoPose, spec: ImageSpec, make: Callable[[CameraView, ImageSpec], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 and (4, 4) float32 of one camera. Raises ImageError."""
    if view.ego.epoch != ego.epoch:
        raise ImageError("pose_jump", "the ego pose jumped between the image and the frame")
    _check(view)
    image = make(view, spec)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of absurd numbers is looked at next
        then_from_now = invert(view.ego.odom_from_ego) @ ego.odom_from_ego
        projection = img_from_cam(view.calibration, spec) @ view.calibration.cam_from_ego @ then_from_now
        projection = projection.astype(np.float32)
    if not np.isfinite(projection).all():
        raise ImageError("bad_calibration", f"the projection is not finite: {projection.tolist()}")
    return image, projection


def _check(view: CameraView) -> None:
    """Raise ImageError unless image and calibration belong together."""
    calibration = view.calibration
    found, expected = source_size(view.frame), (calibration.width, calibration.height)
    if found != expected:
        raise ImageError("size_mismatch", f"image is {found[0]}x{found[1]}, calibration {expected[0]}x{expected[1]}")
    K = np.asarray(calibration.K)
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ImageError("bad_calibration", f"K must be finite (3, 3) with positive focal lengths, found {K.tolist()}")
    if not np.isfinite(calibration.ego_from_cam).all() or not np.isfinite(calibration.D).all():
        raise ImageError("bad_calibration", "ego_from_cam and D must be finite")
    if is_distorted(calibration):
        model, length = calibration.distortion_model, len(calibration.D)
        if model not in DISTORTION_MODELS:
            known = ", ".join(DISTORTION_MODELS)
            raise ImageError("bad_calibration", f"distortion model {model!r}; known are {known}")
        if length not in DISTORTION_MODELS[model].lengths:
            raise ImageError("bad_calibration", f"{model} with {length} coefficients")
