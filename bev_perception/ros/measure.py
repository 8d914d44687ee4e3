"""Measurements that need ROS, as processes of the bench; each prints one JSON object.

python -m bev_perception.ros.measure publish --boxes 60
python -m bev_perception.ros.measure send --seconds 6        (with, in another process:)
python -m bev_perception.ros.measure receive --seconds 6
"""

from __future__ import annotations

import argparse
import array
import json
import os
import sys
import time

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from bev_perception.messages import PUBLISHERS, Context, to_time
from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.structures import Detections

CAMERAS = ("front_left", "front", "front_right", "back_right", "back", "back_left")
WIDTH, HEIGHT, RATE_HZ = 1600, 900, 10.0
SENSOR_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


def topic(camera: str) -> str:
    return f"/measure/{camera}/image_raw"


def publish_cost(boxes: int, repeats: int = 60) -> dict[str, float]:
    """Median CPU milliseconds to build and to serialise the messages of one frame, on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    thresholds = dict.fromkeys(CLASSES, 0.1)
    context = Context(ModelSpec("bench", CAMERAS, (), thresholds, thresholds), "base_link", 1.0)
    detections = Detections(
        1_700_000_000_000_000_000,
        rng.uniform(1, 5, (boxes, 7)).astype(np.float32),
        rng.normal(0, 3, (boxes, 2)).astype(np.float32),
        np.linspace(0.9, 0.1, boxes).astype(np.float32),
        rng.integers(0, len(CLASSES), boxes),
    )
    result = {}
    for name in ("detections", "markers"):
        times = []
        for _ in range(repeats):
            start = time.thread_time_ns()
            serialize_message(PUBLISHERS[name].convert(detections, context))
            times.append((time.thread_time_ns() - start) / 1e6)
        result[name] = float(np.median(times))
    return result


def send(seconds: float) -> dict[str, int]:
    """Six cameras at 10 Hz, one after the other within the period, as a surround rig does."""
    node = rclpy.create_node("measure_send")
    publishers = [node.create_publisher(Image, topic(camera), SENSOR_QOS) for camera in CAMERAS]
    data = array.array("B", np.random.default_rng(0).integers(0, 256, WIDTH * HEIGHT * 3, np.uint8).tobytes())
    images = [Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=3 * WIDTH) for _ in CAMERAS]
    for image in images:
        image.data = data
    deadline = time.monotonic() + 20
    while any(p.get_subscription_count() == 0 for p in publishers) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    period, sent = 1.0 / RATE_HZ / len(CAMERAS), 0
    start = time.monotonic()
    while time.monotonic() - start < seconds and rclpy.ok():
        index = sent % len(CAMERAS)
        images[index].header.stamp = to_time(time.time_ns())
        images[index].header.frame_id = str(sent // len(CAMERAS))
        publishers[index].publish(images[index])
        sent += 1
        time.sleep(max(0.0, start + sent * period - time.monotonic()))
    time.sleep(1.0)
    node.destroy_node()
    return {"sent": sent}


def receive(seconds: float) -> dict[str, float]:
    """Counts images until none came for two seconds after the first; latency from stamp to callback."""
    node = rclpy.create_node("measure_receive")
    latencies: list[float] = []
    last = [0.0]

    def on_image(message: Image) -> None:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        latencies.append((time.time_ns() - stamp) / 1e6)
        np.frombuffer(message.data, np.uint8)
        last[0] = time.monotonic()

    subscriptions = [node.create_subscription(Image, topic(camera), on_image, SENSOR_QOS) for camera in CAMERAS]
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    begun, cpu = time.monotonic(), time.process_time()
    while rclpy.ok() and time.monotonic() - begun < seconds + 30:
        executor.spin_once(timeout_sec=0.2)
        if last[0] and time.monotonic() - last[0] > 2.0:
            break
    used = time.process_time() - cpu
    executor.shutdown()
    del subscriptions
    node.destroy_node()
    count = len(latencies)
    return {
        "received": count,
        "latency_p50_ms": float(np.median(latencies)) if count else float("nan"),
        "latency_p99_ms": float(np.percentile(latencies, 99)) if count else float("nan"),
        "cpu_ms_per_image": 1e3 * used / max(count, 1),
    }


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="measure", description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("publish", "send", "receive"))
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args(args)
    if options.what == "publish":
        print(json.dumps(publish_cost(options.boxes)))
        return 0
    rclpy.init()
    try:
        print(json.dumps(send(options.seconds) if options.what == "send" else receive(options.seconds)))
    except (KeyboardInterrupt, ExternalShutdownException):
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
