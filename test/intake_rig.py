"""An intake that listens, for tests, and messages for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import tiny_bundle
import tiny_drive

from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.measurements import Measurements
from bev_perception.parameters import make_config
from bev_perception.sensors.intake import SensorIntake
from bev_perception.sync import FrameSynchronizer
from training.world.bag_messages import Messages

NOW = tiny_drive.START
MAKE = Messages(make_typestore())
MOUNTS = dict.fromkeys(tiny_drive.CAMERAS, tiny_drive.EGO_FROM_CAM) | {"radar_a": tiny_drive.EGO_FROM_RADAR}


class Listening:
    """An intake with tf_static as the source of extrinsics, and what it told."""

    def __init__(self, bundle: Path, values: dict[str, Any] | None = None) -> None:
        config = make_config({"bundle": str(bundle), **(values or {})}, tiny_bundle.SPEC)
        self.taken = Measurements(config.sync_config(tiny_bundle.SPEC))
        self.frames = FrameSynchronizer(self.taken)
        self.told: list[tuple[str, str, str]] = []
        self.heard: list[tuple[Any, Any]] = []
        told, heard = (lambda *event: self.told.append(event)), (lambda *pair: self.heard.append(pair))
        self.intake = SensorIntake(config, self.taken, told, heard)
        self.sources = {source.sensor: source for source in self.intake.sources}

    def take(self, sensor: str, message: Any, now_ns: int = NOW) -> None:
        self.intake.take(self.sources[sensor], message, now_ns)

    def newest_ns(self, sensor: str) -> int | None:
        taken = self.taken
        return taken.poses.newest_ns if sensor == "odometry" else {**taken.cameras, **taken.radars}[sensor].newest_ns


def image(height: int = 16, width: int = 32, stamp_ns: int = NOW) -> Any:
    return MAKE.image(stamp_ns, "cam_a", np.zeros((height, width, 3), np.uint8))


def cloud(returns: int = 3, spoiled: int = 0, stamp_ns: int = NOW) -> Any:
    points = np.ones(returns, tiny_drive.RADAR_DTYPE)
    points["x"][:spoiled] = np.nan
    return MAKE.cloud(stamp_ns, "radar_a", points)


def odometry(stamp_ns: int = NOW) -> Any:
    return MAKE.odometry(stamp_ns, np.eye(4), (3.0, 0.0, 0.0))


def info(change: Callable[[Any], None] = lambda message: None) -> Any:
    message = MAKE.camera_info(NOW, "cam_a", tiny_drive.K.copy(), 32, 16)
    change(message)
    return message
