"""Messages of cameras and point clouds -> structures. Duck-typed: rclpy's message classes and those of `rosbags` work
alike; no ROS import. What radars and odometry say is read in sensors/.

Pixels and points are views into the message's buffer wherever its layout allows. A message that cannot be used raises
MessageError, whose `reason` is what the diagnostics count.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bev_perception.preprocess.compressed import COMPRESSED, ImageHeader, compression_of
from bev_perception.preprocess.encodings import RAW, RawEncoding
from bev_perception.structures import CameraFrame

# OpenCV's type names say nothing about colour; drivers that use them mean these. Planes have names of several worlds.
ENCODING_ALIASES = {
    "8UC1": "mono8", "8UC3": "bgr8", "16UC1": "mono16", "16UC3": "bgr16",
    "NV12": "nv12", "NV21": "nv21", "NV24": "nv24", "i420": "yuv420", "I420": "yuv420", "yuv420p": "yuv420",
    "YV12": "yv12",
}  # fmt: skip
# sensor_msgs/PointField datatype -> numpy type code and size.
POINT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
PADDING = 512  # bytes; the most that graphics memory aligns rows to


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


def byte_view(data: Any) -> np.ndarray:
    """What a field uint8[] may be -> (n,) uint8: a view of an array.array (what rclpy makes), bytes, bytearray,
    memoryview or ndarray; a copy of a list of numbers, and of a rosidl_buffer.Buffer.

    Such a Buffer (ROS 2 Lyrical) is what a subscription gets that takes other memory than the processor's, and has
    `to_bytes` and no buffer protocol; others get an array.array as before.
    """
    if isinstance(data, np.ndarray):
        return data.view(np.uint8).reshape(-1)
    if hasattr(data, "to_bytes"):
        data = data.to_bytes()
    elif isinstance(data, (list, tuple)):
        data = bytes(data)
    return np.frombuffer(data, dtype=np.uint8)


def to_camera_frame(msg: Any, sensor: str, reader: str = "numpy", bits: int = 16) -> CameraFrame:
    """sensor_msgs/Image -> CameraFrame; data as CameraFrame says, a view that skips the padding of rows.

    It is copied where the samples' byte order is not the machine's, and where planes have padding. Of an image in
    planes `height` counts the rows of the picture, `step` the bytes of a row of its first plane.
    reader: a key of IMAGE_READERS. bits: as in CameraFrame. Raises MessageError: image_encoding, image_size,
    image_step, image_truncated, image_bytes (more than the header says), stamp_not_set.
    """
    encoding = ENCODING_ALIASES.get(msg.encoding, msg.encoding)
    if encoding not in RAW:
        known = ", ".join([*RAW, *ENCODING_ALIASES])
        raise MessageError("image_encoding", f"{msg.encoding!r} is not one of {known}")
    raw, width, height = RAW[encoding], int(msg.width), int(msg.height)
    if width <= 0 or height <= 0:
        raise MessageError("image_size", f"{width}x{height} pixels; width and height must be positive")
    if fault := raw.size_fault(width, height):
        raise MessageError("image_size", f"{width}x{height} pixels of {msg.encoding}: {fault}; mend the driver")
    row = raw.row_bytes(width)
    if fault := _step_fault(msg.step, row, raw):
        raise MessageError(
            "image_step", f"step {msg.step} {fault}; a row of {width} {msg.encoding} pixels has {row} bytes"
        )
    last = raw.planes[-1][1]  # of the last plane's last row the padding may be missing
    whole, found = int(msg.step * height * raw.rows), len(msg.data)
    needed = whole - int((msg.step - row) * last)
    claim = f"{found} bytes, a {width}x{height} {msg.encoding} image with step {msg.step} has"
    if found < needed:
        raise MessageError("image_truncated", f"{claim} {needed}")
    if found > whole:
        raise MessageError("image_bytes", f"{claim} {whole}; mend the driver")
    stamp = stamp_ns(msg.header.stamp)
    read = IMAGE_READERS[reader] if len(raw.planes) == 1 else _planes
    return CameraFrame(sensor, stamp, encoding, read(msg, raw), bits)


def _step_fault(step: int, row: int, raw: RawEncoding) -> str:
    """What is wrong with `step` bytes from row to row of an image whose rows need `row`, or "".

    Rows may be padded by any number of bytes that is less than a row, or than PADDING where rows are shorter.
    """
    if step < row:
        return f"< {row}"
    if any((step * length).denominator > 1 for _, length in raw.planes):
        return "cannot be halved for the second plane"
    return "has room for more than one row" if step - row >= max(row, PADDING) else ""


def _image_view(msg: Any, raw: RawEncoding) -> np.ndarray:
    """(H, W) or (H, W, C) strided view; rows are `step` bytes apart."""
    sample = np.dtype(raw.dtype).newbyteorder(">" if msg.is_bigendian else "<")
    shape = (msg.height, msg.width, raw.channels)
    strides = (msg.step, raw.channels * sample.itemsize, sample.itemsize)
    view: np.ndarray = np.ndarray(shape, sample, byte_view(msg.data), strides=strides)
    view.flags.writeable = False
    view = np.require(view, raw.dtype, "A")  # OpenCV wants aligned samples in the machine's byte order
    return view[:, :, 0] if raw.channels == 1 else view


def _planes(msg: Any, raw: RawEncoding) -> np.ndarray:
    """(rows, W) of all planes one below the other, as OpenCV takes them; a view where rows have no padding."""
    buffer, step, width, height = byte_view(msg.data), int(msg.step), int(msg.width), int(msg.height)
    if step == width:
        return buffer[: int(height * raw.rows) * width].reshape(-1, width)
    planes, start = [], 0
    for rows, length in raw.planes:
        shape, stride = (int(height * rows), int(width * length)), int(step * length)
        planes.append(np.lib.stride_tricks.as_strided(buffer[start:], shape, (stride, 1), writeable=False).reshape(-1))
        start += shape[0] * stride
    return np.concatenate(planes).reshape(-1, width)


def _image_cv_bridge(msg: Any, raw: RawEncoding) -> np.ndarray:
    """The same through cv_bridge, for those who want its handling of exotic drivers."""
    from cv_bridge import CvBridge

    image = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(msg, desired_encoding="passthrough"), raw.dtype)
    pixels = image.reshape(msg.height, msg.width, raw.channels)
    return pixels[:, :, 0] if raw.channels == 1 else pixels


# Of images in one plane; those in several, which cv_bridge does not know everywhere, are read by numpy.
IMAGE_READERS = {"numpy": _image_view, "cv_bridge": _image_cv_bridge}


def to_compressed_frame(msg: Any, sensor: str, bits: int = 16) -> CameraFrame:
    """sensor_msgs/CompressedImage -> CameraFrame with encoding jpeg or png; data (bytes,) uint8 view, not decoded.

    The bytes decide what it is, and which colours it has: `format` is often wrong about both. Only what no file says
    of itself is taken from `format`: that the picture was a mosaic before it was compressed. Raises MessageError:
    image_encoding, image_truncated, image_format (format and bytes contradict each other), stamp_not_set.
    """
    view = byte_view(msg.data)
    if len(view) < 16:
        raise MessageError("image_truncated", f"{len(view)} bytes are no image (format {msg.format!r})")
    data = view.tobytes()
    encoding = compression_of(data[:8])
    if encoding is None or "compressedDepth" in msg.format:
        found = f"starts with {data[:4].hex()} (format {msg.format!r})"
        raise MessageError("image_encoding", f"{found}, which is none of {', '.join(COMPRESSED)}")
    header = COMPRESSED[encoding].header(data)
    if header is None or not COMPRESSED[encoding].is_whole(data):
        raise MessageError("image_truncated", f"{encoding} of {len(data)} bytes has no header or no end")
    return CameraFrame(sensor, stamp_ns(msg.header.stamp), encoding, view, bits, _mosaic(msg.format, header))


def _mosaic(said: str, header: ImageHeader) -> str:
    """The Bayer encoding of an image that `format` says was compressed as it came from the sensor, or "".

    image_transport writes `ORIGINAL; jpeg compressed TARGET`: TARGET is a colour encoding where it converted before,
    else mono8, the original again, or nothing. Raises MessageError image_encoding, image_format.
    """
    original, _, rest = (part.strip() for part in said.partition(";"))
    if not original.startswith("bayer_"):
        return ""
    if original not in RAW:
        known = ", ".join(name for name in RAW if name.startswith("bayer_"))
        raise MessageError("image_encoding", f"format {said!r}: {original!r} is not one of {known}")
    target = rest.partition("compressed")[2].strip()
    converted, grey = target.startswith(("bgr", "rgb")), header.channels == 1
    if converted == grey:
        claim = "was converted to colour" if converted else "is a mosaic"
        found = "is grey" if grey else f"has {header.channels} channels"
        raise MessageError("image_format", f"format {said!r} says that the image {claim}, but it {found}")
    return "" if converted else original


def point_dtype(msg: Any) -> np.dtype:
    """Structured dtype of one point of a PointCloud2: names, offsets, byte order and point_step as declared.

    Raises MessageError cloud_fields, also where two fields share bytes.
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
    ends = [(at, at + np.dtype(form).itemsize, name) for at, form, name in zip(offsets, formats, names)]
    for (_, end, one), (start, _, other) in pairwise(sorted(ends)):
        if start < end:
            raise MessageError("cloud_fields", f"fields {one!r} and {other!r} share bytes; mend the driver")
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": msg.point_step})


def read_points(msg: Any) -> np.ndarray:
    """sensor_msgs/PointCloud2 -> (P,) structured view.

    Raises MessageError: cloud_fields, cloud_truncated, cloud_bytes (more than the header says). `is_dense` is not
    asked: drivers leave it as it was, and returns are looked at one by one.
    """
    dtype = point_dtype(msg)
    width, height = int(msg.width), int(msg.height)
    if width == 0 or height == 0:
        if len(msg.data):
            raise MessageError("cloud_bytes", f"{len(msg.data)} bytes for {width}x{height} points; mend the driver")
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
    if found > msg.row_step * height:
        claim = f"{width}x{height} points with row_step {msg.row_step} have {msg.row_step * height}"
        raise MessageError("cloud_bytes", f"{found} bytes, {claim}; mend the driver")
    if height == 1 and found < msg.row_step:
        raise MessageError("cloud_truncated", f"{found} bytes, the only row has {msg.row_step} (row_step)")
    rows = np.lib.stride_tricks.as_strided(byte_view(msg.data), (height, row), (step, 1), writeable=False)
    return np.ascontiguousarray(rows).view(dtype).reshape(-1)  # a copy only where padding lies between the rows


def _read_points_sensor_msgs_py(msg: Any) -> np.ndarray:
    """The same through sensor_msgs_py, after the checks it does not make."""
    from sensor_msgs_py import point_cloud2

    read_points(msg)
    return point_cloud2.read_points(msg).reshape(-1)


CLOUD_READERS = {"numpy": read_points, "sensor_msgs_py": _read_points_sensor_msgs_py}
