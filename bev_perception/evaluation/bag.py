"""rosbag2 recordings (MCAP or sqlite3) read without ROS, in the order of recording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore

from bev_perception import messages
from bev_perception.evaluation.objects import Objects, objects_from_message
from bev_perception.structures import Composition

GROUND_TRUTH_TOPIC = "/ground_truth/detections"
# As a node without a namespace publishes them.
DETECTIONS_TOPIC, MARKERS_TOPIC = (f"/{messages.PUBLISHERS[name].topic}" for name in ("detections", "markers"))
STATUS_TOPIC = f"/{messages.STATUS_TOPIC}"


class BagError(ValueError):
    """A recording that cannot be read or lacks what is asked of it."""


@dataclass(frozen=True)
class BagMessage:
    """One message; `record_ns` is when it was recorded, `message` has the fields of the ROS message."""

    topic: str
    record_ns: int
    message: Any


@contextmanager
def open_bag(path: str | Path) -> Iterator[AnyReader]:
    """A reader, to be used in a `with`. Types come from the recording itself, so messages of any package can be read.

    Only recordings older than rosbag2's embedded definitions (sqlite3 of Humble) fall back to the standard Jazzy types.
    Raises BagError.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f"{path} does not exist; a bag is the directory that holds metadata.yaml, or an .mcap file")
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except (AnyReaderError, FileNotFoundError) as error:
        raise BagError(f"{path} is not a readable rosbag2 recording: {error}") from error
    try:
        yield reader
    finally:
        reader.close()


def stamp_ns(header: Any) -> int:
    """std_msgs/Header -> integer nanoseconds."""
    return time_ns(header.stamp)


def time_ns(time: Any) -> int:
    """builtin_interfaces/Time -> integer nanoseconds."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def composition_of(message: Any) -> Composition | None:
    """What the frame of a Detection3DArray was made of; None where the message is older than that statement."""
    if not hasattr(message, "inputs"):
        return None
    return Composition(
        closed_by=message.closed_by,
        stamps_ns={i.name: tuple(time_ns(stamp) for stamp in i.stamps) for i in message.inputs if len(i.stamps)},
        missing={i.name: i.missing for i in message.inputs if i.missing},
        pose_ns=time_ns(message.pose_stamp),
        poses_crc32=int(message.poses_crc32),
    )


def bag_duration_s(path: str | Path) -> float:
    """From the first to the last recorded message. Raises BagError."""
    with open_bag(path) as reader:
        return reader.duration / 1e9


def bag_topics(path: str | Path) -> dict[str, str]:
    """topic -> message type of everything in the recording."""
    with open_bag(path) as reader:
        return {c.topic: c.msgtype for c in reader.connections}


def read_bag(path: str | Path, topics: set[str] | None = None) -> Iterator[BagMessage]:
    """Messages in the order of recording, of all topics or of those named; named topics the bag lacks are skipped."""
    with open_bag(path) as reader:
        connections = [c for c in reader.connections if topics is None or c.topic in topics]
        if not connections:
            return
        for connection, record_ns, raw in reader.messages(connections):
            yield BagMessage(connection.topic, record_ns, reader.deserialize(raw, connection.msgtype))


def read_detection_arrays(path: str | Path, topic: str = DETECTIONS_TOPIC) -> dict[int, Any]:
    """stamp (ns) -> bev_perception_msgs/Detection3DArray. Raises BagError where the topic is not in the recording."""
    found = bag_topics(path)
    if topic not in found:
        raise BagError(f"{path} has no topic {topic}; it has {', '.join(sorted(found)) or 'no topics'}")
    return {stamp_ns(m.message.header): m.message for m in read_bag(path, {topic})}


def read_ground_truth(path: str | Path) -> dict[int, Objects]:
    """stamp (ns) -> annotated objects in the ego frame at that stamp. Raises BagError where the recording has none."""
    found = read_detection_arrays(path, GROUND_TRUTH_TOPIC)
    return {stamp: objects_from_message(m, ground_truth=True) for stamp, m in found.items()}
