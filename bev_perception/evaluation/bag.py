"""Messages of rosbag2 recordings (MCAP or sqlite3), read without ROS, in the order of recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception import messages
from bev_perception.bags.recording import UnreadableMessage, open_bag, warn
from bev_perception.bags.storage import BagError, Note
from bev_perception.evaluation.objects import Objects, objects_from_message
from bev_perception.structures import Composition

GROUND_TRUTH_TOPIC = "/ground_truth/detections"
# As a node without a namespace publishes them.
DETECTIONS_TOPIC, MARKERS_TOPIC = (f"/{messages.PUBLISHERS[name].topic}" for name in ("detections", "markers"))
STATUS_TOPIC = f"/{messages.STATUS_TOPIC}"
SCENE_TOPIC = "/perception/scene"  # of result bags, for Foxglove, as is image_boxes_topic


def image_boxes_topic(camera: str) -> str:
    """Boxes drawn into the images of a camera of the model."""
    return f"/perception/image_boxes/{camera.lower()}"


@dataclass(frozen=True)
class BagMessage:
    """One message; `record_ns` is when it was recorded, `message` has the fields of the ROS message."""

    topic: str
    record_ns: int
    message: Any


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


def bag_duration_s(path: str | Path, note: Note = warn) -> float:
    """From the first to the last recorded message. Raises BagError."""
    with open_bag(path, note) as recording:
        return (recording.end_ns - recording.start_ns) / 1e9


def bag_topics(path: str | Path, note: Note = warn) -> dict[str, str]:
    """topic -> message type of everything in the recording. Raises BagError."""
    with open_bag(path, note) as recording:
        return {c.topic: c.msgtype for c in recording.connections}


def read_bag(path: str | Path, topics: set[str] | None = None, note: Note = warn) -> Iterator[BagMessage]:
    """Messages in the order of recording, of all topics or of those named; named topics the bag lacks are skipped.

    Messages that cannot be read are left out, and note(text) is told once for each topic. Raises BagError where nothing
    can be read.
    """
    told: set[str] = set()
    with open_bag(path, note) as recording:
        for channel, record_ns, raw in recording.messages(topics):
            try:
                message = recording.deserialize(raw, channel)
            except UnreadableMessage as error:
                if channel.topic not in told:
                    note(f"{path}: messages are left out: {error}")
                told.add(channel.topic)
                continue
            yield BagMessage(channel.topic, record_ns, message)


def read_detection_arrays(path: str | Path, topic: str = DETECTIONS_TOPIC, note: Note = warn) -> dict[int, Any]:
    """stamp (ns) -> bev_perception_msgs/Detection3DArray. Raises BagError where the topic is not in the recording, or
    is of another type."""
    kind = messages.PUBLISHERS["detections"].kind
    found = bag_topics(path, note)
    if topic not in found:
        raise BagError(f"{path} has no topic {topic}; it has {', '.join(sorted(found)) or 'no topics'}")
    if found[topic] != kind:
        raise BagError(f"{path}: {topic} is {found[topic]}, expected {kind}")
    return {stamp_ns(m.message.header): m.message for m in read_bag(path, {topic}, note)}


def read_ground_truth(path: str | Path, note: Note = warn) -> dict[int, Objects]:
    """stamp (ns) -> annotated objects in the ego frame at that stamp. Raises BagError where the recording has none."""
    found = read_detection_arrays(path, GROUND_TRUTH_TOPIC, note)
    return {stamp: objects_from_message(m, ground_truth=True) for stamp, m in found.items()}
