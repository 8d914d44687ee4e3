"""Plays a rosbag2 recording into ROS 2 in real time, where `ros2 bag play` is not installed.

    python -m bev_perception.ros.play_bag BAG --clock --wait-for-node /bev_perception [--end TOPIC=SECONDS ...]

With --end a topic falls silent, as a sensor does that dies, while all others go on.

The serialized messages go out as they are; nothing is decoded. Publishers are reliable, which suits every subscriber;
/tf_static and what was recorded as transient local is latched.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from bev_perception.bags.recording import CDR, open_bag
from bev_perception.bags.storage import Channel
from bev_perception.messages import message_class, to_time
from bev_perception.ros.start import WAKE_PERIOD_S, init_ros
from bev_perception.sync_config import NS

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


def create_publishers(node: Node, channels: Iterable[Channel], topics: list[str] | None) -> dict[str, Any]:
    """topic -> publisher for every channel, or those of `topics`.

    What cannot be published (a type that is not installed, another encoding than ROS 2's) is an error where the topic
    was asked for by name, and a warning otherwise.
    """
    publishers: dict[str, Any] = {}
    known = {channel.topic for channel in channels}
    if topics and set(topics) - known:
        raise PlayError(f"not in the recording: {sorted(set(topics) - known)}; it has {sorted(known)}")
    for channel in channels:
        topic = channel.topic
        if topic in publishers or topic == "/clock" or (topics and topic not in topics):
            continue
        try:
            kind = _playable(channel)
        except (ImportError, ValueError) as error:
            if topics:
                raise PlayError(f"{topic}: {error}; leave the topic out, or mend that") from error
            node.get_logger().warning(f"{topic} is not played: {error}")
            continue
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
        if topic == LATCHED or channel.latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        publishers[topic] = node.create_publisher(kind, topic, qos)
    return publishers


def _playable(channel: Channel) -> type:
    """The class of a channel's messages. Raises ImportError where it is not installed, ValueError where it is none."""
    if channel.encoding != CDR:
        raise ValueError(f"its messages are encoded as {channel.encoding!r}, not as ROS 2's {CDR!r}")
    try:
        return message_class(channel.msgtype)
    except (ImportError, ValueError) as error:
        raise ImportError(f"{channel.msgtype} is not installed ({error})") from error


def wait_for_subscribers(
    publishers: dict[str, Any], topics: int, timeout_s: float, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Return once this many of the played topics have had a subscriber for SETTLE_S. Raises PlayError naming those that
    have none. meanwhile() is called every WAIT_PERIOD_S, at least once."""

    def lacking() -> str:
        lonely = _lonely(publishers, publishers)
        found = len(publishers) - len(lonely)
        return f"{found} of {topics} topics have a subscriber; none for {lonely}" if found < topics else ""

    if topics:
        _wait_until_settled(lacking, timeout_s, meanwhile)
    else:
        meanwhile()


def wait_for_node(
    node: Node, name: str, publishers: dict[str, Any], timeout_s: float, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Return once the node of this full name subscribes to played topics, and each of these has had a subscriber for
    SETTLE_S. Raises PlayError as wait_for_subscribers does."""
    namespace, _, base = f"/{name.strip('/')}".rpartition("/")

    def lacking() -> str:
        try:
            heard = {topic for topic, _ in node.get_subscriber_names_and_types_by_node(base, namespace or "/")}
        except NodeNameNonExistentError:
            return f"there is no node {namespace}/{base}"
        heard &= publishers.keys()
        lonely = _lonely(publishers, heard)
        if not heard:
            return f"{namespace}/{base} subscribes to none of {sorted(publishers)}"
        return f"{namespace}/{base} does not hear {lonely} yet" if lonely else ""

    _wait_until_settled(lacking, timeout_s, meanwhile)


def _lonely(publishers: dict[str, Any], topics: Collection[str]) -> list[str]:
    return sorted(topic for topic in topics if publishers[topic].get_subscription_count() == 0)


def _wait_until_settled(lacking: Callable[[], str], timeout_s: float, meanwhile: Callable[[], None]) -> None:
    """Return once lacking() has been "" for SETTLE_S; its text is the error when that takes longer than timeout_s."""
    deadline = time.monotonic() + timeout_s
    complete_since = math.inf
    while True:
        meanwhile()
        now = time.monotonic()
        problem = lacking()
        complete_since = math.inf if problem else min(complete_since, now)
        if now - complete_since >= SETTLE_S:
            return
        if not rclpy.ok() or (problem and now > deadline):
            raise PlayError(f"{problem} (after {timeout_s:.0f} s)")
        time.sleep(WAIT_PERIOD_S)


def play(
    node: Node,
    bag: str | Path,
    rate: float = 1.0,
    clock: bool = False,
    loop: int = 1,
    topics: list[str] | None = None,
    subscribers: int = 0,
    listener: str = "",
    wait_timeout_s: float = 60.0,
    ends: Mapping[str, float] | None = None,
) -> Played:
    """Publish the recording `loop` times (0: until shutdown) at `rate`, after waiting for `subscribers` topics to have
    one, or for the node `listener` to hear all that it subscribes to. ends: topic -> seconds from the recording's first
    message on after which it is silent. Blocks. Raises PlayError and BagError."""
    if rate <= 0:
        raise PlayError(f"rate must be positive, found {rate}")
    clock_publisher = node.create_publisher(Clock, "/clock", 10) if clock else None
    with open_bag(bag, note=node.get_logger().warning) as recording:
        publishers = create_publishers(node, recording.connections, topics)
        if not publishers:
            raise PlayError(f"{bag} holds nothing that can be played")
        if unknown := sorted((ends or {}).keys() - publishers.keys()):
            raise PlayError(f"{unknown} cannot fall silent; played are {sorted(publishers)}")
        start = Clock(clock=to_time(recording.start_ns))

        def stand_still() -> None:
            """Subscribers that wait for the clock see it before the first message."""
            if clock_publisher is not None:
                clock_publisher.publish(start)

        if listener:
            wait_for_node(node, listener, publishers, wait_timeout_s, stand_still)
        else:
            wait_for_subscribers(publishers, subscribers, wait_timeout_s, stand_still)
        started, count, late_ns = time.monotonic(), 0, 0
        rounds = 0
        while rclpy.ok() and (loop == 0 or rounds < loop):
            messages = _until(recording.messages(publishers), recording.start_ns, ends or {})
            n, late = _play_once(messages, publishers, clock_publisher, rate)
            count, late_ns, rounds = count + n, max(late_ns, late), rounds + 1
        for publisher in publishers.values():
            if rclpy.ok() and publisher.get_subscription_count():
                publisher.wait_for_all_acked(Duration(seconds=2.0))
    return Played(count, time.monotonic() - started, late_ns / 1e6)


def _until(
    messages: Iterable[tuple[Channel, int, bytes]], start_ns: int, ends: Mapping[str, float]
) -> Iterator[tuple[Channel, int, bytes]]:
    """Without what comes after its topic's end, in seconds from start_ns."""
    last_ns = {topic: start_ns + round(seconds * NS) for topic, seconds in ends.items()}
    for channel, bag_ns, data in messages:
        if bag_ns < last_ns.get(channel.topic, math.inf):
            yield channel, bag_ns, data


def _play_once(
    messages: Iterable[tuple[Channel, int, bytes]],
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

    for channel, bag_ns, data in messages:
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
        publishers[channel.topic].publish(bytes(data))
        count += 1
    return count, late_ns


def _end(text: str) -> tuple[str, float]:
    topic, equals, seconds = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: expected TOPIC=SECONDS, such as /camera/cam_front/image_raw=1.5")
    return topic, float(seconds)


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="play_bag", description=__doc__.split("\n", 1)[0])
    parser.add_argument("bag", help="rosbag2 directory")
    parser.add_argument("--rate", type=float, default=1.0, help="speed; 1 is real time")
    parser.add_argument("--clock", action="store_true", help="publish /clock at 100 Hz of recorded time")
    parser.add_argument("--loop", action="store_true", help="start over at the end, until interrupted")
    parser.add_argument("--topics", nargs="+", help="only these topics")
    parser.add_argument(
        "--end", nargs="+", default=[], type=_end, metavar="TOPIC=SECONDS", help="these fall silent so late"
    )
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument(
        "--wait-for-node", default="", metavar="NAME", help="start when this node hears all that it subscribes to"
    )
    wait.add_argument(
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
            listener=options.wait_for_node,
            wait_timeout_s=options.wait_timeout,
            ends=dict(options.end),
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
