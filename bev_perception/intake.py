"""Messages -> the synchroniser: conversion, checks, calibration. The node and the replay both go through here.

No ROS, no clock, no lock: the caller brings the messages and the time, and serialises the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bev_perception import conversions
from bev_perception.calibration import CalibrationError, StaticTree, load_extrinsics
from bev_perception.conversions import MessageError
from bev_perception.odometry_messages import OdometryInput, make_odometry
from bev_perception.parameters import CameraConfig, NodeConfig, RadarConfig
from bev_perception.plausible import camera_fault, order_fault, radar_fault
from bev_perception.radar_checks import EmptyRadars, drop_impossible
from bev_perception.radar_messages import RADAR_KINDS, read_radar
from bev_perception.structures import CameraCalibration, CameraFrame, EgoPose, RadarScan, SensorFrame
from bev_perception.sync import ODOMETRY, FrameSynchronizer
from bev_perception.twist import TwistCheck

TF_STATIC = "tf_static"
# How to mend what the synchroniser refuses.
HINTS = {
    "future_stamp": "; synchronise the clocks of sensor and computer (PTP), or mend the driver",
    "too_old": "; synchronise the clocks, or play recordings with /clock and use_sim_time: true",
    "duplicate": "; two publishers on the topic, or a driver that repeats stamps",
}
Measurement = CameraFrame | RadarScan | EgoPose


@dataclass(frozen=True)
class Source:
    """One topic to listen to. sensor: the name its messages are counted under; kind: their type, `package/msg/Kind`.

    convert(message) -> its measurement; the poses that are complete with it; None where it tells about calibration.
    """

    topic: str
    sensor: str
    kind: str
    convert: Callable[[Any], Measurement | Sequence[EgoPose] | None]


def message_types(config: NodeConfig) -> dict[str, str]:
    """Message type that the parameters ask for -> the parameter that does, and what else it could say."""
    types = {}
    if config.extrinsics_file is None:
        mend = "or set extrinsics.source: file and extrinsics.file: a calibration YAML"
        types["tf2_msgs/msg/TFMessage"] = f"extrinsics.source is `tf_static`; {mend}"
    for radar in config.radars.values():
        mend = "or let the radar publish another kind"
        types.setdefault(RADAR_KINDS[radar.kind].message, f"radars.{radar.name}.kind is `{radar.kind}`; {mend}")
    for topic in make_odometry(config.odometry, config.base_frame).inputs:
        mend = "or let the odometry come in another way"
        types.setdefault(topic.kind, f"odometry.source is `{config.odometry.source}`; {mend}")
    return types


def read_extrinsics(config: NodeConfig) -> dict[str, np.ndarray]:
    """{sensor name: ego_from_sensor (4, 4)} of the calibration file of the parameters; {} where they name none.

    Raises CalibrationError for what concerns the file as a whole.
    """
    path = config.extrinsics_file
    if path is None:
        return {}
    poses = load_extrinsics(path, config.base_frame, [*config.cameras, *config.radars])
    fault = order_fault([poses[name] for name in config.cameras], [poses[name] for name in config.radars])
    if fault and config.refuse_implausible:
        raise CalibrationError(f"{path}: {fault} (or set extrinsics.implausible: use)")
    return poses


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
        self._infos: dict[str, Any] = {}
        self._calibrations: dict[str, CameraCalibration] = {}
        self._extrinsics: dict[str, np.ndarray] = {}
        self._implausible: dict[str, str] = {}
        self._odometry = make_odometry(config.odometry, config.base_frame)
        tolerances = config.odometry.twist_tolerance_mps, config.odometry.twist_tolerance_rps
        self._twist_check = TwistCheck(*tolerances, config.odometry.difference_ns)
        self._empty_radars = EmptyRadars(config.radar_limits.empty_ns)
        self._tree = StaticTree()
        self._no_transform: dict[str, str] = {}
        self.sources = self._make_sources()
        self._set_extrinsics(read_extrinsics(config))

    def take(self, source: Source, message: Any, now_ns: int) -> list[SensorFrame]:
        """One message -> the frames that are due at `now_ns`, the clock of the stamps; 0 before that clock starts."""
        try:
            found = source.convert(message)
            if isinstance(found, Sequence):
                for pose in found:
                    self._add(source.sensor, pose, now_ns)
            elif found is not None:
                self._add(source.sensor, found, now_ns)
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
        if name in self._implausible:
            gaps.append(self._implausible[name])
        elif name not in self._extrinsics:
            gaps.append(self._no_transform.get(name, "nothing arrived on /tf_static"))
        return "; ".join(gaps)

    def _make_sources(self) -> tuple[Source, ...]:
        config = self._config
        sources = []
        if config.extrinsics_file is None:
            sources.append(Source(f"/{TF_STATIC}", TF_STATIC, "tf2_msgs/msg/TFMessage", self._tf_static))
        for camera in config.cameras.values():
            image = "sensor_msgs/msg/CompressedImage" if camera.compressed else "sensor_msgs/msg/Image"
            sources.append(Source(camera.topic, camera.name, image, partial(self._image, camera)))
            info, name = partial(self._camera_info, camera), f"{camera.name} camera_info"
            sources.append(Source(camera.info_topic, name, "sensor_msgs/msg/CameraInfo", info))
        for radar in config.radars.values():
            sources.append(
                Source(radar.topic, radar.name, RADAR_KINDS[radar.kind].message, partial(self._radar, radar))
            )
        for topic in self._odometry.inputs:
            sources.append(Source(topic.topic, ODOMETRY, topic.kind, partial(self._poses, topic)))
        return tuple(sources)

    # ---- measurements

    def _image(self, camera: CameraConfig, msg: Any) -> CameraFrame:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        if camera.compressed:
            return conversions.to_compressed_frame(msg, camera.name)
        frame = conversions.to_camera_frame(msg, camera.name, self._config.image_reader)
        known = self._calibrations.get(camera.name)
        if known is not None and (known.width, known.height) != (msg.width, msg.height):
            found = f"image {msg.width}x{msg.height}, camera_info {known.width}x{known.height}"
            raise MessageError("image_size_differs", f"{found}; they must belong together")
        return frame

    def _radar(self, radar: RadarConfig, msg: Any) -> RadarScan:
        conversions.check_frame(msg.header.frame_id, radar.frame_id, f"header.frame_id of {radar.topic}")
        scan, bad = read_radar(msg, radar.name, radar.fields, self._config.cloud_reader, radar.kind)
        if bad:
            detail = f"{bad} of {bad + len(scan.points)} returns hold NaN or infinity and were left out"
            self.notice(radar.name, "radar_returns_not_finite", detail)
        scan, left_out = drop_impossible(scan, self._config.radar_limits, radar.view_rad)
        for reason, detail in left_out:
            self.notice(radar.name, reason, detail)
        self._empty_radars.check(scan, expects_returns=RADAR_KINDS[radar.kind].clutter)
        return scan

    def _poses(self, topic: OdometryInput, msg: Any) -> Sequence[EgoPose]:
        poses = topic.take(msg)
        if not self._odometry.states_twist:
            return poses
        checked = [self._twist_check.add(pose) for pose in poses]
        if checked and self._twist_check.detail:
            self.notice(ODOMETRY, "twist_disagrees", f"{self._twist_check.detail}; used are the poses")
        return checked

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
        known = self._infos.get(camera.name)
        if known is not None and _same_calibration(known, msg):
            return
        conversions.to_calibration(msg, np.eye(4), camera.rectified)  # refuse before anything is replaced
        self._infos[camera.name] = msg
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
        for name, ego_from_sensor in found.items():
            known = self._extrinsics.get(name)
            if known is not None and np.allclose(known, ego_from_sensor, rtol=0, atol=1e-9):
                continue
            self._extrinsics[name] = ego_from_sensor
            if self._refuse_implausible(name, ego_from_sensor):
                continue
            changed = "its static transform changed while running"
            if name in self._config.cameras:
                self._set_calibration(self._config.cameras[name], changed)
            elif self._sync.set_radar_extrinsics(name, ego_from_sensor):
                self._report(name, "calibration_changed", changed)

    def _refuse_implausible(self, name: str, ego_from_sensor: np.ndarray) -> bool:
        """Tell where no sensor can sit like that; True where the sensor is not to be used then."""
        self._implausible.pop(name, None)
        fault = (camera_fault if name in self._config.cameras else radar_fault)(ego_from_sensor)
        if fault is None:
            return False
        self.notice(name, fault.reason, fault.detail)
        if self._config.refuse_implausible:
            self._implausible[name] = f"{fault.reason}: {fault.detail}"
            self._sync.forget_calibration(name)
        return self._config.refuse_implausible

    def _set_calibration(self, camera: CameraConfig, changed: str) -> None:
        """Tell the synchroniser as soon as both halves are known; it says, and counts, whether one was replaced."""
        info, ego_from_cam = self._infos.get(camera.name), self._extrinsics.get(camera.name)
        if info is None or ego_from_cam is None or camera.name in self._implausible:
            return
        calibration = conversions.to_calibration(info, ego_from_cam, camera.rectified)
        self._calibrations[camera.name] = calibration
        if self._sync.set_camera_calibration(camera.name, calibration):
            self._report(camera.name, "calibration_changed", changed)


def _same_calibration(a: Any, b: Any) -> bool:
    """Whether two camera_info messages say the same."""
    scalars = ("width", "height", "distortion_model", "binning_x", "binning_y", "roi")
    return all(getattr(a, n) == getattr(b, n) for n in scalars) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in ("k", "d", "p")
    )
