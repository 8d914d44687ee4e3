"""Serialised messages -> what the conversions read of them, without a copy of what is large, or object for each return.

rclpy's own deserialisation copies pixels and points twice before anybody has looked at them, and makes an object of
each radar return. This reads the few fields around them (OMG DDSI-RTPS, CDR) and leaves the rest where it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

HEAD = 4  # bytes of the encapsulation, from behind which alignment counts
ORDERS = {0: ">", 1: "<"}  # second byte of it, for plain CDR
MAX_FIELDS = 256  # of a PointCloud2
SCAN_COLUMNS = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
TRACK_COLUMNS = ("x", "y", "z", "vx", "vy", "vz")
# Of a RadarTrack: its identifier, and what lies between the positions of two of them. Its numbers of 8 bytes begin at
# multiples of 8, the two bytes of its class and its covariances of 4 bytes follow.
TRACK_ID, TRACK_STEP, TRACK_REST = 16, 216, 4 * 24 + 4 + 4 * 24
Found = TypeVar("Found")


class _Fields:
    """Walks from field to field of one message."""

    def __init__(self, serialised: bytes) -> None:
        self.serialised, self.at = serialised, HEAD
        self.order = ORDERS[serialised[1]]
        self._word = struct.Struct(f"{self.order}I")

    def align(self, size: int) -> None:
        self.at += -(self.at - HEAD) % size

    def word(self) -> int:
        """An unsigned number of four bytes."""
        self.align(4)
        self.at += 4
        return int(self._word.unpack_from(self.serialised, self.at - 4)[0])

    def byte(self) -> int:
        self.at += 1
        return self.serialised[self.at - 1]

    def skip(self, length: int, what: str) -> int:
        """-> where the `length` bytes begin that are passed over."""
        start, self.at = self.at, self.at + length
        if self.at > len(self.serialised):
            raise IndexError(f"{length} bytes of {what}")
        return start

    def text(self) -> str:
        length = self.word()
        start = self.skip(length, "text")
        return self.serialised[start : start + max(length - 1, 0)].decode()

    def header(self) -> Any:
        sec, nanosec = struct.unpack_from(f"{self.order}iI", self.serialised, self.at)
        self.at += 8
        return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=self.text())

    def data(self) -> np.ndarray:
        """A sequence of bytes, (n,) uint8, a view."""
        length = self.word()
        return np.frombuffer(self.serialised, np.uint8, length, self.skip(length, "data"))


def _read(serialised: bytes, kind: str, read: Callable[[_Fields], Found]) -> Found:
    try:
        return read(_Fields(serialised))
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"no serialised {kind} in {len(serialised)} bytes: {found}") from error


def read_image(serialised: bytes) -> Any:
    """An object with the fields of sensor_msgs/Image; data (bytes,) uint8, a view. Raises ValueError."""
    return _read(serialised, "Image", _image)


def read_cloud(serialised: bytes) -> Any:
    """An object with the fields of sensor_msgs/PointCloud2; data (bytes,) uint8, a view. Raises ValueError."""
    return _read(serialised, "PointCloud2", _cloud)


def read_radar_scan(serialised: bytes) -> Any:
    """An object with the fields of radar_msgs/RadarScan; returns (P,) structured, SCAN_COLUMNS of 4 bytes, a view.
    Raises ValueError."""
    return _read(serialised, "RadarScan", _radar_scan)


def read_radar_tracks(serialised: bytes) -> Any:
    """An object with the fields of radar_msgs/RadarTracks; tracks (P,) structured, TRACK_COLUMNS of 8 bytes, a view:
    positions and velocities, the rest is not read. Raises ValueError."""
    return _read(serialised, "RadarTracks", _radar_tracks)


def count_returns(kind: str, serialised: bytes) -> int:
    """How many returns a message says that it has; 0 of what is no radar's message, or none at all."""
    count = COUNTS.get(kind)
    try:
        return _read(serialised, kind, count) if count is not None else 0
    except ValueError:
        return 0  # its reader says what is wrong


def _image(fields: _Fields) -> Any:
    return SimpleNamespace(
        header=fields.header(),
        height=fields.word(),
        width=fields.word(),
        encoding=fields.text(),
        is_bigendian=fields.byte(),
        step=fields.word(),
        data=fields.data(),
    )


def _cloud(fields: _Fields) -> Any:
    header, height, width, count = fields.header(), fields.word(), fields.word(), fields.word()
    if count > MAX_FIELDS:
        raise IndexError(f"{count} fields, at most {MAX_FIELDS} are read")
    names = [
        SimpleNamespace(name=fields.text(), offset=fields.word(), datatype=fields.byte(), count=fields.word())
        for _ in range(count)
    ]
    return SimpleNamespace(
        header=header,
        height=height,
        width=width,
        fields=names,
        is_bigendian=bool(fields.byte()),
        point_step=fields.word(),
        row_step=fields.word(),
        data=fields.data(),
        is_dense=bool(fields.byte()),
    )


def _radar_scan(fields: _Fields) -> Any:
    header, count = fields.header(), fields.word()
    dtype = np.dtype([(name, f"{fields.order}f4") for name in SCAN_COLUMNS])
    start = fields.skip(count * dtype.itemsize, "returns")
    return SimpleNamespace(header=header, returns=np.frombuffer(fields.serialised, dtype, count, start))


def _radar_tracks(fields: _Fields) -> Any:
    header, count = fields.header(), fields.word()
    dtype = np.dtype([(name, f"{fields.order}f8") for name in TRACK_COLUMNS])
    if not count:
        return SimpleNamespace(header=header, tracks=np.empty(0, dtype))
    fields.at += TRACK_ID
    fields.align(8)
    start = fields.skip(TRACK_STEP * (count - 1) + TRACK_REST, "tracks")
    tracks: np.ndarray = np.ndarray((count,), dtype, fields.serialised, start, (TRACK_STEP,))
    return SimpleNamespace(header=header, tracks=tracks)


def _points(fields: _Fields) -> int:
    fields.header()
    return fields.word() * fields.word()


def _elements(fields: _Fields) -> int:
    fields.header()
    return fields.word()


COUNTS: dict[str, Callable[[_Fields], int]] = {
    "sensor_msgs/msg/PointCloud2": _points,
    "radar_msgs/msg/RadarScan": _elements,
    "radar_msgs/msg/RadarTracks": _elements,
}
READERS: dict[str, Callable[[bytes], Any]] = {
    "sensor_msgs/msg/Image": read_image,
    "sensor_msgs/msg/PointCloud2": read_cloud,
    "radar_msgs/msg/RadarScan": read_radar_scan,
    "radar_msgs/msg/RadarTracks": read_radar_tracks,
}
