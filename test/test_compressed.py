"""JPEG and PNG: what their headers and ends say, driver's padding, and mosaics that were compressed as they were."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from test_images import CALIBRATION, SPEC, encoded, frame_of, smooth_scene, view_of

from bev_perception import conversions
from bev_perception.conversions import MessageError
from bev_perception.preprocess.compressed import COMPRESSED, compression_of
from bev_perception.preprocess.encodings import ImageError, decode_image, source_size
from bev_perception.preprocess.images import prepare_images
from bev_perception.structures import CameraFrame, CameraView

SCENE = smooth_scene(320, 180)


def file_of(image, encoding="jpeg", *options):
    return cv2.imencode({"jpeg": ".jpg", "png": ".png"}[encoding], image, options)[1].tobytes()


def segment(marker, body):
    """Of a JPEG."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def size_in(encoding, data):
    return source_size(CameraFrame("a", 0, encoding, np.frombuffer(data, np.uint8)))


@pytest.mark.parametrize("kind", sorted({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}))
def test_the_size_of_a_jpeg_is_in_its_frame_header_of_any_kind(kind):
    """Behind its tables and what cameras write before them; bytes 0xFF may fill the gaps (ITU-T T.81, B.1.1)."""
    tables = b"".join(segment(marker, bytes(range(20))) for marker in (0xE1, 0xDB, 0xC4, 0xC8, 0xCC))
    data = b"\xff\xd8" + tables + b"\xff\xff" + segment(kind, b"\x08" + bytes([1, 2, 3, 4]) + b"\x03")
    assert size_in("jpeg", data) == (0x0304, 0x0102)
    assert COMPRESSED["jpeg"].header(data).channels == 3
    for cut in (data[:-1], data[:2], data[: 2 + len(tables)], data[2:]):
        with pytest.raises(ImageError, match="undecodable"):
            size_in("jpeg", cut)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (3, 3), (4, 2), (6, 4)])
def test_the_size_of_a_png_is_in_its_first_chunk(kind, channels):
    data = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + bytes([1, 2, 3, 4, 5, 6, 7, 8, 8, kind])
    assert size_in("png", data) == (0x01020304, 0x05060708)
    assert COMPRESSED["png"].header(data).channels == channels
    for cut in (data[:-1], data.replace(b"IHDR", b"iHDR"), data[1:]):
        with pytest.raises(ImageError, match="undecodable"):
            size_in("png", cut)


PADDING = {
    "none": b"", "zeros": bytes(5000), "a whole buffer of zeros": bytes(4_000_000), "0xff": b"\xff" * 70,
    "the rest of an older image": file_of(SCENE[::-1])[3000:],
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
@pytest.mark.parametrize("padding", PADDING.values(), ids=PADDING)
def test_bytes_after_the_end_are_a_drivers_padding(encoding, padding):
    data = file_of(SCENE, encoding)
    frame = conversions.to_compressed_frame(compressed(data + padding), "CAM")
    plain = CameraFrame("CAM", 0, encoding, np.frombuffer(data, np.uint8))
    np.testing.assert_array_equal(decode_image(frame, 320), decode_image(plain, 320))


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)])
@pytest.mark.parametrize("padding", [b"", bytes(5000)], ids=["bare", "padded"])
@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_an_image_that_is_cut_anywhere_is_refused(encoding, padding, options):
    """With a preview inside, which has an end of its own."""
    data = file_of(SCENE, encoding, *(options if encoding == "jpeg" else ()))
    if encoding == "jpeg":
        data = data[:2] + segment(0xE1, b"Exif\0\0" + file_of(SCENE[:16, :16])) + data[2:]
    assert COMPRESSED[encoding].is_whole(data + padding)
    for length in [*range(30, len(data), 2999), len(data) - 2, len(data) - 1]:
        assert not COMPRESSED[encoding].is_whole(data[:length] + padding)
        with pytest.raises(MessageError, match="image_truncated"):
            conversions.to_compressed_frame(compressed(data[:length] + padding), "CAM")


def test_a_format_is_told_by_the_first_bytes():
    assert [compression_of(file_of(SCENE, name)[:8]) for name in COMPRESSED] == list(COMPRESSED)
    assert compression_of(b"\0" * 8) is None and compression_of(b"") is None


def compressed(data, form="jpeg"):
    header = SimpleNamespace(stamp=SimpleNamespace(sec=3, nanosec=5), frame_id="")
    return SimpleNamespace(header=header, format=form, data=np.frombuffer(data, np.uint8))


def test_compressed_images_are_told_by_their_bytes():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for extension, encoding in ((".jpg", "jpeg"), (".png", "png")):
        data = cv2.imencode(extension, image)[1].tobytes()
        frame = conversions.to_compressed_frame(compressed(data, "bgr8; whatever"), "CAM")
        assert frame.encoding == encoding and frame.data.tobytes() == data
    jpeg, png = (cv2.imencode(extension, image)[1].tobytes() for extension in (".jpg", ".png"))
    cases = [
        (b"", "image_truncated"),
        (jpeg[: len(jpeg) // 2], "image_truncated"),
        (png[: len(png) // 2], "image_truncated"),
        (bytes(100), "image_encoding"),
    ]
    for data, reason in cases:
        with pytest.raises(MessageError) as error:
            conversions.to_compressed_frame(compressed(data), "CAM")
        assert error.value.reason == reason
    with pytest.raises(MessageError, match="compressedDepth"):
        conversions.to_compressed_frame(compressed(jpeg, "16UC1; compressedDepth"), "CAM")


GREY = ["", "mono8", "bayer_rggb8"]
PATTERNS = ["rggb", "bggr", "gbrg", "grbg"]


@pytest.mark.parametrize("target", GREY)
@pytest.mark.parametrize("codec", ["jpeg", "png"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mosaic_that_was_compressed_becomes_colour(pattern, codec, target):
    """As drivers of FLIR's cameras and image_transport send it."""
    scene = cv2.GaussianBlur(smooth_scene(800, 450), (0, 0), 8)
    mosaic = encoded(scene, f"bayer_{pattern}8")
    data = file_of(mosaic, codec, *((cv2.IMWRITE_JPEG_QUALITY, 98) if codec == "jpeg" else ()))
    frame = conversions.to_compressed_frame(compressed(data, f"bayer_{pattern}8; {codec} compressed {target}"), "a")
    assert (frame.encoding, frame.mosaic) == (codec, f"bayer_{pattern}8")
    view = view_of("bgr8", scene, dataclasses.replace(CALIBRATION, width=800, height=450))
    found, *_, problems = prepare_images(frame_of(CameraView(frame, view.calibration, view.ego), None), SPEC)
    wanted, *_ = prepare_images(frame_of(view, None), SPEC)
    assert not problems and np.abs(found[0].astype(int) - wanted[0]).mean() < 3
    assert np.ptp(found[0].astype(int), axis=-1).mean() > 20  # it has colours


def test_a_mosaic_of_16_bits_in_a_png():
    mosaic = encoded(SCENE, "bayer_rggb8")
    data = file_of(mosaic.astype(np.uint16) << 4, "png")
    frame = conversions.to_compressed_frame(compressed(data, "bayer_rggb16; png compressed "), "a", bits=12)
    plain = CameraFrame("a", 0, "bayer_rggb8", mosaic)
    np.testing.assert_array_equal(decode_image(frame, 320), decode_image(plain, 320))


@pytest.mark.parametrize(("pixels", "bits"), [(np.uint16(SCENE) << 2, 10), (np.uint16(SCENE) << 8, 16)])
def test_a_png_of_16_bits_is_brought_to_8(pixels, bits):
    frame = conversions.to_compressed_frame(
        compressed(file_of(pixels, "png"), "bgr16; png compressed bgr16"), "a", bits
    )
    np.testing.assert_array_equal(decode_image(frame, 320), SCENE)
    if bits == 10:
        too_few = CameraFrame("a", 0, "png", frame.data, bits=9)
        with pytest.raises(ImageError, match="bits_exceeded"):
            decode_image(too_few, 320)


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_colours_are_those_of_the_file_whatever_format_says(codec):
    data = file_of(SCENE, codec)
    for form in (
        "jpeg",
        "png",
        "",
        "rgb8; jpeg compressed bgr8",
        "rgb8; jpeg compressed rgb8",
        "bayer_rggb8; x compressed bgr8",
    ):
        frame = conversions.to_compressed_frame(compressed(data, form), "a")
        assert (frame.encoding, frame.mosaic) == (codec, "")
        assert np.abs(decode_image(frame, 320).astype(int) - SCENE).mean() < 3


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_format_and_bytes_that_contradict_each_other_are_refused(codec):
    colour, grey = file_of(SCENE, codec), file_of(SCENE[..., 0], codec)
    for data, target in ((colour, ""), (colour, "mono8"), (grey, "bgr8"), (grey, "rgb8")):
        with pytest.raises(MessageError, match="image_format"):
            conversions.to_compressed_frame(compressed(data, f"bayer_rggb8; {codec} compressed {target}"), "a")
    with pytest.raises(MessageError, match=r"image_encoding: .*'bayer_rggb12' is not one of bayer_rggb8"):
        conversions.to_compressed_frame(compressed(grey, f"bayer_rggb12; {codec} compressed "), "a")
