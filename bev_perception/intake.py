"""Messages -> measurements: conversion, checks, calibration. The node and the replay both go through here.

No ROS, no clock, no lock: the caller brings the messages and the time, and serialises the calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bev_perception import conversions
from bev_perception.conversions import MessageError
from bev_perception.measurements import Measurements
from bev_perception.parameters import CameraConfig, NodeConfig, RadarConfig
from bev_perception.sensor_calibration import TF_STATIC, SensorCalibration
from bev_perception.structures import ODOMETRY, CameraFrame, EgoPose, RadarScan

# How to mend what the measurements refuse.
HINTS = {
    "future_stamp": "; synchronise the clocks of sensor and computer (PTP), or mend the driver",
    "too_old": "; synchronise the clocks, or play recordings with /clock and use_sim_time: true",
    "stepped_back": "; two publishers on the topic, or a driver whose clock was set back",
    "duplicate": "; two publishers on the topic, or a driver that repeats stamps",
}
HARMLESS = ("duplicate",)  # refusals that are no fault of the newest message: another one like it was used
DELAYS = 50  # messages whose delays are remembered, to tell what the clocks do
Measurement = CameraFrame | RadarScan | EgoPose


@dataclass(frozen=True)
class Source:
    """One topic to listen to. sensor: the name its messages are counted under; kind: their type, `package/msg/Kind`."""

    topic: str
    sensor: str
    kind: str
    convert: Callable[[Any], Measurement | None]  # None where a message only tells about calibration


class SensorIntake:
    """Feed it with the messages of `sources`. Not thread-safe.

    Everything is counted as `SENSOR/reason` in the measurements' counters, and told to report(sensor, reason, detail)
    each time. faults: {sensor: (reason, detail)} of the sensors whose newest message was refused; warnings: {sensor:
    text} of what may keep its messages from coming.

    Raises CalibrationError where the parameters name a calibration file that cannot be used.
    """

    def __init__(
        self,
        config: NodeConfig,
        taken: Measurements,
        report: Callable[[str, str, str], None] = lambda sensor, reason, detail: None,
    ) -> None:
        self._config, self._taken, self._report = config, taken, report
        self.faults: dict[str, tuple[str, str]] = {}
        self.warnings: dict[str, str] = {}
        self._delays_ns: dict[str, deque[int]] = {}
        self.calibration = SensorCalibration(config, taken, report)
        self.sources = self._make_sources()

    def take(self, source: Source, message: Any, now_ns: int) -> None:
        """One message, at `now_ns` on the clock of the stamps; 0 before that clock starts."""
        if now_ns:
            self._taken.advance(now_ns)
        try:
            measurement = source.convert(message)
            if measurement is None:
                self.faults.pop(source.sensor, None)
            else:
                self._add(source.sensor, measurement, now_ns)
        except MessageError as error:
            self.refuse(source.sensor, error.reason, error.detail)

    def refuse(self, sensor: str, reason: str, detail: str) -> None:
        """The sensor's newest message is lost."""
        self.faults[sensor] = (reason, detail)
        self.notice(sensor, reason, detail)

    def notice(self, sensor: str, reason: str, detail: str) -> None:
        """Something to be told, though the sensor's messages are used."""
        self._taken.counters[f"{sensor}/{reason}"] += 1
        self._report(sensor, reason, detail)

    def delay_s(self, sensor: str) -> float | None:
        """The least of the newest messages' times from stamp to here. Below zero, the sensor's clock is ahead of ours
        by at least that; a large one is a slow way or a clock that is behind. None before the first message."""
        delays = self._delays_ns.get(sensor)
        return min(delays) / 1e9 if delays else None

    def _make_sources(self) -> tuple[Source, ...]:
        config, calibration = self._config, self.calibration
        sources = []
        if config.extrinsics_file is None:
            sources.append(Source(f"/{TF_STATIC}", TF_STATIC, "tf2_msgs/msg/TFMessage", calibration.tf_static))
        for camera in config.cameras.values():
            image = "sensor_msgs/msg/CompressedImage" if camera.compressed else "sensor_msgs/msg/Image"
            sources.append(Source(camera.topic, camera.name, image, partial(self._image, camera)))
            info, name = partial(calibration.camera_info, camera), f"{camera.name} camera_info"
            sources.append(Source(camera.info_topic, name, "sensor_msgs/msg/CameraInfo", info))
        for radar in config.radars.values():
            cloud = "sensor_msgs/msg/PointCloud2"
            sources.append(Source(radar.topic, radar.name, cloud, partial(self._radar, radar)))
        return (*sources, Source(config.odometry_topic, ODOMETRY, "nav_msgs/msg/Odometry", self._odometry))

    # ---- measurements

    def _image(self, camera: CameraConfig, msg: Any) -> CameraFrame:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        if camera.compressed:
            return conversions.to_compressed_frame(msg, camera.name)
        frame = conversions.to_camera_frame(msg, camera.name, self._config.image_reader)
        known = self.calibration.of_camera(camera.name)
        if known is not None and (known.width, known.height) != (msg.width, msg.height):
            found = f"image {msg.width}x{msg.height}, camera_info {known.width}x{known.height}"
            raise MessageError("image_size_differs", f"{found}; they must belong together")
        return frame

    def _radar(self, radar: RadarConfig, msg: Any) -> RadarScan:
        conversions.check_frame(msg.header.frame_id, radar.frame_id, f"header.frame_id of {radar.topic}")
        scan, bad = conversions.read_radar(msg, radar.name, self._config.radar_fields, self._config.cloud_reader)
        if bad:
            detail = f"{bad} of {bad + len(scan.points)} returns hold NaN or infinity and were left out"
            self.notice(radar.name, "radar_returns_not_finite", detail)
        return scan

    def _odometry(self, msg: Any) -> EgoPose:
        return conversions.to_ego_pose(msg, self._config.odometry_frame, self._config.base_frame)

    def _add(self, sensor: str, measurement: Measurement, now_ns: int) -> None:
        if now_ns == 0:
            raise MessageError("clock_not_started", "use_sim_time is true and nothing has arrived on /clock")
        if isinstance(measurement, CameraFrame):
            refused = self._taken.add_camera(measurement)
        elif isinstance(measurement, RadarScan):
            refused = self._taken.add_radar(measurement)
        else:
            refused = self._taken.add_pose(measurement)
        delay_ns = now_ns - measurement.stamp_ns
        if refused not in HARMLESS:
            self._delays_ns.setdefault(sensor, deque(maxlen=DELAYS)).append(delay_ns)
        if not refused:
            self.faults.pop(sensor, None)
            return
        detail = f"its stamp is {abs(delay_ns) / 1e9:.3f} s {'behind' if delay_ns > 0 else 'ahead of'} the clock"
        detail += HINTS.get(refused, "")
        if refused not in HARMLESS:
            self.faults[sensor] = (refused, detail)
        self._report(sensor, refused, detail)  # the measurements have counted it
