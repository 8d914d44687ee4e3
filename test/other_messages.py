"""Messages that a drive may hold beside those of the synthetic world: radar_msgs, poses, twists, tf; by rosbags."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from bev_perception.evaluation.bag import open_bag
from bev_perception.evaluation.result_bag import make_typestore
from training.world.bag_messages import Messages

STAND_INS = Path(__file__).resolve().parent / "stand_ins"
Row = tuple[str, str, Any]  # topic, message type, message


def store_with_radars() -> Typestore:
    """The types of a typical vehicle, radar_msgs by its definition."""
    store = make_typestore()
    types = {}
    for path in sorted((STAND_INS / "radar_msgs" / "msg").glob("*.msg")):
        types |= get_types_from_msg(path.read_text(), f"radar_msgs/msg/{path.stem}")
    store.register(types)
    return store


class OtherMessages(Messages):
    """Stamps are integer nanoseconds, transforms (4, 4), lengths metres, angles radians."""

    def radar_scan(self, stamp_ns: int, frame_id: str, rows: Iterable[Iterable[float]]) -> Any:
        """rows: range, azimuth, elevation, doppler_velocity, amplitude."""
        names = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
        returns = [self.make("radar_msgs/RadarReturn", **dict(zip(names, map(float, row)))) for row in rows]
        return self.make("radar_msgs/RadarScan", header=self.header(stamp_ns, frame_id), returns=returns)

    def radar_tracks(self, stamp_ns: int, frame_id: str, rows: Iterable[Iterable[float]]) -> Any:
        """rows: x, y, z, vx, vy, vz."""
        zero, none = self.vector((0, 0, 0)), np.zeros(6, np.float32)
        tracks = [
            self.make(
                "radar_msgs/RadarTrack",
                uuid=self.make("unique_identifier_msgs/UUID", uuid=np.zeros(16, np.uint8)),
                position=self.vector(row[:3], "Point"), velocity=self.vector(row[3:]), acceleration=zero, size=zero,
                classification=2, position_covariance=none, velocity_covariance=none, acceleration_covariance=none,
                size_covariance=none,
            )
            for row in map(list, rows)
        ]  # fmt: skip
        return self.make("radar_msgs/RadarTracks", header=self.header(stamp_ns, frame_id), tracks=tracks)

    def pose_stamped(self, stamp_ns: int, frame_id: str, odom_from_ego: np.ndarray) -> Any:
        pose = self.pose(odom_from_ego)
        return self.make("geometry_msgs/PoseStamped", header=self.header(stamp_ns, frame_id), pose=pose)

    def twist_stamped(self, stamp_ns: int, frame_id: str, linear: Any, angular: Any = (0, 0, 0)) -> Any:
        twist = self.make("geometry_msgs/Twist", linear=self.vector(linear), angular=self.vector(angular))
        return self.make("geometry_msgs/TwistStamped", header=self.header(stamp_ns, frame_id), twist=twist)


def rewrite_bag(bag: Path, path: Path, change: Callable[[str, int, Any], list[Row] | None]) -> Path:
    """A copy of a recording: each message replaced by change(topic, record time ns, message), None: as it is."""
    store = store_with_radars()
    with open_bag(bag) as reader, Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for connection, record_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection)
            rows = change(connection.topic, record_ns, message)
            for topic, kind, new in [(connection.topic, connection.msgtype, message)] if rows is None else rows:
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store)
                writer.write(connections[topic], record_ns, store.serialize_cdr(new, kind))
    return path
