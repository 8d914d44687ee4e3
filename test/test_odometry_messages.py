"""The ways to say how a vehicle moves: pose and twist by their stamps, tf by differences; all give the same poses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
from other_messages import OtherMessages, store_with_radars

from bev_perception.conversions import MessageError
from bev_perception.ego_motion import integrate_twist
from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.sensors.odometry_messages import ODOMETRY_SOURCES, OdometryConfig, OdometryInput, make_odometry
from bev_perception.structures import EgoPose
from bev_perception.sync_config import MS, NS

MAKE = OtherMessages(store_with_radars())
START = 1_700_000_000 * NS


class Listening:
    """A source of odometry, and its poses and refusals."""

    def __init__(self, source: str, **config: Any) -> None:
        self.inputs = make_odometry(OdometryConfig(source, **config), "base_link").inputs
        self.poses: list[EgoPose] = []
        self.refused: list[tuple[str, str]] = []

    def take(self, message: Any, topic: OdometryInput | None = None) -> None:
        try:
            self.poses += (topic or self.inputs[0]).take(message)
        except MessageError as error:
            self.refused.append((error.reason, error.detail))

    def pose(self, ms: float, frame_id: str = "odom") -> None:
        stamp = START + round(ms * MS)
        self.take(MAKE.pose_stamped(stamp, frame_id, np.eye(4) + ms * np.eye(4, k=3)), self.inputs[0])

    def twist(self, ms: float, speed: float = 0.0, frame_id: str = "base_link") -> None:
        stamp = START + round(ms * MS)
        self.take(MAKE.twist_stamped(stamp, frame_id, (speed, 0, 0), (0, 0, 0.1 * speed)), self.inputs[1])

    def found(self) -> list[tuple[float, float]]:
        """(ms, speed) of the poses that came out."""
        assert all(p.angular[2] == pytest.approx(0.1 * p.linear[0]) for p in self.poses)
        return [((p.stamp_ns - START) / MS, float(p.linear[0])) for p in self.poses]


def test_what_is_listened_to() -> None:
    found = {
        name: [(i.topic, i.kind) for i in make_odometry(OdometryConfig(name), "base_link").inputs]
        for name in ODOMETRY_SOURCES
    }
    assert found == {
        "odometry": [("/odometry", "nav_msgs/msg/Odometry")],
        "pose_twist": [
            ("/pose", "geometry_msgs/msg/PoseStamped"), ("/twist", "geometry_msgs/msg/TwistStamped"),
        ],
        "tf": [("/tf", "tf2_msgs/msg/TFMessage")],
    }  # fmt: skip


def test_the_twist_is_taken_between_its_two_neighbours() -> None:
    odometry = Listening("pose_twist")
    odometry.twist(0, 10.0)
    odometry.pose(5)
    assert odometry.poses == []  # the twist after it may still come
    odometry.twist(20, 14.0)
    odometry.pose(20)
    odometry.pose(30)
    odometry.twist(40, 18.0)
    assert odometry.found() == [(5, pytest.approx(11.0)), (20, 14.0), (30, pytest.approx(16.0))]
    assert odometry.poses[0].odom_from_ego[0, 3] == 5.0 and not odometry.refused


@pytest.mark.parametrize("twists_first", [True, False])
@pytest.mark.parametrize("lag_ms", [0, 50, 190])
def test_it_does_not_matter_which_is_heard_first(twists_first: bool, lag_ms: int) -> None:
    events = [(ms, "pose") for ms in range(0, 1000, 20)] + [(ms, "twist") for ms in range(-10, 1000, 25)]
    late = "pose" if twists_first else "twist"
    odometry = Listening("pose_twist")
    for ms, what in sorted(events, key=lambda event: event[0] + lag_ms * (event[1] == late)):
        odometry.pose(ms) if what == "pose" else odometry.twist(ms, 10 + ms / 100)
    assert odometry.found() == [(ms, pytest.approx(10 + ms / 100)) for ms in range(0, 1000, 20)]
    assert not odometry.refused


def test_poses_without_a_twist_are_refused_by_name() -> None:
    odometry = Listening("pose_twist")
    for ms in range(0, 400, 20):
        odometry.pose(ms)
    assert odometry.poses == [] and len(odometry.refused) == 9  # those of 0 to 160 ms, each more than 200 ms old
    assert odometry.refused[0] == (
        "no_twist",
        "nothing usable arrived on /twist; a pose needs the twist at its stamp (odometry.twist_topic)",
    )
    odometry.twist(290, 1.0)
    assert odometry.refused[9][0] == "no_twist"
    assert odometry.refused[9][1].startswith("the nearest twist on /twist is +110 ms from the pose; expected twists")
    for _ in range(5):  # each message refuses one more, so that none is lost silently
        odometry.twist(305, 1.0)
        odometry.pose(400)
    assert {reason for reason, _ in odometry.refused} == {"no_twist"}


def test_twists_that_are_far_apart_are_not_interpolated() -> None:
    odometry = Listening("pose_twist")
    odometry.twist(0, 1.0)
    odometry.pose(300)
    odometry.twist(501, 1.0)
    assert odometry.found() == [] and odometry.refused[0][0] == "no_twist"
    assert odometry.refused[0][1].startswith("the nearest twist on /twist is +201 ms from the pose")
    odometry.pose(750)
    odometry.twist(1001, 2.0)
    assert odometry.found() == [(750, pytest.approx(1.498))]


def test_twists_out_of_order_are_left_out_and_time_may_restart() -> None:
    odometry = Listening("pose_twist")
    for ms in (0, 20, 10, 20, 40):
        odometry.twist(ms, ms)
    odometry.pose(30)
    assert odometry.found() == [(30, pytest.approx(30.0))]
    odometry.twist(-5000, 1.0)
    odometry.pose(-4990)
    odometry.twist(-4980, 1.0)
    assert odometry.found()[1:] == [(-4990, pytest.approx(1.0))] and not odometry.refused


def test_each_topic_has_its_frame() -> None:
    odometry = Listening("pose_twist", pose_topic="/ndt/pose", twist_topic="/ekf/twist")
    odometry.pose(0, frame_id="map")
    odometry.twist(0, frame_id="map")
    assert [reason for reason, _ in odometry.refused] == ["wrong_frame"] * 2
    assert "header.frame_id of /ndt/pose is 'map', expected 'odom'" in odometry.refused[0][1]
    assert "header.frame_id of /ekf/twist is 'map', expected 'base_link'" in odometry.refused[1][1]


def test_poses_and_twists_that_are_no_numbers() -> None:
    odometry = Listening("pose_twist")
    odometry.twist(0, float("nan"))
    nowhere = np.eye(4)
    nowhere[0, 3] = np.inf
    odometry.take(MAKE.pose_stamped(START, "odom", nowhere))
    unset = MAKE.pose_stamped(START, "odom", np.eye(4))
    unset.pose.orientation.w = 0.0
    odometry.take(unset)
    assert [reason for reason, _ in odometry.refused] == ["pose_not_finite", "pose_not_finite", "pose_rotation"]


def transforms(stamp_ns: int, pose: np.ndarray, parent: str = "odom", child: str = "base_link") -> Any:
    return MAKE.transforms(stamp_ns, parent, {child: pose})


def test_tf_says_where_and_thereby_how_fast() -> None:
    linear, angular = np.array([8.0, 0.1, 0.0]), np.array([0.0, 0.0, 0.4])
    pose = make_transform(rotation_from_yaw(2.0), np.array([10.0, 20.0, 0.0]))
    odometry = Listening("tf")
    for k in range(50):
        message = transforms(START + k * 20 * MS, pose)
        message.transforms.insert(0, transforms(START + k * 20 * MS, np.eye(4), "base_link", "wheel").transforms[0])
        odometry.take(message)
        odometry.take(message)  # tf repeats itself
        if k:
            assert odometry.poses[-1].odom_from_ego == pytest.approx(pose)
        pose = pose @ integrate_twist(linear, angular, 0.02)
    assert len(odometry.poses) == 49 and not odometry.refused  # the first pose says nothing of motion
    for found in odometry.poses:
        assert found.linear == pytest.approx(linear, abs=1e-6) and found.angular == pytest.approx(angular, abs=1e-6)


def test_the_window_of_differences_is_a_parameter() -> None:
    """At one metre per second squared the twist is late by half of it."""
    for window_ms in (40, 200):
        odometry = Listening("tf", difference_ns=window_ms * MS)
        for k in range(50):
            t = k * 0.02
            odometry.take(transforms(START + k * 20 * MS, np.eye(4) + t * t / 2 * np.eye(4, k=3)))
        assert odometry.poses[-1].linear[0] == pytest.approx(49 * 0.02 - window_ms / 2000)


def test_base_link_below_another_frame_is_named() -> None:
    odometry = Listening("tf")
    odometry.take(transforms(START, np.eye(4), "base_footprint"))
    assert odometry.refused == [
        ("wrong_frame", "parent of base_link on /tf is 'base_footprint', expected 'odom'; mend the driver or the frame "
         "parameters"),
    ]  # fmt: skip
    odometry.take(transforms(START, np.eye(4), "odom", "trailer"))
    assert odometry.poses == [] and len(odometry.refused) == 1


def test_tf_that_starts_over() -> None:
    odometry = Listening("tf")
    for first in (START + 10 * NS, START):
        for k in range(5):
            odometry.take(transforms(first + k * 20 * MS, np.eye(4)))
    assert len(odometry.poses) == 8 and [p.linear.any() for p in odometry.poses] == [False] * 8
