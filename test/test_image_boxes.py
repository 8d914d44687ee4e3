"""Sizes and cuts of boxes in images, against boxes placed by hand before the rig's cameras."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh and embreex")

from bev_perception.geometry import make_transform, rotation_from_yaw, transform_boxes
from training.world.image_boxes import CAMERAS, WHOLE, in_images, of_recorded, of_world
from training.world.radar import DTYPE
from training.world.radar_scans import Boxes, KeyScan
from training.world.rig import NS, RIG
from training.world.world import make_world

FRONT = RIG["CAM_FRONT"]
assert FRONT.K is not None
FOCAL, X, Z = FRONT.K[1, 1], *FRONT.ego_from_sensor[[0, 2], 3]


def plate(x: float, y: float, width: float, height: float) -> list[float]:
    """Almost without depth, upright, at the camera's height."""
    return [x, y, Z, 0.01, width, height, 0.0]


def test_a_plate_ahead_has_the_height_of_a_pinhole_camera() -> None:
    seen = in_images([(["car"], np.array([plate(X + 20, 0, 2, 3)]))])
    (front,) = np.flatnonzero(seen.image == CAMERAS.index("CAM_FRONT"))
    assert seen.images == 6 and seen.inside[front] == pytest.approx(1, abs=1e-5)
    assert seen.height[front] == pytest.approx(FOCAL * 3 / (20 - 0.005) / 900, rel=1e-4)


def test_what_the_edge_cuts_is_in_the_image_by_its_share() -> None:
    """Half of a plate beside the edge: 800 pixels from the middle of 1600 and half a pixel."""
    edge = 799.5 / FOCAL * 10
    seen = in_images([([], np.zeros((0, 7))), (["bus"], np.array([plate(X + 10, -edge, 2, 1)]))])
    (front,) = np.flatnonzero(seen.image == 6 + CAMERAS.index("CAM_FRONT"))
    assert seen.images == 12 and seen.inside[front] == pytest.approx(0.5, abs=0.01) and 0.5 < WHOLE


def test_what_is_behind_a_camera_is_not_in_its_image() -> None:
    seen = in_images([(["car", "pedestrian"], np.array([plate(-30, 0, 2, 2), plate(X + 30, 0, 1, 2)]))])
    assert set(zip(seen.image.tolist(), seen.name.tolist())) == {
        (CAMERAS.index("CAM_BACK"), "car"), (CAMERAS.index("CAM_FRONT"), "pedestrian")
    }  # fmt: skip
    assert seen.of(["car"]).name.tolist() == ["car"] and seen.of(["bus"]).images == 6


def test_recorded_boxes_stand_where_the_same_boxes_of_a_world_do() -> None:
    world = make_world(5, 2.0)
    pose = world.ego_pose(NS)
    ours = of_world(world, [NS], 50.0)
    states = world.actor_states(NS, 50.0)
    boxes = np.array([[*state.center, *state.size_lwh, state.yaw] for state in states])
    # A vehicle that recorded them from where this one stands, in a frame of its own.
    global_from_world = make_transform(rotation_from_yaw(0.7), np.array([100.0, -40.0, 0.0]))
    count, radar = len(states), RIG["RADAR_FRONT"].ego_from_sensor
    distances = np.hypot(*(boxes[:, :2] - pose[:2, 3]).T)
    names, zeros = np.array([state.name for state in states]), np.zeros(count, np.int64)
    kept = Boxes(names, names, transform_boxes(global_from_world, boxes), np.zeros((count, 2)), distances, zeros, zeros)
    scan = KeyScan("d", 0.0, np.zeros(0, DTYPE), global_from_world @ pose @ radar, kept)
    theirs = of_recorded([scan, KeyScan("d", 0.5, np.zeros(0, DTYPE), pose, None)], 50.0)
    assert len(ours.name) > 5 and ours.images == theirs.images == 6
    assert theirs.name.tolist() == ours.name.tolist()
    np.testing.assert_allclose(theirs.height, ours.height, atol=1e-3)
    np.testing.assert_allclose(theirs.inside, ours.inside, atol=1e-2)
