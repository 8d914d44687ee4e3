"""Encodings of received images: how each is laid out, how large such an image is, and how it becomes BGR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import cv2
import numpy as np

from bev_perception.preprocess.compressed import COMPRESSED, ImageHeader
from bev_perception.structures import CameraFrame


class ImageError(ValueError):
    """An image that cannot be used; `reason` is the short name that is counted, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


ONE_PLANE = ((Fraction(1), Fraction(1)),)
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class RawEncoding:
    """How a raw image lies in sensor_msgs/Image.data, and how it becomes BGR.

    channels: samples of a pixel (of a row's first plane). to_bgr: (H, W) or (H, W, channels) uint8, or all planes as
    (rows, W), to (H, W, 3) BGR. dtype: of a sample; 16-bit images are brought to 8 bits before `to_bgr`.
    planes: one after the other, each with its rows per row of the image, and how long its rows are relative to `step`.
    multiples: what width and height must be whole multiples of.
    """

    channels: int
    to_bgr: Callable[[np.ndarray], np.ndarray]
    dtype: type[Any] = np.uint8
    planes: tuple[tuple[Fraction, Fraction], ...] = ONE_PLANE
    multiples: tuple[int, int] = (1, 1)

    @property
    def rows(self) -> Fraction:
        """Rows of data, `step` bytes each, per row of the image."""
        return sum((rows * length for rows, length in self.planes), Fraction(0))

    def row_bytes(self, width: int) -> int:
        """What a row of the first plane needs."""
        return width * self.channels * np.dtype(self.dtype).itemsize

    def size_fault(self, width: int, height: int) -> str:
        """What is wrong with this size, or ""."""
        wanted = zip(("width", "height"), (width, height), self.multiples)
        return "; ".join(f"{what} {size} is no multiple of {m}" for what, size, m in wanted if size % m)


def _by_opencv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return partial(cv2.cvtColor, code=code)


def _unchanged(image: np.ndarray) -> np.ndarray:
    return image


# Y in 16 to 235, Cb and Cr around 128 (ITU-R BT.601), as OpenCV reads the other YUV encodings: rows give B, G, R.
BGR_FROM_YUV = np.array([[1.164, 2.018, 0, -276.928], [1.164, -0.391, -0.813, 135.488], [1.164, 0, 1.596, -222.912]])


def _nv24_to_bgr(planes: np.ndarray) -> np.ndarray:
    """(3 H, W): H rows of Y, then a Cb and a Cr for every pixel."""
    height, width = planes.shape[0] // 3, planes.shape[1]
    yuv = np.dstack([planes[:height], planes[height:].reshape(height, width, 2)])
    return cv2.transform(yuv, BGR_FROM_YUV)


HALVED = ONE_PLANE + ((HALF, Fraction(1)),)  # Y, then Cb and Cr of 2 x 2 pixels in turns
QUARTERED = ONE_PLANE + ((HALF, HALF), (HALF, HALF))  # Y, then Cb and Cr (or the other way round) by themselves
FULL = ONE_PLANE + ((Fraction(1), Fraction(2)),)

# Of these the conversion looks at one pixel only and is linear in it, and so may follow the resize ...
POINTWISE: dict[str, RawEncoding] = {
    "bgr8": RawEncoding(3, _unchanged),
    "rgb8": RawEncoding(3, _by_opencv(cv2.COLOR_RGB2BGR)),
    "bgra8": RawEncoding(4, _by_opencv(cv2.COLOR_BGRA2BGR)),
    "rgba8": RawEncoding(4, _by_opencv(cv2.COLOR_RGBA2BGR)),
    "mono8": RawEncoding(1, _by_opencv(cv2.COLOR_GRAY2BGR)),
    "bgr16": RawEncoding(3, _unchanged, np.uint16),
    "rgb16": RawEncoding(3, _by_opencv(cv2.COLOR_RGB2BGR), np.uint16),
    "bgra16": RawEncoding(4, _by_opencv(cv2.COLOR_BGRA2BGR), np.uint16),
    "rgba16": RawEncoding(4, _by_opencv(cv2.COLOR_RGBA2BGR), np.uint16),
    "mono16": RawEncoding(1, _by_opencv(cv2.COLOR_GRAY2BGR), np.uint16),
}
# ... and of these it comes first: it looks at several pixels, or at bytes that mean nothing alone.
CONVERTED_FIRST: dict[str, RawEncoding] = {
    "yuv422": RawEncoding(2, _by_opencv(cv2.COLOR_YUV2BGR_UYVY), multiples=(2, 1)),
    "uyvy": RawEncoding(2, _by_opencv(cv2.COLOR_YUV2BGR_UYVY), multiples=(2, 1)),
    "yuv422_yuy2": RawEncoding(2, _by_opencv(cv2.COLOR_YUV2BGR_YUYV), multiples=(2, 1)),
    "yuyv": RawEncoding(2, _by_opencv(cv2.COLOR_YUV2BGR_YUYV), multiples=(2, 1)),
    "nv12": RawEncoding(1, _by_opencv(cv2.COLOR_YUV2BGR_NV12), planes=HALVED, multiples=(2, 2)),
    "nv21": RawEncoding(1, _by_opencv(cv2.COLOR_YUV2BGR_NV21), planes=HALVED, multiples=(2, 2)),
    "nv24": RawEncoding(1, _nv24_to_bgr, planes=FULL),
    "yuv420": RawEncoding(1, _by_opencv(cv2.COLOR_YUV2BGR_I420), planes=QUARTERED, multiples=(2, 2)),
    "yv12": RawEncoding(1, _by_opencv(cv2.COLOR_YUV2BGR_YV12), planes=QUARTERED, multiples=(2, 2)),
    "bayer_rggb8": RawEncoding(1, _by_opencv(cv2.COLOR_BayerRGGB2BGR)),
    "bayer_bggr8": RawEncoding(1, _by_opencv(cv2.COLOR_BayerBGGR2BGR)),
    "bayer_gbrg8": RawEncoding(1, _by_opencv(cv2.COLOR_BayerGBRG2BGR)),
    "bayer_grbg8": RawEncoding(1, _by_opencv(cv2.COLOR_BayerGRBG2BGR)),
    "bayer_rggb16": RawEncoding(1, _by_opencv(cv2.COLOR_BayerRGGB2BGR), np.uint16),
    "bayer_bggr16": RawEncoding(1, _by_opencv(cv2.COLOR_BayerBGGR2BGR), np.uint16),
    "bayer_gbrg16": RawEncoding(1, _by_opencv(cv2.COLOR_BayerGBRG2BGR), np.uint16),
    "bayer_grbg16": RawEncoding(1, _by_opencv(cv2.COLOR_BayerGRBG2BGR), np.uint16),
}
RAW = POINTWISE | CONVERTED_FIRST
# Only JPEG is decoded smaller than it is: that saves time there. For PNG OpenCV would decode all and resize badly.
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


def source_size(frame: CameraFrame) -> tuple[int, int]:
    """(width, height) of the received image, from the header when it is compressed. Raises ImageError."""
    if frame.encoding in COMPRESSED:
        header = _header(frame)
        return header.width, header.height
    raw = _raw(frame.encoding)
    shape, dtype = frame.data.shape, frame.data.dtype
    channels = shape[2] if len(shape) == 3 else 1
    if dtype != raw.dtype or len(shape) not in (2, 3) or channels != raw.channels or shape[0] % raw.rows:
        wanted = f"{np.dtype(raw.dtype)} ({raw.rows} H, W, {raw.channels})"
        raise ImageError("bad_layout", f"{frame.encoding} must be {wanted}, found {dtype} {shape}")
    if 0 in shape:
        raise ImageError("empty", f"{frame.encoding} image of shape {shape}")
    width, height = shape[1], int(shape[0] / raw.rows)
    fault = raw.size_fault(width, height)
    if fault:
        raise ImageError("odd_size", f"{frame.encoding} image of {width}x{height}: {fault}")
    return width, height


def decode_image(frame: CameraFrame, width: int) -> np.ndarray:
    """CameraFrame -> (h, w, 3) uint8 BGR; a JPEG may come reduced by 2, 4 or 8, never below `width` columns.

    A reduced size divides the original exactly, so that pixel areas stay aligned. Raises ImageError.
    """
    source = source_size(frame)
    if frame.encoding in COMPRESSED:
        return _decompress(frame, source, width)
    return _raw(frame.encoding).to_bgr(eight_bits(frame.data, frame.bits))


def eight_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """The upper eight of the `bits` lowest bits of uint16 samples as uint8; uint8 as it is.

    Raises ImageError where a sample needs more bits than are said to be used.
    """
    if image.dtype != np.uint16:
        return image
    highest = int(image.max())
    if highest >> bits:
        raise ImageError("bits_exceeded", f"a sample is {highest}, with {bits} bits in use it is below {1 << bits}")
    return (image >> (bits - 8)).astype(np.uint8)


def _raw(encoding: str) -> RawEncoding:
    """Raises ImageError."""
    if encoding not in RAW:
        raise ImageError("unknown_encoding", f"{encoding!r}; known are {', '.join([*RAW, *COMPRESSED])}")
    return RAW[encoding]


def _header(frame: CameraFrame) -> ImageHeader:
    """Of a compressed image. Raises ImageError."""
    form, data = COMPRESSED[frame.encoding], frame.data.tobytes()
    header = form.header(data) if data.startswith(form.start) else None
    if header is None:
        raise ImageError("undecodable", f"no {frame.encoding} header in {len(data)} bytes")
    return header


def _decompress(frame: CameraFrame, source: tuple[int, int], width: int) -> np.ndarray:
    if not COMPRESSED[frame.encoding].is_whole(frame.data.tobytes()):
        raise ImageError("truncated", f"{frame.encoding} of {frame.data.size} bytes has no end marker")
    fits = (f for f in REDUCED if source[0] % f == 0 and source[1] % f == 0 and source[0] // f >= width)
    if frame.mosaic:
        flag = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    elif frame.encoding == "jpeg":
        flag = REDUCED.get(next(fits, 1), cv2.IMREAD_COLOR)
    else:
        flag = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    image = cv2.imdecode(frame.data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ImageError("undecodable", f"{frame.encoding} of {frame.data.size} bytes")
    image = eight_bits(image, frame.bits)
    return _raw(frame.mosaic).to_bgr(image) if frame.mosaic else image
