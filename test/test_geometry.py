"""Transforms, rotations, projection and boxes against closed forms and slow references."""

from __future__ import annotations

import numpy as np
import pytest
from references import yaw_of

from bev_perception.geometry import (
    box_corners,
    interpolate_pose,
    invert,
    make_transform,
    points_in_box,
    project,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_from_yaw,
    slerp,
    transform_boxes,
    transform_points,
)


def random_transform(rng):
    return make_transform(rotation_from_quaternion(rng.normal(size=4)), rng.uniform(-50, 50, 3))


def test_a_transform_turns_and_then_moves():
    a_from_b = make_transform(rotation_from_yaw(np.pi / 2), np.array([10.0, 20.0, 30.0]))
    np.testing.assert_allclose(a_from_b, [[0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(transform_points(a_from_b, np.array([[1.0, 2, 3]])), [[8, 21, 33]], atol=1e-12)


def test_invert_and_chains():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a_from_b, b_from_c = random_transform(rng), random_transform(rng)
        np.testing.assert_allclose(invert(a_from_b), np.linalg.inv(a_from_b), atol=1e-9)
        points = rng.normal(size=(5, 3))
        step_by_step = transform_points(a_from_b, transform_points(b_from_c, points))
        np.testing.assert_allclose(transform_points(a_from_b @ b_from_c, points), step_by_step, atol=1e-9)
    batch = np.stack([random_transform(rng) for _ in range(4)])
    np.testing.assert_allclose(invert(batch), np.linalg.inv(batch), atol=1e-9)


def test_quaternions_round_trip_for_every_largest_component():
    rng = np.random.default_rng(1)
    special = [np.eye(4)[i] for i in range(4)] + [np.array([1e-9, 1.0, 0, 0]), np.array([1.0, 1.0, 0, 0])]
    for q in [*special, *rng.normal(size=(50, 4))]:
        q = q / np.linalg.norm(q)
        rotation = rotation_from_quaternion(q)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        np.testing.assert_allclose(rotation_from_quaternion(quaternion_from_rotation(rotation)), rotation, atol=1e-9)
        # Rotating a vector by q v q* written out.
        w, v, x = q[0], q[1:], np.array([0.3, -0.4, 0.9])
        np.testing.assert_allclose(
            rotation @ x, x + 2 * w * np.cross(v, x) + 2 * np.cross(v, np.cross(v, x)), atol=1e-12
        )


@pytest.mark.parametrize("bad", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]])
def test_unset_quaternions_are_refused(bad):
    with pytest.raises(ValueError, match="quaternion"):
        rotation_from_quaternion(np.array(bad))


def test_slerp_turns_at_a_constant_rate_along_the_shorter_arc():
    a, b = (quaternion_from_rotation(rotation_from_yaw(y)) for y in (0.2, 1.4))
    for fraction in (-0.5, 0.0, 0.25, 0.5, 1.0, 1.5):
        for end in (b, -b):  # the same rotation
            yaw = yaw_of(rotation_from_quaternion(slerp(a, end, fraction)))
            assert yaw == pytest.approx(0.2 + 1.2 * fraction)
    across = slerp(*(quaternion_from_rotation(rotation_from_yaw(y)) for y in (3.0, -3.0)), 0.5)
    assert abs(yaw_of(rotation_from_quaternion(across))) == pytest.approx(np.pi)
    np.testing.assert_allclose(slerp(a, a, 0.3), a)
    tiny = slerp(np.array([1.0, 0, 0, 0]), np.array([1.0, 0, 0, 4e-7]), 0.25)  # below the switch to a straight line
    np.testing.assert_allclose(tiny, [1, 0, 0, 1e-7], atol=1e-12)


def test_interpolated_poses():
    a = make_transform(rotation_from_yaw(0.0), np.array([0.0, 0, 0]))
    b = make_transform(rotation_from_yaw(0.4), np.array([2.0, 1.0, -1.0]))
    np.testing.assert_allclose(interpolate_pose(a, b, 0.0), a, atol=1e-12)
    np.testing.assert_allclose(interpolate_pose(a, b, 1.0), b, atol=1e-12)
    middle = interpolate_pose(a, b, 0.5)
    np.testing.assert_allclose(middle, make_transform(rotation_from_yaw(0.2), np.array([1.0, 0.5, -0.5])), atol=1e-12)


def test_project_and_unproject():
    rng = np.random.default_rng(2)
    K = np.array([[250.0, 0, 176], [0, 250.0, 60], [0, 0, 1]])
    img_from_cam = np.eye(4)
    img_from_cam[:3, :3] = K
    cam_from_ego = random_transform(rng)
    pixels = rng.uniform([0, 0], [352, 128], (100, 2))
    depth = rng.uniform(1, 80, 100)
    rays = np.linalg.inv(K) @ np.column_stack([pixels, np.ones(100)]).T
    points_ego = transform_points(invert(cam_from_ego), rays.T * depth[:, None])
    found, found_depth = project(img_from_cam @ cam_from_ego, points_ego)
    np.testing.assert_allclose(found, pixels, atol=1e-6)
    np.testing.assert_allclose(found_depth, depth, atol=1e-9)


def test_points_behind_the_camera_have_negative_depth_and_stay_finite():
    pixels, depth = project(np.eye(4), np.array([[1.0, 1.0, -5.0], [1.0, 1.0, 0.0]]))
    assert depth.tolist() == [-5.0, 0.0] and np.isfinite(pixels).all()


def test_box_corners_in_order():
    corners = box_corners(np.array([[10.0, 5.0, 1.0, 4.0, 2.0, 1.5, np.pi / 2]]))[0]
    # Heading +y: the front is at y = 7, left is -x.
    np.testing.assert_allclose(corners[0], [9.0, 7.0, 0.25], atol=1e-9)
    np.testing.assert_allclose(corners[1], [11.0, 7.0, 0.25], atol=1e-9)
    np.testing.assert_allclose(corners[2], [11.0, 3.0, 0.25], atol=1e-9)
    np.testing.assert_allclose(corners[4:], corners[:4] + [0, 0, 1.5], atol=1e-9)
    assert box_corners(np.zeros((0, 7))).shape == (0, 8, 3)


def test_points_in_box():
    box = np.array([10.0, 5.0, 1.0, 4.0, 2.0, 1.5, 0.6])
    corners = box_corners(box[None])[0]
    shrunk = box[:3] + 0.99 * (corners - box[:3])
    grown = box[:3] + 1.01 * (corners - box[:3])
    assert points_in_box(shrunk, box).all() and not points_in_box(grown, box).any()
    assert points_in_box(grown, box, margin=0.05).all()
    more_columns = np.column_stack([corners, np.full((8, 2), 99.0)])  # intensity and time of LiDAR points
    assert points_in_box(more_columns, box, margin=1e-9).all()


def test_transformed_boxes_keep_their_corners():
    rng = np.random.default_rng(3)
    a_from_b = make_transform(rotation_from_yaw(2.2), np.array([30.0, -4.0, 0.5]))
    boxes = np.column_stack(
        [rng.uniform(-40, 40, (10, 3)), rng.uniform(0.5, 8, (10, 3)), rng.uniform(-np.pi, np.pi, 10)]
    )
    moved = box_corners(transform_boxes(a_from_b, boxes))
    np.testing.assert_allclose(
        moved.reshape(-1, 3), transform_points(a_from_b, box_corners(boxes).reshape(-1, 3)), atol=1e-9
    )
