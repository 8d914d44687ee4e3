"""The traffic's statistics against scenes made by hand, the comparison's command, and the picture of a drive."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh and embreex")

from bev_perception.geometry import make_transform, rotation_from_yaw
from training.world.__main__ import main as world_main
from training.world.camera import render_camera
from training.world.compare_traffic import main, of_scans, summarise
from training.world.look import montage
from training.world.radar import DTYPE
from training.world.radar_scans import Boxes, KeyScan
from training.world.rig import NS, RIG, scan_rng
from training.world.statistic import read
from training.world.styles import CITY
from training.world.traffic_statistics import Sightings
from training.world.world import make_world


def keyscan(time: float, boxes: np.ndarray, velocities: np.ndarray, names: list[str]) -> KeyScan:
    """The vehicle at (10, 5) looking along y, its radar 3 m ahead."""
    pose = make_transform(rotation_from_yaw(np.pi / 2), np.array([10.0, 5.0, 0.0])) @ make_transform(
        np.eye(3), np.array([3.0, 0.0, 0.5])
    )
    count = len(boxes)
    distances = np.hypot(*(boxes[:, :2] - [10, 5]).T)
    tracks = np.array([f"t{k}" for k in range(count)])
    zeros = np.zeros(count, np.int64)
    return KeyScan(
        "d", time, np.zeros(0, DTYPE), pose, Boxes(np.array(names), tracks, boxes, velocities, distances, zeros, zeros)
    )


def test_recorded_boxes_become_sightings_in_the_vehicles_frame() -> None:
    boxes = np.array(
        [[10, 28.0, 1, 4, 2, 1.5, np.pi], [4.0, 8.0, 1, 0.7, 0.7, 1.7, np.pi / 2], [10, 99.0, 1, 4, 2, 1.5, 0]]
    )
    velocities = np.array([[-3.0, 4.0], [0.0, 0.0], [9.0, 0.0]])
    seen = of_scans([keyscan(0.0, boxes, velocities, ["car", "pedestrian", "car"])] * 2)
    assert seen.frames == 2 and seen.frame.tolist() == [0, 0, 1, 1]  # what is 94 m away is left out
    np.testing.assert_allclose(seen.xy[:2], [[20, 0], [0, 6]], atol=1e-9)
    np.testing.assert_allclose(seen.heading[:2], [np.pi / 2, 0], atol=1e-9)
    np.testing.assert_allclose(seen.speed[:2], [5, 0])
    assert seen.track.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="no recorded keyframe has boxes"):
        of_scans([KeyScan("d", 0.0, np.zeros(0, DTYPE), np.eye(4), None)])


def test_a_summary_counts_what_is_there() -> None:
    names = np.array(["car", "car", "pedestrian", "pedestrian", "bus"])
    xy = np.array([[10.0, 0], [20, 5], [5, 5], [5, 5.8], [30, 0]])
    heading = np.array([0, np.pi, 0, 0, np.pi / 2])
    speed = np.array([5.0, 7.0, 1.5, 0.0, 4.0])
    drive = Sightings(2, np.array([0, 1, 0, 0, 1]), np.arange(5), names, xy, heading, speed, np.zeros(5))
    found = {s.key: s.value for s in summarise([drive, drive])}
    assert found["boxes per frame", "cars"] == 1 and found["boxes per frame", "large vehicles"] == 0.5
    assert found["boxes per frame", "cones and barriers"] == 0
    assert found["moving", "cars"] == 1 and found["moving", "pedestrians"] == 0.5
    assert found["speed of who moves", "cars"] == 6
    shares = [found["direction of moving vehicles", way] for way in ("along", "oncoming", "across", "turning")]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert found["nearest other pedestrian", "pedestrians"] == pytest.approx(0.8)
    assert found["another pedestrian within 1 m", "pedestrians"] == 1


def test_the_command_writes_a_table_for_each_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--drives", "2", "--duration", "2", "--out", str(tmp_path)]) == 0
    assert "direction of moving vehicles" in capsys.readouterr().out
    for world in ("town", "city"):
        kept = {s.key: s for s in read(tmp_path / f"traffic_{world}.csv")}
        assert kept["boxes per frame", "cars"].count == 2 * 4
    assert main(["--real", str(tmp_path), "--drives", "1"]) == 1
    assert "missing" in capsys.readouterr().err


def test_a_picture_of_a_drive_has_six_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_world(11, 3.0, style=CITY)
    picture = montage(world, 2 * NS, 0.04)
    assert picture.shape == (72, 192, 3)
    front = render_camera(world, RIG["CAM_FRONT"], 2 * NS, 0.04, scan_rng(11, "CAM_FRONT", 2 * NS)).bgr
    assert np.array_equal(picture[:36, 64:128], front)
    out = tmp_path / "drive.png"
    drive = ["--seed", "11", "--duration", "3", "--world", "city"]
    assert world_main(["look", str(out), *drive, "--at", "2", "--scale", "0.04"]) == 0
    assert np.array_equal(cv2.imread(str(out)), picture)
    assert world_main(["look", str(tmp_path / "drive.docx"), "--scale", "0.04"]) == 1
    assert ".docx" in capsys.readouterr().err
