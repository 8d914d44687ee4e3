"""The twist that poses imply, against integrate_twist; stated twists that are wrong are found, right ones are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from bev_perception.ego_motion import integrate_twist
from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.sensors.twist import ANEW, NEXT, STRAY, PoseDifferences, TwistCheck, mean_twist, succession
from bev_perception.structures import EgoPose
from bev_perception.sync_config import MS, NS

START = 1_700_000_000 * NS
TOLERANCES = 0.5, 0.1


def drive(
    seconds: float,
    rate_hz: float = 100.0,
    speed: Callable[[float], float] = lambda t: 10.0,
    turn: Callable[[float], float] = lambda t: 0.3,
    noise_m: float = 0.0,
) -> Iterator[EgoPose]:
    """A drive that starts at a heading of a radian; the twist is that of the motion, the pose its integral."""
    rng = np.random.default_rng(0)
    odom_from_ego = make_transform(rotation_from_yaw(1.0), np.array([100.0, -50.0, 2.0]))
    step = 1 / rate_hz
    for k in range(round(seconds * rate_hz)):
        t = k * step
        linear, angular = np.array([speed(t), 0.0, 0.0]), np.array([0.0, 0.0, turn(t)])
        shown = odom_from_ego.copy()
        shown[:3, 3] += rng.normal(0, noise_m, 3)
        yield EgoPose(START + round(t * NS), shown, linear, angular)
        middle = t + step / 2
        motion = np.array([speed(middle), 0.0, 0.0]), np.array([0.0, 0.0, turn(middle)])
        odom_from_ego = odom_from_ego @ integrate_twist(*motion, step)


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1e-2, 1.0, 3.0])
def test_the_mean_twist_is_the_inverse_of_the_integral(scale: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        linear, angular = rng.normal(size=3), rng.normal(size=3)
        angular *= scale / np.linalg.norm(angular)
        found = mean_twist(integrate_twist(linear, angular, 0.9), 0.9)
        assert found == pytest.approx((*linear, *angular), abs=1e-6)


def test_nearly_half_a_turn_is_still_a_turn() -> None:
    for angle in (3.1, 3.14159):
        found = mean_twist(integrate_twist(np.array([1.0, 2.0, 3.0]), np.array([0.0, angle, 0.0]), 1.0), 1.0)
        assert found == pytest.approx((1.0, 2.0, 3.0, 0.0, angle, 0.0), abs=1e-4)


def test_what_follows_what() -> None:
    ms = [None, 0, 1, 500, 501, -1, -1000, -1001]
    found = [succession(None if last is None else START, START + (last or 0) * MS) for last in ms]
    assert found == [ANEW, STRAY, NEXT, NEXT, ANEW, STRAY, STRAY, ANEW]


def test_differences_are_late_by_half_of_the_window() -> None:
    """At two metres per second squared, and 50 ms, that is a tenth."""
    differences = PoseDifferences(100 * MS)
    for k, pose in enumerate(drive(1.0, speed=lambda t: 10 + 2 * t)):
        differences.add(pose)
        found = differences.twist()
        if k == 0:
            assert found is None
        elif k > 10:
            assert found == pytest.approx((*(pose.linear - np.array([0.1, 0.0, 0.0])), *pose.angular), abs=1e-3)


def test_slow_poses_are_compared_with_the_one_before() -> None:
    differences = PoseDifferences(100 * MS)
    for k, pose in enumerate(drive(2.0, rate_hz=5.0)):
        differences.add(pose)
        assert (differences.twist() is None) == (k == 0)


def moved(pose: EgoPose, metres: float) -> EgoPose:
    return replace(pose, odom_from_ego=pose.odom_from_ego + metres * np.eye(4, k=3))


def test_a_jump_is_no_speed() -> None:
    differences = PoseDifferences(100 * MS)
    silent = []
    for k, pose in enumerate(drive(1.0)):
        differences.add(moved(pose, 3.0) if k >= 50 else pose)
        found = differences.twist()
        if found is None:
            silent.append(k)
        else:
            assert found[:3] == pytest.approx(pose.linear, abs=1e-6)
    assert silent == [0, 50]


def test_gaps_and_time_that_restarts_begin_anew() -> None:
    differences = PoseDifferences(100 * MS)
    poses = list(drive(2.0))
    for pose in (*poses[:20], poses[10], poses[30]):
        differences.add(pose)
    assert differences.twist() is not None  # one that is out of order was left out
    for first in (poses[150], replace(poses[0], stamp_ns=START - 10 * NS)):
        differences.add(first)
        assert differences.twist() is None


def check() -> TwistCheck:
    return TwistCheck(*TOLERANCES, 100 * MS)


@pytest.mark.parametrize("rate_hz", [10.0, 20.0, 100.0, 500.0])
@pytest.mark.parametrize("speed", [0.0, 1.0, 30.0])
def test_a_twist_that_fits_is_used(rate_hz: float, speed: float) -> None:
    """Also while braking and steering, with centimetres of noise on the pose."""
    checked = check()
    accelerating = {"speed": lambda t: speed + 3 * np.sin(2 * t), "turn": lambda t: 0.5 * np.sin(3 * t)}
    for pose in drive(3.0, rate_hz, noise_m=0.02, **accelerating):
        assert checked.add(pose) is pose and checked.detail == ""


def in_map_axes(pose: EgoPose) -> EgoPose:
    return replace(pose, linear=pose.odom_from_ego[:3, :3] @ pose.linear)


WRONG: dict[str, Callable[[EgoPose], EgoPose]] = {
    "in map axes": in_map_axes,
    "km/h": lambda pose: replace(pose, linear=3.6 * pose.linear),
    "not set": lambda pose: replace(pose, linear=np.zeros(3), angular=np.zeros(3)),
    "degrees per second": lambda pose: replace(pose, angular=np.rad2deg(pose.angular)),
    "turn not set": lambda pose: replace(pose, angular=np.zeros(3)),
    "z down": lambda pose: replace(pose, angular=-pose.angular),
    "rolling": lambda pose: replace(pose, angular=pose.angular + np.array([0.5, 0.0, 0.0])),
    "backward": lambda pose: replace(pose, linear=-pose.linear),
}


@pytest.mark.parametrize("rate_hz", [10.0, 20.0, 100.0])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_twist_that_is_another_motion_is_replaced_by_that_of_the_poses(wrong: str, rate_hz: float) -> None:
    checked = check()
    for pose in drive(1.5, rate_hz):
        used = checked.add(WRONG[wrong](pose))
        seconds = (pose.stamp_ns - START) / NS
        if seconds > 0.8:
            assert "twist says (" in checked.detail and "the poses say (" in checked.detail
            assert used.linear == pytest.approx(pose.linear, abs=1e-6)
            assert used.angular == pytest.approx(pose.angular, abs=1e-6)
            assert used.odom_from_ego is pose.odom_from_ego and used.stamp_ns == pose.stamp_ns
        elif seconds < 0.4:
            assert checked.detail == ""  # nothing is said before half a second was compared


def test_a_twist_of_zero_while_standing_is_right() -> None:
    checked = check()
    assert all(checked.add(pose) is pose for pose in drive(2.0, speed=lambda t: 0.0, turn=lambda t: 0.0))


def test_the_detail_says_both() -> None:
    checked = check()
    for pose in drive(1.5, turn=lambda t: 0.0):
        checked.add(replace(pose, linear=3.6 * pose.linear))
    assert checked.detail == "twist says (36.00, 0.00, 0.00) m/s, the poses say (10.00, 0.00, 0.00)"


def test_a_jump_of_the_pose_is_no_wrong_twist() -> None:
    """Nor are two within half a second."""
    checked = check()
    for k, pose in enumerate(drive(3.0)):
        assert checked.add(moved(pose, 5.0 * (k >= 120) + 5.0 * (k >= 150))).linear is pose.linear
        assert checked.detail == ""


def test_a_wrong_twist_is_used_at_no_pose() -> None:
    """Not after a jump or a gap either, where the poses imply none, nor in a message out of order."""
    checked = check()
    poses = [replace(pose, linear=3.6 * pose.linear) for pose in drive(2.0, turn=lambda t: 0.0)]
    odd = [moved(poses[150], 3.0), poses[140], replace(poses[150], stamp_ns=START + 9 * NS)]
    for pose in (*poses[:150], *odd):
        used = checked.add(pose)
        assert used.linear[0] == pytest.approx(10.0 if checked.detail else 36.0)
    assert checked.detail


def test_a_twist_is_believed_again_when_it_fits_well() -> None:
    for off, believed in ((0.0, True), (0.5, True), (1.0, False)):  # of 1.5 = 0.5 and a tenth of 10 m/s
        checked = check()
        for pose in drive(1.0):
            checked.add(replace(pose, linear=3.6 * pose.linear))
        assert checked.detail
        for pose in drive(1.0):
            later = replace(pose, stamp_ns=pose.stamp_ns + NS, linear=pose.linear + np.array([off, 0.0, 0.0]))
            checked.add(later)
        assert (checked.detail == "") == believed


def test_messages_out_of_order_and_gaps_are_not_compared() -> None:
    checked = check()
    poses = list(drive(3.0))
    for k, pose in enumerate(poses):
        checked.add(pose)
        checked.add(poses[max(0, k - 20)])
    assert checked.detail == ""
    late = replace(poses[0], stamp_ns=START + 10 * NS, linear=np.zeros(3))
    assert checked.add(late) is late and checked.detail == ""


@pytest.mark.parametrize(("speed", "jumps"), [(2.0, True), (3.0, True), (30.0, False)])
def test_a_fast_vehicle_may_brake_harder_than_a_slow_one(speed: float, jumps: bool) -> None:
    """A step of 1.5 m more than the one before, at 5 Hz: allowed are a metre and a fifth of the step."""
    differences = PoseDifferences(1000 * MS)
    xs = [k * speed / 5 for k in range(5)]
    for k, x in enumerate([*xs, xs[-1] + speed / 5 + 1.5]):
        pose = EgoPose(START + k * 200 * MS, make_transform(np.eye(3), np.array([x, 0, 0])), np.zeros(3), np.zeros(3))
        differences.add(pose)
    assert (differences.twist() is None) == jumps
