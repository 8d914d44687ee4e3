"""What the ring costs: `python -m bev_perception.ring.cost`. Shares of a core, for six cameras, five radars, odometry.

CPU time, so that a machine that is busy with other things tells the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rosbags.typesys import Stores, get_typestore

from bev_perception.ring.bag import write_bag
from bev_perception.ring.buffer import Kept, Ring
from bev_perception.ring.config import SHARE, RingConfig

# kind -> (topics, messages a second of each, bytes): a rig like nuScenes'. An image is JPEG, as cameras send it.
RIG = {
    "sensor_msgs/msg/CompressedImage": (6, 12, 150_000),
    "sensor_msgs/msg/CameraInfo": (6, 12, 400),
    "sensor_msgs/msg/PointCloud2": (5, 13, 4000),
    "nav_msgs/msg/Odometry": (1, 50, 720),
}
RAW = (900, 1600, 3)  # of an image that comes without compression
QUALITY = 90


def drive(seconds: float) -> list[Kept]:
    """All messages, in the order of time."""
    messages = [
        Kept(f"/{kind.rpartition('/')[2].lower()}/{number}", kind, round(k * 1e9 / rate), bytes(size))
        for kind, (topics, rate, size) in RIG.items()
        for number in range(topics)
        for k in range(round(seconds * rate))
    ]
    return sorted(messages, key=lambda message: message.stamp_ns)


def cpu_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def image() -> np.ndarray:
    """As a camera's: smooth, with edges and noise."""
    rng = np.random.default_rng(0)
    blocks = cv2.resize(rng.integers(0, 256, (45, 80, 3), dtype=np.uint8), RAW[1::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.add(blocks, rng.integers(0, 8, RAW, dtype=np.uint8))


def _hand_over(ring: Ring, messages: list[Kept]) -> None:
    for message in messages:
        ring.add(message)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bev_perception.ring.cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the drive")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    config, messages = RingConfig(), drive(args.seconds)
    ring = Ring(config.seconds, config.mib * 2**20)
    kept = cpu_s(lambda: _hand_over(ring, messages))
    print(f"handing over {len(messages) / args.seconds:.0f} messages a second: {kept / args.seconds:.3%} of a core")
    held = ring.taken()
    print(f"the ring: {len(held)} messages of {(held[-1].stamp_ns - held[0].stamp_ns) / 1e9:.1f} s, "
          f"{ring.bytes / 2**20:.0f} MiB")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bev_perception.") as folder:
        store = get_typestore(Stores.ROS2_JAZZY)
        used = cpu_s(lambda: write_bag(Path(folder) / "bag", held, store, {}, ""))
    print(f"writing it: {used:.2f} s of CPU, at {SHARE:.0%} of a core {used / SHARE:.0f} s")
    picture = image()
    each = cpu_s(lambda: [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]) for _ in range(10)]) / 10
    topics, rate, _ = RIG["sensor_msgs/msg/CompressedImage"]
    every = topics * rate
    print(
        f"a raw {RAW[1]} x {RAW[0]} image as JPEG: {1e3 * each:.1f} ms, {every} a second {every * each:.0%} of a core"
    )
    print(f"{SHARE:.0%} of a core allow {SHARE / each:.1f} a second")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
