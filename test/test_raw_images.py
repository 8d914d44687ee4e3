"""Raw images of every layout: planes as drivers lay them out, 10 to 16 bits in either byte order, odd sizes."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from test_images import SPEC, frame_of, smooth_scene, view_of

from bev_perception import conversions
from bev_perception.conversions import MessageError
from bev_perception.preprocess.encodings import RAW, ImageError, decode_image, source_size
from bev_perception.preprocess.images import prepare_images
from bev_perception.structures import CameraFrame

WIDTH, HEIGHT = 64, 36
SCENE = smooth_scene(WIDTH, HEIGHT)


def message(encoding: str, rows: np.ndarray | list[bytes], step: int, **change: Any) -> SimpleNamespace:
    """An Image whose data are these rows, one after the other."""
    header = SimpleNamespace(stamp=SimpleNamespace(sec=3, nanosec=5), frame_id="cam")
    data = np.frombuffer(b"".join(bytes(row) for row in rows), np.uint8)
    values = dict(header=header, encoding=encoding, width=WIDTH, height=HEIGHT, step=step, is_bigendian=0, data=data)
    return SimpleNamespace(**{**values, **change})


def planes_of(encoding: str) -> list[np.ndarray]:
    """SCENE as Y, then what follows in this encoding; rows are as many bytes as their plane has."""
    i420 = cv2.cvtColor(SCENE, cv2.COLOR_BGR2YUV_I420).ravel()
    y, u, v = np.split(i420, [WIDTH * HEIGHT, WIDTH * HEIGHT * 5 // 4])
    y, u, v = y.reshape(HEIGHT, WIDTH), u.reshape(HEIGHT // 2, -1), v.reshape(HEIGHT // 2, -1)
    if encoding == "nv24":
        u, v = (plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (u, v))
    together = {"nv12": (u, v), "nv21": (v, u), "nv24": (u, v)}
    if encoding in together:
        return [y, np.stack(together[encoding], axis=-1).reshape(len(u), -1)]
    return [y, u, v] if encoding == "yuv420" else [y, v, u]


def lay_out(encoding: str, step: int) -> list[bytes]:
    """The rows of all planes, each filled up to its share of `step` with what must not be seen."""
    rows = []
    for plane in planes_of(encoding):
        filled = step * plane.shape[1] // WIDTH
        rows += [bytes(row) + b"\xaa" * (filled - len(row)) for row in plane]
    return rows


PLANAR = ["nv12", "nv21", "nv24", "yuv420", "yv12"]


@pytest.mark.parametrize("padding", [0, 16])
@pytest.mark.parametrize("encoding", PLANAR)
def test_planes_are_where_drivers_put_them(encoding: str, padding: int) -> None:
    """height is the picture's, step that of a row of Y, and further planes follow without a gap."""
    step = WIDTH + padding
    frame = conversions.to_camera_frame(message(encoding, lay_out(encoding, step), step), "CAM")
    assert frame.encoding == encoding and source_size(frame) == (WIDTH, HEIGHT)
    assert np.array_equal(frame.data, np.concatenate([p.ravel() for p in planes_of(encoding)]).reshape(-1, WIDTH))
    expected = cv2.cvtColor(cv2.cvtColor(SCENE, cv2.COLOR_BGR2YUV_I420), cv2.COLOR_YUV2BGR_I420)
    found = decode_image(frame, WIDTH)
    assert np.abs(found.astype(int) - expected).max() <= (2 if encoding == "nv24" else 0)
    assert np.abs(found.astype(int) - SCENE).mean() < 8


def test_planes_without_padding_are_a_view_and_other_names_mean_the_same() -> None:
    data = message("NV12", planes_of("nv12"), WIDTH)
    frame = conversions.to_camera_frame(data, "CAM", reader="cv_bridge")  # which knows no planes everywhere
    assert frame.encoding == "nv12" and np.shares_memory(frame.data, data.data)
    for name in ("i420", "I420", "yuv420p"):
        assert conversions.to_camera_frame(message(name, planes_of("yuv420"), WIDTH), "CAM").encoding == "yuv420"


@pytest.mark.parametrize("encoding", PLANAR)
def test_what_planes_lack_is_named(encoding: str) -> None:
    step = WIDTH + 16
    rows = lay_out(encoding, step)
    last = len(planes_of(encoding)[-1][-1])
    rows[-1] = rows[-1][:last]  # the last row needs no padding ...
    conversions.to_camera_frame(message(encoding, rows, step), "CAM")
    rows[-1] = rows[-1][:-1]  # ... but all of its pixels
    for bad, reason in (
        (message(encoding, rows, step), "image_truncated"),
        (message(encoding, planes_of(encoding)[:1], WIDTH), "image_truncated"),
        (message(encoding, lay_out(encoding, WIDTH), WIDTH - 1), "image_step"),
    ):
        with pytest.raises(MessageError) as error:
            conversions.to_camera_frame(bad, "CAM")
        assert error.value.reason == reason
    # A driver that counts the rows of all planes as `height` sends too few bytes for what it says.
    with pytest.raises(MessageError, match="image_truncated"):
        packed = message(encoding, lay_out(encoding, WIDTH), WIDTH, height=HEIGHT * 3 // 2)
        conversions.to_camera_frame(packed, "CAM")


def test_a_step_that_halves_to_no_whole_byte_is_named() -> None:
    rows = [bytes(WIDTH + 1)] * (HEIGHT * 2)
    with pytest.raises(MessageError, match="image_step: step 65 cannot be halved"):
        conversions.to_camera_frame(message("yuv420", rows, WIDTH + 1), "CAM")
    conversions.to_camera_frame(message("nv12", rows[: HEIGHT * 3 // 2], WIDTH + 1), "CAM")


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuyv", "yuv422_yuy2", "nv12", "nv21", "yuv420", "yv12"])
def test_colours_shared_by_two_pixels_need_an_even_width(encoding: str) -> None:
    with pytest.raises(MessageError, match=r"image_size: 63x36 .*width 63 is no multiple of 2"):
        conversions.to_camera_frame(message(encoding, [bytes(500)] * 100, 500, width=63), "CAM")
    raw = RAW[encoding]
    shape = (int(36 * raw.rows), 63) if raw.channels == 1 else (36, 63, raw.channels)
    with pytest.raises(ImageError, match="odd_size"):
        source_size(CameraFrame("CAM", 0, encoding, np.zeros(shape, np.uint8)))
    if raw.multiples[1] == 2:
        with pytest.raises(MessageError, match=r"image_size: 64x35 .*height 35 is no multiple of 2"):
            conversions.to_camera_frame(message(encoding, [bytes(500)] * 100, 500, height=35), "CAM")


def as_16_bit(encoding: str, bits: int) -> np.ndarray:
    """SCENE in this encoding, its eight bits the upper ones of `bits`, noise below."""
    eight = SCENE
    if encoding.startswith("mono"):
        eight = cv2.cvtColor(SCENE, cv2.COLOR_BGR2GRAY)
    elif encoding.startswith(("rgb", "bgra")):
        eight = cv2.cvtColor(SCENE, cv2.COLOR_BGR2RGB if encoding == "rgb16" else cv2.COLOR_BGR2BGRA)
    elif encoding.startswith("bayer"):
        eight = np.zeros((HEIGHT, WIDTH), np.uint8)
        for i, letter in enumerate(encoding[6:10]):
            rows, columns = slice(i // 2, None, 2), slice(i % 2, None, 2)
            eight[rows, columns] = SCENE[rows, columns, {"r": 2, "g": 1, "b": 0}[letter]]
    below = np.random.default_rng(0).integers(0, 1 << (bits - 8), eight.shape)
    return ((eight.astype(np.uint16) << (bits - 8)) + below).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("padding", [0, 3, 4])
@pytest.mark.parametrize("encoding", ["mono16", "bgr16", "rgb16", "bgra16", "rgba16", "bayer_rggb16", "bayer_gbrg16"])
def test_samples_of_16_bits_give_the_image_of_8(encoding: str, padding: int, big: int, bits: int) -> None:
    pixels = as_16_bit(encoding, bits)
    rows = [row.astype(">u2" if big else "<u2").tobytes() + b"\xff" * padding for row in pixels]
    frame = conversions.to_camera_frame(message(encoding, rows, len(rows[0]), is_bigendian=big), "CAM", bits=bits)
    assert frame.data.dtype == np.uint16 and frame.data.dtype.isnative and np.array_equal(frame.data, pixels)
    assert frame.data.flags.aligned
    plain = encoding.replace("16", "8")
    eight = CameraFrame("CAM", 0, plain, (pixels >> (bits - 8)).astype(np.uint8))
    np.testing.assert_array_equal(decode_image(frame, WIDTH), decode_image(eight, WIDTH))


def test_samples_in_the_machines_order_are_a_view() -> None:
    pixels = as_16_bit("mono16", 12)
    for name in ("mono16", "16UC1"):
        data = message(name, list(pixels), 2 * WIDTH, is_bigendian=int(sys.byteorder == "big"))
        assert np.shares_memory(conversions.to_camera_frame(data, "CAM", bits=12).data, data.data)
    colour = message("16UC3", list(as_16_bit("bgr16", 12)), 6 * WIDTH)
    assert conversions.to_camera_frame(colour, "CAM").encoding == "bgr16"


@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16"])
def test_more_bits_than_are_said_to_be_used_are_named(encoding: str) -> None:
    image = np.full((900, 1600), 4095, np.uint16)
    for bits, problems in ((12, {}), (16, {}), (11, {"a": "bits_exceeded"}), (8, {"a": "bits_exceeded"})):
        view = view_of(encoding, image)
        view = type(view)(CameraFrame("a", 0, encoding, image, bits), view.calibration, view.ego)
        images, _, _, found = prepare_images(frame_of(view, None), SPEC)
        assert {name: fault.reason for name, fault in found.items()} == problems
        assert images[0].max() == (0 if problems else 4095 >> (bits - 8))


@pytest.mark.parametrize("encoding", ["bgr16", "mono16", "nv12", "yv12"])
def test_the_network_gets_what_the_8_bit_image_gives_it(encoding: str) -> None:
    scene = smooth_scene(1600, 900)
    if encoding == "mono16":
        scene = cv2.cvtColor(cv2.cvtColor(scene, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    data = {
        "bgr16": lambda: scene.astype(np.uint16) << 8,
        "mono16": lambda: scene[..., 0].astype(np.uint16) << 8,
        "yv12": lambda: cv2.cvtColor(scene, cv2.COLOR_BGR2YUV_YV12),
        "nv12": lambda: nv12(scene),
    }[encoding]()
    wanted, *_ = prepare_images(frame_of(view_of("bgr8", scene), None), SPEC)
    found, _, valid, problems = prepare_images(frame_of(view_of(encoding, data), None), SPEC)
    assert problems == {} and valid[0] == 1.0
    assert np.abs(found[0].astype(int) - wanted[0]).mean() < (1 if encoding.endswith("16") else 3)


def nv12(bgr: np.ndarray) -> np.ndarray:
    height, width = bgr.shape[:2]
    i420 = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    u, v = i420[height:].reshape(2, -1)
    return np.concatenate([i420[:height], np.stack([u, v], axis=1).reshape(-1, width)])
