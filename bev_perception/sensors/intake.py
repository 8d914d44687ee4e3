"""Messages -> measurements: conversion, checks, calibration. The node and the replay both go through here.

No ROS, no clock, no lock: the caller brings the messages and the time, and serialises the calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from bev_perception import conversions
from bev_perception.conversions import MessageError, byte_view
from bev_perception.measurements import Measurements
from bev_perception.parameters import CameraConfig, NodeConfig, RadarConfig
from bev_perception.sensors.odometry_messages import OdometryInput, make_odometry
from bev_perception.sensors.radar_checks import EmptyRadars, drop_impossible
from bev_perception.sensors.radar_messages import RADAR_KINDS, read_radar
from bev_perception.sensors.sensor_calibration import TF_STATIC, SensorCalibration
from bev_perception.sensors.serialised import count_returns
from bev_perception.sensors.twist import TwistCheck
from bev_perception.sensors.video import CODECS, VideoStream, codec_of
from bev_perception.structures import ODOMETRY, CameraFrame, EgoPose, RadarScan

INFO_BYTES = 64 * 1024  # a camera_info of the longest distortion model has 600
PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
# What to set where a topic has another type than the parameters ask for: (asked for, found) -> hint.
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
TYPE_HINTS = {
    (IMAGE, COMPRESSED): "; set cameras.*.compressed: true",
    (COMPRESSED, IMAGE): "; set cameras.*.compressed: false",
    (IMAGE, PACKET): "; set cameras.*.packets: true",
    (COMPRESSED, PACKET): "; set cameras.*.packets: true",
} | {
    (asked.message, found.message): f"; set radars.*.kind: {name}"
    for name, found in RADAR_KINDS.items()
    for asked in RADAR_KINDS.values()
}
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
    """One topic to listen to. sensor: the name its messages are counted under; kind: their type, `package/msg/Kind`.

    convert(message) -> its measurement; the poses that are complete with it; None where it tells about calibration.
    max_bytes: of a message that may be large, so that converting it would hold up everybody else's: one of more is
    refused before anything is made of it. None where that is not asked.
    """

    topic: str
    sensor: str
    kind: str
    convert: Callable[[Any], Measurement | Sequence[EgoPose] | None]  # None where a message only tells about
    # calibration, or completes no picture yet
    max_bytes: int | None = None


def other_type(source: Source, found: str) -> str:
    """The detail of `wrong_type`. found: the type, and perhaps where."""
    hint = TYPE_HINTS.get((source.kind, found.partition(" ")[0]), "")
    return f"{source.topic} is {found}, {source.kind} is expected{hint}"


def message_types(config: NodeConfig) -> dict[str, str]:
    """Message type that the parameters ask for -> the parameter that does, and what else it could say."""
    types = {}
    if config.extrinsics_file is None:
        mend = "or set extrinsics.source: file and extrinsics.file: a calibration YAML"
        types["tf2_msgs/msg/TFMessage"] = f"extrinsics.source is `tf_static`; {mend}"
    for camera in config.cameras.values():
        if camera.packets:
            types.setdefault(PACKET, f"cameras.{camera.name}.packets is true; or let the camera send images")
    for radar in config.radars.values():
        mend = "or let the radar publish another kind"
        types.setdefault(RADAR_KINDS[radar.kind].message, f"radars.{radar.name}.kind is `{radar.kind}`; {mend}")
    for topic in make_odometry(config.odometry, config.base_frame).inputs:
        mend = "or let the odometry come in another way"
        types.setdefault(topic.kind, f"odometry.source is `{config.odometry.source}`; {mend}")
    return types


class SensorIntake:
    """Feed it with the messages of `sources`. Not thread-safe.

    Everything is counted as `SENSOR/reason` in the measurements' counters, and told to report(sensor, reason, detail)
    each time; heard(measurement, message) is told of every image and scan that is taken in. faults: {sensor: (reason,
    detail)} of the sensors whose newest message was refused; warnings: {sensor: text} of what may keep its messages
    from coming; doubts: {sensor: text} of what is wrong in those that are used.

    Raises CalibrationError where the parameters name a calibration file that cannot be used.
    """

    def __init__(
        self,
        config: NodeConfig,
        taken: Measurements,
        report: Callable[[str, str, str], None] = lambda sensor, reason, detail: None,
        heard: Callable[[CameraFrame | RadarScan, Any], None] = lambda measurement, message: None,
    ) -> None:
        self._config, self._taken, self._report, self._heard = config, taken, report, heard
        self.faults: dict[str, tuple[str, str]] = {}
        self._fault_ns: dict[str, int] = {}  # when the newest of each came
        self.warnings: dict[str, str] = {}
        self._delays_ns: dict[str, deque[int]] = {}
        self._resets = 0  # of the measurements, when the delays began
        self._videos: dict[str, VideoStream] = {}
        self.doubts: dict[str, str] = {}
        self._odometry = make_odometry(config.odometry, config.base_frame)
        tolerances = config.odometry.twist_tolerance_mps, config.odometry.twist_tolerance_rps
        self._twist_check = TwistCheck(*tolerances, config.odometry.difference_ns)
        self._empty_radars = EmptyRadars(config.radar_limits.empty_ns)
        self.calibration = SensorCalibration(config, taken, self.notice, report)
        self.sources = self._make_sources()

    def take(self, source: Source, message: Any, now_ns: int) -> None:
        """One message, at `now_ns` on the clock of the stamps; 0 before that clock starts."""
        if now_ns:
            self._taken.advance(now_ns)
        try:
            found = source.convert(message)
            if found is None:
                self.faults.pop(source.sensor, None)
            elif isinstance(found, Sequence):
                for pose in found:
                    self._add(source.sensor, pose, now_ns)
            elif self._add(source.sensor, found, now_ns) and not isinstance(found, EgoPose):
                self._heard(found, message)
        except MessageError as error:
            self.refuse(source.sensor, error.reason, error.detail)

    def is_too_large(self, source: Source, serialised: bytes) -> bool:
        """Whether a message is refused before anything is made of it: too many bytes, or too many returns."""
        if source.max_bytes is None:
            return False
        try:
            if len(serialised) > source.max_bytes:
                expected = f"allowed are {source.max_bytes} (limits.message_bytes; of a camera_info {INFO_BYTES})"
                raise MessageError("message_too_large", f"{len(serialised)} bytes, {expected}")
            self._check_count(count_returns(source.kind, serialised))
        except MessageError as error:
            self.refuse(source.sensor, error.reason, error.detail)
            return True
        return False

    def _check_count(self, returns: int) -> None:
        limit = self._config.max_radar_returns
        if returns > limit:
            raise MessageError("too_many_returns", f"{returns} returns, allowed are {limit} (limits.radar_returns)")

    def refuse(self, sensor: str, reason: str, detail: str) -> None:
        """The sensor's newest message is lost."""
        self._set_fault(sensor, reason, detail)
        self.notice(sensor, reason, detail)

    def fault(self, sensor: str, now_ns: int) -> tuple[str, str] | None:
        """(reason, detail) of the newest message, where it was refused, and the sensor is not silent since."""
        at_ns = self._fault_ns.get(sensor)
        old = at_ns is not None and now_ns - at_ns > self._taken.config.silence_ns
        return None if old else self.faults.get(sensor)

    def was_heard(self, sensor: str) -> bool:
        """Whether any message of the sensor has come, used or refused."""
        return sensor in self._delays_ns or sensor in self.faults

    def _set_fault(self, sensor: str, reason: str, detail: str) -> None:
        self.faults[sensor] = (reason, detail)
        if self._taken.now_ns is not None:
            self._fault_ns[sensor] = self._taken.now_ns

    def notice(self, sensor: str, reason: str, detail: str) -> None:
        """Something to be told, though the sensor's messages are used."""
        self._taken.counters[f"{sensor}/{reason}"] += 1
        self._report(sensor, reason, detail)

    def delay_s(self, sensor: str, newest: int = DELAYS) -> float | None:
        """The least of the newest messages' times from stamp to here. Below zero, the sensor's clock is ahead of ours
        by at least that; a large one is a slow way or a clock that is behind. None before the first message."""
        delays = self._delays_ns.get(sensor)
        return min(islice(reversed(delays), newest)) / 1e9 if delays else None

    def _make_sources(self) -> tuple[Source, ...]:
        config, calibration, limit = self._config, self.calibration, self._config.max_message_bytes
        sources = []
        if config.extrinsics_file is None:
            sources.append(Source(f"/{TF_STATIC}", TF_STATIC, "tf2_msgs/msg/TFMessage", calibration.tf_static))
        for camera in config.cameras.values():
            kind, convert = self._image_message(camera)
            sources.append(Source(camera.topic, camera.name, kind, partial(convert, camera), limit))
            info, name = partial(calibration.camera_info, camera), f"{camera.name} camera_info"
            sources.append(Source(camera.info_topic, name, "sensor_msgs/msg/CameraInfo", info, INFO_BYTES))
        for radar in config.radars.values():
            kind = RADAR_KINDS[radar.kind].message
            sources.append(Source(radar.topic, radar.name, kind, partial(self._radar, radar), limit))
        for topic in self._odometry.inputs:
            sources.append(Source(topic.topic, ODOMETRY, topic.kind, partial(self._poses, topic)))
        return tuple(sources)

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
        return self._picture(camera, codec, byte_view(msg.data).tobytes(), stamp_ns, position=stamp_ns)

    def _packet(self, camera: CameraConfig, msg: Any) -> CameraFrame | None:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        codec = codec_of(msg.encoding)
        if not codec:
            known = ", ".join(CODECS)
            raise MessageError("image_encoding", f"encoding {msg.encoding!r} begins with none of {known}")
        stamp_ns = conversions.stamp_ns(msg.header.stamp)
        return self._picture(camera, codec, byte_view(msg.data).tobytes(), stamp_ns, position=int(msg.pts))

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
        known = self.calibration.of_camera(camera.name)
        if known is not None and (known.width, known.height) != (width, height):
            found = f"image {width}x{height}, camera_info {known.width}x{known.height}"
            raise MessageError("image_size_differs", f"{found}; they must belong together")

    def _radar(self, radar: RadarConfig, msg: Any) -> RadarScan:
        conversions.check_frame(msg.header.frame_id, radar.frame_id, f"header.frame_id of {radar.topic}")
        self._check_count(RADAR_KINDS[radar.kind].count(msg))
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
        self.doubts.pop(ODOMETRY, None)
        if self._twist_check.detail:
            detail = f"{self._twist_check.detail}; used are the poses"
            self.doubts[ODOMETRY] = f"twist_disagrees: {detail}"
            if checked:
                self.notice(ODOMETRY, "twist_disagrees", detail)
        return checked

    def _add(self, sensor: str, measurement: Measurement, now_ns: int) -> bool:
        """Whether it was taken in."""
        if now_ns == 0:
            raise MessageError("clock_not_started", "use_sim_time is true and nothing has arrived on /clock")
        if isinstance(measurement, CameraFrame):
            refused = self._taken.add_camera(measurement)
        elif isinstance(measurement, RadarScan):
            refused = self._taken.add_radar(measurement)
        else:
            refused = self._taken.add_pose(measurement)
        delay_ns = now_ns - measurement.stamp_ns
        if self._taken.resets != self._resets:  # what was late before means nothing now
            self._delays_ns.clear()
            self._resets = self._taken.resets
        if refused not in HARMLESS:
            self._delays_ns.setdefault(sensor, deque(maxlen=DELAYS)).append(delay_ns)
        if not refused:
            self.faults.pop(sensor, None)
            return True
        detail = f"its stamp is {abs(delay_ns) / 1e9:.3f} s {'behind' if delay_ns > 0 else 'ahead of'} the clock"
        detail += HINTS.get(refused, "")
        if refused not in HARMLESS:
            self._set_fault(sensor, refused, detail)
        self._report(sensor, refused, detail)  # the measurements have counted it
        return False
