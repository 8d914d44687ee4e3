"""Received images -> the network's images and their projection matrices."""

from __future__ import annotations

from math import gcd

import cv2
import numpy as np

from bev_perception.geometry import invert
from bev_perception.model_spec import ImageSpec, ModelSpec
from bev_perception.preprocess.undistort import is_distorted, undistort_resize_crop
from bev_perception.structures import CameraCalibration, CameraFrame, CameraView, SensorFrame

# Encodings whose conversion to BGR looks at one pixel only, so that it may follow the resize: (channels, conversion).
POINTWISE: dict[str, tuple[int, int | None]] = {
    "bgr8": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
}
# Encodings whose conversion interpolates between pixels and must come first.
INTERPOLATED: dict[str, tuple[int, int]] = {
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUYV),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUYV),
    "bayer_rggb8": (1, cv2.COLOR_BayerRGGB2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerBGGR2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGBRG2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGRBG2BGR),
}
COMPRESSED = ("jpeg", "png")
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
INTERPOLATIONS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}


class ImageError(ValueError):
    """An image that cannot be used; `reason` is the short name that is counted, the message says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def source_size(frame: CameraFrame) -> tuple[int, int]:
    """(width, height) of the received image, from the header when it is compressed. Raises ImageError."""
    if frame.encoding in COMPRESSED:
        data = frame.data.tobytes()
        return _jpeg_size(data) if frame.encoding == "jpeg" else _png_size(data)
    channels = _layout(frame.encoding)[0]
    shape = frame.data.shape
    if frame.data.dtype != np.uint8 or len(shape) not in (2, 3) or (shape[2] if len(shape) == 3 else 1) != channels:
        raise ImageError(
            "bad_layout", f"{frame.encoding} must be uint8 (H, W, {channels}), found {frame.data.dtype} {shape}"
        )
    if 0 in shape:
        raise ImageError("empty", f"{frame.encoding} image of shape {shape}")
    return shape[1], shape[0]


def reduction(width: int, height: int, spec: ImageSpec) -> int:
    """By how much (1, 2, 4 or 8) an image is shrunk by whole blocks before the resize proper; 1 unless `area`.

    Block means are several times faster than OpenCV's area kernel at a fractional scale, and JPEG decodes to them for
    less. At least twice the target's width remains: 50 dB from the one-step kernel on real images, against 39 dB for
    going down to the target's width (plain linear: 37 dB). A factor must divide the size, so that areas stay aligned.
    """
    if spec.interpolation != "area":
        return 1
    return next((f for f in REDUCED if width % f == 0 and height % f == 0 and width >= 2 * spec.width * f), 1)


def decode_image(frame: CameraFrame, reduce_by: int = 1) -> np.ndarray:
    """CameraFrame -> (h, w, 3) uint8 BGR; compressed images are decoded at 1/2, 1/4 or 1/8 when `reduce_by` says so.

    Raises ImageError.
    """
    source_size(frame)
    if frame.encoding in COMPRESSED:
        return _decompress(frame, reduce_by)
    conversion = _layout(frame.encoding)[1]
    return frame.data if conversion is None else cv2.cvtColor(frame.data, conversion)


def image_from_source(width: int, height: int, spec: ImageSpec) -> tuple[float, float, int]:
    """(scale_x, scale_y, crop_top): u' = (u + 0.5) * scale_x - 0.5 and v' = (v + 0.5) * scale_y - 0.5 - crop_top.

    The scales are equal up to the rounding of the resized height to whole rows. Raises ImageError when the source
    is too flat to fill the network's image.
    """
    resized_height = round(height * spec.width / width)
    crop_top = resized_height - spec.height
    if crop_top < 0:
        raise ImageError(
            "too_flat",
            f"{width}x{height} scaled to width {spec.width} has {resized_height} rows, the model needs {spec.height}",
        )
    return spec.width / width, resized_height / height, crop_top


def img_from_cam(calibration: CameraCalibration, spec: ImageSpec) -> np.ndarray:
    """(4, 4) float64: camera frame (m) -> (u * depth, v * depth, depth, 1) in the network's image."""
    scale_x, scale_y, crop_top = image_from_source(calibration.width, calibration.height, spec)
    resized_from_source = np.array(
        [
            [scale_x, 0.0, 0.5 * scale_x - 0.5],
            [0.0, scale_y, 0.5 * scale_y - 0.5 - crop_top],
            [0.0, 0.0, 1.0],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = resized_from_source @ calibration.K
    return matrix


def resize_crop(image: np.ndarray, spec: ImageSpec, reduce_by: int = 1) -> np.ndarray:
    """(h, w[, C]) uint8 -> (H, W[, C]) with the spec's kernel, the top rows cut away.

    `area` is the mean over blocks of reduce_by x reduce_by pixels followed by cv2.INTER_AREA (see `reduction`).
    Source rows that only feed cut rows are dropped first, where a whole number of source rows makes a whole number
    of resized ones: the same pixels for less work.
    """
    height, width = image.shape[:2]
    _, _, crop_top = image_from_source(width, height, spec)
    resized_height = crop_top + spec.height
    if width < spec.width:  # cv2.INTER_AREA is not an area kernel when it enlarges
        return cv2.resize(image, (spec.width, resized_height), interpolation=cv2.INTER_LINEAR)[crop_top:]
    skipped = 0  # resized rows whose source rows are dropped
    if spec.interpolation == "area":  # other kernels look beyond the block
        blocks = gcd(height // reduce_by, resized_height)
        block_rows = resized_height // blocks
        skipped = crop_top // block_rows * block_rows
        image = image[skipped // block_rows * (height // blocks) :]
    if reduce_by > 1:
        image = cv2.resize(image, (width // reduce_by, len(image) // reduce_by), interpolation=cv2.INTER_AREA)
    kernel = INTERPOLATIONS[spec.interpolation]
    resized = cv2.resize(image, (spec.width, resized_height - skipped), interpolation=kernel)
    return resized[crop_top - skipped :]


def prepare_images(
    frame: SensorFrame, spec: ModelSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, str]]:
    """SensorFrame -> images (N, H, W, 3) uint8, img_from_ego (N, 4, 4) float32, camera_valid (N,) float32, problems.

    img_from_ego starts in the ego frame at the frame's stamp; the vehicle's motion until the image was taken is in it.
    A camera that is absent or cannot be used has zeros, identity and valid 0; problems: camera -> reason of the latter.
    """
    count = len(spec.cameras)
    images = np.zeros((count, spec.image.height, spec.image.width, 3), dtype=np.uint8)
    img_from_ego = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    camera_valid = np.zeros(count, dtype=np.float32)
    problems: dict[str, str] = {}
    for i, (name, view) in enumerate(zip(spec.cameras, frame.cameras)):
        if view is None:
            continue
        try:
            if view.ego.epoch != frame.ego.epoch:
                raise ImageError("pose_jump", "the ego pose jumped between the image and the frame")
            _check(view)
            images[i] = _network_image(view, spec.image)
            then_from_now = invert(view.ego.odom_from_ego) @ frame.ego.odom_from_ego
            img_from_ego[i] = img_from_cam(view.calibration, spec.image) @ view.calibration.cam_from_ego @ then_from_now
            camera_valid[i] = 1.0
        except ImageError as error:
            problems[name] = error.reason
    return images, img_from_ego, camera_valid, problems


def _network_image(view: CameraView, spec: ImageSpec) -> np.ndarray:
    """One image, (H, W, 3); resized first and converted afterwards where that gives the same."""
    frame, calibration = view.frame, view.calibration
    reduce_by = reduction(calibration.width, calibration.height, spec)
    compressed = frame.encoding in COMPRESSED
    if is_distorted(calibration):
        image = decode_image(frame, reduce_by)
        if not compressed and reduce_by > 1:
            size = (calibration.width // reduce_by, calibration.height // reduce_by)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = undistort_resize_crop(image, calibration, spec, img_from_cam(calibration, spec))
    elif frame.encoding in POINTWISE:
        conversion = POINTWISE[frame.encoding][1]
        image = resize_crop(frame.data, spec, reduce_by)
        image = image if conversion is None else cv2.cvtColor(image, conversion)
    else:
        image = resize_crop(decode_image(frame, reduce_by), spec, 1 if compressed else reduce_by)
    return image if spec.color_order == "bgr" else image[..., ::-1]


def _check(view: CameraView) -> None:
    """Raise ImageError unless image and calibration belong together."""
    calibration = view.calibration
    found, expected = source_size(view.frame), (calibration.width, calibration.height)
    if found != expected:
        raise ImageError("size_mismatch", f"image is {found[0]}x{found[1]}, calibration {expected[0]}x{expected[1]}")
    K = np.asarray(calibration.K)
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ImageError("bad_calibration", f"K must be finite (3, 3) with positive focal lengths, found {K.tolist()}")
    if not np.isfinite(calibration.ego_from_cam).all():
        raise ImageError("bad_calibration", "ego_from_cam is not finite")


def _layout(encoding: str) -> tuple[int, int | None]:
    """(channels, conversion) of a raw encoding. Raises ImageError."""
    layout = POINTWISE.get(encoding) or INTERPOLATED.get(encoding)
    if layout is None:
        known = ", ".join([*POINTWISE, *INTERPOLATED, *COMPRESSED])
        raise ImageError("unknown_encoding", f"{encoding!r}; known are {known}")
    return layout


def _decompress(frame: CameraFrame, reduce_by: int) -> np.ndarray:
    # OpenCV fills the rest of a truncated image with grey and only prints a warning, so look for the end marker.
    end = b"\xff\xd9" if frame.encoding == "jpeg" else b"IEND"
    if end not in frame.data[-64:].tobytes():
        raise ImageError("truncated", f"{frame.encoding} of {frame.data.size} bytes has no end marker")
    image = cv2.imdecode(frame.data, REDUCED.get(reduce_by, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ImageError("undecodable", f"{frame.encoding} of {frame.data.size} bytes")
    return image


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk the marker segments up to the start-of-frame (ITU-T T.81, B.2.2)."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ImageError("undecodable", f"no JPEG frame header in {len(data)} bytes")


def _png_size(data: bytes) -> tuple[int, int]:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 24:
        raise ImageError("undecodable", f"no PNG header in {len(data)} bytes")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
