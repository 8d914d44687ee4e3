"""Where radars sit by what stands and by boxes, where cameras do by outlines: found again in closed form."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from rig_drive import LOOK_AHEAD

from bev_perception.geometry import box_corners, invert, make_transform, project, rotation_from_yaw, transform_points
from bev_perception.rig.outlines import LEAST_OBJECTS, Outlined, fit_outlines
from bev_perception.rig.perturb import perturbed
from bev_perception.rig.place import placed_by_boxes, placed_by_radars
from bev_perception.rig.standing import HELD, RETURNS_KEPT, STILL, Returns, StandingHeard
from bev_perception.structures import EgoPose, RadarScan, RadarSweep, SensorFrame

RADARS = ("a", "b", "c")
MOUNTS = {
    "a": make_transform(np.eye(3), np.array([3.4, 0.0, 0.5])),
    "b": make_transform(rotation_from_yaw(1.4), np.array([2.4, 0.8, 0.5])),
    "c": make_transform(rotation_from_yaw(-2.8), np.array([-0.6, -0.5, 0.5])),
}


def frames(wrong: dict[str, dict[str, float]], count: int = 60, noise_m: float = 0.1) -> list[SensorFrame]:
    """A drive on a circle past poles; extrinsics that are wrong in this way."""
    rng = np.random.default_rng(3)
    poles = np.column_stack([rng.uniform(-30, 90, (300, 2)), np.full(300, 0.5)])
    found = []
    for k in range(count):
        yaw = 0.02 * k
        pose = make_transform(rotation_from_yaw(yaw), np.array([50 * np.sin(yaw), 50 * (1 - np.cos(yaw)), 0]))
        ego, radars = EgoPose(k * 100_000_000, pose), []
        for name in RADARS:
            points = np.zeros((len(poles), 6), np.float32)
            local = (poles - (pose @ MOUNTS[name])[:3, 3]) @ (pose @ MOUNTS[name])[:3, :3]
            points[:, :3] = local + rng.normal(0, noise_m, local.shape)
            seen = (local[:, 0] > 0) & (np.hypot(local[:, 0], local[:, 1]) < 50)
            scan = RadarScan(name, k * 100_000_000, points[seen])
            radars.append((RadarSweep(scan, perturbed(MOUNTS[name], wrong.get(name, {})), ego),))
        found.append(SensorFrame(k * 100_000_000, ego, (), tuple(radars)))
    return found


def heard(given: list[SensorFrame]) -> Returns:
    standing = StandingHeard(RADARS)
    for frame in given:
        standing.add(frame, None)
    return standing.finish()


@pytest.mark.parametrize("wrong", [{}, {"x": 0.5}, {"y": -0.8}, {"yaw": 3.0}, {"x": -0.4, "y": 0.4, "yaw": -2.0}])
def test_a_radar_is_placed_by_the_others(wrong: dict[str, float]) -> None:
    placed = placed_by_radars(heard(frames({"b": wrong})))
    assert set(placed) == set(RADARS) and min(found.pairs for found in placed.values()) > 1000
    for name, found in placed.items():
        change = {key: -value for key, value in wrong.items()} if name == "b" else {}
        expected = [change.get(key, 0.0) for key in ("x", "y", "yaw")]
        assert [found.x, found.y] == pytest.approx(expected[:2], abs=0.05), name
        assert found.yaw_deg == pytest.approx(expected[2], abs=0.3), name


def test_it_does_not_matter_where_odometry_has_its_origin() -> None:
    returns = heard(frames({"b": {"x": 0.5}}))
    far = returns.still.copy()
    far["pose"][:, :, 2] += (4e5, 5e6)  # easting and northing
    here, there = placed_by_radars(returns), placed_by_radars(replace(returns, still=far))
    for name, found in here.items():
        other = there[name]
        assert [other.x, other.y, other.yaw_deg] == pytest.approx([found.x, found.y, found.yaw_deg], abs=1e-3), name


def test_of_two_radars_either_may_be_the_one() -> None:
    returns = heard(frames({"b": {"x": 0.6}}))
    keep = returns.still["radar"] < 2
    placed = placed_by_radars(Returns(RADARS[:2], returns.still[keep], returns.stretch[keep], returns.held))
    assert [placed[name].x for name in "ab"] == pytest.approx([0.6, -0.6], abs=0.08)


def test_nothing_is_placed_by_nothing() -> None:
    nothing = Returns(RADARS, np.zeros(0, STILL), np.zeros(0, int), np.zeros(0, HELD))
    assert placed_by_radars(nothing) == placed_by_boxes(nothing) == {}
    still = frames({})[0]
    assert len(heard([still] * 20).still) == 0  # a vehicle that stands


def test_a_long_drive_is_kept_in_little_memory() -> None:
    returns = heard(frames({}, count=900))
    assert 2 < len(np.unique(returns.stretch)) <= 8
    counts = np.unique(np.column_stack([returns.stretch, returns.still["radar"]]), axis=0, return_counts=True)[1]
    assert counts.max() <= RETURNS_KEPT


@pytest.mark.parametrize("wrong", [(0.0, 0.0), (0.7, 0.0), (-0.5, 0.6)])
def test_a_radar_is_placed_by_the_sides_of_boxes(wrong: tuple[float, float]) -> None:
    """Returns from the sides that face the radar, ahead and to both sides."""
    rng = np.random.default_rng(1)
    rows = np.zeros(400, HELD)
    mount = np.array([3.4, 0.0])
    for row in rows:
        box = np.array([rng.uniform(12, 40), rng.uniform(-20, 20), 0.8, 4.5, 1.9, 1.6, rng.uniform(-3, 3)])
        turn = rotation_from_yaw(box[6])[:2, :2]
        eye = (mount - box[:2]) @ turn
        side = np.flatnonzero(np.abs(eye) > box[3:5] / 2)[-1]
        place = rng.uniform(-0.5, 0.5, 2) * box[3:5]
        place[side] = np.sign(eye[side]) * box[3:5][side] / 2
        row["arm"], row["mount"], row["box"] = turn @ place + box[:2] - mount, mount + wrong, box
    found = placed_by_boxes(Returns(("a",), np.zeros(0, STILL), np.zeros(0, int), rows))["a"]
    assert found.pairs > 300 and [found.x, found.y] == pytest.approx([-wrong[0], -wrong[1]], abs=0.05)


# ---- cameras

EGO_FROM_CAM = make_transform(LOOK_AHEAD, np.array([1.5, 0.2, 1.4]))
IMG_FROM_CAM = make_transform(np.array([[500.0, 0, 320], [0, 500.0, 180], [0, 0, 1]]), np.zeros(3))


def pictures(count: int = 20) -> list[Outlined]:
    """Plain boxes of one grey level each, as a camera at EGO_FROM_CAM sees them."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(count):
        image, a, b, owners = np.full((360, 640), 128, np.uint8), [], [], []
        for y in (-5.0, 0.0, 5.0):
            size = rng.uniform(0.8, 1.2, 3) * [4.4, 1.8, 1.6]
            box = np.array([rng.uniform(10, 25), y, size[2] / 2, *size, rng.uniform(-3, 3)])
            corners = box_corners(box)[0]
            pixels = project(IMG_FROM_CAM @ invert(EGO_FROM_CAM), corners)[0].astype(np.float32)
            hull = cv2.convexHull(pixels, returnPoints=False).reshape(-1)
            level = int(rng.choice([20, 60, 200, 240]))
            cv2.fillConvexPoly(image, np.round(pixels[hull] * 16).astype(np.int32), (level,), cv2.LINE_AA, 4)
            a.append(corners[hull])
            b.append(corners[np.roll(hull, -1)])
            owners += [f"{len(found)} {y}"] * len(hull)
        found.append(Outlined(image, IMG_FROM_CAM, np.concatenate(a), np.concatenate(b), tuple(owners), 3))
    return found


@pytest.mark.parametrize("wrong", [{"roll": 3.0}, {"z": -0.2}, {"y": 0.4}, {"yaw": 2.0}])
def test_what_fits_better_is_said(wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    fit = fit_outlines(pictures(), perturbed(EGO_FROM_CAM, wrong))
    assert fit.tells and fit.changes.get(name) == pytest.approx(-value), fit


def test_a_right_camera_is_left_alone() -> None:
    fit = fit_outlines(pictures(), EGO_FROM_CAM)
    assert fit.tells and not fit.changes and fit.here > 0.6


def test_few_boxes_do_not_tell() -> None:
    few = pictures((LEAST_OBJECTS - 1) // 3)
    assert not fit_outlines(few, perturbed(EGO_FROM_CAM, {"roll": 5.0})).tells


def test_an_object_that_is_labelled_badly_moves_no_camera() -> None:
    """However often it is seen."""
    turned = perturbed(EGO_FROM_CAM, {"roll": 3.0})
    right = pictures()
    away = turned @ invert(EGO_FROM_CAM)  # takes boxes to where a rolled camera would see them right
    one = [
        replace(p, a=transform_points(away, p.a), b=transform_points(away, p.b), owners=("one",) * len(p.a))
        for p in right[5:]
    ]
    assert fit_outlines(one * 2, EGO_FROM_CAM).objects == 1
    assert not fit_outlines([*right[:5], *one], EGO_FROM_CAM).changes
    many = [replace(p, owners=q.owners) for p, q in zip(one, right[5:])]
    assert "roll" in fit_outlines([*right[:5], *many], EGO_FROM_CAM).changes
