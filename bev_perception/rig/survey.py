"""What a rig publishes, without parameters: topics, types, frames, sizes, stamps, transforms, columns of radars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bev_perception.calibration import CalibrationError, StaticTree
from bev_perception.conversions import MessageError, read_points, stamp_ns, to_camera_frame, to_compressed_frame
from bev_perception.preprocess.encodings import ImageError, source_size
from bev_perception.rig.summary import Offer
from bev_perception.rig.times import Times, TimesHeard
from bev_perception.sensors.intake import COMPRESSED, IMAGE, PACKET
from bev_perception.sensors.radar_messages import RADAR_KINDS
from bev_perception.sensors.sensor_calibration import TF_STATIC
from bev_perception.sensors.video import codec_of

INFO, CLOUD = "sensor_msgs/msg/CameraInfo", RADAR_KINDS["cloud"].message
ODOMETRY, POSE, TWIST = "nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/TwistStamped"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
STAMPS_KEPT = 4000
LOOKED_AT = 5  # messages of a topic of which more than the header is read


@dataclass(frozen=True)
class TopicSeen:
    """One topic. frames: header.frame_id, and the child_frame_id of odometry. size: (width, height) of images. stamps:
    (N,) ns of the first messages. columns: of a cloud, with the largest absolute value of each. faults: why messages
    could not be read. info: a camera_info as it came, the newest that was looked at."""

    topic: str
    kind: str
    times: Times
    stamps: np.ndarray
    frames: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    encoding: str = ""
    columns: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    info: Any = None

    @property
    def frame(self) -> str:
        return self.frames[0] if self.frames else ""


@dataclass(frozen=True)
class Survey:
    """seen: topics of the kinds that the node can use, with messages. tree: the static transforms; moving: (parent,
    child) of those on /tf. topics: all there are."""

    seen: Mapping[str, TopicSeen]
    topics: Mapping[str, tuple[Offer, ...]]
    tree: StaticTree
    moving: frozenset[tuple[str, str]] = frozenset()

    def of(self, *kinds: str) -> list[TopicSeen]:
        return [seen for seen in self.seen.values() if seen.kind in kinds]


class Surveyor:
    """Give it messages of the kinds of SURVEYED, from any topic; then `finish`."""

    def __init__(self) -> None:
        self._topics: dict[tuple[str, str], _TopicHeard] = {}
        self._tree = StaticTree()
        self._moving: set[tuple[str, str]] = set()

    def take(self, topic: str, kind: str, message: Any, now_ns: int) -> None:
        heard = self._topics.setdefault((topic, kind), _TopicHeard())
        if kind == TRANSFORMS:
            self._transforms(topic, message, heard)
            return
        try:
            stamp = stamp_ns(message.header.stamp)
        except MessageError as error:
            stamp = 0
            heard.faults.setdefault(error.reason, error.detail)
        heard.times.add(stamp, now_ns)
        if stamp and len(heard.stamps) < STAMPS_KEPT:
            heard.stamps.append(stamp)
        if heard.times.count > LOOKED_AT:
            return
        for frame in (message.header.frame_id, getattr(message, "child_frame_id", "")):
            if frame and frame not in heard.frames:
                heard.frames.append(frame)
        try:
            SURVEYED[kind](message, heard)
        except MessageError as error:
            heard.faults.setdefault(error.reason, error.detail)
        except ImageError as error:
            heard.faults.setdefault(error.reason, str(error))

    def _transforms(self, topic: str, message: Any, heard: _TopicHeard) -> None:
        heard.times.add(0, 0)
        if topic.rstrip("/").endswith(TF_STATIC):
            try:
                self._tree.add(message.transforms)
            except CalibrationError as error:
                heard.faults.setdefault("bad_transform", str(error))
            return
        if len(self._moving) < STAMPS_KEPT:
            self._moving |= {(t.header.frame_id.lstrip("/"), t.child_frame_id.lstrip("/")) for t in message.transforms}

    def finish(self, topics: Mapping[str, tuple[Offer, ...]]) -> Survey:
        seen = {
            topic: TopicSeen(
                topic,
                kind,
                heard.times.finish(),
                np.array(heard.stamps, dtype=np.int64),
                tuple(heard.frames),
                heard.size,
                heard.encoding,
                dict(heard.columns),
                tuple(f"{reason}: {detail}" for reason, detail in heard.faults.items()),
                heard.info,
            )
            for (topic, kind), heard in self._topics.items()
        }
        return Survey(seen, topics, self._tree, frozenset(self._moving))


class _TopicHeard:
    def __init__(self) -> None:
        self.times = TimesHeard()
        self.stamps: list[int] = []
        self.frames: list[str] = []
        self.size: tuple[int, int] | None = None
        self.encoding = ""
        self.columns: dict[str, float] = {}
        self.faults: dict[str, str] = {}
        self.info: Any = None


def _image(message: Any, heard: _TopicHeard) -> None:
    frame = to_camera_frame(message, "camera")
    heard.encoding, heard.size = frame.encoding, source_size(frame)


def _compressed(message: Any, heard: _TopicHeard) -> None:
    heard.encoding = codec_of(message.format)
    if not heard.encoding:
        frame = to_compressed_frame(message, "camera")
        heard.encoding, heard.size = frame.encoding, source_size(frame)


def _packet(message: Any, heard: _TopicHeard) -> None:
    heard.encoding = codec_of(message.encoding)


def _info(message: Any, heard: _TopicHeard) -> None:
    heard.info = message


def _cloud(message: Any, heard: _TopicHeard) -> None:
    points = read_points(message)
    for name in points.dtype.names or ():
        values = np.abs(np.asarray(points[name], dtype=np.float64))
        largest = float(values[np.isfinite(values)].max(initial=0.0))
        heard.columns[name] = max(largest, heard.columns.get(name, 0.0))


def _nothing_more(message: Any, heard: _TopicHeard) -> None:
    pass


# kind -> what of a message is noted beside its header.
SURVEYED: dict[str, Callable[[Any, _TopicHeard], None]] = {
    IMAGE: _image,
    COMPRESSED: _compressed,
    PACKET: _packet,
    INFO: _info,
    CLOUD: _cloud,
    RADAR_KINDS["scan"].message: _nothing_more,
    RADAR_KINDS["tracks"].message: _nothing_more,
    ODOMETRY: _nothing_more,
    POSE: _nothing_more,
    TWIST: _nothing_more,
    TRANSFORMS: _nothing_more,
}
