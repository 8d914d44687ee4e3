"""What the bytes of a JPEG or PNG say of themselves: which of both they are, how large, and whether all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

START_OF_SCAN = 0xDA
END_OF_IMAGE = b"\xff\xd9"
IEND = b"\0\0\0\0IEND\xae\x42\x60\x82"  # always the same: no content, and the check sum of that


@dataclass(frozen=True)
class ImageHeader:
    """Size in pixels; channels: 1 for a grey image, else more."""

    width: int
    height: int
    channels: int


@dataclass(frozen=True)
class FileFormat:
    """start: the bytes that one begins with. header(data): what it says, None where there is none.

    is_whole(data): whether it has its end. Bytes may follow, with which a driver fills its buffer. OpenCV fills the
    rest of a cut image with grey and calls it a success.
    """

    start: bytes
    header: Callable[[bytes], ImageHeader | None]
    is_whole: Callable[[bytes], bool]


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where its length stands) of a JPEG up to the first scan (ITU-T T.81, B.1.1)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a byte that only fills
            position += 1
            continue
        yield marker, position + 2
        if marker == START_OF_SCAN:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _jpeg_header(data: bytes) -> ImageHeader | None:
    """From the start-of-frame segment of any kind (B.2.2)."""
    for marker, at in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 8 <= len(data):
            height, width = data[at + 3 : at + 5], data[at + 5 : at + 7]
            return ImageHeader(int.from_bytes(width, "big"), int.from_bytes(height, "big"), data[at + 7])
    return None


def _jpeg_is_whole(data: bytes) -> bool:
    """Within a scan 0xFF is followed by 0 or by a restart (B.1.1.5): wherever the end marker stands after the start
    of the scan, the image ends. One before it belongs to a preview."""
    scan = next((at for marker, at in _segments(data) if marker == START_OF_SCAN), None)
    return scan is not None and data.rfind(END_OF_IMAGE) > scan


def _png_header(data: bytes) -> ImageHeader | None:
    """From the first chunk, which is IHDR."""
    if data[12:16] != b"IHDR" or len(data) < 26:
        return None
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(data[25], 0)
    return ImageHeader(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), channels)


def _png_is_whole(data: bytes) -> bool:
    """Chunk by chunk to the last: length, name, content, check sum (ISO/IEC 15948, 5.3)."""
    position = 8
    while position + 12 <= len(data):
        if data[position : position + 12] == IEND:
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False


COMPRESSED = {
    "jpeg": FileFormat(b"\xff\xd8", _jpeg_header, _jpeg_is_whole),
    "png": FileFormat(b"\x89PNG\r\n\x1a\n", _png_header, _png_is_whole),
}


def compression_of(start: bytes) -> str | None:
    """The key of COMPRESSED that an image with these first bytes has, or None."""
    return next((name for name, form in COMPRESSED.items() if start.startswith(form.start)), None)
