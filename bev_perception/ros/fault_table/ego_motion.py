"""Odometry that jumps, contradicts itself, or is that of another body."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

from bev_perception.ros.car import Change, Sending
from bev_perception.ros.fault_table.fault import (
    INVALID,
    POSE,
    SENSORS,
    SOMETIMES,
    SUSPECT,
    Fault,
    edited,
    odometry,
    repeated,
    setting,
    without_motion,
)
from bev_perception.structures import ODOMETRY

POSE_JUMPS = {SENSORS: (SOMETIMES, "pose_jump|no_pose"), ODOMETRY: (SOMETIMES, "pose_jump|twist_disagrees")}


def jumping(metres: float, every: int) -> Callable[[], Change]:
    """The pose of the odometry moves by so much: every: messages between jumps; 0: one jump, for good."""

    def make() -> Change:
        count = [0]

        def change(s: Sending) -> Iterable[Sending]:
            if s.kind != ODOMETRY:
                return (s,)
            count[0] += 1
            steps = 1 if every == 0 else count[0] // every
            message = copy.deepcopy(s.message)
            message.pose.pose.position.y += metres * steps
            return (Sending(s.kind, s.sensor, message, s.stamp_ns),)

        return change

    return make


EGO_MOTION: tuple[Fault, ...] = (
    without_motion("poses in map", edited(POSE, setting(header__frame_id="map")), INVALID, "wrong_frame"),
    without_motion("poses of another body", edited(POSE, setting(child_frame_id="trailer")), INVALID, "wrong_frame"),
    without_motion(
        "positions are not numbers",
        edited(POSE, setting(pose__pose__position__x=float("nan"))),
        INVALID,
        "pose_not_finite",
    ),
    without_motion(
        "a twist that is infinite",
        edited(POSE, setting(twist__twist__linear__x=float("inf"))),
        INVALID,
        "pose_not_finite",
    ),
    without_motion(
        "a quaternion of zeros", edited(POSE, setting(pose__pose__orientation__w=0.0)), INVALID, "pose_rotation"
    ),
    Fault("the pose jumps by 10 m, once", jumping(10.0, 0), POSE_JUMPS, once=True, may=("reset/pose_jump",)),
    Fault("the pose jumps by 10 m ten times a second", jumping(10.0, 10), POSE_JUMPS),
    Fault(
        "the twist is in km/h",
        edited(POSE, setting(twist__twist__linear__x=18.0)),
        odometry(SUSPECT, "twist_disagrees"),
    ),
    Fault(
        "the twist is zero while the pose moves",
        edited(POSE, setting(twist__twist__linear__x=0.0)),
        odometry(SUSPECT, "twist_disagrees"),
    ),
    Fault("500 poses a second; they are used", repeated(POSE, 5, 2.0)),
)
