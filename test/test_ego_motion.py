"""Pose interpolation against a closed-form helix; jumps, gaps and bad poses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bev_perception.ego_motion import MotionLimits, PoseBuffer, _displacement, integrate_twist
from bev_perception.geometry import invert, make_transform, rotation_from_yaw
from bev_perception.structures import EgoPose

MS = 1_000_000
RADIUS, RATE, CLIMB = 20.0, 0.5, 0.3  # m, rad/s, m/s


def helix(t_s, stamp_ns=None):
    """Driving round a helix: x forward along the tangent; exact pose and constant body twist."""
    angle = RATE * t_s
    position = np.array([RADIUS * np.sin(angle), RADIUS * (1 - np.cos(angle)), CLIMB * t_s])
    pose = make_transform(rotation_from_yaw(angle), position)
    linear, angular = np.array([RADIUS * RATE, 0.0, CLIMB]), np.array([0.0, 0.0, RATE])
    return EgoPose(round(t_s * 1e9) if stamp_ns is None else stamp_ns, pose, linear, angular)


def filled(step_ms=20, count=50, limits=None):
    buffer = PoseBuffer(limits)
    for k in range(count):
        assert buffer.add(helix(k * step_ms / 1e3)) == ""
    return buffer


def test_interpolation_follows_the_helix():
    buffer = filled()
    for t in np.linspace(0, 0.98, 137):
        found, exact = buffer.at(round(t * 1e9)), helix(t)
        # A chord instead of the arc: at most r (1 - cos(half angle)) = 0.25 mm; the rotation is exact.
        assert np.linalg.norm(found.odom_from_ego[:3, 3] - exact.odom_from_ego[:3, 3]) < 0.26e-3
        np.testing.assert_allclose(found.odom_from_ego[:3, :3], exact.odom_from_ego[:3, :3], atol=1e-7)
        np.testing.assert_allclose(found.linear, exact.linear)


def test_twists_are_interpolated_and_poses_given_are_answered_bit_for_bit():
    rng = np.random.default_rng(0)
    a, b = (EgoPose(k * 80 * MS, helix(k * 0.08).odom_from_ego, *rng.normal(size=(2, 3))) for k in (0, 1))
    buffer = PoseBuffer()
    assert buffer.add(a) == buffer.add(b) == ""
    quarter = buffer.at(20 * MS)
    np.testing.assert_allclose(quarter.linear, 0.75 * a.linear + 0.25 * b.linear)
    np.testing.assert_allclose(quarter.angular, 0.75 * a.angular + 0.25 * b.angular)
    assert quarter.stamp_ns == 20 * MS
    for pose in (a, b):
        np.testing.assert_array_equal(buffer.at(pose.stamp_ns).odom_from_ego, pose.odom_from_ego)


def test_what_was_interpolated_once_is_kept_within_bounds():
    buffer = filled()
    asked = buffer.at(333 * MS)
    buffer.add(helix(1.0))  # a newer pose changes nothing between older ones
    assert buffer.at(333 * MS) is asked
    for k in range(2_000):
        buffer.at(980 * MS + k)
        if k % 10 == 0:
            buffer.add(helix(1.0 + k / 1e4, 1_000 * MS + k))
    assert len(buffer._between) <= 520


def test_extrapolation_is_exact_under_a_constant_twist_and_ends_at_the_limit():
    buffer = filled()
    newest = 49 * 20 * MS
    for beyond_ms in (-1080, 1, 50, 100):
        stamp = newest + beyond_ms * MS
        np.testing.assert_allclose(buffer.at(stamp).odom_from_ego, helix(stamp / 1e9).odom_from_ego, atol=1e-8)
    assert buffer.at(newest + 101 * MS) is None
    assert buffer.at(-101 * MS) is None
    assert PoseBuffer().at(0) is None


def test_twist_integration_equals_many_small_steps():
    rng = np.random.default_rng(0)
    for _ in range(5):
        linear, angular = rng.normal(size=3), rng.normal(size=3)
        steps = np.eye(4)
        for _ in range(20_000):
            small = np.eye(4)
            w = angular * 1e-4
            small[:3, :3] += np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
            small[:3, 3] = linear * 1e-4
            steps = steps @ small
        np.testing.assert_allclose(integrate_twist(linear, angular, 2.0), steps, atol=2e-3)
    np.testing.assert_allclose(integrate_twist([1, 2, 3], [0, 0, 0], 0.5)[:3, 3], [0.5, 1.0, 1.5])


def test_twist_integration_of_the_smallest_turns():
    """Over a long way, so that each term of the series shows; on both sides of the switch to it."""
    way = 1e9
    for angle in (0.0, 5e-7, 0.999e-6, 1.001e-6, 1e-4):
        moved = integrate_twist([way / 2, 0, 0], [0, 0, angle / 2], 2.0)
        np.testing.assert_allclose(moved[:2, :2], [[1, -angle], [angle, 1]], atol=angle**2)
        assert moved[1, 0] == pytest.approx(angle, rel=1e-6)
        assert moved[1, 3] == pytest.approx(way * angle / 2, rel=1e-3)  # the formula loses digits here
        assert moved[0, 3] - way == pytest.approx(-way * angle**2 / 6, rel=0.01, abs=2e-7)


def test_answers_do_not_depend_on_the_order_of_arrival():
    poses = [helix(k * 0.02) for k in range(50)] + [helix(1.0 + k * 0.02) for k in range(20)]
    for pose in poses[30:]:
        pose.odom_from_ego[:3, 3] += 40.0  # a jump in the middle
    stamps = [3 * MS, 589 * MS, 591 * MS, 1_111 * MS]
    reference = None
    for seed in range(5):
        buffer, order = PoseBuffer(), poses.copy()
        random.Random(seed).shuffle(order)
        for pose in order:
            assert buffer.add(pose) == ""
        found = [(buffer.at(s).odom_from_ego.tobytes(), buffer.at(s).epoch) for s in stamps]
        reference = reference or found
        assert found == reference
    assert [epoch for _, epoch in reference] == [0, 0, 1, 1]


def test_a_pose_that_comes_late_changes_the_answer():
    buffer = PoseBuffer()
    for k in (0, 1, 4, 5):
        buffer.add(helix(k * 0.02))
    rough = buffer.at(50 * MS).odom_from_ego
    assert buffer.add(helix(2 * 0.02)) == buffer.add(helix(3 * 0.02)) == ""
    fine, exact = buffer.at(50 * MS).odom_from_ego, helix(0.05).odom_from_ego
    assert np.linalg.norm(fine - exact) < 0.3 * np.linalg.norm(rough - exact)


def test_no_interpolation_across_a_gap():
    buffer = PoseBuffer()
    buffer.add(helix(0.0))
    buffer.add(helix(0.8))
    assert buffer.at(400 * MS) is None
    np.testing.assert_allclose(buffer.at(50 * MS).odom_from_ego, helix(0.05).odom_from_ego, atol=1e-8)
    assert buffer.at(50 * MS).epoch == buffer.at(750 * MS).epoch == 0


@pytest.mark.parametrize(
    ("moved", "jump"),
    [
        (make_transform(np.eye(3), np.array([0.5, 0.0, 0.0])), False),  # noise
        (make_transform(np.eye(3), np.array([5.0, 0.0, 0.0])), True),  # further than 70 m/s allows
        (make_transform(np.eye(3), np.array([0.0, 1.8, 0.0])), True),  # possible at 70 m/s, not with this twist
        (make_transform(rotation_from_yaw(0.1), np.zeros(3)), False),
        (make_transform(rotation_from_yaw(0.5), np.zeros(3)), True),
    ],
)
def test_jumps_are_what_no_motion_explains(moved, jump):
    buffer = filled()
    pose = helix(50 * 0.02)
    assert buffer.add(EgoPose(pose.stamp_ns, pose.odom_from_ego @ moved, pose.linear, pose.angular)) == ""
    assert buffer.at(pose.stamp_ns).epoch == int(jump)


EIGHTH = 125 * MS  # all numbers of the limits below are exact in binary


@pytest.mark.parametrize(
    ("way", "speeds", "jump"),
    [  # metres in an eighth of a second, m/s before and after
        (9.75, (0, 0), False),  # 1 m + 70 m/s
        (9.76, (0, 0), True),
        (7.0, (40, 40), False),  # 5 m + 1 m + 20 %
        (7.01, (40, 40), True),
        (3.0, (40, 40), False),
        (2.99, (40, 40), True),
        (4.5, (0, 40), True),  # 2.5 m + 1 m + 20 %: the mean of both twists
        (4.0, (0, 40), False),
        (4.5, (40, 0), True),
        (4.0, (40, 0), False),
    ],
)
def test_the_limits_of_a_jump(way, speeds, jump):
    buffer = PoseBuffer()
    for k, speed in enumerate(speeds):
        odom_from_ego = make_transform(np.eye(3), np.array([way * k, 0, 0]))
        buffer.add(EgoPose(k * EIGHTH, odom_from_ego, np.array([float(speed), 0, 0])))
    assert buffer.at(EIGHTH).epoch == int(jump)


def test_fast_driving_at_a_low_rate_is_no_jump():
    for with_twist in (True, False):
        buffer = PoseBuffer()
        for k in range(20):
            twist = np.array([60.0, 0.0, 0.0]) if with_twist else np.zeros(3)
            buffer.add(EgoPose(k * 100 * MS, make_transform(np.eye(3), np.array([6.0 * k, 0, 0])), twist))
        assert buffer.at(1_900 * MS).epoch == 0


def test_epochs_survive_forgetting_and_resets():
    buffer = PoseBuffer(MotionLimits(history_ns=200 * MS))
    for k in range(100):
        pose = helix(k * 0.02)
        pose.odom_from_ego[:3, 3] += 50.0 * (k >= 30)
        buffer.add(pose)
    assert len(buffer._poses) == 11
    assert buffer.at(99 * 20 * MS).epoch == 1
    buffer.reset()
    buffer.add(helix(0.0))
    assert buffer.at(0).epoch == 2


def test_a_late_pose_before_all_that_are_kept_is_of_their_epoch():
    buffer = PoseBuffer(MotionLimits(history_ns=200 * MS))
    for k in range(20):
        pose = helix(k * 0.06)
        pose.odom_from_ego[:3, 3] += 50.0 * (k >= 5)
        buffer.add(pose)
    newest = 19 * 60 * MS
    assert buffer.at(newest).epoch == 1
    late = helix((newest - 190 * MS) / 1e9)
    late.odom_from_ego[:3, 3] += 50.0
    assert buffer.add(late) == ""
    assert {buffer.at(t).epoch for t in (late.stamp_ns, newest - 180 * MS, newest)} == {1}


def test_bad_poses_are_refused():
    buffer = filled()
    good = helix(1.0)
    nan = good.odom_from_ego.copy()
    nan[0, 3] = np.nan
    scaled = good.odom_from_ego.copy()
    scaled[:3, :3] *= 1.1
    mirrored = good.odom_from_ego @ np.diag([1.0, 1.0, -1.0, 1.0])
    assert buffer.add(EgoPose(good.stamp_ns, nan)) == "not_finite"
    assert buffer.add(EgoPose(good.stamp_ns, np.eye(4), np.array([np.inf, 0, 0]))) == "not_finite"
    assert buffer.add(EgoPose(good.stamp_ns, scaled)) == "not_a_rotation"
    assert buffer.add(EgoPose(good.stamp_ns, mirrored)) == "not_a_rotation"
    assert buffer.add(helix(0.5)) == "duplicate"
    assert buffer.add(helix(-5.0)) == "too_late"
    assert buffer.newest_ns == 49 * 20 * MS
    assert buffer.rate_hz() == pytest.approx(50.0)


def test_relative_motion_is_what_compensation_needs():
    """A fixed point seen from two poses: moving it by inv(a) @ b gives the same point."""
    buffer = filled()
    point = np.array([30.0, 5.0, 1.0, 1.0])
    a, b = buffer.at(333 * MS).odom_from_ego, buffer.at(777 * MS).odom_from_ego
    seen_a, seen_b = invert(a) @ point, invert(b) @ point
    np.testing.assert_allclose(invert(a) @ b @ seen_b, seen_a, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.01, 0.5, 2.0, 3.0])
def test_the_quick_displacement_is_that_of_the_whole_motion(angle: float) -> None:
    rng = np.random.default_rng(6)
    axis, linear = rng.normal(0, 1, (2, 3))
    angular = angle * axis / np.linalg.norm(axis)
    expected = integrate_twist(linear.tolist(), angular.tolist(), 1.0)[:3, 3]
    np.testing.assert_allclose(_displacement(linear.tolist(), angular.tolist()), expected, atol=1e-9)
