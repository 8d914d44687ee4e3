"""Subscriptions of one activation: every message goes to the intake, under the lock, and nothing it holds stops us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message

from bev_perception.measurements import Measurements
from bev_perception.messages import message_class
from bev_perception.parameters import NodeConfig
from bev_perception.ros.telemetry import Telemetry
from bev_perception.sensors.intake import SensorIntake, Source, message_types, other_type
from bev_perception.sensors.sensor_calibration import TF_STATIC
from bev_perception.sensors.serialised import READERS
from bev_perception.structures import ODOMETRY, SensorFrame
from bev_perception.sync import FrameSynchronizer

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

ODOMETRY_DEPTH = 100  # a second of poses must survive a busy moment
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
TICK_S = 0.02  # how often deadlines are looked at
HELD_UP_S = 0.1  # a tick this late means that messages have waited as long
REPEATED = ("sensor_msgs/msg/CameraInfo",)  # says the same at the rate of the images: its bytes are compared
CLOUD = "sensor_msgs/msg/PointCloud2"
# Of a serialised message: what says how the rest is encoded, and where the stamp of its header ends.
ENCAPSULATION, STAMP_END = 4, 12


def check_message_types(config: NodeConfig) -> None:
    """Raises ImportError that says what to do where the package of a message that is asked for is missing."""
    for kind, asked in message_types(config).items():
        package = kind.partition("/")[0]
        try:
            message_class(kind)
        except ImportError as error:
            because, _, otherwise = asked.partition("; ")
            mend = f"install ros-<distro>-{package.replace('_', '-')}, {otherwise}"
            raise ImportError(f"{because}, but the package {package} is not installed; {mend}") from error


class SensorInputs:
    """Everything between the topics and the intake. All of it runs in the executor's thread.

    lock: guards intake and measurements, which the status thread reads too. offer(frames) takes the frames that are
    due and returns at once. tap(source, serialised) is told of every message that is not too large, before anything is
    made of it; None: nobody wants them.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        intake: SensorIntake,
        synchronizer: FrameSynchronizer,
        lock: threading.Lock,
        telemetry: Telemetry,
        offer: Callable[[list[SensorFrame]], None],
        tap: Callable[[Source, bytes], None] | None = None,
    ) -> None:
        self._node, self._config, self._intake, self._sync, self._tap = node, config, intake, synchronizer, tap
        self._lock, self._telemetry, self._offer = lock, telemetry, offer
        self._clock = node.get_clock()
        self._newest_info: dict[str, bytes] = {}
        self._heard: set[str] = set()  # topics
        self._held_up_until = 0.0
        self._subscriptions: dict[Source, Any] = {}
        try:
            for source in intake.sources:
                self._subscriptions[source] = self._subscribe(source)
        except Exception:
            self._destroy_subscriptions()
            raise
        self._tick_at = time.monotonic()
        self._timer = node.create_timer(TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Destroy timer and subscriptions."""
        self._node.destroy_timer(self._timer)
        self._destroy_subscriptions()

    def name_wrong_types(self) -> None:
        """Of topics from which nothing has come: where others publish another type there, that is why.

        The middleware matches no such publisher and does not say so, but the graph shows it.
        """
        for source in list(self._subscriptions):
            if source.topic in self._heard:
                continue
            found = {publisher.topic_type for publisher in self._node.get_publishers_info_by_topic(source.topic)}
            if found and source.kind not in found:
                detail = other_type(source, sorted(found)[0])
                with self._lock:
                    if self._intake.warnings.get(source.sensor) != f"wrong_type: {detail}":
                        self._intake.notice(source.sensor, "wrong_type", detail)
                    self._intake.warnings[source.sensor] = f"wrong_type: {detail}"

    def _destroy_subscriptions(self) -> None:
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _subscribe(self, source: Source) -> Any:
        static = source.sensor == TF_STATIC

        def on_incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            mend = "set qos.reliability or qos_overrides for this topic"
            detail = f"qos_incompatible: a publisher of {source.topic} offers another {policy}; {mend}"
            with self._lock:
                self._intake.notice(source.sensor, "qos_incompatible", detail)
                self._intake.warnings[source.sensor] = detail

        return self._node.create_subscription(
            message_class(source.kind),
            source.topic,
            lambda message: self._take(source, message),
            LATCHED if static else self._sensor_qos(source),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible),
            qos_overriding_options=None if static else QoSOverridingOptions.with_default_policies(),
            raw=source.max_bytes is not None or self._tap is not None,  # to be looked at before anything is made of it
        )

    def _sensor_qos(self, source: Source) -> QoSProfile:
        depth = ODOMETRY_DEPTH if source.sensor == ODOMETRY else self._config.qos_depth
        reliability = ReliabilityPolicy[self._config.qos_reliability.upper()]
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability)

    def _take(self, source: Source, message: Any) -> None:
        """One message, and the frames that it makes complete."""
        self._heard.add(source.topic)
        started = time.perf_counter_ns()
        try:
            if self._tap is not None and len(message) <= (source.max_bytes or len(message)):
                self._tap(source, message)
            if source.max_bytes is not None:
                if source.kind in REPEATED and self._says_nothing_new(source, message):
                    return
                with self._lock:
                    if self._intake.is_too_large(source, message):
                        return
            if source.max_bytes is not None or self._tap is not None:
                message = self._read(source.kind, message)
            with self._lock:  # held during the conversion too: microseconds, as pixels are not copied
                self._notice_hold_up()
                self._intake.take(source, message, int(self._clock.now().nanoseconds))
                frames = self._sync.poll(all_taken=False)
            self._offer(frames)
        except Exception as error:
            # Nothing that anybody publishes may stop the node.
            detail = f"{source.topic}: {type(error).__name__}: {error}"
            with self._lock:
                self._intake.refuse(source.sensor, "conversion_failed", detail)
        self._telemetry.time("convert", (time.perf_counter_ns() - started) / 1e6)

    def _read(self, kind: str, serialised: bytes) -> Any:
        own = READERS.get(kind)
        if own is None or (kind == CLOUD and self._config.cloud_reader != "numpy"):  # which wants rclpy's own class
            return deserialize_message(serialised, message_class(kind))
        return own(serialised)

    def _says_nothing_new(self, source: Source, serialised: bytes) -> bool:
        content = serialised[:ENCAPSULATION] + serialised[STAMP_END:]
        if self._newest_info.get(source.sensor) == content:
            return True
        self._newest_info[source.sensor] = content
        return False

    def _tick(self) -> None:
        """Let a deadline fire, but not before everything that has arrived was taken in."""
        with self._lock:
            self._notice_hold_up()
            self._tick_at = time.monotonic()
            overdue = self._advance()
        if not overdue:
            return
        for source, subscription in self._subscriptions.items():
            for _ in range(ODOMETRY_DEPTH):  # no queue is longer; a publisher without end does not keep us here
                if (waiting := _take_waiting(subscription)) is None:
                    break
                self._take(source, waiting)
        with self._lock:
            self._advance()
            frames = self._sync.poll()
        self._offer(frames)

    def _notice_hold_up(self) -> None:
        """A tick that is overdue says so: to the first message that is taken in after it was due, too."""
        now = time.monotonic()
        if now - self._tick_at - TICK_S > HELD_UP_S:
            self._held_up_until = now + self._config.sync["deadline_ns"] / 1e9 + HELD_UP_S
        self._sync.taken.held_up = now < self._held_up_until

    def _advance(self) -> bool:
        """Tell the time; whether a frame's deadline has passed."""
        now_ns = int(self._clock.now().nanoseconds)
        taken: Measurements = self._sync.taken
        if now_ns:
            taken.advance(now_ns)
        return self._sync.is_overdue()


def _take_waiting(subscription: Any) -> Any | None:
    """The oldest message that waits in a subscription's queue, without the executor."""
    with subscription.handle:
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    return None if taken is None else taken[0]
