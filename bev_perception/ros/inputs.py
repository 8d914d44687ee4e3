"""Subscriptions of one activation: convert each message, hand it to the synchroniser, count what is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from bev_perception.calibration import CalibrationError, StaticTree, load_extrinsics
from bev_perception.parameters import CameraConfig, NodeConfig, RadarConfig
from bev_perception.ros import conversions
from bev_perception.ros.conversions import MessageError
from bev_perception.ros.telemetry import Telemetry
from bev_perception.structures import CameraCalibration, SensorFrame
from bev_perception.sync import ODOMETRY, FrameSynchronizer

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


# How to mend what the synchroniser refuses.
HINTS = {
    "future_stamp": "; synchronise the clocks of sensor and computer (PTP), or mend the driver",
    "too_old": "; synchronise the clocks, or play recordings with /clock and use_sim_time: true",
    "duplicate": "; two publishers on the topic, or a driver that repeats stamps",
}
ODOMETRY_DEPTH = 50  # a second of poses must survive a busy moment


def import_tf_message() -> type:
    """tf2_msgs/TFMessage, or ImportError that says what to do."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError as error:
        raise ImportError(
            "extrinsics.source is `tf_static`, but the package tf2_msgs is not installed; install "
            "ros-<distro>-tf2-msgs, or set extrinsics.source: file and extrinsics.file: a calibration YAML"
        ) from error
    return TFMessage


class SensorInputs:
    """Everything between the topics and the synchroniser.

    lock: guards the synchroniser, which the worker thread polls too. offer(frames) takes the frames that became
    complete and returns at once; request_reset(reason) empties the temporal memory before the next step.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        synchronizer: FrameSynchronizer,
        lock: threading.Lock,
        telemetry: Telemetry,
        offer: Callable[[list[SensorFrame]], None],
        request_reset: Callable[[str], None],
    ) -> None:
        self._node, self._config, self._sync, self._lock = node, config, synchronizer, lock
        self._telemetry, self._offer, self._request_reset = telemetry, offer, request_reset
        self._clock = node.get_clock()
        self._infos: dict[str, Any] = {}
        self._calibrations: dict[str, CameraCalibration] = {}
        self._extrinsics: dict[str, np.ndarray] = {}
        self._tree = StaticTree()
        self._no_transform: dict[str, str] = {}
        self._subscriptions: list[Any] = []
        self._subscribe()

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def poll(self) -> None:
        """Let deadlines fire; called from the worker while it is idle."""
        now = self._now()
        if now == 0:  # simulated time has not begun
            return
        with self._lock:
            frames = self._sync.poll(now)
        self._offer(frames)

    def calibration_gap(self, name: str) -> str:
        """What the calibration of a sensor still lacks, or ""."""
        camera = self._config.cameras.get(name)
        gaps = []
        if camera is not None and name not in self._infos:
            gaps.append(f"nothing usable arrived on {camera.info_topic}")
        if name not in self._extrinsics:
            gaps.append(self._no_transform.get(name, "nothing arrived on /tf_static"))
        return "; ".join(gaps)

    # ---- subscriptions

    def _subscribe(self) -> None:
        config = self._config
        if config.extrinsics_source == "file":
            assert config.extrinsics_file is not None  # make_config checked it
            names = [*config.cameras, *config.radars]
            self._set_extrinsics(load_extrinsics(config.extrinsics_file, config.base_frame, names))
        else:
            latched = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=100,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=DurabilityPolicy.TRANSIENT_LOCAL,
            )
            self._add(import_tf_message(), "/tf_static", "tf_static", self._on_tf_static, latched, overridable=False)
        for camera in config.cameras.values():
            image_type = CompressedImage if camera.compressed else Image
            self._add(image_type, camera.topic, camera.name, partial(self._on_image, camera))
            info_name = f"{camera.name} camera_info"
            self._add(CameraInfo, camera.info_topic, info_name, partial(self._on_camera_info, camera))
        for radar in config.radars.values():
            self._add(PointCloud2, radar.topic, radar.name, partial(self._on_radar, radar))
        self._add(Odometry, config.odometry_topic, ODOMETRY, self._on_odometry, self._sensor_qos(ODOMETRY_DEPTH))

    def _sensor_qos(self, depth: int) -> QoSProfile:
        reliability = ReliabilityPolicy[self._config.qos_reliability.upper()]
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability)

    def _add(
        self,
        message_type: type,
        topic: str,
        sensor: str,
        callback: Callable[[Any], None],
        qos: QoSProfile | None = None,
        overridable: bool = True,
    ) -> None:
        def on_incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            detail = (
                f"a publisher of {topic} offers another {policy}; set qos.reliability or qos_overrides for this topic"
            )
            self._report(sensor, "qos_incompatible", detail)

        def guarded(msg: Any) -> None:
            started = time.perf_counter_ns()
            try:
                callback(msg)
            except MessageError as error:
                self._refuse(sensor, error.reason, error.detail)
            except Exception as error:
                # Nothing that anybody publishes may stop the node.
                self._refuse(sensor, "conversion_failed", f"{topic}: {type(error).__name__}: {error}")
            self._telemetry.time("convert", (time.perf_counter_ns() - started) / 1e6)

        options = QoSOverridingOptions.with_default_policies() if overridable else None
        subscription = self._node.create_subscription(
            message_type,
            topic,
            guarded,
            qos or self._sensor_qos(self._config.qos_depth),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible),
            qos_overriding_options=options,
        )
        self._subscriptions.append(subscription)

    # ---- callbacks

    def _on_image(self, camera: CameraConfig, msg: Any) -> None:
        conversions.check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        if camera.compressed:
            frame = conversions.to_compressed_frame(msg, camera.name)
        else:
            frame = conversions.to_camera_frame(msg, camera.name, self._config.image_reader)
            known = self._calibrations.get(camera.name)
            if known is not None and (known.width, known.height) != (msg.width, msg.height):
                found = f"image {msg.width}x{msg.height}, camera_info {known.width}x{known.height}"
                raise MessageError("image_size_differs", f"{found}; they must belong together")
        self._take(camera.name, frame.stamp_ns, lambda: self._sync.add_camera(frame))

    def _on_radar(self, radar: RadarConfig, msg: Any) -> None:
        conversions.check_frame(msg.header.frame_id, radar.frame_id, f"header.frame_id of {radar.topic}")
        scan, bad = conversions.read_radar(msg, radar.name, self._config.radar_fields, self._config.cloud_reader)
        if bad:
            detail = f"{bad} of {bad + len(scan.points)} returns hold NaN or infinity and were left out"
            self._report(radar.name, "radar_returns_not_finite", detail)
        self._take(radar.name, scan.stamp_ns, lambda: self._sync.add_radar(scan))

    def _on_odometry(self, msg: Any) -> None:
        pose = conversions.to_ego_pose(msg, self._config.odometry_frame, self._config.base_frame)
        self._take(ODOMETRY, pose.stamp_ns, lambda: self._sync.add_pose(pose))

    def _on_camera_info(self, camera: CameraConfig, msg: Any) -> None:
        known = self._infos.get(camera.name)
        if known is not None and _same_calibration(known, msg):
            return
        conversions.to_calibration(msg, np.eye(4), camera.rectified)  # refuse before anything is replaced
        self._infos[camera.name] = msg
        self._set_calibration(camera)
        if known is not None:
            self._report(camera.name, "calibration_changed", f"{camera.info_topic} changed while running")
            self._request_reset("calibration_changed")

    def _on_tf_static(self, msg: Any) -> None:
        try:
            self._tree.add(msg.transforms)
        except CalibrationError as error:
            self._report("tf_static", "bad_transform", str(error))
        found = {}
        sensors: list[CameraConfig | RadarConfig] = [*self._config.cameras.values(), *self._config.radars.values()]
        for sensor in sensors:
            try:
                found[sensor.name] = self._tree.lookup(self._config.base_frame, sensor.frame_id)
                self._no_transform.pop(sensor.name, None)
            except CalibrationError as error:
                self._no_transform[sensor.name] = str(error)
        self._set_extrinsics(found)

    # ---- state

    def _set_extrinsics(self, found: dict[str, np.ndarray]) -> None:
        for name, ego_from_sensor in found.items():
            known = self._extrinsics.get(name)
            if known is not None and np.allclose(known, ego_from_sensor, rtol=0, atol=1e-9):
                continue
            self._extrinsics[name] = ego_from_sensor
            if name in self._config.cameras:
                self._set_calibration(self._config.cameras[name])
            else:
                with self._lock:
                    self._sync.set_radar_extrinsics(name, ego_from_sensor)
            if known is not None:
                self._report(name, "calibration_changed", "its static transform changed while running")
                self._request_reset("calibration_changed")

    def _set_calibration(self, camera: CameraConfig) -> None:
        """Tell the synchroniser as soon as both halves are known."""
        info, ego_from_cam = self._infos.get(camera.name), self._extrinsics.get(camera.name)
        if info is None or ego_from_cam is None:
            return
        calibration = conversions.to_calibration(info, ego_from_cam, camera.rectified)
        self._calibrations[camera.name] = calibration
        with self._lock:
            self._sync.set_camera_calibration(camera.name, calibration)

    def _take(self, sensor: str, stamp_ns: int, add: Callable[[], str]) -> None:
        now = self._now()
        if now == 0:
            raise MessageError("clock_not_started", "use_sim_time is true and nothing has arrived on /clock")
        with self._lock:
            refused = add()
            frames = self._sync.poll(now)
        self._offer(frames)
        if not refused:
            self._telemetry.sound(sensor)
            return
        behind_s = (now - stamp_ns) / 1e9
        detail = f"its stamp is {abs(behind_s):.3f} s {'behind' if behind_s > 0 else 'ahead of'} the clock"
        detail += HINTS.get(refused, "")
        self._telemetry.fault(sensor, refused, detail)
        if self._telemetry.note(f"{sensor}/{refused}", detail):  # the synchroniser counts it
            self._node.get_logger().warning(f"{sensor}: {refused}: {detail} (counted from here on, see /diagnostics)")

    def _now(self) -> int:
        return int(self._clock.now().nanoseconds)

    def _refuse(self, sensor: str, reason: str, detail: str) -> None:
        """The message is lost and the sensor's state says why."""
        self._telemetry.fault(sensor, reason, detail)
        self._report(sensor, reason, detail)

    def _report(self, sensor: str, reason: str, detail: str) -> None:
        if self._telemetry.count(f"{sensor}/{reason}", detail):
            self._node.get_logger().warning(f"{sensor}: {reason}: {detail} (counted from here on, see /diagnostics)")


def _same_calibration(a: Any, b: Any) -> bool:
    return (
        (a.width, a.height, a.distortion_model, a.binning_x, a.binning_y)
        == (b.width, b.height, b.distortion_model, b.binning_x, b.binning_y)
        and a.roi == b.roi
        and np.array_equal(a.k, b.k)
        and np.array_equal(a.d, b.d)
        and np.array_equal(a.p, b.p)
    )
