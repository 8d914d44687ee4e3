"""The nuScenes-format writer: the devkit loads it unchanged, and its own functions agree with the written world."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh and embreex")
devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud  # noqa: E402
from nuscenes.utils.geometry_utils import view_points  # noqa: E402
from nuscenes.utils.splits import get_scenes_of_custom_split  # noqa: E402
from references import yaw_of  # noqa: E402

from bev_perception.geometry import box_corners, rotation_from_quaternion  # noqa: E402
from training.tables.files import RADAR_DTYPE, radar_pcd  # noqa: E402
from training.tables.vocabulary import TABLES, token_of, visibility_token  # noqa: E402
from training.world.generate import Rates, keyframe_stamps, plan_drive, take, world_of  # noqa: E402
from training.world.nuscenes_writer import (  # noqa: E402
    GLOBAL_OFFSET_M,
    DatasetSettings,
    fill_gaps,
    write_dataset,
)
from training.world.observation import RADAR_BOX_MARGIN_M, count_in_footprints, outline_area  # noqa: E402
from training.world.rig import RIG  # noqa: E402

SETTINGS = DatasetSettings(seed=3, duration_s=2.0, scale=0.1, rates=Rates(camera=4, lidar=2, radar=13))
TINY = DatasetSettings(seed=3, duration_s=1.0, scale=0.04, rates=Rates(camera=2, lidar=2, radar=2))
SCENES = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("nuscenes")
    write_dataset(out, SCENES, SETTINGS, workers=2, val_every=2)
    return out


@pytest.fixture(scope="module")
def nusc(root):
    return devkit.NuScenes("v1.0-trainval", str(root), verbose=False)


def _scans(nusc):
    """(sample_data row, scan, world, world seed) of every file."""
    for index, scene in enumerate(nusc.scene):
        seed = SETTINGS.scene_seed(index)
        world = world_of(seed, SETTINGS.duration_s)
        for scan in plan_drive(SETTINGS.duration_s, SETTINGS.rates):
            token = token_of("sample_data", scene["name"], scan.channel, scan.stamp_ns)
            yield nusc.get("sample_data", token), scan, world, seed


def test_tables_and_counts(root, nusc):
    for name in TABLES:
        assert json.loads((root / "v1.0-trainval" / f"{name}.json").read_text()), name
    keyframes = len(keyframe_stamps(SETTINGS.duration_s))
    assert keyframes == 4 and len(nusc.sample) == SCENES * keyframes
    for sample in nusc.sample:
        assert set(sample["data"]) == set(RIG)
        assert sample["timestamp"] == nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["timestamp"]
        for token in sample["data"].values():
            assert -80_000 < nusc.get("sample_data", token)["timestamp"] - sample["timestamp"] <= 0
    per_scene = sum(row["filename"].startswith(("samples/CAM", "sweeps/CAM")) for row in nusc.sample_data) / SCENES
    assert per_scene == 6 * 4 * SETTINGS.duration_s
    assert all((root / row["filename"]).is_file() for row in nusc.sample_data)
    assert set(nusc.map[0]["log_tokens"]) == {row["token"] for row in nusc.log}
    assert nusc.map[0]["mask"].mask().ndim == 2


def test_tokens_are_unique_and_refer_to_rows(nusc):
    tokens = {name: {row["token"] for row in getattr(nusc, name)} for name in TABLES}
    for name, found in tokens.items():
        assert len(found) == len(getattr(nusc, name)), name
    refers = {
        "sample_data": {"sample_token": "sample", "ego_pose_token": "ego_pose"},
        "sample_annotation": {"instance_token": "instance", "visibility_token": "visibility"},
        "calibrated_sensor": {"sensor_token": "sensor"},
        "scene": {"log_token": "log"},
        "instance": {"category_token": "category"},
    }
    for table, columns in refers.items():
        for column, target in columns.items():
            assert all(row[column] in tokens[target] for row in getattr(nusc, table)), (table, column)


@pytest.mark.parametrize("table", ["sample", "sample_data", "sample_annotation"])
def test_chains_visit_every_row_once_and_go_forward_in_time(nusc, table):
    rows = getattr(nusc, table)
    seen = 0
    for head in (row for row in rows if not row["prev"]):
        row, last = head, None
        while True:
            seen += 1
            time = nusc.get("sample", row["sample_token"])["timestamp"] if "instance_token" in row else row["timestamp"]
            assert last is None or time > last
            last = time
            for same in ("scene_token", "calibrated_sensor_token", "instance_token"):
                assert row.get(same) == head.get(same)
            if not row["next"]:
                break
            following = nusc.get(table, row["next"])
            assert following["prev"] == row["token"]
            row = following
    assert seen == len(rows)


def test_annotations_are_the_worlds_actors(nusc):
    for index, scene in enumerate(nusc.scene):
        world = world_of(SETTINGS.scene_seed(index), SETTINGS.duration_s)
        for k, stamp in enumerate(keyframe_stamps(SETTINGS.duration_s)):
            states = {token_of("instance", scene["name"], s.track_id): s for s in world.actor_states(stamp)}
            sample = nusc.get("sample", token_of("sample", scene["name"], k))
            assert sample["anns"], "a keyframe without any object teaches nothing about annotations"
            for token in sample["anns"]:
                row = nusc.get("sample_annotation", token)
                state = states[row["instance_token"]]
                np.testing.assert_allclose(np.array(row["translation"]) - GLOBAL_OFFSET_M, state.center, atol=1e-6)
                length, width, height = state.size_lwh
                np.testing.assert_allclose(row["size"], [width, length, height])
                yaw = yaw_of(rotation_from_quaternion(row["rotation"]))
                assert np.cos(yaw - state.yaw) > 1 - 1e-9
                assert row["category_name"] == state.category
                found = [nusc.get("attribute", t)["name"] for t in row["attribute_tokens"]]
                assert found == ([state.attribute] if state.attribute else [])
                ego = world.ego_pose(stamp)[:3, 3]
                assert np.linalg.norm(state.center[:2] - ego[:2]) <= 80 + 1e-6


def test_box_velocity_is_the_worlds(nusc):
    errors = []
    for index, scene in enumerate(nusc.scene):
        world = world_of(SETTINGS.scene_seed(index), SETTINGS.duration_s)
        stamps = keyframe_stamps(SETTINGS.duration_s)
        for k, stamp in enumerate(stamps):
            states = {token_of("instance", scene["name"], s.track_id): s for s in world.actor_states(stamp)}
            for token in nusc.get("sample", token_of("sample", scene["name"], k))["anns"]:
                row = nusc.get("sample_annotation", token)
                if row["prev"] and row["next"]:
                    velocity = states[row["instance_token"]].velocity
                    errors.append(np.linalg.norm(nusc.box_velocity(token)[:2] - velocity[:2]))
    # central differences over 1 s against the momentary velocity: they differ where somebody brakes or turns
    assert len(errors) > 20
    assert np.median(errors) < 0.05 and np.quantile(errors, 0.95) < 1.0


def test_images_are_the_rendered_ones_and_boxes_lie_on_their_pixels(nusc, root):
    hits = []
    for row, scan, world, seed in _scans(nusc):
        if RIG[scan.channel].kind != "camera" or scan.keyframe < 0:
            continue
        image = take(world, scan, seed, SETTINGS.scale)
        stored = cv2.imread(str(root / row["filename"]))
        assert stored.shape == image.bgr.shape == (row["height"], row["width"], 3)
        assert np.abs(stored.astype(int) - image.bgr).mean() < 6
        scene = nusc.get("scene", nusc.get("sample", row["sample_token"])["scene_token"])
        _, boxes, K = nusc.get_sample_data(row["token"])
        for box in boxes:
            annotation = nusc.get("sample_annotation", box.token)
            u, v = view_points(box.center[:, None], K, normalize=True)[:2, 0].round().astype(int)
            inside = 0 <= u < row["width"] and 0 <= v < row["height"]
            if annotation["visibility_token"] == "4" and box.name.startswith("vehicle.c") and inside:
                there = token_of("instance", scene["name"], image.instance[v, u])
                hits.append(there == annotation["instance_token"])
    assert len(hits) >= 10
    assert np.mean(hits) > 0.9


def test_radar_files_hold_the_scan_exactly_as_the_devkit_reads_it(nusc, root):
    checked = 0
    radars = (found for found in _scans(nusc) if RIG[found[1].channel].kind == "radar")
    for row, scan, world, seed in islice(radars, 0, None, 4):
        returns = take(world, scan, seed, SETTINGS.scale)
        states = list(range(18))
        cloud = RadarPointCloud.from_file(str(root / row["filename"]), states, states, states)
        assert cloud.points.shape == (18, len(returns))
        for line, name in zip(cloud.points, RADAR_DTYPE.names):
            np.testing.assert_array_equal(line, returns[name].astype(np.float64))
        checked += len(returns)
    assert checked > 1000
    sample = nusc.sample[2]
    cloud, times = RadarPointCloud.from_file_multisweep(nusc, sample, "RADAR_FRONT", "LIDAR_TOP", nsweeps=6)
    assert len(np.unique(times)) == 6 and np.isfinite(cloud.points).all() and cloud.points.shape[1] > 50


def test_an_empty_radar_scan_reads_as_empty(tmp_path):
    path = tmp_path / "empty.pcd"
    path.write_bytes(radar_pcd(np.zeros(0, RADAR_DTYPE)))
    assert RadarPointCloud.from_file(str(path)).points.shape == (18, 0)
    with pytest.raises(ValueError, match="rcs"):
        radar_pcd(np.zeros(3, [("x", "<f4")]))


def test_radar_pcd_has_the_header_of_a_real_file():
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes" / "radar_pcd"
    files = sorted(folder.glob("*.pcd"))
    if not files:
        pytest.skip(f"no real radar files in {folder}")
    real = files[0].read_bytes()
    ours = radar_pcd(np.zeros(125, RADAR_DTYPE))
    end = real.index(b"DATA binary\n") + 12
    assert ours[:end] == real[:end]
    assert RADAR_DTYPE.itemsize == 43


def test_lidar_points_lie_in_the_boxes_they_are_counted_for(nusc, root):
    total, inside = 0, 0
    for row, scan, world, seed in _scans(nusc):
        if scan.channel != "LIDAR_TOP":
            continue
        sweep = take(world, scan, seed, SETTINGS.scale)
        cloud = LidarPointCloud.from_file(str(root / row["filename"]))
        np.testing.assert_array_equal(cloud.points, sweep.points[:, :4].T)
        scene = nusc.get("scene", nusc.get("sample", row["sample_token"])["scene_token"])
        ids = {token_of("instance", scene["name"], track): track for track in np.unique(sweep.instance)}
        _, boxes, _ = nusc.get_sample_data(row["token"])
        for box in boxes:
            annotation = nusc.get("sample_annotation", box.token)
            mine = sweep.instance == ids.get(annotation["instance_token"], -2)
            assert annotation["num_lidar_pts"] == mine.sum()
            local = box.rotation_matrix.T @ (cloud.points[:3, mine] - box.center[:, None])
            # 0.8 m for the motion during the sweep, which these sweeps keep
            within = np.abs(local) <= np.array([box.wlh[1], box.wlh[0], box.wlh[2]])[:, None] / 2 + 0.8
            total, inside = total + mine.sum(), inside + within.all(axis=0).sum()
    assert total > 500 and inside > 0.99 * total


def test_splits(root, nusc):
    assert json.loads((root / "splits.json").read_text()) == {"train": ["scene-0000"], "val": ["scene-0001"]}
    assert get_scenes_of_custom_split("synthetic_val", nusc) == ["scene-0001"]


def _hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_with_one_worker_or_two_and_after_an_interruption(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write_dataset(one, 2, TINY, workers=1)
    write_dataset(two, 2, TINY, workers=2)
    expected = _hashes(one)
    assert len(expected) > 2 * len(RIG)
    assert _hashes(two) == expected
    # as if killed in the middle of scene 1: a file cut short, no stamp, no tables
    (two / ".scenes" / "scene-0001.json").unlink()
    broken = next((two / "samples" / "CAM_FRONT").glob("scene-0001*"))
    broken.write_bytes(broken.read_bytes()[:10])
    untouched = next((two / "samples" / "CAM_FRONT").glob("scene-0000*"))
    before = untouched.stat().st_mtime_ns
    write_dataset(two, 2, TINY, workers=1)
    assert _hashes(two) == expected
    assert untouched.stat().st_mtime_ns == before
    tables = two / "v1.0-trainval" / "sample.json"
    there = tables.stat().st_ino
    write_dataset(two, 2, TINY, workers=1)
    assert tables.stat().st_ino == there, "an index is made of tables as they are: the same ones are left"
    write_dataset(two, 1, TINY, workers=1)
    assert tables.stat().st_ino != there and json.loads((two / "splits.json").read_text())["val"] == []
    with pytest.raises(ValueError, match="made with"):
        write_dataset(two, 2, DatasetSettings(seed=4, duration_s=1.0, scale=0.04, rates=TINY.rates))


def test_a_keyframe_has_the_newest_scan_of_every_sensor_at_or_before_it():
    plan = plan_drive(2.0, Rates(camera=12, lidar=20, radar=13))
    for index, stamp in enumerate(keyframe_stamps(2.0)):
        keys = {scan.channel: scan.stamp_ns for scan in plan if scan.keyframe == index}
        assert set(keys) == set(RIG)
        for channel, taken in keys.items():
            assert taken == max(s.stamp_ns for s in plan if s.channel == channel and s.stamp_ns <= stamp)
        assert keys["LIDAR_TOP"] == keys["CAM_BACK_LEFT"] == stamp
    thin = plan_drive(2.0, Rates(camera=2, lidar=2, radar=2))
    assert len(thin) == 4 * len(RIG) and all(scan.keyframe >= 0 for scan in thin)
    with pytest.raises(ValueError, match="even"):
        plan_drive(2.0, Rates(camera=5))


def test_gaps_are_filled_only_up_to_the_limit():
    assert fill_gaps([1, 3, 6, 10], 2) == [1, 2, 3, 4, 5, 6, 10]
    assert fill_gaps([], 2) == []


def test_outline_area_of_a_box_seen_from_the_front():
    K = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])

    # world axes = camera axes; the box's near face is at z = 9, 2 wide (x) and 4 high (y): 100/9 pixels per metre
    def area(box):
        return outline_area(box_corners(np.array(box))[0], K, 160, 90)

    assert area([0, 0, 10.0, 2, 4, 2, 0]) == pytest.approx(8 * (100 / 9) ** 2, rel=1e-5)
    # a plate whose middle is on the first column of pixels: its right half and that half pixel are inside
    plate = area([-80 / 100 * 9, 0, 9.0, 2, 4, 1e-6, 0])
    assert plate == pytest.approx((100 / 9 + 0.5) * 4 * 100 / 9, rel=1e-4)
    assert area([0, 0, -10.0, 2, 4, 2, 0]) == 0
    # the camera is inside: the image is full
    assert area([0, 0, 0.0, 40, 40, 40, 0]) == pytest.approx(160 * 90, rel=1e-3)


def test_visibility_levels():
    assert [visibility_token(v) for v in (0.0, 0.39, 0.4, 0.6, 0.79, 0.8, 1.0)] == ["1", "1", "2", "3", "3", "4", "4"]


def test_radar_returns_count_in_the_turned_footprint():
    box = np.array([10.0, 5, 1, 4, 2, 1.5, np.pi / 2])  # long side along y
    reach = 2 + RADAR_BOX_MARGIN_M
    points = np.array([[10, 5, 0], [10, 5 + reach - 0.01, 9], [10, 5 + reach + 0.01, 0], [10 + reach - 0.01, 5, 0]])
    away = box + np.array([100.0, 0, 0, 0, 0, 0, 0])
    assert count_in_footprints(points, np.stack([box, away])).tolist() == [2, 0]
