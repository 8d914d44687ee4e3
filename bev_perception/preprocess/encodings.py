"""Encodings of received images: how each is laid out, how large such an image is, and how it becomes BGR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from bev_perception.structures import CameraFrame


class ImageError(ValueError):
    """An image that cannot be used; `reason` is the short name that is counted, the message says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the marker segments up to the start-of-frame (ITU-T T.81, B.2.2)."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@dataclass(frozen=True)
class FileFormat:
    """Of compressed images: the bytes one starts with, those near the end of a whole one, and how its header is read.

    size(data): (width, height), None where there is no header.
    """

    start: bytes
    end: bytes
    size: Callable[[bytes], tuple[int, int] | None]

    def is_whole(self, data: np.ndarray) -> bool:
        """Whether (bytes,) uint8 has its end. OpenCV fills the rest of a cut image with grey and calls it a success."""
        return self.end in data[-64:].tobytes()


def _by_opencv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return partial(cv2.cvtColor, code=code)


# Raw encodings -> (bytes of a pixel, conversion of (H, W) or (H, W, bytes) uint8 to BGR). Of these the conversion looks
# at one pixel only and is linear in it, and so may follow the resize ...
POINTWISE: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "bgr8": (3, lambda image: image),
    "rgb8": (3, _by_opencv(cv2.COLOR_RGB2BGR)),
    "bgra8": (4, _by_opencv(cv2.COLOR_BGRA2BGR)),
    "rgba8": (4, _by_opencv(cv2.COLOR_RGBA2BGR)),
    "mono8": (1, _by_opencv(cv2.COLOR_GRAY2BGR)),
}
# ... and of these it comes first: it looks at several pixels, or at bytes that mean nothing alone.
CONVERTED_FIRST: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "yuv422": (2, _by_opencv(cv2.COLOR_YUV2BGR_UYVY)),
    "uyvy": (2, _by_opencv(cv2.COLOR_YUV2BGR_UYVY)),
    "yuv422_yuy2": (2, _by_opencv(cv2.COLOR_YUV2BGR_YUYV)),
    "yuyv": (2, _by_opencv(cv2.COLOR_YUV2BGR_YUYV)),
    "bayer_rggb8": (1, _by_opencv(cv2.COLOR_BayerRGGB2BGR)),
    "bayer_bggr8": (1, _by_opencv(cv2.COLOR_BayerBGGR2BGR)),
    "bayer_gbrg8": (1, _by_opencv(cv2.COLOR_BayerGBRG2BGR)),
    "bayer_grbg8": (1, _by_opencv(cv2.COLOR_BayerGRBG2BGR)),
}
RAW = POINTWISE | CONVERTED_FIRST
COMPRESSED = {
    "jpeg": FileFormat(b"\xff\xd8", b"\xff\xd9", _jpeg_size),
    "png": FileFormat(b"\x89PNG\r\n\x1a\n", b"IEND", _png_size),
}
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


def source_size(frame: CameraFrame) -> tuple[int, int]:
    """(width, height) of the received image, from the header when it is compressed. Raises ImageError."""
    if frame.encoding in COMPRESSED:
        form, data = COMPRESSED[frame.encoding], frame.data.tobytes()
        size = form.size(data) if data.startswith(form.start) else None
        if size is None:
            raise ImageError("undecodable", f"no {frame.encoding} header in {len(data)} bytes")
        return size
    channels = _layout(frame.encoding)[0]
    shape = frame.data.shape
    if frame.data.dtype != np.uint8 or len(shape) not in (2, 3) or (shape[2] if len(shape) == 3 else 1) != channels:
        raise ImageError(
            "bad_layout", f"{frame.encoding} must be uint8 (H, W, {channels}), found {frame.data.dtype} {shape}"
        )
    if 0 in shape:
        raise ImageError("empty", f"{frame.encoding} image of shape {shape}")
    return shape[1], shape[0]


def decode_image(frame: CameraFrame, width: int) -> np.ndarray:
    """CameraFrame -> (h, w, 3) uint8 BGR; compressed images may come reduced by 2, 4 or 8, never below `width` columns.

    A reduced size divides the original exactly, so that pixel areas stay aligned. Raises ImageError.
    """
    source = source_size(frame)
    if frame.encoding in COMPRESSED:
        return _decompress(frame, source, width)
    to_bgr = _layout(frame.encoding)[1]
    return to_bgr(frame.data)


def _layout(encoding: str) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """(bytes of a pixel, conversion) of a raw encoding. Raises ImageError."""
    if encoding not in RAW:
        raise ImageError("unknown_encoding", f"{encoding!r}; known are {', '.join([*RAW, *COMPRESSED])}")
    return RAW[encoding]


def _decompress(frame: CameraFrame, source: tuple[int, int], width: int) -> np.ndarray:
    if not COMPRESSED[frame.encoding].is_whole(frame.data):
        raise ImageError("truncated", f"{frame.encoding} of {frame.data.size} bytes has no end marker")
    fits = (f for f in REDUCED if source[0] % f == 0 and source[1] % f == 0 and source[0] // f >= width)
    flag = REDUCED.get(next(fits, 1), cv2.IMREAD_COLOR)
    image = cv2.imdecode(frame.data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ImageError("undecodable", f"{frame.encoding} of {frame.data.size} bytes")
    return image
