"""LiDAR sweeps against nuscenes-devkit and closed forms; virtual points and masks on the way into the network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

import real_keyframe  # noqa: E402
from nuscenes.utils.data_classes import LidarPointCloud  # noqa: E402
from tiny_set import gather_sweeps  # noqa: E402

from bev_perception.geometry import (  # noqa: E402
    invert,
    make_transform,
    points_in_box,
    rotation_from_yaw,
    transform_points,
)
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec  # noqa: E402
from training.data.clips import ClipDataset  # noqa: E402
from training.data.config import DataConfig, LidarConfig  # noqa: E402
from training.data.lidar import read_lidar, turned, within  # noqa: E402
from training.data.nuscenes import Keyframe, SensorFile, open_nuscenes  # noqa: E402
from training.data.prepared import prepare_clouds  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.experiments.demo import CAMERAS  # noqa: E402

SPEC = ModelSpec("lidar", (), (), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 0.0))
LONG = LidarConfig(sweeps=3, max_age_s=1.1)  # the tiny set keeps two sweeps a second


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    return open_nuscenes(Source(tiny_dataset), ["scene-0000"], SPEC, DataConfig(lidar=LONG))


def uncorrected(keyframe: Keyframe) -> Keyframe:
    """As the devkit reads the synthetic sweeps: as if all points were measured at the stamp."""
    files = tuple(dataclasses.replace(f, global_from_ego_begin=None) for f in keyframe.lidar)
    return dataclasses.replace(keyframe, lidar=files)


def test_sweeps_are_the_devkits(tiny_dataset, keyframes):
    nusc = devkit.NuScenes("v1.0-trainval", str(tiny_dataset), verbose=False)
    keyframe = keyframes[3]
    sample = nusc.get("sample", keyframe.token)
    cloud, ages = LidarPointCloud.from_file_multisweep(nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=3)
    mount = keyframe.lidar[0].ego_from_sensor
    found = gather_sweeps(uncorrected(keyframe), LONG)
    assert found.shape == (cloud.points.shape[1], 5) and len(found) > 10000
    np.testing.assert_allclose(found[:, :3], transform_points(mount, cloud.points[:3].T), atol=5e-4)
    np.testing.assert_allclose(found[:, 3] * 255, cloud.points[3], atol=1e-3)
    # Both count from the newest sweep, which in this set ends at the keyframe's stamp.
    np.testing.assert_allclose(found[:, 4], ages[0], atol=1e-4)
    assert sorted({round(float(a), 2) for a in found[:, 4]}) == [0.0, 0.5, 1.0]


def test_sweeps_are_limited_in_number_and_age(keyframes):
    def ages(keyframe: Keyframe, config: LidarConfig) -> list[float]:
        return sorted({round(float(a), 2) for a in gather_sweeps(keyframe, config)[:, 4]})

    assert ages(keyframes[3], LidarConfig(sweeps=10)) == [0.0, 0.5]
    assert ages(keyframes[3], LidarConfig(sweeps=2, max_age_s=9)) == [0.0, 0.5]
    assert ages(keyframes[0], LONG) == [0.0], "the first keyframe of a scene has no earlier sweep"
    assert gather_sweeps(dataclasses.replace(keyframes[0], lidar=()), LONG).shape == (0, 5)


def _file(path: Path, stamp_ns: int, pose: np.ndarray, begin: np.ndarray | None = None) -> SensorFile:
    return SensorFile(str(path), stamp_ns, make_transform(np.eye(3), np.array([0.9, 0, 1.8])), pose, None, 0, 0, begin)


def _keyframe(*files: SensorFile) -> Keyframe:
    none = np.zeros((0, 7))
    return Keyframe("token", "scene", files[0].stamp_ns, files[0].global_from_ego, {}, {}, files, none, none[:, :3],
                    np.zeros(0, dtype=np.int64))  # fmt: skip


def test_a_standing_wall_stays_in_place_while_the_vehicle_turns_and_drives(tmp_path):
    """Points of a wall seen from two poses coincide in the keyframe's frame, and the roof is gone."""
    rng = np.random.default_rng(0)
    wall = np.column_stack([np.full(50, 20.0), rng.uniform(-5, 5, 50), rng.uniform(0, 3, 50)])  # global
    poses = [make_transform(rotation_from_yaw(y), np.array([x, 0.3 * x, 0])) for x, y in ((5.0, 0.3), (0.0, 0.0))]
    files = []
    for k, pose in enumerate(poses):
        file = _file(tmp_path / f"{k}.bin", 10**9 - k * 50_000_000, pose)
        seen = transform_points(invert(pose @ file.ego_from_sensor), wall)
        roof = np.array([[0.5, -0.9, -0.2], [0.0, 0.0, -0.4]])
        rows = np.column_stack([np.concatenate([seen, roof]), np.full(52, 51.0), np.zeros(52)])
        Path(file.path).write_bytes(rows.astype("<f4").tobytes())
        files.append(file)
    cloud = gather_sweeps(_keyframe(*files), LidarConfig())
    assert len(cloud) == 100
    expected = transform_points(invert(poses[0]), wall)
    np.testing.assert_allclose(cloud[:50, :3], expected, atol=1e-4)
    np.testing.assert_allclose(cloud[50:, :3], expected, atol=1e-4)
    np.testing.assert_allclose(cloud[:, 3], 0.2)
    np.testing.assert_allclose(cloud[:, 4], np.repeat([0.0, 0.05], 50), atol=1e-6)
    assert len(gather_sweeps(_keyframe(*files), LidarConfig(own_radius=0.0))) == 104


def test_motion_within_a_synthetic_turn_is_corrected(tmp_path):
    rng = np.random.default_rng(1)
    end = make_transform(rotation_from_yaw(0.4), np.array([600.0, 1600.0, 0]))
    begin = end @ make_transform(rotation_from_yaw(-0.02), np.array([-0.75, 0.01, 0]))  # 15 m/s for 50 ms
    file = _file(tmp_path / "turn.bin", 10**9, end, begin)
    points = np.column_stack([rng.uniform(-30, 30, (400, 2)), rng.uniform(-1, 3, 400)]).astype("<f4")
    Path(file.path).write_bytes(np.column_stack([points, np.zeros((400, 2))]).astype("<f4").tobytes())
    found = gather_sweeps(_keyframe(file), LidarConfig(own_radius=0.0))[:, :3]
    for point, share, xyz in zip(points.astype(np.float64), turned(points), found, strict=True):
        yaw, move = -0.02 * (1 - share), np.array([-0.75, 0.01, 0]) * (1 - share)
        then = make_transform(rotation_from_yaw(yaw), move)  # of the end
        expected = (then @ file.ego_from_sensor @ np.append(point, 1))[:3]
        np.testing.assert_allclose(xyz, expected, atol=3e-3)


def test_the_share_of_the_turn_is_the_synthetic_lidars_clock():
    synthetic = pytest.importorskip("training.world.lidar", reason="needs the ray caster")
    azimuth, offsets = synthetic.column_azimuths(), synthetic.column_offsets_ns()
    points = np.column_stack([np.cos(azimuth), np.sin(azimuth)])[1:-1]  # the ends may round to the other one
    np.testing.assert_allclose(turned(points), 1 + offsets[1:-1] / synthetic.SWEEP_NS, atol=1.5 / synthetic.COLUMNS)


def test_synthetic_sweeps_know_where_their_turn_began(keyframes):
    newest = keyframes[2].lidar[0]
    moved = invert(newest.global_from_ego_begin) @ newest.global_from_ego
    before = keyframes[1].lidar[0]
    whole = invert(before.global_from_ego) @ newest.global_from_ego
    share = 50e6 / (newest.stamp_ns - before.stamp_ns)
    np.testing.assert_allclose(moved[:2, 3], share * whole[:2, 3], atol=0.1)
    assert np.linalg.norm(whole[:2, 3]) > 0.5, "a standing vehicle would prove nothing"


def test_intensity_and_bounds(keyframes):
    cloud = gather_sweeps(keyframes[1], LONG)
    assert 0 <= cloud[:, 3].min() < 0.1 and 0.2 < cloud[:, 3].max() <= 1
    inside = within(cloud, (-10, -10, -1, 10, 10, 2))
    assert 0 < inside.sum() < len(cloud)
    assert np.abs(cloud[inside, :2]).max() <= 10 and cloud[inside, 2].min() >= -1
    assert within(np.array([[10.0, 0, 0], [-10.0, 0, 0]]), (-10, -10, -1, 10, 10, 2)).tolist() == [False, True]


def test_an_empty_sweep_is_a_cloud_without_points(tmp_path):
    (tmp_path / "empty.bin").write_bytes(b"")
    assert gather_sweeps(_keyframe(_file(tmp_path / "empty.bin", 10**9, np.eye(4))), LidarConfig()).shape == (0, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0" * 41, r"bad\.bin: 41 bytes"),
        (np.full(5, np.nan, "<f4").tobytes(), r"bad\.bin: points that are not finite"),
        (None, r"bad\.bin: no such LiDAR file"),
    ],
)
def test_broken_files_are_named_with_their_sample(keyframes, tmp_path, content, message):
    path = tmp_path / "bad.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_lidar(path)
    broken = dataclasses.replace(keyframes[0].lidar[0], path=str(path))
    with pytest.raises((ValueError, FileNotFoundError), match=f"sample {keyframes[0].token} of scene-0000.*bad"):
        prepare_clouds(dataclasses.replace(keyframes[0], lidar=(broken,)), DataConfig(lidar=LONG))


@pytest.fixture(scope="module")
def real_set(tmp_path_factory):
    if not (real_keyframe.SOURCE / "scene-0061_s0.json").is_file():
        pytest.skip(f"no real keyframe in {real_keyframe.SOURCE}")
    return real_keyframe.write_real_set(tmp_path_factory.mktemp("real"))


def test_boxes_of_a_real_keyframe_hold_the_points_that_were_counted(real_set):
    """nuScenes' own num_lidar_pts, against the points that the loader puts inside the boxes."""
    (keyframe,) = open_nuscenes(Source(real_set, "v1.0-mini"), "train", SPEC, DataConfig(lidar=LONG))
    cloud = gather_sweeps(keyframe, LidarConfig(own_radius=0.0))
    assert cloud[:, 4].max() == 0 and 0.05 < cloud[:, 3].mean() < 0.2
    found = [int(points_in_box(cloud, box).sum()) for box in keyframe.boxes]
    assert len(found) > 50 and keyframe.lidar[0].global_from_ego_begin is None
    counted = {tuple(np.round(b["xyzlwh_yaw"][3:6], 3)): b for b in real_keyframe.scene()["boxes_lidar"]}
    compared = 0
    for box, number in zip(keyframe.boxes, found, strict=True):
        row = counted.get(tuple(box[3:6].round(3)))
        if row is not None and row["num_lidar_pts"] >= 5:
            assert abs(number - row["num_lidar_pts"]) <= 0.15 * row["num_lidar_pts"] + 2
            compared += 1
    assert compared > 10
    near = gather_sweeps(keyframe, LidarConfig())
    assert 100 < len(cloud) - len(near) < 0.5 * len(cloud), "the roof's own echoes"


def test_depth_targets_of_a_real_keyframe_see_the_ground_and_the_cars(real_set):
    spec = ModelSpec("real", CAMERAS, (), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 0.0),
                     temporal=TemporalSpec(0))  # fmt: skip
    keyframes = open_nuscenes(Source(real_set, "v1.0-mini"), "train", spec)
    item = {name: value.numpy() for name, value in ClipDataset(keyframes, spec)[0].items()}
    assert item["camera_valid"].all() and item["depth"].shape == (6, 16, 44)
    # The bottom rows show the road: the nearer the lower, from about 4 m on.
    rows = [np.median(item["depth"][:, r][item["depth"][:, r] > 0]) for r in (15, 12, 9)]
    assert 3 < rows[0] < rows[1] < rows[2] < 40
    assert item["gt_valid"].sum() > 30 and (item["semantic"] > 0).any(axis=(1, 2)).sum() >= 4
