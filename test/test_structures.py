"""What the plain data promises."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.structures import CameraCalibration, Detections, EgoPose


def test_structures_are_immutable():
    pose = EgoPose(1, np.eye(4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        pose.stamp_ns = 2  # type: ignore[misc]


def test_default_twists_are_not_shared():
    a, b = EgoPose(1, np.eye(4)), EgoPose(2, np.eye(4))
    a.linear[0] = 5.0
    assert b.linear[0] == 0.0 and a.epoch == 0


def test_cam_from_ego_is_the_inverse():
    ego_from_cam = make_transform(rotation_from_yaw(0.7), np.array([1.0, 2.0, 3.0]))
    calibration = CameraCalibration(1600, 900, np.eye(3), ego_from_cam)
    np.testing.assert_allclose(calibration.cam_from_ego @ ego_from_cam, np.eye(4), atol=1e-12)


def test_detections_count_their_boxes():
    empty = Detections(0, np.zeros((0, 7)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, np.int64))
    assert len(empty) == 0
    assert len(dataclasses.replace(empty, scores=np.zeros(3))) == 3
