"""The whole node under a steady load, for the bench: who uses how much of a core, and is anything lost?

python -m bev_perception.ros.load node --threads threads.json --ros-args --params-file ...
python -m bev_perception.ros.load play --params ... --seconds 20 --images 1600x900

`node` is the node with an engine that does nothing after its first runs, so that what is measured is all the rest.
`play` publishes what a car does: cameras at 12 Hz, radars at 13 Hz, odometry at 100 Hz, stamped with the wall clock.
"""

from __future__ import annotations

import argparse
import array
import heapq
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

from bev_perception.files import write_atomic
from bev_perception.inference.backend import BACKENDS
from bev_perception.inference.interface import InferenceBackend
from bev_perception.messages import to_time
from bev_perception.model_spec import Bundle
from bev_perception.parameters import NodeConfig, load_config, parse_yaml
from bev_perception.ros import node as perception_node

CAMERA_HZ, RADAR_HZ, ODOMETRY_HZ = 12.0, 13.0, 100.0
RETURNS = 125
FIELDS = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
REAL_RUNS = 8  # of the engine: the self-test and the first frames
SENSOR_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class FrozenEngine:
    """ONNX Runtime for a few runs, afterwards the last answer again at once."""

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        self._backend: InferenceBackend = BACKENDS["onnxruntime"](bundle, **options)
        self.name, self.spec, self.details = "frozen", self._backend.spec, self._backend.details
        self.fetch, self.close = self._backend.fetch, self._backend.close
        self._runs, self._answer = 0, dict[str, Any]()

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._runs += 1
        if self._runs <= REAL_RUNS:
            self._answer = self._backend.infer(inputs)
        return self._answer


def run_node(threads: Path, ros_args: list[str]) -> int:
    """Until it is stopped; writes name and number of its threads every second."""
    BACKENDS["frozen"] = FrozenEngine

    def tell() -> None:
        while True:
            known = {thread.native_id: thread.name for thread in threading.enumerate()}
            write_atomic(threads, json.dumps({"pid": os.getpid(), "threads": known}))
            time.sleep(1.0)

    threading.Thread(target=tell, name="bench", daemon=True).start()
    return perception_node.main(ros_args)


class Car:
    """Publishers of everything that the parameters name, with messages that only need a stamp."""

    def __init__(self, node: Node, config: NodeConfig, width: int, height: int) -> None:
        self._node = node
        rng = np.random.default_rng(0)
        pixels = array.array("B", rng.integers(0, 256, width * height * 3, np.uint8).tobytes())
        points = rng.normal(0, 20, (RETURNS, len(FIELDS))).astype(np.float32)
        points[:, 4:] *= 0.1
        fields = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate(FIELDS)]
        focal = 0.8 * width
        matrix = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        self._events: list[tuple[float, float, int, Callable[[int], None]]] = []
        for camera in config.cameras.values():
            image = Image(width=width, height=height, encoding="bgr8", step=3 * width)
            image.data = pixels
            info = CameraInfo(width=width, height=height, k=matrix, distortion_model="plumb_bob")
            offset_s = camera.offset_ns / 1e9
            self._add(camera.info_topic, info, camera.frame_id, CAMERA_HZ, 0.1 + offset_s)
            self._add(camera.topic, image, camera.frame_id, CAMERA_HZ, 0.1 + offset_s)
        for i, radar in enumerate(config.radars.values()):
            cloud = PointCloud2(width=RETURNS, height=1, point_step=4 * len(FIELDS), row_step=4 * len(FIELDS) * RETURNS)
            cloud.fields, cloud.data = fields, array.array("B", points.tobytes())
            self._add(radar.topic, cloud, radar.frame_id, RADAR_HZ, 0.1 + 0.01 * i)
        odometry = Odometry(child_frame_id=config.base_frame)
        odometry.pose.pose.orientation.w = 1.0
        self._add(config.odometry_topic, odometry, config.odometry_frame, ODOMETRY_HZ, 0.0)

    def _add(self, topic: str, message: Any, frame_id: str, rate_hz: float, first_s: float) -> None:
        publisher = self._node.create_publisher(type(message), topic, SENSOR_QOS)
        message.header.frame_id = frame_id

        def publish(stamp_ns: int) -> None:
            message.header.stamp = to_time(stamp_ns)
            publisher.publish(message)

        heapq.heappush(self._events, (first_s, 1.0 / rate_hz, len(self._events), publish))

    def drive(self, seconds: float) -> int:
        """Number of messages published, each at its time."""
        start, count = time.time(), 0
        while self._events[0][0] < seconds and rclpy.ok():
            at, period, index, publish = heapq.heappop(self._events)
            time.sleep(max(0.0, start + at - time.time()))
            publish(round((start + at) * 1e9))
            heapq.heappush(self._events, (at + period, period, index, publish))
            count += 1
        return count


def play(params: Path, size: str, seconds: float) -> int:
    width, height = (int(part) for part in size.split("x"))
    config = load_config(parse_yaml(params)["bundle"], params)
    rclpy.init()
    node = rclpy.create_node("load_play")
    car = Car(node, config, width, height)
    time.sleep(2.0)  # until the subscriptions have been matched
    print(json.dumps({"sent": car.drive(seconds)}))
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="load", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="what", required=True)
    run = commands.add_parser("node")
    run.add_argument("--threads", type=Path, required=True)
    drive = commands.add_parser("play")
    drive.add_argument("--params", type=Path, required=True)
    drive.add_argument("--images", default="1600x900")
    drive.add_argument("--seconds", type=float, default=20.0)
    options, rest = parser.parse_known_args(args)
    if options.what == "node":
        return run_node(options.threads, rest)
    return play(options.params, options.images, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
