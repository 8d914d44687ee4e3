"""Some seconds of a live system: what is published, and every message of the topics that are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from bev_perception.messages import message_class
from bev_perception.ros.inputs import LATCHED
from bev_perception.ros.start import LOOK_S, EndedEarly, asking, make_executor, spins
from bev_perception.sensors.intake import Source
from bev_perception.sensors.sensor_calibration import TF_STATIC

DEPTH = 20  # of each subscription; more than the node's, so that what is counted here is the way and not the queue
DISCOVERY_S, QUIET_S = 15.0, 2.0  # how long others are looked for at most, and without finding one


@dataclass(frozen=True)
class Publisher:
    """What one publisher of a topic offers."""

    kind: str
    reliable: bool
    latched: bool


def publishers(node: Node) -> dict[str, tuple[Publisher, ...]]:
    """Topic -> its publishers, of all that this node knows of."""
    found = {}
    for topic, _ in node.get_topic_names_and_types():
        offers = tuple(
            Publisher(
                info.topic_type,
                info.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT,
                info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
            )
            for info in node.get_publishers_info_by_topic(topic)
            if info.node_name != node.get_name()
        )
        if offers:
            found[topic] = offers
    return found


def topics_there() -> dict[str, tuple[Publisher, ...]]:
    """What is published, once nobody new has been found for QUIET_S. Raises EndedEarly."""
    with asking("bev_perception_doctor") as node:
        found = publishers(node)
        end = time.monotonic() + DISCOVERY_S
        quiet_from = time.monotonic()
        while time.monotonic() < end and (not found or time.monotonic() - quiet_from < QUIET_S):
            time.sleep(LOOK_S)
            now = publishers(node)
            if now != found:
                found, quiet_from = now, time.monotonic()
        return found


def listen(
    sources: Sequence[Source],
    take: Callable[[Source, bytes, Callable[[], Any], int], None],
    seconds: float,
    use_sim_time: bool = False,
) -> dict[str, tuple[Publisher, ...]]:
    """take(source, serialised message, what makes the message of it, time in ns) for everything that comes within the
    time (of the wall) -> what was published meanwhile. The time begins with the first message, which is waited for
    DISCOVERY_S: finding each other is not what is looked at. use_sim_time: the time that is taken is that of /clock, 0
    before its first message.

    Types whose package is not installed are not listened to. Raises EndedEarly where ROS ends before.
    """
    with asking("bev_perception_doctor", use_sim_time) as node:
        clock, heard = node.get_clock(), False
        end = time.monotonic() + DISCOVERY_S
        for source in sources:
            try:
                kind = message_class(source.kind)
            except ImportError:
                continue

            def on_message(raw: bytes, source: Source = source, kind: Any = kind) -> None:
                nonlocal end, heard
                if not heard:
                    end, heard = time.monotonic() + seconds, True
                take(source, raw, lambda: deserialize_message(raw, kind), int(clock.now().nanoseconds))

            node.create_subscription(kind, source.topic, on_message, _qos(source), raw=True)
        executor = make_executor()
        executor.add_node(node)
        while time.monotonic() < end:
            if not spins(executor):
                raise EndedEarly("interrupted")
        executor.remove_node(node)
        return publishers(node)


def _qos(source: Source) -> QoSProfile:
    if source.topic == f"/{TF_STATIC}":
        return LATCHED
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
