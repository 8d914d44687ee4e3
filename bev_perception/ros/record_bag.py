"""Records topics to a rosbag2 MCAP, where `ros2 bag record` is not installed.

    python -m bev_perception.ros.record_bag OUT --topics /perception/detections /perception/status

Messages are stored as they arrive, with their definitions, so that custom types can be read back without ROS. OUT
appears when recording ends (SIGINT or SIGTERM), complete; where the disk became full, with what had room, which is
readable as far as it goes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from bev_perception.messages import message_class
from bev_perception.ros.start import init_ros, spins

DISCOVERY_PERIOD_S = 0.1
DEPTH = 200


class RecordError(RuntimeError):
    """The recording cannot be made as asked."""


def register_type(typestore: Any, name: str) -> None:
    """Add `package/msg/Kind` and all it is made of to a rosbags typestore, from the installed .msg files."""
    from ament_index_python.packages import get_package_share_directory
    from rosbags.typesys import get_types_from_msg

    if name in typestore.types:
        return
    package, _, kind = name.split("/")
    path = Path(get_package_share_directory(package), "msg", f"{kind}.msg")
    if not path.is_file():
        raise RecordError(f"{name}: {path} is not installed, its definition is needed to read the recording back")
    # A file defines one type; what it refers to is found the same way.
    types = get_types_from_msg(path.read_text(), name)
    for dependency in sorted(_referenced(types[name]) - {name}):
        register_type(typestore, dependency)
    typestore.register(types)


def _referenced(definition: Any) -> set[str]:
    """Names of the message types in rosbags' parsed fields: nested tuples with `package/msg/Kind` strings."""
    names: set[str] = set()

    def walk(part: Any) -> None:
        if isinstance(part, str):
            if "/msg/" in part:
                names.add(part)
        elif isinstance(part, (tuple, list)):
            for item in part:
                walk(item)

    walk(definition)
    return names


class Recorder:
    """Subscribes to each topic as soon as it has a publisher, and writes what comes."""

    def __init__(self, node: Node, writer: Any, typestore: Any, topics: list[str]) -> None:
        self.counts = dict.fromkeys(topics, 0)
        self._node, self._writer, self._typestore = node, writer, typestore
        self._waiting = set(topics)
        self._subscriptions: list[Any] = []
        self._timer = node.create_timer(DISCOVERY_PERIOD_S, self._discover, clock=rclpy.clock.Clock())
        self._discover()

    def _discover(self) -> None:
        for topic in sorted(self._waiting):
            endpoints = self._node.get_publishers_info_by_topic(topic)
            if endpoints:
                self._waiting.discard(topic)
                self._subscribe(topic, endpoints)
        if not self._waiting:
            self._timer.cancel()

    def _subscribe(self, topic: str, endpoints: list[Any]) -> None:
        kind = endpoints[0].topic_type
        profiles = [endpoint.qos_profile for endpoint in endpoints]
        # As strict as the laxest publisher: anything stricter would not be matched.
        reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
        latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        try:
            register_type(self._typestore, kind)
            connection = self._writer.add_connection(topic, kind, typestore=self._typestore)
            message_type = message_class(kind)
        except Exception as error:
            self._node.get_logger().error(f"{topic} is not recorded: {error}")
            return

        def write(data: bytes) -> None:
            self._writer.write(connection, self._node.get_clock().now().nanoseconds, data)
            self.counts[topic] += 1

        self._subscriptions.append(self._node.create_subscription(message_type, topic, write, qos, raw=True))
        self._node.get_logger().info(f"recording {topic} ({kind})")


def record(node: Node, out: str | Path, topics: list[str]) -> dict[str, int]:
    """Record until shutdown -> messages per topic. `out` must not exist; it appears at the end, atomically.

    Raises RecordError, also where there was no room for all: then `out` holds what there was room for.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    out = Path(out)
    if out.exists():
        raise RecordError(f"{out} exists already; choose another name or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as part:
        # the file inside is named after its directory, so this one must have the final name
        unfinished = Path(part) / out.name
        try:
            with Writer(unfinished, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
                recorder = Recorder(node, writer, get_typestore(Stores.ROS2_JAZZY), topics)
                executor = SingleThreadedExecutor()
                executor.add_node(node)
                while spins(executor):
                    pass
        except OSError as error:
            file = out / f"{out.name}.mcap"
            os.replace(unfinished, out)
            raise RecordError(
                f"{out} could not be finished ({error.strerror or error}); it holds what was recorded before and "
                f"can be read as far as it goes; mend it: mcap recover {file} -o {out.name}_mended.mcap"
            ) from error
        os.replace(unfinished, out)
    return recorder.counts


def main(args: list[str] | None = None) -> int:
    """Entry point `record_bag`."""
    argv = sys.argv if args is None else ["record_bag", *args]
    init_ros(argv)
    parser = argparse.ArgumentParser(prog="record_bag", description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", help="directory to write; must not exist")
    parser.add_argument("--topics", nargs="+", required=True)
    parser.add_argument("--use-sim-time", action="store_true", help="record times are those of /clock")
    options = parser.parse_args(rclpy.utilities.remove_ros_args(argv)[1:])
    node = rclpy.create_node("record_bag", parameter_overrides=[Parameter("use_sim_time", value=options.use_sim_time)])
    try:
        counts = record(node, options.out, options.topics)
        print(f"recorded {sum(counts.values())} messages to {options.out}: {counts}")
    except (RecordError, OSError) as error:
        print(f"record_bag: {error}", file=sys.stderr)
        return 1
    finally:
        with suppress(Exception):
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
