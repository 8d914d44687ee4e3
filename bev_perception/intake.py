"""Messages -> the synchroniser: conversion, checks, calibration. The node and the replay both go through here.

No ROS, no clock, no lock: the caller brings the messages and the time, and serialises the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bev_perception import conversions
from bev_perception.calibration import CalibrationError, StaticTree, load_extrinsics
from bev_perception.camera_info import to_calibration
from bev_perception.conversions import MessageError
from bev_perception.parameters import CameraConfig, NodeConfig, RadarConfig
from bev_perception.structures import CameraCalibration, CameraFrame, EgoPose, RadarScan, SensorFrame, same_calibration
from bev_perception.sync import ODOMETRY, FrameSynchronizer
from bev_perception.video import CODECS, VideoStream, codec_of

TF_STATIC = "tf_static"
PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
# How to mend what the synchroniser refuses.
HINTS = {
    "future_stamp": "; synchronise the clocks of sensor and computer (PTP), or mend the driver",
    "too_old": "; synchronise the clocks, or play recordings with /clock and use_sim_time: true",
    "duplicate": "; two publishers on the topic, or a driver that repeats stamps",
}
Measurement = CameraFrame | RadarScan | EgoPose


@dataclass(frozen=True)
class Source:
    """One topic to listen to. sensor: the name its messages are counted under; kind: their type, `package/msg/Kind`."""

    topic: str
    sensor: str
    kind: str
    convert: Callable[[Any], Measurement | None]  # None where a message only tells about calibration, or a picture is
    # not complete yet


class SensorIntake:
    """Feed it with the messages of `sources`; what is due comes back as frames. Not thread-safe.

    Everything is counted as `SENSOR/reason` in the synchroniser's counters, and told to report(sensor, reason, detail)
    each time. faults: {sensor: (reason, detail)} of the sensors whose newest message was refused.

    Raises CalibrationError where the parameters name a calibration file that cannot be used.
    """

    def __init__(
        self,
        config: NodeConfig,
        synchronizer: FrameSynchronizer,
        report: Callable[[str, str, str], None] = lambda sensor, reason, detail: None,
    ) -> None:
        self._config, self._sync = config, synchronizer
        self._report = report
        self.faults: dict[str, tuple[str, str]] = {}
        self._infos: dict[str, CameraCalibration] = {}  # with ego_from_cam in the frame of camera_info
        self._calibrations: dict[str, CameraCalibration] = {}
        self._extrinsics: dict[str, np.ndarray] = {}
        self._videos: dict[str, VideoStream] = {}
        self._tree = StaticTree()
        self._no_transform: dict[str, str] = {}
        self.sources = self._make_sources()
        if config.extrinsics_file is not None:
            names = [*config.cameras, *config.radars]
            self._set_extrinsics(load_extrinsics(config.extrinsics_file, config.base_frame, names))

    def take(self, source: Source, message: Any, now_ns: int) -> list[SensorFrame]:
        """One message -> the frames that are due at `now_ns`, the clock of the stamps; 0 before that clock starts."""
        try:
            measurement = source.convert(message)
            if measurement is not None:
                self._add(source.sensor, measurement, now_ns)
        except MessageError as error:
            self.refuse(source.sensor, error.reason, error.detail)
        return self.poll(now_ns)

    def poll(self, now_ns: int) -> list[SensorFrame]:
        """The frames that are due though no message came."""
        return self._sync.poll(now_ns) if now_ns else []

    def refuse(self, sensor: str, reason: str, detail: str) -> None:
        """The sensor's newest message is lost."""
        self.faults[sensor] = (reason, detail)
        self.notice(sensor, reason, detail)

    def notice(self, sensor: str, reason: str, detail: str) -> None:
        """Something to be told, though the sensor's messages are used."""
        self._sync.counters[f"{sensor}/{reason}"] += 1
        self._report(sensor, reason, detail)

    def calibration_gap(self, name: str) -> str:
        """What the calibration of a sensor still lacks, or ""."""
        camera = self._config.cameras.get(name)
        gaps = []
        if camera is not None and name not in self._infos:
            gaps.append(f"nothing usable arrived on {camera.info_topic}")
        if name not in self._extrinsics:
            gaps.append(self._no_transform.get(name, "nothing arrived on /tf_static"))
        return "; ".join(gaps)

    def _make_sources(self) -> tuple[Source, ...]:
        config = self._config
        sources = []
        if config.extrinsics_file is None:
            sources.append(Source(f"/{TF_STATIC}", TF_STATIC, "tf2_msgs/msg/TFMessage", self._tf_static))
        for camera in config.cameras.values():
            kind, convert = self._image_message(camera)
            sources.append(Source(camera.topic, camera.name, kind, partial(convert, camera)))
            info, name = partial(self._camera_info, camera), f"{camera.name} camera_info"
            sources.append(Source(camera.info_topic, name, "sensor_msgs/msg/CameraInfo", info))
        for radar in config.radars.values():
            cloud = "sensor_msgs/msg/PointCloud2"
            sources.append(Source(radar.topic, radar.name, cloud, partial(self._radar, radar)))
        return (*sources, Source(config.odometry_topic, ODOMETRY, "nav_msgs/msg/Odometry", self._odometry))

    # ---- measurements

    def _image_message(self, camera: CameraConfig) -> tuple[str, Callable[[CameraConfig, Any], CameraFrame | None]]:
        """What the topic carries, and what is made of it."""
        if camera.packets:
            return PACKET, self._packet
        if camera.compressed:
            return "sensor_msgs/msg/CompressedImage", self._compressed
        return "sensor_msgs/msg/Image", self._image

    def _image(self, camera: CameraConfig, msg: Any) -> CameraFrame:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        frame = conversions.to_camera_frame(msg, camera.name, self._config.image_reader, camera.bits)
        self._check_size(camera, int(msg.width), int(msg.height))
        return frame

    def _compressed(self, camera: CameraConfig, msg: Any) -> CameraFrame | None:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        codec = codec_of(msg.format)
        if not codec:
            return conversions.to_compressed_frame(msg, camera.name, camera.bits)
        stamp_ns = conversions.stamp_ns(msg.header.stamp)
        return self._picture(camera, codec, bytes(msg.data), stamp_ns, position=stamp_ns)

    def _packet(self, camera: CameraConfig, msg: Any) -> CameraFrame | None:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        codec = codec_of(msg.encoding)
        if not codec:
            known = ", ".join(CODECS)
            raise MessageError("image_encoding", f"encoding {msg.encoding!r} begins with none of {known}")
        stamp_ns = conversions.stamp_ns(msg.header.stamp)
        return self._picture(camera, codec, bytes(msg.data), stamp_ns, position=int(msg.pts))

    def _picture(
        self, camera: CameraConfig, codec: str, data: bytes, stamp_ns: int, position: int
    ) -> CameraFrame | None:
        stream = self._videos.get(camera.name)
        if stream is None or stream.codec != codec:
            stream = self._videos[camera.name] = VideoStream(camera.name, codec)
        frame = stream.decode(data, stamp_ns, position)
        if frame is not None:
            self._check_size(camera, frame.data.shape[1], frame.data.shape[0])
        return frame

    def _check_size(self, camera: CameraConfig, width: int, height: int) -> None:
        known = self._calibrations.get(camera.name)
        if known is not None and (known.width, known.height) != (width, height):
            found = f"image {width}x{height}, camera_info {known.width}x{known.height}"
            raise MessageError("image_size_differs", f"{found}; they must belong together")

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
            refused = self._sync.add_camera(measurement)
        elif isinstance(measurement, RadarScan):
            refused = self._sync.add_radar(measurement)
        else:
            refused = self._sync.add_pose(measurement)
        if not refused:
            self.faults.pop(sensor, None)
            return
        behind_s = (now_ns - measurement.stamp_ns) / 1e9
        detail = f"its stamp is {abs(behind_s):.3f} s {'behind' if behind_s > 0 else 'ahead of'} the clock"
        detail += HINTS.get(refused, "")
        self.faults[sensor] = (refused, detail)
        self._report(sensor, refused, detail)  # the synchroniser has counted it

    # ---- calibration

    def _camera_info(self, camera: CameraConfig, msg: Any) -> None:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.info_topic}")
        info = to_calibration(msg, np.eye(4), camera.rectified)
        known = self._infos.get(camera.name)
        if known is not None and same_calibration(known, info):
            return
        self._infos[camera.name] = info
        self._set_calibration(camera, f"{camera.info_topic} changed while running")

    def _tf_static(self, msg: Any) -> None:
        try:
            self._tree.add(msg.transforms)
        except CalibrationError as error:
            self.notice(TF_STATIC, "bad_transform", str(error))
        found = {}
        sensors: list[CameraConfig | RadarConfig] = [*self._config.cameras.values(), *self._config.radars.values()]
        for sensor in sensors:
            try:
                found[sensor.name] = self._tree.lookup(self._config.base_frame, sensor.frame_id)
            except CalibrationError as error:
                self._no_transform[sensor.name] = str(error)
        self._set_extrinsics(found)

    def _set_extrinsics(self, found: dict[str, np.ndarray]) -> None:
        changed = "its static transform changed while running"
        for name, ego_from_sensor in found.items():
            known = self._extrinsics.get(name)
            if known is not None and np.allclose(known, ego_from_sensor, rtol=0, atol=1e-9):
                continue
            self._extrinsics[name] = ego_from_sensor
            if name in self._config.cameras:
                self._set_calibration(self._config.cameras[name], changed)
            elif self._sync.set_radar_extrinsics(name, ego_from_sensor):
                self._report(name, "calibration_changed", changed)

    def _set_calibration(self, camera: CameraConfig, changed: str) -> None:
        """Tell the synchroniser as soon as both halves are known; it says, and counts, whether one was replaced."""
        info, ego_from_cam = self._infos.get(camera.name), self._extrinsics.get(camera.name)
        if info is None or ego_from_cam is None:
            return
        calibration = replace(info, ego_from_cam=ego_from_cam @ info.ego_from_cam)  # which rectification turned
        self._calibrations[camera.name] = calibration
        if self._sync.set_camera_calibration(camera.name, calibration):
            self._report(camera.name, "calibration_changed", changed)
