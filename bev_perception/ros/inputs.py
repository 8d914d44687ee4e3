"""Subscriptions of one activation: every message goes to the intake, under the lock, and nothing it holds stops us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from bev_perception.intake import PACKET, TF_STATIC, SensorIntake, Source
from bev_perception.messages import message_class
from bev_perception.parameters import NodeConfig
from bev_perception.ros.telemetry import Telemetry
from bev_perception.structures import SensorFrame
from bev_perception.sync import ODOMETRY

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

ODOMETRY_DEPTH = 50  # a second of poses must survive a busy moment
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def check_tf_message() -> None:
    """Raises ImportError that says what to do where tf2_msgs is missing."""
    try:
        import tf2_msgs.msg  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "extrinsics.source is `tf_static`, but the package tf2_msgs is not installed; install "
            "ros-<distro>-tf2-msgs, or set extrinsics.source: file and extrinsics.file: a calibration YAML"
        ) from error


def check_packet_message() -> None:
    """Raises ImportError that says what to do where ffmpeg_image_transport_msgs is missing."""
    try:
        message_class(PACKET)
    except ImportError as error:
        raise ImportError(
            "cameras.*.packets is true, but the package ffmpeg_image_transport_msgs is not installed; install "
            "ros-<distro>-ffmpeg-image-transport-msgs"
        ) from error


class SensorInputs:
    """Everything between the topics and the intake.

    lock: guards the intake, which the worker thread polls too. offer(frames) takes the frames that became complete
    and returns at once.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        intake: SensorIntake,
        lock: threading.Lock,
        telemetry: Telemetry,
        offer: Callable[[list[SensorFrame]], None],
    ) -> None:
        self._node, self._config, self._intake, self._lock = node, config, intake, lock
        self._telemetry, self._offer = telemetry, offer
        self._clock = node.get_clock()
        self._subscriptions = [self._subscribe(source) for source in intake.sources]

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _subscribe(self, source: Source) -> Any:
        static = source.sensor == TF_STATIC

        def on_incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            mend = "set qos.reliability or qos_overrides for this topic"
            detail = f"a publisher of {source.topic} offers another {policy}; {mend}"
            with self._lock:
                self._intake.notice(source.sensor, "qos_incompatible", detail)

        return self._node.create_subscription(
            message_class(source.kind),
            source.topic,
            lambda message: self._take(source, message),
            LATCHED if static else self._sensor_qos(source),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible),
            qos_overriding_options=None if static else QoSOverridingOptions.with_default_policies(),
        )

    def _sensor_qos(self, source: Source) -> QoSProfile:
        depth = ODOMETRY_DEPTH if source.sensor == ODOMETRY else self._config.qos_depth
        reliability = ReliabilityPolicy[self._config.qos_reliability.upper()]
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability)

    def _take(self, source: Source, message: Any) -> None:
        started = time.perf_counter_ns()
        try:
            with self._lock:  # held during the conversion too: microseconds, as pixels are not copied
                frames = self._intake.take(source, message, int(self._clock.now().nanoseconds))
            self._offer(frames)
        except Exception as error:
            # Nothing that anybody publishes may stop the node.
            detail = f"{source.topic}: {type(error).__name__}: {error}"
            with self._lock:
                self._intake.refuse(source.sensor, "conversion_failed", detail)
        self._telemetry.time("convert", (time.perf_counter_ns() - started) / 1e6)
