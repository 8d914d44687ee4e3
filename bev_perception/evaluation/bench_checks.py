"""The checks of contents, clocks and odometry that a frame's messages go through, to be timed by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from bev_perception.measurements import Measurements
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import make_config
from bev_perception.preprocess import prepare_inputs
from bev_perception.preprocess.contents import Seen, check_images
from bev_perception.sensors.intake import SensorIntake
from bev_perception.sensors.odometry_messages import to_ego_pose
from bev_perception.sensors.radar_checks import EmptyRadars, drop_impossible
from bev_perception.sensors.radar_messages import RadarFields, read_radar
from bev_perception.sensors.twist import TwistCheck
from bev_perception.structures import ODOMETRY, SensorFrame


class Period(Protocol):
    """The messages of one frame period: bench_cost.Arrivals."""

    @property
    def stamp_ns(self) -> int: ...
    @property
    def images(self) -> list[Any]: ...
    @property
    def clouds(self) -> list[Any]: ...
    @property
    def odometry(self) -> list[Any]: ...


class Checks:
    """of_frame(period, frame) -> a function that makes the checks, with everything they look at made before.

    Contents: images, returns, radars that see nothing. Clocks: how far each is from ours (the bounds of stamps are part
    of `sync`). Odometry: whether pose and twist tell the same story.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._config = make_config({"bundle": "not read"}, spec)
        self._intake = SensorIntake(self._config, Measurements(self._config.sync_config(spec)))
        self._seen: dict[str, Seen] = {}
        self._empty = EmptyRadars(self._config.radar_limits.empty_ns)
        tolerances = self._config.odometry.twist_tolerance_mps, self._config.odometry.twist_tolerance_rps
        self._twist = TwistCheck(*tolerances, self._config.odometry.difference_ns)

    def of_frame(self, period: Period, frame: SensorFrame) -> Callable[[], None]:
        self._take(period)
        inputs = prepare_inputs(frame, self._spec)[0]
        scans = [read_radar(m, name, RadarFields())[0] for m, name in zip(period.clouds, self._spec.radars)]
        poses = [to_ego_pose(message, "odom", "base_link") for message in period.odometry]

        def check() -> None:
            checks, cameras = self._config.image_checks, self._spec.cameras
            self._seen = check_images(inputs, frame.cameras, cameras, checks, self._seen)[2]
            for scan in scans:
                self._empty.check(drop_impossible(scan, self._config.radar_limits, 2 * math.pi)[0], True)
            for pose in poses:
                self._twist.add(pose)
            for sensor in (*cameras, *self._spec.radars, ODOMETRY):
                self._intake.delay_s(sensor)

        return check

    def _take(self, period: Period) -> None:
        """So that delays are known of every sensor."""
        messages = dict(zip(self._spec.cameras, period.images)) | dict(zip(self._spec.radars, period.clouds))
        messages[ODOMETRY] = period.odometry[-1]
        for source in self._intake.sources:
            if source.sensor in messages:
                self._intake.take(source, messages[source.sensor], period.stamp_ns + 10_000_000)
