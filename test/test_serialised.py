"""An image read from its bytes is the one that rclpy reads."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from bev_perception.ros.serialised import read_image

FIELDS = ("height", "width", "encoding", "is_bigendian", "step")


def some_image(rng: np.random.Generator) -> Image:
    """Texts of every length, so that every alignment comes."""
    letters = "".join(rng.choice(list("abcö_/8"), rng.integers(0, 12)))
    data = rng.integers(0, 256, rng.integers(0, 50), np.uint8)
    sec, nanosec = int(rng.integers(-(2**31), 2**31)), int(rng.integers(0, 10**9))
    return Image(
        header=Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=letters),
        height=int(rng.integers(0, 2**32)),
        width=int(rng.integers(0, 2**32)),
        encoding="bgr8"[: rng.integers(0, 5)] + letters[:3],
        is_bigendian=int(rng.integers(0, 256)),
        step=int(rng.integers(0, 2**32)),
        data=data.tobytes(),
    )


def test_every_field_of_every_alignment() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        serialised = serialize_message(some_image(rng))
        ours, theirs = read_image(serialised), deserialize_message(serialised, Image)
        assert {name: getattr(ours, name) for name in FIELDS} == {name: getattr(theirs, name) for name in FIELDS}
        assert (ours.header.stamp.sec, ours.header.stamp.nanosec, ours.header.frame_id) == (
            theirs.header.stamp.sec, theirs.header.stamp.nanosec, theirs.header.frame_id,
        )  # fmt: skip
        assert ours.data.tobytes() == theirs.data.tobytes()


def test_pixels_are_not_copied() -> None:
    serialised = serialize_message(Image(data=bytes(1000)))
    assert np.shares_memory(read_image(serialised).data, np.frombuffer(serialised, np.uint8))


def test_what_is_cut_anywhere_is_an_error() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        serialised = serialize_message(some_image(rng))
        end = len(serialised) - -len(read_image(serialised).data) % 4  # padding may follow
        for cut in range(end - 3 if end > 3 else 0):
            with pytest.raises(ValueError, match="no serialised Image"):
                read_image(serialised[:cut])
