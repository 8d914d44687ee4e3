"""Messages of cameras and point clouds -> structures. Duck-typed: rclpy's message classes and those of `rosbags` work
alike; no ROS import. What radars and odometry say is read by radar_messages.py and odometry_messages.py.

Pixels and points are views into the message's buffer wherever its layout allows. A message that cannot be used raises
MessageError, whose `reason` is what the diagnostics count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bev_perception.preprocess.encodings import COMPRESSED, RAW
from bev_perception.structures import CameraCalibration, CameraFrame

# OpenCV's type names say nothing about colour; drivers that use them mean these.
ENCODING_ALIASES = {"8UC1": "mono8", "8UC3": "bgr8"}
# sensor_msgs/PointField datatype -> numpy type code and size.
POINT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


class MessageError(ValueError):
    """A message that cannot be used. reason: short name that is counted; detail: found, expected, how to mend."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> integer nanoseconds. Raises MessageError for a stamp that was never set."""
    value = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
    if value <= 0:
        raise MessageError("stamp_not_set", f"header.stamp is {value} ns; the driver must stamp its messages")
    return value


def check_frame(found: str, expected: str, what: str) -> None:
    """Raise MessageError unless the frames agree; an empty `expected` is not checked."""
    if expected and found.lstrip("/") != expected.lstrip("/"):
        raise MessageError(
            "wrong_frame", f"{what} is {found!r}, expected {expected!r}; mend the driver or the frame parameters"
        )


def _bytes(data: Any) -> np.ndarray:
    """array.array, bytes or ndarray -> (n,) uint8 view."""
    return data.view(np.uint8).reshape(-1) if isinstance(data, np.ndarray) else np.frombuffer(data, dtype=np.uint8)


def to_camera_frame(msg: Any, sensor: str, reader: str = "numpy") -> CameraFrame:
    """sensor_msgs/Image -> CameraFrame; data (H, W) or (H, W, C) uint8, a view that skips the padding of rows.

    reader: a key of IMAGE_READERS. Raises MessageError: image_encoding, image_size, image_step, image_truncated,
    stamp_not_set.
    """
    encoding = ENCODING_ALIASES.get(msg.encoding, msg.encoding)
    if encoding not in RAW:
        known = ", ".join([*RAW, *ENCODING_ALIASES])
        raise MessageError("image_encoding", f"{msg.encoding!r} is not one of {known}")
    channels, _ = RAW[encoding]
    if msg.width <= 0 or msg.height <= 0:
        raise MessageError("image_size", f"{msg.width}x{msg.height} pixels; width and height must be positive")
    row = msg.width * channels
    if msg.step < row:
        raise MessageError("image_step", f"step {msg.step} < {row} bytes of a row of {msg.width} {msg.encoding} pixels")
    # The last row needs no padding.
    needed, found = msg.step * (msg.height - 1) + row, len(msg.data)
    if found < needed:
        raise MessageError(
            "image_truncated",
            f"{found} bytes, a {msg.width}x{msg.height} {msg.encoding} image with step {msg.step} has {needed}",
        )
    stamp = stamp_ns(msg.header.stamp)
    return CameraFrame(sensor, stamp, encoding, IMAGE_READERS[reader](msg, channels))


def _image_view(msg: Any, channels: int) -> np.ndarray:
    """(H, W) or (H, W, C) strided view; rows are `step` bytes apart."""
    buffer = _bytes(msg.data)
    shape, strides = (msg.height, msg.width, channels), (msg.step, channels, 1)
    view = np.lib.stride_tricks.as_strided(buffer, shape, strides, writeable=False)
    return view[:, :, 0] if channels == 1 else view


def _image_cv_bridge(msg: Any, channels: int) -> np.ndarray:
    """The same through cv_bridge, for those who want its handling of exotic drivers."""
    from cv_bridge import CvBridge

    image = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, desired_encoding="passthrough"))
    pixels = image.view(np.uint8).reshape(msg.height, msg.width, channels)
    return pixels[:, :, 0] if channels == 1 else pixels


IMAGE_READERS = {"numpy": _image_view, "cv_bridge": _image_cv_bridge}


def to_compressed_frame(msg: Any, sensor: str) -> CameraFrame:
    """sensor_msgs/CompressedImage -> CameraFrame with encoding jpeg or png; data (bytes,) uint8 view, not decoded.

    The bytes decide what it is: `format` is free text and often wrong. Raises MessageError: image_encoding,
    image_truncated, stamp_not_set.
    """
    data = _bytes(msg.data)
    if len(data) < 16:
        raise MessageError("image_truncated", f"{len(data)} bytes are no image (format {msg.format!r})")
    start = data[:8].tobytes()
    encoding = next((name for name, form in COMPRESSED.items() if start.startswith(form.start)), None)
    if encoding is None or "compressedDepth" in msg.format:
        found = f"starts with {start[:4].hex()} (format {msg.format!r})"
        raise MessageError("image_encoding", f"{found}, which is none of {', '.join(COMPRESSED)}")
    if not COMPRESSED[encoding].is_whole(data):
        raise MessageError("image_truncated", f"{encoding} of {len(data)} bytes has no end marker")
    return CameraFrame(sensor, stamp_ns(msg.header.stamp), encoding, data)


def to_calibration(msg: Any, ego_from_cam: np.ndarray, rectified: bool = False) -> CameraCalibration:
    """sensor_msgs/CameraInfo -> CameraCalibration of the image as delivered (binning and region of interest applied).

    rectified: the image went through image_proc; P holds its K and there is no distortion.
    Raises MessageError: camera_info_size, camera_info_matrix, camera_info_distortion.
    """
    K = np.array(msg.p if rectified else msg.k, dtype=np.float64).reshape(3, -1)[:, :3]
    if msg.width <= 0 or msg.height <= 0:
        raise MessageError("camera_info_size", f"{msg.width}x{msg.height}; calibrate the camera")
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or not np.allclose(K[2], (0, 0, 1)):
        found = f"{'P' if rectified else 'K'} = {K.round(3).tolist()}"
        raise MessageError("camera_info_matrix", f"{found} is no pinhole matrix; calibrate the camera")
    D = () if rectified else tuple(float(x) for x in msg.d)
    if not np.isfinite(D).all():
        raise MessageError("camera_info_distortion", f"D = {D} is not finite")
    width, height, roi = msg.width, msg.height, msg.roi
    if roi.width and roi.height:
        K = K - np.array([[0, 0, roi.x_offset], [0, 0, roi.y_offset], [0, 0, 0]])
        width, height = roi.width, roi.height
    bx, by = max(msg.binning_x, 1), max(msg.binning_y, 1)
    if (bx, by) != (1, 1):
        # pixel centres at integers: u' = (u + 0.5) / b - 0.5
        K = np.array([[1 / bx, 0, 0.5 / bx - 0.5], [0, 1 / by, 0.5 / by - 0.5], [0, 0, 1]]) @ K
        width, height = width // bx, height // by
    return CameraCalibration(int(width), int(height), K, ego_from_cam, "" if rectified else msg.distortion_model, D)


def point_dtype(msg: Any) -> np.dtype:
    """Structured dtype of one point of a PointCloud2: names, offsets, byte order and point_step as declared.

    Raises MessageError cloud_fields.
    """
    order = ">" if msg.is_bigendian else "<"
    names, formats, offsets = [], [], []
    for f in msg.fields:
        code = POINT_TYPES.get(f.datatype)
        if code is None or f.offset + np.dtype(code).itemsize * max(f.count, 1) > msg.point_step:
            raise MessageError(
                "cloud_fields",
                f"field {f.name!r} (datatype {f.datatype}, offset {f.offset}) does not fit point_step {msg.point_step}",
            )
        names.append(f.name)
        formats.append((order + code, (f.count,)) if f.count > 1 else order + code)
        offsets.append(f.offset)
    if len(set(names)) != len(names):
        raise MessageError("cloud_fields", f"field names repeat: {names}")
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": msg.point_step})


def read_points(msg: Any) -> np.ndarray:
    """sensor_msgs/PointCloud2 -> (P,) structured view. Raises MessageError: cloud_fields, cloud_truncated."""
    dtype = point_dtype(msg)
    width, height = int(msg.width), int(msg.height)
    if width == 0 or height == 0:
        return np.empty(0, dtype)
    row = width * msg.point_step
    step = msg.row_step if height > 1 else row
    needed, found = step * (height - 1) + row, len(msg.data)
    if msg.row_step < row or found < needed:
        raise MessageError(
            "cloud_truncated",
            f"{found} bytes, row_step {msg.row_step}; {width}x{height} points of {msg.point_step} bytes need {needed}"
            f" and a row_step of {row} or more",
        )
    rows = np.lib.stride_tricks.as_strided(_bytes(msg.data), (height, row), (step, 1), writeable=False)
    return np.ascontiguousarray(rows).view(dtype).reshape(-1)  # a copy only where padding lies between the rows


def _read_points_sensor_msgs_py(msg: Any) -> np.ndarray:
    """The same through sensor_msgs_py, after the checks it does not make."""
    from sensor_msgs_py import point_cloud2

    read_points(msg)
    return point_cloud2.read_points(msg).reshape(-1)


CLOUD_READERS = {"numpy": read_points, "sensor_msgs_py": _read_points_sensor_msgs_py}
