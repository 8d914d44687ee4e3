"""Plays a rosbag2 recording into ROS 2 in real time, where `ros2 bag play` is not installed.

    python -m bev_perception.ros.play_bag BAG --clock --wait-for-subscribers 18

The serialized messages go out as they are; nothing is decoded. Publishers are reliable, which suits every subscriber;
/tf_static and what was recorded as transient local is latched.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from bev_perception.messages import message_class, to_time
from bev_perception.ros.start import WAKE_PERIOD_S, init_ros

CLOCK_PERIOD_NS = 10_000_000
# A publisher knows its subscriber before that knows it, and a best-effort subscriber hears nothing in between. Nothing
# tells a publisher when that is over: after milliseconds; a third of a second was seen, too.
SETTLE_S = 2.0
WAIT_PERIOD_S = 0.05
LATCHED = "/tf_static"


class PlayError(RuntimeError):
    """The recording cannot be played as asked."""


@dataclass(frozen=True)
class Played:
    """What was published. late_ms: the largest delay of a message behind its time."""

    messages: int
    seconds: float
    late_ms: float


def create_publishers(node: Node, reader: Any, topics: list[str] | None) -> dict[str, Any]:
    """topic -> publisher for every connection, or those of `topics`.

    A type that is not installed is an error where the topic was asked for by name, and a warning otherwise.
    """
    publishers = {}
    known = {connection.topic for connection in reader.connections}
    if topics and set(topics) - known:
        raise PlayError(f"not in the recording: {sorted(set(topics) - known)}; it has {sorted(known)}")
    for connection in reader.connections:
        topic = connection.topic
        if topic in publishers or topic == "/clock" or (topics and topic not in topics):
            continue
        try:
            kind = message_class(connection.msgtype)
        except ImportError as error:
            if topics:
                raise PlayError(f"{topic}: {error}; install the package or leave the topic out") from error
            node.get_logger().warning(f"{topic} is not played: {connection.msgtype} is not installed ({error})")
            continue
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
        if topic == LATCHED or _recorded_as_latched(connection):
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        publishers[topic] = node.create_publisher(kind, topic, qos)
    return publishers


def _recorded_as_latched(connection: Any) -> bool:
    profiles = getattr(connection.ext, "offered_qos_profiles", None) or ()
    return any(getattr(getattr(p, "durability", None), "name", "") == "TRANSIENT_LOCAL" for p in profiles)


def wait_for_subscribers(
    publishers: dict[str, Any], topics: int, timeout_s: float, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Return once this many of the played topics have had a subscriber for SETTLE_S. Raises PlayError naming those that
    have none. meanwhile() is called every WAIT_PERIOD_S, at least once."""
    deadline = time.monotonic() + timeout_s
    complete_since = math.inf
    while True:
        meanwhile()
        now = time.monotonic()
        lonely = sorted(topic for topic, p in publishers.items() if p.get_subscription_count() == 0)
        complete = len(publishers) - len(lonely) >= topics
        complete_since = min(complete_since, now) if complete else math.inf
        if topics == 0 or now - complete_since >= SETTLE_S:
            return
        if not rclpy.ok() or (not complete and now > deadline):
            found = len(publishers) - len(lonely)
            raise PlayError(f"{found} of {topics} topics have a subscriber after {timeout_s:.0f} s; none for {lonely}")
        time.sleep(WAIT_PERIOD_S)


def play(
    node: Node,
    bag: str | Path,
    rate: float = 1.0,
    clock: bool = False,
    loop: int = 1,
    topics: list[str] | None = None,
    subscribers: int = 0,
    wait_timeout_s: float = 60.0,
) -> Played:
    """Publish the recording `loop` times (0: until shutdown) at `rate`. Blocks. Raises PlayError, or BagError's kin."""
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    if rate <= 0:
        raise PlayError(f"rate must be positive, found {rate}")
    clock_publisher = node.create_publisher(Clock, "/clock", 10) if clock else None
    with AnyReader([Path(bag)], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        publishers = create_publishers(node, reader, topics)
        connections = [c for c in reader.connections if c.topic in publishers]
        if not connections:
            raise PlayError(f"{bag} holds nothing that can be played")
        start = Clock(clock=to_time(reader.start_time))

        def stand_still() -> None:
            """Subscribers that wait for the clock see it before the first message."""
            if clock_publisher is not None:
                clock_publisher.publish(start)

        wait_for_subscribers(publishers, subscribers, wait_timeout_s, stand_still)
        started, count, late_ns = time.monotonic(), 0, 0
        rounds = 0
        while rclpy.ok() and (loop == 0 or rounds < loop):

            def messages() -> Iterator[tuple[Any, int, bytes]]:
                return reader.messages(connections)

            n, late = _play_once(messages, publishers, clock_publisher, rate)
            count, late_ns, rounds = count + n, max(late_ns, late), rounds + 1
        for publisher in publishers.values():
            if rclpy.ok() and publisher.get_subscription_count():
                publisher.wait_for_all_acked(Duration(seconds=2.0))
    return Played(count, time.monotonic() - started, late_ns / 1e6)


def _play_once(
    messages: Callable[[], Iterator[tuple[Any, int, bytes]]],
    publishers: dict[str, Any],
    clock_publisher: Any,
    rate: float,
) -> tuple[int, int]:
    """(messages published, largest lateness in ns)."""
    count = late_ns = 0
    first_ns = next_clock_ns = -1
    start_wall = 0

    def wait_until(bag_ns: int) -> int:
        due = start_wall + int((bag_ns - first_ns) / rate)
        while (left := due - time.monotonic_ns()) > 0 and rclpy.ok():
            time.sleep(min(left / 1e9, WAKE_PERIOD_S))
        return max(0, time.monotonic_ns() - due)

    for connection, bag_ns, data in messages():
        if first_ns < 0:
            first_ns = next_clock_ns = bag_ns
            start_wall = time.monotonic_ns()
        while clock_publisher is not None and next_clock_ns <= bag_ns and rclpy.ok():
            wait_until(next_clock_ns)
            clock_publisher.publish(Clock(clock=to_time(next_clock_ns)))
            next_clock_ns += CLOCK_PERIOD_NS
        late_ns = max(late_ns, wait_until(bag_ns))
        if not rclpy.ok():
            break
        publishers[connection.topic].publish(bytes(data))
        count += 1
    return count, late_ns


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="play_bag", description=__doc__.split("\n", 1)[0])
    parser.add_argument("bag", help="rosbag2 directory")
    parser.add_argument("--rate", type=float, default=1.0, help="speed; 1 is real time")
    parser.add_argument("--clock", action="store_true", help="publish /clock at 100 Hz of recorded time")
    parser.add_argument("--loop", action="store_true", help="start over at the end, until interrupted")
    parser.add_argument("--topics", nargs="+", help="only these topics")
    parser.add_argument(
        "--wait-for-subscribers",
        type=int,
        default=0,
        metavar="N",
        help=f"start when N topics have had a subscriber for {SETTLE_S:g} s",
    )
    parser.add_argument("--wait-timeout", type=float, default=60.0, metavar="S", help="give up waiting after S seconds")
    return parser.parse_args(argv)


def main(args: list[str] | None = None) -> int:
    """Entry point `play_bag`."""
    argv = sys.argv if args is None else ["play_bag", *args]
    init_ros(argv)
    options = parse_args(rclpy.utilities.remove_ros_args(argv)[1:])
    node = rclpy.create_node("play_bag")
    try:
        played = play(
            node,
            options.bag,
            rate=options.rate,
            clock=options.clock,
            loop=0 if options.loop else 1,
            topics=options.topics,
            subscribers=options.wait_for_subscribers,
            wait_timeout_s=options.wait_timeout,
        )
        print(f"played {played.messages} messages in {played.seconds:.1f} s, at most {played.late_ms:.1f} ms late")
    except Exception as error:
        if rclpy.ok():
            print(f"play_bag: {error}", file=sys.stderr)
            return 1
    finally:
        with suppress(Exception):
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
