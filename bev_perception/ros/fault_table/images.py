"""Images that show nothing, or are none."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bev_perception.ros.car import Change, Sending
from bev_perception.ros.car_messages import to_image
from bev_perception.ros.fault_table.fault import (
    ALL,
    IMAGE,
    INVALID,
    JPEG,
    SUSPECT,
    Fault,
    camera,
    doubled,
    edited,
    jpeg,
    of,
    setting,
    shorter,
)


def pixels(make: Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]) -> Callable[[Any], None]:
    """Other pixels in an Image."""
    rng = np.random.default_rng(1)

    def edit(message: Any) -> None:
        message.data = to_image(make(rng, (message.height, message.width, 3)).astype(np.uint8), "").data

    return edit


def text_of(format_: str, data: bytes | None = None) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        message.format = format_
        if data is not None:
            message.data = array.array("B", data)

    return edit


def padded(message: Any) -> None:
    message.data = message.data + array.array("B", bytes(2048))


def cropped(message: Any) -> None:
    message.height, message.data = 100, message.data[: 100 * message.step]


def of_size(width: int, height: int) -> Callable[[Any], None]:
    data = array.array("B", bytes(width * height * 3))

    def enlarge(message: Any) -> None:
        message.width, message.height, message.step, message.data = width, height, 3 * width, data

    return enlarge


def frozen(which: Callable[[Sending], bool]) -> Change:
    first: list[Any] = []

    def change(s: Sending) -> Iterable[Sending]:
        if not which(s):
            return (s,)
        if not first:
            first.append(s.message)
        return (Sending(s.kind, s.sensor, first[0], s.stamp_ns),)

    return change


def blacken(message: Any) -> None:
    """Any image message becomes black."""
    import cv2

    if hasattr(message, "format"):
        size = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR).shape
        message.data = array.array("B", cv2.imencode(".jpg", np.zeros(size, np.uint8))[1].tobytes())
    else:
        message.data = array.array("B", bytes(len(message.data)))


def now_and_then(edit: Callable[[Any], None], every: int) -> Change:
    """One image in so many is edited, the others are lost: more of them would hold up the car, which has one thread."""
    count, edited_image = [0], edited(IMAGE, edit)()

    def change(s: Sending) -> Iterable[Sending]:
        if not IMAGE(s):
            return (s,)
        count[0] += 1
        return edited_image(s) if count[0] % every == 0 else ()

    return change


IMAGES: tuple[Fault, ...] = (
    Fault("images of another frame", edited(IMAGE, setting(header__frame_id="roof")), camera(INVALID, "wrong_frame")),
    Fault(
        "images in an encoding nobody knows",
        edited(IMAGE, setting(encoding="32FC3")),
        camera(INVALID, "image_encoding"),
    ),
    Fault("images of 0 x 0 pixels", edited(IMAGE, setting(width=0, height=0)), camera(INVALID, "image_size")),
    Fault("rows shorter than their pixels", edited(IMAGE, setting(step=100)), camera(INVALID, "image_step")),
    Fault("half an image", edited(IMAGE, shorter), camera(INVALID, "image_truncated")),
    Fault("images without data", edited(IMAGE, setting(data=array.array("B"))), camera(INVALID, "image_truncated")),
    Fault(
        "images of another size than camera_info",
        edited(IMAGE, cropped),
        camera(INVALID, "image_size_differs"),
    ),
    Fault("images of more bytes than their size has", edited(IMAGE, doubled), camera(INVALID, "image_bytes")),
    Fault("yuv422 of odd width", edited(IMAGE, setting(encoding="yuv422", width=351)), camera(INVALID, "image_")),
    Fault(
        "images of 30 MB, three a second",
        lambda: now_and_then(of_size(4000, 2500), 4),
        camera(INVALID, "message_too_large"),
        seconds=3.0,
    ),
    Fault(
        "images of 99 MB, one in two seconds",
        lambda: now_and_then(of_size(6600, 5000), 24),
        camera(INVALID, "message_too_large"),
        seconds=5.0,
    ),
    Fault("black images", edited(IMAGE, pixels(lambda rng, shape: np.zeros(shape))), camera(INVALID, "image_black")),
    Fault(
        "grey images", edited(IMAGE, pixels(lambda rng, shape: np.full(shape, 128))), camera(INVALID, "image_uniform")
    ),
    Fault(
        "noise for images",
        edited(IMAGE, pixels(lambda rng, shape: rng.integers(0, 256, shape))),
        camera(SUSPECT, "image_noise"),
    ),
    Fault("the same image for ever", lambda: frozen(IMAGE), camera(INVALID, "image_frozen"), seconds=4.0),
    Fault(
        "all cameras are black", edited(of(ALL, "image"), lambda m: blacken(m)), {"cameras": (INVALID, "image_black")}
    ),
    Fault("a cut JPEG", edited(JPEG, shorter), jpeg(INVALID, "image_truncated")),
    Fault("no JPEG at all", edited(JPEG, text_of("jpeg", bytes(range(256)) * 8)), jpeg(INVALID, "image_encoding")),
    Fault("an empty JPEG", edited(JPEG, text_of("jpeg", b"")), jpeg(INVALID, "image_truncated")),
    Fault("JPEG with padding behind its end; it is used", edited(JPEG, padded)),
    Fault("a wrong format in words; it is used", edited(JPEG, text_of("bgr8; png compressed bgr8"))),
    Fault(
        "a mosaic compressed as JPEG, of which the image is colour",
        edited(JPEG, text_of("bayer_rggb8; jpeg compressed bayer_rggb8")),
        jpeg(INVALID, "image_format"),
    ),
)
