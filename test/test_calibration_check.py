"""What lies where in an image by the calibration, and what that says of a camera's direction."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import rig_drive
import tiny_bundle
import yaml
from rig_drive import LOOK_AHEAD, MS, START, Row, altered

from bev_perception import calibration_check
from bev_perception.ego_motion import integrate_twist
from bev_perception.geometry import invert, make_transform, project, transform_points
from bev_perception.rig.direction import best_turn, direction_of
from bev_perception.rig.epipolar import Pair, line_distances, mean_distance, track
from bev_perception.rig.overlay import draw_ground, draw_horizon, draw_points, draw_returns
from bev_perception.rig.perturb import parse_change, perturbed

EGO_FROM_CAM = make_transform(LOOK_AHEAD, np.array([1.5, 0.2, 1.4]))
K = np.array([[500.0, 0, 320], [0, 500.0, 180], [0, 0, 1]])
IMG_FROM_CAM = make_transform(np.eye(3), np.zeros(3))
IMG_FROM_CAM[:3, :3] = K


def pairs_of(ego_from_cam: np.ndarray, noise_px: float = 0.0) -> list[Pair]:
    """Standing things, seen before and after two metres around a bend; one thing in ten moves by itself."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(6):
        before_from_after = integrate_twist(np.array([2.0, 0, 0]), np.array([0, 0, rng.uniform(-0.1, 0.1)]), 1.0)
        things = np.column_stack([rng.uniform(8, 40, 80), rng.uniform(-15, 15, 80), rng.uniform(0, 6, 80)])
        moved = things + np.where(np.arange(80) % 10 == 0, 1.5, 0.0)[:, None]
        img_from_ego = IMG_FROM_CAM @ invert(ego_from_cam)
        before, _ = project(img_from_ego, things)
        after, _ = project(img_from_ego, transform_points(invert(before_from_after), moved))
        found.append(Pair(before, after + rng.normal(0, noise_px, after.shape), K, before_from_after))
    return found


def test_what_stands_lies_on_the_lines_of_motion() -> None:
    pairs = pairs_of(EGO_FROM_CAM)
    distances = np.concatenate([line_distances(pair, EGO_FROM_CAM) for pair in pairs])
    assert np.median(distances) < 1e-6 and (distances > 0.2).mean() < 0.12
    moved_along = [mean_distance(pairs, perturbed(EGO_FROM_CAM, {name: 1.0})) for name in ("yaw", "pitch")]
    assert min(moved_along) > mean_distance(pairs, EGO_FROM_CAM) + 0.1


@pytest.mark.parametrize("turn", [{"yaw": 1.5}, {"pitch": -1.0}, {"yaw": -2.0, "pitch": 0.75}])
def test_a_turned_camera_is_found(turn: dict[str, float]) -> None:
    """The extrinsics are turned: turning them back fits best."""
    pairs = pairs_of(EGO_FROM_CAM, noise_px=0.2)
    wrong = perturbed(EGO_FROM_CAM, turn)
    found, least = best_turn(pairs, wrong)
    assert least == pytest.approx(mean_distance(pairs, EGO_FROM_CAM), abs=0.05)
    assert {n: found[n] for n in ("yaw", "pitch")} == pytest.approx(
        {n: -turn.get(n, 0.0) for n in ("yaw", "pitch")}, abs=0.3
    )
    assert "when it is turned by" in direction_of(pairs, wrong).text()
    assert "no turn is better" in direction_of(pairs, EGO_FROM_CAM).text()
    assert "when it is turned by" in direction_of(pairs, EGO_FROM_CAM, turn).text()


def test_a_turn_alone_moves_nothing() -> None:
    """What is so far away that only the turn of the vehicle moves it says nothing of lines."""
    turn = integrate_twist(np.array([2.0, 0, 0]), np.array([0, 0, 0.1]), 1.0)
    far = np.column_stack([np.full(40, 1e6), np.linspace(-3e5, 3e5, 40), np.linspace(0, 2e5, 40)])
    img_from_ego = IMG_FROM_CAM @ invert(EGO_FROM_CAM)
    before, after = project(img_from_ego, far)[0], project(img_from_ego, transform_points(invert(turn), far))[0]
    assert np.linalg.norm(before - after, axis=1).min() > 10
    assert len(line_distances(Pair(before, after, K, turn), EGO_FROM_CAM)) == 0


def test_what_cannot_be_judged() -> None:
    assert "it takes a drive" in direction_of([], EGO_FROM_CAM).text()
    rng = np.random.default_rng(0)
    unrelated = [dataclasses.replace(p, after=rng.uniform(0, 360, p.after.shape)) for p in pairs_of(EGO_FROM_CAM)]
    assert "nothing can be said" in direction_of(unrelated, EGO_FROM_CAM).text()


def test_corners_are_followed() -> None:
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (140, 200), dtype=np.uint8), (0, 0), 2)
    before, after = track(scene[10:130, 10:190], scene[8:128, 7:187])
    assert len(before) > 50 and np.median(np.abs(after - before - [3, 2])) < 0.01
    assert len(track(np.zeros((60, 80), np.uint8), np.zeros((60, 80), np.uint8))[0]) == 0


def test_a_change_turns_about_the_vehicles_axes() -> None:
    assert parse_change("yaw=1, z=-0.1") == {"yaw": 1.0, "z": -0.1}
    pose = perturbed(EGO_FROM_CAM, {"yaw": 90.0, "x": 0.5})
    np.testing.assert_allclose(pose[:3, 2], [0, 1, 0], atol=1e-12)  # looks to the left
    np.testing.assert_allclose(pose[:3, 3], [2.0, 0.2, 1.4])
    np.testing.assert_allclose(perturbed(EGO_FROM_CAM, {"pitch": 90.0})[:3, 2], [0, 0, -1], atol=1e-12)  # down
    for text in ("yaw", "jaw=1", "yaw=one", ""):
        with pytest.raises(ValueError):
            parse_change(text)


def rows_of(image: np.ndarray, color: tuple[int, int, int]) -> set[int]:
    return set(np.nonzero((image == color).all(axis=2))[0].tolist())


@pytest.mark.parametrize("pitch", [0.0, 4.0, -3.0])
def test_the_horizon_is_where_level_directions_are(pitch: float) -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    draw_horizon(image, IMG_FROM_CAM @ invert(perturbed(EGO_FROM_CAM, {"pitch": pitch})))
    rows = np.nonzero(image.any(axis=2).sum(axis=1) > 300)[0]
    assert rows.mean() == pytest.approx(180 - 500 * np.tan(np.radians(pitch)), abs=1.5)


def test_points_and_poles_and_ground_lie_where_they_project() -> None:
    img_from_ego = IMG_FROM_CAM @ invert(EGO_FROM_CAM)
    image = np.zeros((360, 640, 3), np.uint8)
    draw_points(image, img_from_ego, np.array([[21.5, 0.2, 1.4], [-5.0, 0.0, 1.0], [11.5, -1.8, 1.4]]))
    lit = {(int(c), int(r)) for r, c in np.argwhere(image.any(axis=2))}
    assert lit == {(320, 180), (420, 180)}
    image[:] = 0
    draw_returns(image, img_from_ego, np.array([[21.5, 0.2, 0.7], [-4.0, 0.0, 0.0]]), np.array([True, True]))
    rows, columns = np.nonzero((image == (255, 60, 255)).all(axis=2))
    assert columns.min() >= 316 and columns.max() <= 324 and rows.max() >= 180 + 35  # 1.4 m below, 20 m ahead
    image[:] = 0
    draw_ground(image, img_from_ego)
    assert image[:181].sum() == 0 and image[181:].any()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def with_lidar(row: Row) -> list[Row]:
        if row.topic == "/tf_static":
            make = rig_drive.Messages(rig_drive.make_typestore())
            lidar = make.transforms(START, "base_link", {"lidar": make_transform(np.eye(3), np.array([0, 0, 1.8]))})
            return [altered(row, transforms=[*row.message.transforms, *lidar.transforms])]
        if row.topic != "/camera/cam_b/image_raw":
            return [row]
        ring = np.zeros(720, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
        angles = np.radians(np.arange(720) / 2)
        ring["x"], ring["y"] = 20 * np.cos(angles), 20 * np.sin(angles)
        make = rig_drive.Messages(rig_drive.make_typestore())
        cloud = make.cloud(row.record_ns - 5 * MS, "lidar", ring)
        return [row, dataclasses.replace(row, topic="/lidar", kind="sensor_msgs/msg/PointCloud2", message=cloud)]

    bundle = tmp_path / "bundle"
    tiny_bundle.write_bundle(bundle)
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": rig_drive.VALUES | {"bundle": str(bundle)}}}))
    pictures = {}
    for name, change in {"bare": rig_drive.as_it_is, "lidar": with_lidar}.items():
        bag = rig_drive.write_drive(tmp_path / name, change)
        out = tmp_path / f"out_{name}"
        assert calibration_check.main([str(bag), "--params", str(params), "--out", str(out), "--frames", "2"]) == 0
        assert sorted(path.name for path in out.iterdir()) == ["frame_0.jpg", "frame_1.jpg"]
        pictures[name] = cv2.imread(str(out / "frame_0.jpg"))
    assert "cam_a:" in capsys.readouterr().out
    assert pictures["bare"].shape == (320, 1280, 3)
    assert np.abs(pictures["bare"].astype(int) - pictures["lidar"]).max() > 100
    turned = ["--perturb", "yaw=5", "--frames", "1"]
    assert calibration_check.main([str(bag), "--params", str(params), "--out", str(tmp_path / "t"), *turned]) == 0
    assert cv2.imread(str(tmp_path / "t" / "frame_0.jpg")).shape == (640, 1280, 3)
    with pytest.raises(SystemExit):
        calibration_check.main([str(bag), "--out", "x", "--perturb", "jaw=1"])
    nothing = rig_drive.write_drive(tmp_path / "nothing", lambda row: [row] * (row.topic == "/odometry"))
    assert calibration_check.main([str(nothing), "--params", str(params), "--out", str(tmp_path / "n")]) == 1
    assert "ask the doctor" in capsys.readouterr().err
