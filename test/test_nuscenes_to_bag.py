"""Scenes become recordings: what was in files and rows is in the messages, and comes back as it went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

for name in ("nuscenes", "rosbags", "torch"):
    pytest.importorskip(name, reason=f"needs {name}")

from recorded_sets import files_of  # noqa: E402

from bev_perception.evaluation.bag import read_bag, read_ground_truth, stamp_ns  # noqa: E402
from bev_perception.geometry import invert, transform_boxes  # noqa: E402
from bev_perception.model_spec import CLASSES  # noqa: E402
from bev_perception.parameters import SHIPPED_BUNDLE  # noqa: E402
from training.bag_to_nuscenes import main as back  # noqa: E402
from training.data.index import open_index  # noqa: E402
from training.data.poses import poses_from_rows  # noqa: E402
from training.data.radar_pcd import read_pcd, read_radar_pcd  # noqa: E402
from training.nuscenes_to_bag import main  # noqa: E402

SCENE = "scene-0001"
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")


@pytest.fixture(scope="module")
def bag(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bags")
    assert main([str(out), "--data", str(tiny_dataset), "--split", "val", "--lidar"]) == 0
    return out / SCENE


def test_each_file_is_a_message_of_its_bytes(tiny_dataset: Path, bag: Path) -> None:
    images = {
        f"/camera/{c.lower()}/image_raw/compressed": {s: f[0] for s, f in files_of(tiny_dataset, c).items()}
        for c in CAMERAS
    }
    scans = {"/radar/radar_front/points": files_of(tiny_dataset, "RADAR_FRONT")}
    seen = 0
    for m in read_bag(bag, {*images, *scans}):
        stamp = stamp_ns(m.message.header)
        assert m.record_ns == stamp
        if m.topic in images:
            assert m.message.data.tobytes() == images[m.topic][stamp].read_bytes() and "jpeg" in m.message.format
        else:
            points = read_radar_pcd(scans[m.topic][stamp][0])
            fields = [(f.name, f.offset) for f in m.message.fields]
            assert fields == [(name, (points.dtype.fields or {})[name][1]) for name in points.dtype.names or ()]
            assert m.message.data.tobytes() == points.tobytes() and m.message.width == len(points)
        seen += 1
    assert seen == 6 * 4 + len([s for s in files_of(tiny_dataset, "RADAR_FRONT").values() if SCENE in s[0].name])


def test_the_vehicle_is_where_the_rows_say_and_moves_as_it_does(tiny_dataset: Path, bag: Path) -> None:
    index = open_index(tiny_dataset, "v1.0-trainval")
    rows = np.flatnonzero(index.arrays["data_scene"] == index.scenes.index(SCENE))
    poses = dict(zip(index.arrays["data_stamp"][rows].tolist(), poses_from_rows(index.arrays["data_pose"][rows])))
    odometry = [m.message for m in read_bag(bag, {"/odometry"})]
    assert [stamp_ns(m.header) for m in odometry] == sorted(poses)
    for m in odometry:
        p, place = m.pose.pose.position, poses[stamp_ns(m.header)][:3, 3]
        assert (p.x, p.y, p.z) == tuple(place)
    middle = odometry[5:-5]
    stamps = np.array([stamp_ns(m.header) for m in odometry])
    for m in middle:
        now = stamp_ns(m.header)
        a, b = stamps[stamps <= now - 40_000_000][-1], stamps[stamps >= now + 40_000_000][0]
        way = poses[now][:3, :3].T @ (poses[b][:3, 3] - poses[a][:3, 3]) / ((b - a) * 1e-9)
        assert (m.twist.twist.linear.x, m.twist.twist.linear.y) == pytest.approx(way[:2], abs=1e-9)


def test_objects_are_where_they_are_at_the_anchor(tiny_dataset: Path, bag: Path) -> None:
    index = open_index(tiny_dataset, "v1.0-trainval")
    arrays = index.arrays
    truth = read_ground_truth(bag)
    frames = np.flatnonzero(arrays["frame_scene"] == index.scenes.index(SCENE))
    anchor = index.channels.index("CAM_BACK_LEFT")
    rows = arrays["frame_data"][frames, anchor]
    assert list(truth) == arrays["data_stamp"][rows].tolist()
    for frame, row, objects in zip(frames, rows, truth.values()):
        span = slice(int(arrays["box_end"][frame - 1]), int(arrays["box_end"][frame]))
        later = (int(arrays["data_stamp"][row]) - int(arrays["frame_stamp"][frame])) * 1e-9
        keyframe, now = (
            poses_from_rows(arrays["frame_pose"][[frame]])[0],
            poses_from_rows(arrays["data_pose"][[row]])[0],
        )
        boxes = arrays["box"][span].copy()
        boxes[:, :3] += np.nan_to_num(arrays["box_velocity"][span]) * later
        expected = transform_boxes(invert(now) @ keyframe, boxes)
        assert np.abs(objects.boxes[:, :6] - expected[:, :6]).max() < 1e-9
        turn = (objects.boxes[:, 6] - expected[:, 6] + np.pi) % (2 * np.pi) - np.pi
        assert np.abs(turn).max() < 1e-9
        assert objects.names == tuple(CLASSES[k] for k in arrays["box_class"][span])
        assert objects.num_points.tolist() == arrays["box_points"][span].sum(axis=1).tolist()


def test_there_and_back_again(tiny_dataset: Path, bag: Path, tmp_path: Path) -> None:
    """By the command for recordings: files as they were, returns and K to the last bit, poses to the 15th digit."""
    values = {f"cameras.{name}.compressed": True for name in CAMERAS}
    values |= {f"cameras.{name}.topic": f"/camera/{name.lower()}/image_raw/compressed" for name in CAMERAS}
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": values | {"sync.period_ms": 500.0}}}))
    out = tmp_path / "again"
    assert back([str(bag), str(out), "--bundle", str(SHIPPED_BUNDLE), "--params", str(params)]) == 0
    for channel in ("CAM_FRONT", "CAM_BACK_LEFT", "RADAR_FRONT", "RADAR_BACK_RIGHT"):
        before, after = files_of(tiny_dataset, channel), files_of(out, channel)
        common = sorted(before.keys() & after.keys())
        assert len(common) >= 3
        for stamp in common:
            (old, old_pose, old_mount), (new, new_pose, new_mount) = before[stamp], after[stamp]
            if channel.startswith("CAM"):
                assert new.read_bytes() == old.read_bytes()
                assert new_mount["camera_intrinsic"] == old_mount["camera_intrinsic"]
            else:
                kept = ("x", "y", "z", "rcs", "vx_comp", "vy_comp", "dyn_prop", "pdh0")
                assert all((read_pcd(new)[name] == read_pcd(old)[name]).all() for name in kept)
            assert new_pose["translation"] == old_pose["translation"]
            assert new_pose["rotation"] == pytest.approx(old_pose["rotation"], abs=1e-14)
            assert new_mount["translation"] == pytest.approx(old_mount["translation"], abs=1e-14)


def test_what_is_there_is_left_alone_and_what_is_not_is_named(
    tiny_dataset: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [(f.name, f.stat().st_mtime_ns) for f in sorted(bag.iterdir())]
    assert main([str(bag.parent), "--data", str(tiny_dataset), "--scenes", SCENE]) == 0
    assert "is there already" in capsys.readouterr().out
    assert [(f.name, f.stat().st_mtime_ns) for f in sorted(bag.iterdir())] == before
    assert main([str(bag.parent), "--data", str(tiny_dataset), "--scenes", "scene-0999"]) == 1
    assert "no scene 'scene-0999'; it has scene-0000, scene-0001" in capsys.readouterr().err
    assert main([str(bag.parent), "--data", str(tiny_dataset), "--scenes", "scene-0000", "--anchor", "CAM_UP"]) == 1
    assert "no sensor 'CAM_UP'" in capsys.readouterr().err and not (bag.parent / "scene-0000").exists()
