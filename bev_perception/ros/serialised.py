"""Serialised sensor_msgs/Image -> what conversions.py reads of it, without a copy of the pixels.

rclpy's own deserialisation copies the pixels twice before anybody has looked at them. This reads the few fields around
them (OMG DDSI-RTPS, CDR) and leaves the pixels where they are.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np

HEAD = 4  # bytes of the encapsulation, from behind which alignment counts
ORDERS = {0: ">", 1: "<"}  # second byte of it, for plain CDR


def read_image(serialised: bytes) -> Any:
    """An object with the fields of sensor_msgs/Image; data (bytes,) uint8, a view. Raises ValueError."""
    try:
        return _read(serialised)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"no serialised Image in {len(serialised)} bytes: {type(error).__name__}: {error}") from error


def _read(serialised: bytes) -> Any:
    order = ORDERS[serialised[1]]

    def word(at: int) -> tuple[int, int]:
        """(unsigned number of four bytes at the next place for one, place behind it)."""
        at += -(at - HEAD) % 4
        return struct.unpack_from(f"{order}I", serialised, at)[0], at + 4

    def text(at: int) -> tuple[str, int]:
        length, at = word(at)
        if at + length > len(serialised):
            raise IndexError(f"a text of {length} bytes")
        return serialised[at : at + max(length - 1, 0)].decode(), at + length

    sec, nanosec = struct.unpack_from(f"{order}iI", serialised, HEAD)
    frame_id, at = text(HEAD + 8)
    height, at = word(at)
    width, at = word(at)
    encoding, at = text(at)
    big_endian = serialised[at]
    step, at = word(at + 1)
    length, at = word(at)
    if at + length > len(serialised):
        raise IndexError(f"{length} bytes of pixels")
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=big_endian,
        step=step,
        data=np.frombuffer(serialised, np.uint8, length, at),
    )
