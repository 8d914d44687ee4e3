"""Scans that hold nothing, too much, or what no radar can see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sensor_msgs.msg import PointField

from bev_perception.ros.car_messages import to_cloud
from bev_perception.ros.fault_table.fault import (
    CLOUD,
    INVALID,
    RADAR,
    Fault,
    doubled,
    edited,
    radar,
    setting,
    shorter,
)


def returns(edit_points: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], None]:
    """Other returns in a PointCloud2."""

    def edit(message: Any) -> None:
        points = np.frombuffer(message.data, np.float32).reshape(-1, len(message.fields)).copy()
        made = to_cloud(edit_points(points), message.header.frame_id)
        message.data, message.width, message.row_step = made.data, made.width, made.row_step

    return edit


def column(index: int, value: float, rows: slice = slice(None)) -> Callable[[Any], None]:
    def edit_points(points: np.ndarray) -> np.ndarray:
        points[rows, index] = value
        return points

    return returns(edit_points)


def renamed(message: Any) -> None:
    message.fields = [
        PointField(name=f"{f.name}_", offset=f.offset, datatype=f.datatype, count=1) for f in message.fields
    ]


def in_one_place(message: Any) -> None:
    message.fields[1].offset = message.fields[0].offset


RADARS: tuple[Fault, ...] = (
    Fault("scans of another frame", edited(CLOUD, setting(header__frame_id="roof")), radar(INVALID, "wrong_frame")),
    Fault("fields of other names", edited(CLOUD, renamed), radar(INVALID, "cloud_fields")),
    Fault("half a cloud", edited(CLOUD, shorter), radar(INVALID, "cloud_truncated")),
    Fault("a cloud of more bytes than its points have", edited(CLOUD, doubled), radar(INVALID, "cloud_bytes")),
    Fault("x and y in the same bytes", edited(CLOUD, in_one_place), radar(INVALID, "cloud_fields")),
    Fault("a point_step of 0", edited(CLOUD, setting(point_step=0)), radar(INVALID, "cloud_")),
    Fault(
        "a header of four billion points",
        edited(CLOUD, setting(width=4_000_000_000)),
        radar(INVALID, "too_many_returns"),
    ),
    Fault("all returns are not numbers", edited(CLOUD, column(0, float("nan"))), radar(INVALID, "cloud_not_finite")),
    Fault(
        "some returns are not numbers; the others are used",
        edited(CLOUD, column(4, float("inf"), slice(5))),
        counter=f"{RADAR}/radar_returns_not_finite",
    ),
    Fault("one return at 1e6 m/s", edited(CLOUD, column(4, 1e6, slice(1))), counter=f"{RADAR}/return_too_fast"),
    Fault("one return of 1e6 dBsm", edited(CLOUD, column(3, 1e6, slice(1))), counter=f"{RADAR}/return_rcs"),
    Fault("returns 10 km away", edited(CLOUD, column(0, 1e4)), radar(INVALID, "return_too_far")),
    Fault(
        "100,000 returns", edited(CLOUD, returns(lambda p: np.tile(p, (800, 1)))), radar(INVALID, "too_many_returns")
    ),
    Fault(
        "empty scans, while other radars see",
        edited(CLOUD, returns(lambda p: p[:0])),
        radar(INVALID, "radar_empty"),
        seconds=6.0,
    ),
)
