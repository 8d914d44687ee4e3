"""A car for measurements and for trying faults: publishes what the sensors of the parameters would, without a world.

Cameras at 12 Hz, radars at 13 Hz, odometry at 100 Hz, stamped with the wall clock, 5 m/s straight ahead. The kinds of
messages are those that the parameters ask for, as bev_perception.ros.car_messages makes them.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from bev_perception.messages import to_time
from bev_perception.parameters import NodeConfig
from bev_perception.ros.car_messages import (
    PICTURES,
    SCANS,
    camera_info,
    motion,
    move,
    returns,
    scenery,
    to_transforms,
)
from bev_perception.sensors.sensor_calibration import TF_STATIC
from bev_perception.structures import ODOMETRY

CAMERA_HZ, RADAR_HZ, ODOMETRY_HZ = 12.0, 13.0, 100.0
SPEED_MPS = 5.0
VIEWS = 23  # different images, one after the other: the same picture again soon would be a frozen one
SENSOR_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass
class Sending:
    """One message about to be published. kind: image, info, radar, tf_static, or what the ego motion is told by:
    odometry, pose, twist, tf; sensor: its name in the model, for info and image the camera's."""

    kind: str
    sensor: str
    message: Any
    stamp_ns: int


# What becomes of a message: the messages to publish instead of it, in order; none: it is lost.
Change = Callable[[Sending], Iterable[Sending]]


def as_it_is(sending: Sending) -> Iterable[Sending]:
    return (sending,)


class Car:
    """drive(seconds) publishes; `change` may be set at any time, by another thread too.

    pictures: camera -> how its images are encoded, a key of PICTURES; else bgr8, or JPEG where it is `compressed`.
    topics: sensor -> where its images or scans go, against what the parameters say. mounts: {sensor: ego_from_sensor},
    for /tf_static, where the extrinsics come from there.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        width: int,
        height: int,
        pictures: Mapping[str, str] | None = None,
        topics: Mapping[str, str] | None = None,
        mounts: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._node = node
        self.change: Change = as_it_is
        self.late_s = 0.0  # the most that a message went out after its time; whoever asks sets it back
        self._publishers: dict[tuple[str, str], Any] = {}
        self._started: float | None = None
        # (time of the next one, period, order, what makes the message)
        self._events: list[tuple[float, float, int, Callable[[int], Sending]]] = []
        pictures, topics = pictures or {}, topics or {}
        views = [scenery(width, height, phase) for phase in np.linspace(0, 2 * np.pi, VIEWS, endpoint=False)]
        for i, camera in enumerate(config.cameras.values()):
            offset_s = 0.1 + camera.offset_ns / 1e9
            info = camera_info(width, height, camera.frame_id)
            self._add("info", camera.name, camera.info_topic, CAMERA_HZ, offset_s, [info])
            first = 3 * i  # cameras share the pictures, each at another one
            kind = pictures.get(camera.name, "jpeg" if camera.compressed else "bgr8")
            images = PICTURES[kind](views[first:] + views[:first], camera.frame_id)
            self._add("image", camera.name, topics.get(camera.name, camera.topic), CAMERA_HZ, offset_s, images)
        for i, radar in enumerate(config.radars.values()):
            scans = [SCANS[radar.kind](returns(seed), radar.frame_id) for seed in range(VIEWS)]
            topic = topics.get(radar.name, radar.topic)
            self._add("radar", radar.name, topic, RADAR_HZ, 0.1 + 0.01 * i, scans)
        for kind, topic, message in motion(config, SPEED_MPS):
            self._add(kind, ODOMETRY, topic, ODOMETRY_HZ, 0.0, [message])
        if mounts and config.extrinsics_file is None:
            frames = {name: camera.frame_id for name, camera in config.cameras.items()}
            frames |= {name: radar.frame_id for name, radar in config.radars.items()}
            transforms = to_transforms(config.base_frame, {frames[name]: pose for name, pose in mounts.items()})
            self._add(TF_STATIC, TF_STATIC, f"/{TF_STATIC}", 1.0, 0.0, [transforms], LATCHED)

    def drive(self, seconds: float, until: Callable[[], bool] = lambda: False) -> int:
        """Number of messages made, each at its time, until the time is over or `until` says so."""
        start = self._started = self._started or time.time()
        count, end = 0, time.time() + seconds
        while (at := start + self._events[0][0]) < end and rclpy.ok(context=self._node.context) and not until():
            _, period, index, make = heapq.heappop(self._events)
            late = time.time() - at
            self.late_s = max(self.late_s, late)
            if late < -1e-4:
                time.sleep(-late)
            sending = make(round(at * 1e9))
            if sending.sensor == ODOMETRY:
                move(sending.message, SPEED_MPS * (at - start))
            for changed in self.change(sending):
                self.publish(changed)
            # A driver that was held up goes on with the next period, it does not catch up.
            next_at = at + period * max(1, int(late / period))
            heapq.heappush(self._events, (next_at - start, period, index, make))
            count += 1
        return count

    def publish(self, sending: Sending) -> None:
        for stamped in getattr(sending.message, "transforms", [sending.message]):
            stamped.header.stamp = to_time(sending.stamp_ns)
        self._publishers[sending.kind, sending.sensor].publish(sending.message)

    def _add(
        self,
        kind: str,
        sensor: str,
        topic: str,
        rate_hz: float,
        first_s: float,
        messages: Sequence[Any],
        qos: QoSProfile = SENSOR_QOS,
    ) -> None:
        """messages: what is sent, one after the other, and from the first again."""
        self._publishers[kind, sensor] = self._node.create_publisher(type(messages[0]), topic, qos)
        endless = itertools.cycle(messages)

        def make(stamp_ns: int) -> Sending:
            return Sending(kind, sensor, next(endless), stamp_ns)

        heapq.heappush(self._events, (first_s, 1.0 / rate_hz, len(self._events), make))
