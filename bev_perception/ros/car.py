"""A car for measurements and for trying faults: publishes what the sensors of the parameters would, without a world.

The kinds of messages are the usual ones: point clouds, Odometry, images raw or as JPEG. Cameras at 12 Hz, radars at
13 Hz, odometry at 100 Hz, stamped with the wall clock, 5 m/s straight ahead.
"""

from __future__ import annotations

import array
import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField

from bev_perception.messages import to_time
from bev_perception.parameters import NodeConfig
from bev_perception.structures import ODOMETRY

CAMERA_HZ, RADAR_HZ, ODOMETRY_HZ = 12.0, 13.0, 100.0
SPEED_MPS = 5.0
RETURNS = 125
FIELDS = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
VIEWS = 23  # different images, one after the other: the same picture again soon would be a frozen one
SENSOR_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass
class Sending:
    """One message about to be published. kind: image, info, radar or odometry; sensor: its name in the model, for info
    and image the camera's."""

    kind: str
    sensor: str
    message: Any
    stamp_ns: int


# What becomes of a message: the messages to publish instead of it, in order; none: it is lost.
Change = Callable[[Sending], Iterable[Sending]]


def as_it_is(sending: Sending) -> Iterable[Sending]:
    return (sending,)


class Car:
    """drive(seconds) publishes; `change` may be set at any time, by another thread too."""

    def __init__(self, node: Node, config: NodeConfig, width: int, height: int) -> None:
        self._node = node
        self.change: Change = as_it_is
        self._publishers: dict[tuple[str, str], Any] = {}
        self._started: float | None = None
        # (time of the next one, period, order, what makes the message)
        self._events: list[tuple[float, float, int, Callable[[int], Sending]]] = []
        views = [scenery(width, height, phase) for phase in np.linspace(0, 2 * np.pi, VIEWS, endpoint=False)]
        for i, camera in enumerate(config.cameras.values()):
            offset_s = 0.1 + camera.offset_ns / 1e9
            info = camera_info(width, height, camera.frame_id)
            self._add("info", camera.name, camera.info_topic, CAMERA_HZ, offset_s, [info])
            images = _images(views, camera.frame_id, camera.compressed)
            first = 3 * i  # cameras share the pictures, each at another one
            self._add("image", camera.name, camera.topic, CAMERA_HZ, offset_s, images[first:] + images[:first])
        for i, radar in enumerate(config.radars.values()):
            clouds = [cloud(seed, radar.frame_id) for seed in range(VIEWS)]
            self._add("radar", radar.name, radar.topic, RADAR_HZ, 0.1 + 0.01 * i, clouds)
        odometry = Odometry(child_frame_id=config.base_frame)
        odometry.header.frame_id = config.odometry.frame
        odometry.pose.pose.orientation.w = 1.0
        odometry.twist.twist.linear.x = SPEED_MPS
        self._add(ODOMETRY, ODOMETRY, config.odometry.topic, ODOMETRY_HZ, 0.0, [odometry])

    def drive(self, seconds: float, until: Callable[[], bool] = lambda: False) -> int:
        """Number of messages made, each at its time, until the time is over or `until` says so."""
        start = self._started = self._started or time.time()
        count, end = 0, time.time() + seconds
        while (at := start + self._events[0][0]) < end and rclpy.ok(context=self._node.context) and not until():
            _, period, index, make = heapq.heappop(self._events)
            late = time.time() - at
            if late < -1e-4:
                time.sleep(-late)
            sending = make(round(at * 1e9))
            if sending.kind == ODOMETRY:
                sending.message.pose.pose.position.x = SPEED_MPS * (at - start)
            for changed in self.change(sending):
                self.publish(changed)
            # A driver that was held up goes on with the next period, it does not catch up.
            next_at = at + period * max(1, int(late / period))
            heapq.heappush(self._events, (next_at - start, period, index, make))
            count += 1
        return count

    def publish(self, sending: Sending) -> None:
        sending.message.header.stamp = to_time(sending.stamp_ns)
        self._publishers[sending.kind, sending.sensor].publish(sending.message)

    def _add(self, kind: str, sensor: str, topic: str, rate_hz: float, first_s: float, messages: Sequence[Any]) -> None:
        """messages: what is sent, one after the other, and from the first again."""
        self._publishers[kind, sensor] = self._node.create_publisher(type(messages[0]), topic, SENSOR_QOS)
        endless = itertools.cycle(messages)

        def make(stamp_ns: int) -> Sending:
            return Sending(kind, sensor, next(endless), stamp_ns)

        heapq.heappush(self._events, (first_s, 1.0 / rate_hz, len(self._events), make))


def scenery(width: int, height: int, phase: float) -> np.ndarray:
    """(height, width, 3) uint8: a sky, a road and some things on it, which move with the phase (rad)."""
    v, u = np.mgrid[0:height, 0:width]
    sky = np.stack([200 - 60 * v / height, 170 - 40 * v / height, 140 - 20 * v / height], axis=-1)
    road = np.stack([90 + 30 * np.sin(u / width * 40 + v / height * 25 + phase + k) for k in range(3)], axis=-1)
    image = np.where((v > height * 0.45)[..., None], road, sky)
    for k in range(5):
        x = int(width * (0.5 + 0.45 * np.sin(phase + 1.3 * k)))
        corner = (x, int(height * (0.4 + 0.05 * k)))
        far = (x + width // 14, int(height * (0.52 + 0.06 * k)))
        cv2.rectangle(image, corner, far, (40.0 * k, 200.0 - 30 * k, 60.0 + 35 * k), -1)
    return np.asarray(image, dtype=np.uint8)


def camera_info(width: int, height: int, frame_id: str) -> CameraInfo:
    focal = 0.8 * width
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [focal, 0.0, width / 2 - 0.5, 0.0, focal, height / 2 - 0.5, 0.0, 0.0, 1.0]
    message.r = np.eye(3).ravel()
    message.p = np.insert(np.reshape(message.k, (3, 3)), 3, 0.0, axis=1).ravel()
    message.header.frame_id = frame_id
    return message


def cloud(seed: int, frame_id: str) -> PointCloud2:
    """Returns in front of the radar, most of them standing."""
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (RETURNS, len(FIELDS))).astype(np.float32)
    points[:, 0] = rng.uniform(2, 80, RETURNS)
    points[:, 1] *= 10
    points[:, 2:3] *= 0.2
    points[:, 3] *= 8
    points[:, 4:] *= 0.5
    return to_cloud(points, frame_id)


def to_cloud(points: np.ndarray, frame_id: str) -> PointCloud2:
    """(P, 6) float32 of FIELDS -> message."""
    step = 4 * len(FIELDS)
    message = PointCloud2(width=len(points), height=1, point_step=step, row_step=step * len(points), is_dense=True)
    message.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(FIELDS)
    ]
    message.data = array.array("B", np.ascontiguousarray(points, np.float32).tobytes())
    message.header.frame_id = frame_id
    return message


def to_image(bgr: np.ndarray, frame_id: str) -> Image:
    """(H, W, 3) uint8 -> message."""
    height, width = bgr.shape[:2]
    message = Image(width=width, height=height, encoding="bgr8", step=3 * width)
    message.data = array.array("B", np.ascontiguousarray(bgr).tobytes())
    message.header.frame_id = frame_id
    return message


def to_jpeg(bgr: np.ndarray, frame_id: str) -> CompressedImage:
    """(H, W, 3) uint8 -> message."""
    message = CompressedImage(format="bgr8; jpeg compressed bgr8")
    message.data = array.array("B", cv2.imencode(".jpg", bgr)[1].tobytes())
    message.header.frame_id = frame_id
    return message


def _images(views: list[np.ndarray], frame_id: str, compressed: bool) -> list[Any]:
    return [to_jpeg(view, frame_id) if compressed else to_image(view, frame_id) for view in views]
