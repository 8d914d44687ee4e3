"""What odometry sends -> EgoPose. ODOMETRY_SOURCES lists the ways in which a vehicle can say how it moves.

Duck-typed as conversions.py is: messages of rclpy and of `rosbags` work alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bev_perception.conversions import MessageError, check_frame, stamp_ns
from bev_perception.geometry import make_transform, rotation_from_quaternion
from bev_perception.sensors.twist import MAX_GAP_NS, STRAY, PoseDifferences, succession, with_twist
from bev_perception.structures import EgoPose
from bev_perception.sync_config import MS, NS

TF_TOPIC = "/tf"
TWIST_WAIT_NS = 200 * MS  # a pose that no twist has followed for this long gets none


@dataclass(frozen=True)
class OdometryConfig:
    """The parameters `odometry.*`, whose descriptions are in the parameter table; source: a key of ODOMETRY_SOURCES."""

    source: str = "odometry"
    topic: str = "/odometry"
    pose_topic: str = "/pose"
    twist_topic: str = "/twist"
    frame: str = "odom"
    difference_ns: int = 100 * MS
    twist_tolerance_mps: float = 0.5
    twist_tolerance_rps: float = 0.1


@dataclass(frozen=True)
class OdometryInput:
    """One topic: kind is `package/msg/Name`; take(message) -> the poses that are complete with it, oldest first.

    take raises MessageError: wrong_frame, pose_not_finite, pose_rotation, stamp_not_set, no_twist.
    """

    topic: str
    kind: str
    take: Callable[[Any], Sequence[EgoPose]]


def to_ego_pose(msg: Any, odom_frame: str = "", base_frame: str = "") -> EgoPose:
    """nav_msgs/Odometry -> EgoPose; the twist is in child_frame_id, as the message defines.

    Frames given as "" are not checked. Raises MessageError: wrong_frame, pose_not_finite, pose_rotation, stamp_not_set.
    """
    check_frame(msg.header.frame_id, odom_frame, "odometry's header.frame_id")
    check_frame(msg.child_frame_id, base_frame, "odometry's child_frame_id")
    odom_from_ego = _transform(msg.pose.pose.position, msg.pose.pose.orientation)
    linear, angular = _twist(msg.twist.twist)
    return EgoPose(stamp_ns(msg.header.stamp), odom_from_ego, linear, angular)


def _vector(value: Any, what: str) -> np.ndarray:
    vector = np.array([value.x, value.y, value.z], dtype=np.float64)
    if not np.isfinite(vector).all():
        raise MessageError("pose_not_finite", f"{what} {vector.tolist()}; check the odometry source")
    return vector


def _transform(position: Any, q: Any) -> np.ndarray:
    try:
        rotation = rotation_from_quaternion(np.array([q.w, q.x, q.y, q.z]))
    except ValueError as error:
        raise MessageError("pose_rotation", str(error)) from error
    return make_transform(rotation, _vector(position, "position"))


def _twist(twist: Any) -> tuple[np.ndarray, np.ndarray]:
    return _vector(twist.linear, "linear twist"), _vector(twist.angular, "angular twist")


class OdometryTopic:
    """nav_msgs/Odometry: both in one message."""

    states_twist = True

    def __init__(self, config: OdometryConfig, base_frame: str) -> None:
        def take(msg: Any) -> Sequence[EgoPose]:
            return (to_ego_pose(msg, config.frame, base_frame),)

        self.inputs = (OdometryInput(config.topic, "nav_msgs/msg/Odometry", take),)


class PoseAndTwist:
    """geometry_msgs/PoseStamped and TwistStamped: each pose with the twist at its stamp, between the two nearest.

    A pose waits for the twist after it, until another pose is TWIST_WAIT_NS newer: within that it does not matter which
    of the topics is heard first.
    """

    states_twist = True

    def __init__(self, config: OdometryConfig, base_frame: str) -> None:
        self._config, self._base_frame = config, base_frame
        self._waiting: deque[EgoPose] = deque(maxlen=500)  # bounded: when it is full the oldest are lost long since
        self._twists: deque[EgoPose] = deque(maxlen=500)  # their poses mean nothing
        self.inputs = (
            OdometryInput(config.pose_topic, "geometry_msgs/msg/PoseStamped", self._pose),
            OdometryInput(config.twist_topic, "geometry_msgs/msg/TwistStamped", self._velocity),
        )

    def _pose(self, msg: Any) -> Sequence[EgoPose]:
        check_frame(msg.header.frame_id, self._config.frame, f"header.frame_id of {self._config.pose_topic}")
        odom_from_ego = _transform(msg.pose.position, msg.pose.orientation)
        self._waiting.append(EgoPose(stamp_ns(msg.header.stamp), odom_from_ego))
        return self._complete()

    def _velocity(self, msg: Any) -> Sequence[EgoPose]:
        check_frame(msg.header.frame_id, self._base_frame, f"header.frame_id of {self._config.twist_topic}")
        twist = EgoPose(stamp_ns(msg.header.stamp), np.eye(4), *_twist(msg.twist))
        newest = self._twists[-1].stamp_ns if self._twists else 0
        if twist.stamp_ns < newest - NS:
            self._twists.clear()  # time has restarted
        elif twist.stamp_ns <= newest:
            return ()
        self._twists.append(twist)
        return self._complete()

    def _complete(self) -> list[EgoPose]:
        """What need not wait any longer; raises for the first pose that waits in vain, the others come next time."""
        done: list[EgoPose] = []
        while self._waiting:
            pose = self._waiting[0]
            paired = self._pair(pose)
            if paired is None and (done or self._may_come(pose)):
                break
            self._waiting.popleft()
            if paired is None:
                raise MessageError("no_twist", self._why_not(pose))
            done.append(paired)
        return done

    def _pair(self, pose: EgoPose) -> EgoPose | None:
        before = after = None
        for twist in reversed(self._twists):
            if twist.stamp_ns < pose.stamp_ns:
                before = twist
                break
            after = twist
        if after is None or (before is None and after.stamp_ns != pose.stamp_ns):
            return None
        if before is None or after.stamp_ns == pose.stamp_ns:
            return replace(pose, linear=after.linear, angular=after.angular)
        if after.stamp_ns - before.stamp_ns > MAX_GAP_NS:
            return None
        fraction = (pose.stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
        linear = (1 - fraction) * before.linear + fraction * after.linear
        return replace(pose, linear=linear, angular=(1 - fraction) * before.angular + fraction * after.angular)

    def _may_come(self, pose: EgoPose) -> bool:
        """Whether a twist at or after the pose is still to be expected."""
        if self._twists and self._twists[-1].stamp_ns >= pose.stamp_ns:
            return False
        return self._waiting[-1].stamp_ns - pose.stamp_ns <= TWIST_WAIT_NS

    def _why_not(self, pose: EgoPose) -> str:
        topic, wait_ms = self._config.twist_topic, TWIST_WAIT_NS / MS
        if not self._twists:
            return f"nothing usable arrived on {topic}; a pose needs the twist at its stamp (odometry.twist_topic)"
        nearest = min(self._twists, key=lambda twist: abs(twist.stamp_ns - pose.stamp_ns))
        off_ms = (nearest.stamp_ns - pose.stamp_ns) / MS
        expected = f"twists before and after it, {MAX_GAP_NS / MS:g} ms apart at most, within {wait_ms:g} ms"
        return f"the nearest twist on {topic} is {off_ms:+.0f} ms from the pose; expected {expected}"


class TfFrames:
    """tf2_msgs/TFMessage: the transform from the odometry's frame to base_frame, twist by differences of it."""

    states_twist = False

    def __init__(self, config: OdometryConfig, base_frame: str) -> None:
        self._config, self._base_frame = config, base_frame
        self._differences = PoseDifferences(config.difference_ns)
        self._newest_ns: int | None = None
        self.inputs = (OdometryInput(TF_TOPIC, "tf2_msgs/msg/TFMessage", self._take),)

    def _take(self, msg: Any) -> Sequence[EgoPose]:
        poses = []
        for transform in msg.transforms:
            if transform.child_frame_id.lstrip("/") != self._base_frame.lstrip("/"):
                continue
            check_frame(transform.header.frame_id, self._config.frame, f"parent of {self._base_frame} on {TF_TOPIC}")
            body = transform.transform
            pose = EgoPose(stamp_ns(transform.header.stamp), _transform(body.translation, body.rotation))
            if succession(self._newest_ns, pose.stamp_ns) == STRAY:
                continue  # tf says things again
            self._newest_ns = pose.stamp_ns
            self._differences.add(pose)
            twist = self._differences.twist()
            if twist is not None:  # the first pose says nothing of motion
                poses.append(with_twist(pose, twist))
        return poses


OdometrySource = OdometryTopic | PoseAndTwist | TfFrames
# The values of `odometry.source`.
ODOMETRY_SOURCES: dict[str, Callable[[OdometryConfig, str], OdometrySource]] = {
    "odometry": OdometryTopic,
    "pose_twist": PoseAndTwist,
    "tf": TfFrames,
}


def make_odometry(config: OdometryConfig, base_frame: str) -> OdometrySource:
    """What reads the odometry that the parameters name."""
    return ODOMETRY_SOURCES[config.source](config, base_frame)
