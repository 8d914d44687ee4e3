"""Keyframes, samples and their order: against nuscenes-devkit, against the runtime's decode, and with broken files."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")

from nuscenes.eval.detection.utils import category_to_detection_name  # noqa: E402
from nuscenes.utils.data_classes import RadarPointCloud  # noqa: E402
from pyquaternion import Quaternion  # noqa: E402
from references import candidates_by_loops  # noqa: E402
from tiny_set import SPEC, gather_sweeps  # noqa: E402

from bev_perception.decode import Thresholds, decode  # noqa: E402
from bev_perception.geometry import invert, project  # noqa: E402
from bev_perception.grid import BevGrid  # noqa: E402
from bev_perception.model_spec import CLASSES, ImageSpec  # noqa: E402
from bev_perception.preprocess.images import prepare_images  # noqa: E402
from bev_perception.preprocess.radar import prepare_radar  # noqa: E402
from training.data.augment import NO_AUGMENTATION, Augmentation, augment_boxes, draw_bev  # noqa: E402
from training.data.clips import ClipDataset, EndlessShuffle  # noqa: E402
from training.data.config import EVERY_RETURN, DataConfig, LidarConfig, RadarFilter  # noqa: E402
from training.data.index import open_index  # noqa: E402
from training.data.nuscenes import Keyframe, Keyframes, open_nuscenes, read_split  # noqa: E402
from training.data.prepared import prepare  # noqa: E402
from training.data.radar_pcd import read_radar_pcd  # noqa: E402
from training.data.sensor_frame import kept_returns, sensor_frame  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.experiments.demo import CAMERAS, RADARS  # noqa: E402

# nuscenes-devkit, RadarPointCloud.default_filters.
DEVKIT_RETURNS = RadarFilter((0,), (0, 1, 2, 3, 4, 5, 6), (3,))
REAL_RADAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes" / "radar_pcd"


@pytest.fixture(scope="module")
def nusc(tiny_dataset):
    return devkit.NuScenes("v1.0-trainval", str(tiny_dataset), verbose=False)


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    return open_nuscenes(Source(tiny_dataset), ["scene-0000", "scene-0001"], SPEC)


def test_boxes_and_velocities_are_the_devkits_in_the_ego_frame(nusc, keyframes):
    compared = 0
    for keyframe in keyframes:
        row = nusc.get("sample_data", nusc.get("sample", keyframe.token)["data"]["LIDAR_TOP"])
        mounted = nusc.get("calibrated_sensor", row["calibrated_sensor_token"])
        pose = nusc.get("ego_pose", row["ego_pose_token"])
        expected = []
        for box in nusc.get_sample_data(row["token"])[1]:  # in the LiDAR's frame
            annotation = nusc.get("sample_annotation", box.token)
            name = category_to_detection_name(box.name)
            if name is None or annotation["num_lidar_pts"] + annotation["num_radar_pts"] == 0:
                continue
            box.rotate(Quaternion(mounted["rotation"]))
            box.translate(np.array(mounted["translation"]))
            velocity = Quaternion(pose["rotation"]).inverse.rotate(nusc.box_velocity(box.token))
            expected.append((box, name, velocity))
        assert [name for _, name, _ in expected] == [CLASSES[i] for i in keyframe.labels]
        for (box, _, velocity), found, speed in zip(expected, keyframe.boxes, keyframe.velocity, strict=True):
            np.testing.assert_allclose(found[:3], box.center, atol=1e-6)
            np.testing.assert_allclose(found[3:6], box.wlh[[1, 0, 2]], atol=1e-9)
            assert np.cos(found[6] - box.orientation.yaw_pitch_roll[0]) > 1 - 1e-6
            np.testing.assert_allclose(speed, velocity, atol=1e-6)
            compared += 1
    assert compared > 100


def test_keyframes_are_chained_within_their_scene(nusc, keyframes):
    assert [k.prev for k in keyframes] == [-1, 0, 1, 2, -1, 4, 5, 6]
    for keyframe in keyframes:
        sample = nusc.get("sample", keyframe.token)
        assert sample["prev"] == (keyframes[keyframe.prev].token if keyframe.prev >= 0 else "")
        assert keyframe.stamp_ns == sample["timestamp"] * 1000
        for name, sweeps in keyframe.radars.items():
            stamps = [sweep.stamp_ns for sweep in sweeps]
            assert stamps == sorted(stamps, reverse=True) and stamps[0] <= keyframe.stamp_ns, name
            assert len(sweeps) == SPEC.radar.sweeps, name


def test_unknown_scenes_are_named(tiny_dataset):
    with pytest.raises(ValueError, match=r"no scenes \['scene-0815'\].*has 2"):
        Keyframes(open_index(tiny_dataset, "v1.0-trainval"), ["scene-0000", "scene-0815"], SPEC)


def test_splits_of_a_synthetic_set_and_of_nuscenes(tiny_dataset, tmp_path):
    assert [read_split(Source(tiny_dataset), s) for s in ("train", "val")] == [["scene-0000"], ["scene-0001"]]
    assert len(read_split(Source(tmp_path), "train")) == 700
    assert len(read_split(Source(tmp_path), "val")) == 150
    assert read_split(Source(tmp_path, "v1.0-mini"), "val") == ["scene-0103", "scene-0916"]
    with pytest.raises(ValueError, match=r"no split 'vla'; it has \['train', 'val'\]"):
        read_split(Source(tiny_dataset), "vla")


def _same_as_devkit(path: Path) -> int:
    raw, every = read_radar_pcd(path), list(range(18))
    cloud = RadarPointCloud.from_file(str(path), every, every, every)
    assert cloud.points.shape == (18, len(raw))
    for line, name in zip(cloud.points, raw.dtype.names, strict=True):
        np.testing.assert_array_equal(line, raw[name].astype(np.float64), err_msg=name)
    return len(raw)


def test_radar_files_read_as_the_devkit_reads_them(keyframes):
    assert sum(_same_as_devkit(Path(f.path)) for f in keyframes[2].radars["RADAR_FRONT"]) > 50


def test_real_radar_files_read_as_the_devkit_reads_them():
    files = sorted(REAL_RADAR.glob("*.pcd"))[:3]
    if not files:
        pytest.skip(f"no real radar files in {REAL_RADAR}")
    assert sum(map(_same_as_devkit, files)) > 50


def test_broken_radar_files_are_named(keyframes, tmp_path):
    raw, path = Path(keyframes[0].radars["RADAR_FRONT"][0].path).read_bytes(), tmp_path / "short.pcd"
    path.write_bytes(raw[:-60])
    with pytest.raises(ValueError, match=r"short\.pcd: \d+ points of 43 bytes announced, \d+ bytes found"):
        read_radar_pcd(path)
    path.write_bytes(raw.replace(b"DATA binary", b"DATA ascii"))
    with pytest.raises(ValueError, match=r"short\.pcd: no `DATA binary` line"):
        read_radar_pcd(path)
    for change in ((b"FIELDS", b"FEILDS"), (b"POINTS ", b"POINTS x"), (b"TYPE", b"TYPE\xff"), (b"SIZE 4", b"SIZE 4 4")):
        path.write_bytes(raw.replace(*change, 1))
        with pytest.raises(ValueError, match=r"short\.pcd: the header is not a PCD header.*copy it again") as caught:
            read_radar_pcd(path)
        assert type(caught.value) is ValueError, "one that can be raised again with more words"
    file = dataclasses.replace(keyframes[0].radars["RADAR_FRONT"][0], path=str(path))
    broken = dataclasses.replace(keyframes[0], radars={"RADAR_FRONT": (file,)})
    with pytest.raises(ValueError, match=f"sample {keyframes[0].token}: .*short\\.pcd"):
        sensor_frame(broken, dataclasses.replace(SPEC, cameras=(), radars=("RADAR_FRONT",)))
    assert len(read_radar_pcd(keyframes[0].radars["RADAR_FRONT"][0].path)) > 0


def test_png_is_taken_where_a_data_set_has_it(keyframes, tmp_path):
    keyframe = keyframes[0]
    expected = prepare_images(sensor_frame(keyframe, SPEC), SPEC)[0]
    files = {}
    for name, file in keyframe.cameras.items():
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), cv2.imread(file.path))
        files[name] = dataclasses.replace(file, path=str(path))
    found, _, valid, problems = prepare_images(sensor_frame(dataclasses.replace(keyframe, cameras=files), SPEC), SPEC)
    assert valid.all() and not problems
    assert np.abs(found.astype(int) - expected).mean() < 1.0  # a JPEG may be decoded at half its size


def with_images(keyframe: Keyframe, folder: Path, suffix: str, change: Callable[[np.ndarray], np.ndarray]) -> Keyframe:
    """Its images, changed, in another format; with the bytes of `suffix` as OpenCV writes them."""
    files = {}
    for name, file in keyframe.cameras.items():
        path = folder / f"{name}{suffix}"
        cv2.imwrite(str(path), change(cv2.imread(file.path)))
        files[name] = dataclasses.replace(file, path=str(path))
    return dataclasses.replace(keyframe, cameras=files, prev=-1)


@pytest.mark.parametrize(
    ("change", "grey"),
    [
        (lambda bgr: bgr, False),
        (lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA), False),
        (lambda bgr: bgr.astype(np.uint16) * 257, False),
        (lambda bgr: cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), True),
    ],
    ids=["colour", "alpha", "16 bits", "grey"],
)
def test_a_sample_of_png_files_is_that_of_the_pixels(keyframes, tmp_path, change, grey):
    spec = dataclasses.replace(SPEC, image=ImageSpec(64, 160))  # no JPEG is decoded at half its size
    item = ClipDataset([with_images(keyframes[0], tmp_path, ".png", change)], spec)[0]
    expected = ClipDataset([dataclasses.replace(keyframes[0], prev=-1)], spec)[0]
    assert item["camera_valid"].all()
    images, wanted = item["images"].numpy().astype(int), expected["images"].numpy().astype(int)
    if grey:
        wanted = np.repeat(wanted.mean(axis=-1, keepdims=True), 3, axis=-1)
    assert np.abs(images - wanted).max() <= (40 if grey else 0) and np.abs(images - wanted).mean() < 8
    np.testing.assert_array_equal(item["depth"], expected["depth"])


def test_images_of_a_format_that_the_vehicle_does_not_read_are_named(keyframes, tmp_path):
    frame = with_images(keyframes[0], tmp_path, ".bmp", lambda bgr: bgr)
    with pytest.raises(ValueError, match=r"CAM_FRONT_LEFT.*\.bmp begins with b'BM.*expected one of jpeg, png; convert"):
        ClipDataset([frame], SPEC)[0]


def test_lidar_falls_on_the_pixels_that_the_devkit_computes(nusc, keyframes):
    """LiDAR and cameras fire at different moments: both ego poses count."""
    keyframe = keyframes[2]
    sample = nusc.get("sample", keyframe.token)
    _, img_from_ego, valid, problems = prepare_images(sensor_frame(keyframe, SPEC), SPEC)
    assert valid.all() and not problems
    sweep = dataclasses.replace(keyframe.lidar[0], global_from_ego_begin=None)  # the devkit corrects no motion
    points = gather_sweeps(dataclasses.replace(keyframe, lidar=(sweep,)), LidarConfig(own_radius=0.0))[:, :3]
    scale, crop = SPEC.image.width / 160, round(90 * SPEC.image.width / 160) - SPEC.image.height
    for camera, projection in zip(SPEC.cameras, img_from_ego, strict=True):
        expected, depths, _ = nusc.explorer.map_pointcloud_to_image(sample["data"]["LIDAR_TOP"], sample["data"][camera])
        pixels, depth = project(projection, points)
        source = (pixels + 0.5 + [0, crop]) / scale - 0.5  # of the image as stored
        seen = (depth > 1) & (source > 1).all(axis=1) & (source[:, 0] < 159) & (source[:, 1] < 89)
        assert abs(seen.sum() - len(depths)) <= 2 and len(depths) > 100, camera  # rounding at the border
        found = np.column_stack([source, depth])[depth > 0.5]
        for k in range(0, len(depths), 25):
            want = np.array([*expected[:2, k], depths[k]])
            assert np.abs(found - want).max(axis=1).min() < 0.02, camera


def test_sensors_that_the_set_lacks_are_missing_not_wrong(tiny_dataset):
    spec = dataclasses.replace(SPEC, cameras=(*CAMERAS, "CAM_ROOF"), radars=(*RADARS, "RADAR_ROOF"))
    with pytest.warns(UserWarning, match=r"has no \['CAM_ROOF', 'RADAR_ROOF'\]: tiny sees them as missing"):
        keyframe = open_nuscenes(Source(tiny_dataset), ["scene-0000"], spec)[1]
    assert sensor_frame(keyframe, spec).missing == dict.fromkeys(("CAM_ROOF", "RADAR_ROOF"), "not_in_data_set")
    item = ClipDataset([dataclasses.replace(keyframe, prev=-1)], spec)[0]
    assert item["camera_valid"].tolist() == [1] * 6 + [0] and item["radar_valid"].tolist() == [1] * 5 + [0]
    assert item["images"][6].max() == 0 and item["images"][:6].max() > 0


def test_a_set_without_any_sensor_of_the_run_is_refused(tiny_dataset):
    spec = dataclasses.replace(SPEC, cameras=("CAM_ROOF",), radars=("RADAR_ROOF",))
    with pytest.raises(ValueError, match=r"none of the sensors of tiny, \['CAM_ROOF', 'RADAR_ROOF'\]; it has \['CAM_"):
        open_nuscenes(Source(tiny_dataset), ["scene-0000"], spec)


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_broken_image_is_an_error_that_names_sample_and_sensor(keyframes, tmp_path, kept):
    keyframe = keyframes[0]
    file, path = keyframe.cameras["CAM_BACK"], tmp_path / "broken.jpg"
    raw = Path(file.path).read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    cameras = keyframe.cameras | {"CAM_BACK": dataclasses.replace(file, path=str(path))}
    with pytest.raises(ValueError, match=f"sample {keyframe.token} of scene-0000.*CAM_BACK"):
        prepare(dataclasses.replace(keyframe, cameras=cameras), SPEC)


def test_an_item_has_the_vehicles_inputs(keyframes):
    item = ClipDataset(keyframes, SPEC)[1]
    for tensor in SPEC.inputs():
        if tensor.name != "prev_bev":
            shape = (1, 4, 4) if tensor.name == "prev_from_curr" else tensor.shape
            assert tuple(item[tensor.name].shape) == shape, tensor.name
            assert str(item[tensor.name].numpy().dtype) == tensor.dtype, tensor.name
    frame = sensor_frame(keyframes[1], SPEC)
    images, img_from_ego, _, _ = prepare_images(frame, SPEC)
    np.testing.assert_array_equal(item["images"], images)
    np.testing.assert_allclose(item["img_from_ego"], img_from_ego, rtol=1e-6)
    np.testing.assert_allclose(item["radar_bev"], prepare_radar(frame, SPEC)[0]["radar_bev"], atol=1e-5)
    np.testing.assert_array_equal(item["prev.images"][0], prepare_images(sensor_frame(keyframes[0], SPEC), SPEC)[0])
    moved = invert(keyframes[0].global_from_ego) @ keyframes[1].global_from_ego
    np.testing.assert_allclose(item["prev_from_curr"][0], moved, atol=1e-5)
    assert item["prev_valid"] == 1 and item["prev_dt"] == pytest.approx(0.5)
    first = ClipDataset(keyframes, SPEC)[4]  # of its scene
    assert first["prev_valid"] == 0 and first["prev_from_curr"][0].equal(torch.eye(4))


@pytest.mark.parametrize("augmentation", [NO_AUGMENTATION, Augmentation()], ids=["plain", "augmented"])
def test_targets_decode_to_the_annotations(keyframes, augmentation):
    spec = dataclasses.replace(SPEC, grid=BevGrid(-25.6, 25.6, -25.6, 25.6, 0.8))
    thresholds = Thresholds(dict.fromkeys(CLASSES, 0.999), dict.fromkeys(CLASSES, 0.0))
    compared = 0
    for index, keyframe in enumerate(keyframes[:4]):
        item = {
            name: t.numpy() for name, t in ClipDataset(keyframes, spec, DataConfig(augmentation), seed=5)[index].items()
        }
        aug_from_ego = draw_bev(np.random.default_rng([5, index]), augmentation)
        boxes = augment_boxes(aug_from_ego, keyframe.boxes)
        velocity = keyframe.velocity[:, :2] @ aug_from_ego[:2, :2].T
        cells, inside = spec.grid.cells(boxes[:, :2])
        used = item["mask"][:, 0] > 0
        assert used.sum() == inside.sum() > 3
        box_at = dict(zip(item["cells"][used].tolist(), item["boxes"][used], strict=True))  # the last one in a cell
        scores, labels, peaks = candidates_by_loops(item["heatmap"], 100)
        channels = np.stack([box_at.get(int(cell), np.zeros(10, np.float32)) for cell in peaks])
        found = decode({"scores": scores, "labels": labels, "cells": peaks, "boxes": channels}, spec, thresholds)
        flat = cells[:, 0] * spec.grid.shape[1] + cells[:, 1]
        alone = inside & (np.array([(flat[inside] == cell).sum() for cell in flat]) == 1)
        for k in np.flatnonzero(alone):
            row = np.flatnonzero(np.abs(found.boxes[:, :3] - boxes[k, :3]).max(axis=1) < 1e-3)
            assert len(row) == 1 and found.labels[row[0]] == keyframe.labels[k]
            np.testing.assert_allclose(found.boxes[row[0], 3:6], boxes[k, 3:6], rtol=1e-5)
            assert np.cos(found.boxes[row[0], 6] - boxes[k, 6]) > 1 - 1e-6
            if np.isfinite(velocity[k]).all():
                np.testing.assert_allclose(found.velocity[row[0]], velocity[k], atol=1e-5)
            compared += 1
    assert compared > 20


def test_a_mirrored_world_has_a_mirrored_radar_map_and_the_same_pixels(keyframes):
    mirror = dataclasses.replace(NO_AUGMENTATION, bev_flip_y=1.0)
    plain, mirrored = ClipDataset(keyframes, SPEC)[2], ClipDataset(keyframes, SPEC, DataConfig(mirror))[2]
    expected = plain["radar_bev"].flip(2)
    for name in ("vy", "dy"):
        expected[SPEC.radar.channels.index(name)] *= -1
    assert (plain["radar_bev"] != expected).any()
    torch.testing.assert_close(mirrored["radar_bev"], expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(mirrored["heatmap"], plain["heatmap"].flip(2))
    np.testing.assert_array_equal(mirrored["images"], plain["images"])
    torch.testing.assert_close(mirrored["img_from_ego"], plain["img_from_ego"] * torch.tensor([1.0, -1, 1, 1]))
    assert plain["depth"].max() > 10
    np.testing.assert_allclose(mirrored["depth"], plain["depth"], atol=1e-3)
    flip = torch.diag(torch.tensor([1.0, -1, 1, 1]))
    torch.testing.assert_close(mirrored["prev_from_curr"], flip @ plain["prev_from_curr"] @ flip)


def test_augmentation_depends_on_seed_and_index_alone(keyframes):
    one, two = (ClipDataset(keyframes, SPEC, DataConfig(Augmentation()), 1) for _ in range(2))
    two[5]
    for name, tensor in one[2].items():
        assert torch.equal(tensor, two[2][name]), name
    later = one[2 + len(keyframes)]
    assert later["index"] == 2 and not torch.equal(later["img_from_ego"], one[2]["img_from_ego"])


def test_switched_off_sensors_show_nothing(keyframes):
    half = dataclasses.replace(NO_AUGMENTATION, drop_camera=0.5, drop_all_radars=1.0)
    item = ClipDataset(keyframes, SPEC, DataConfig(half), seed=1)[1]
    for prefix in ("", "prev."):
        valid = item[prefix + "camera_valid"].flatten()
        assert 0 < valid.sum() < 6
        shown = item[prefix + "images"].reshape(6, -1).any(dim=1)
        assert torch.equal(shown, valid > 0)
        assert not item[prefix + "radar_valid"].any() and not item[prefix + "radar_bev"].any()


def test_the_shuffle_is_endless_whole_and_can_be_entered_anywhere():
    stream = list(islice(EndlessShuffle(7, 3), 30))
    for epoch in range(4):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7 * epoch, 7 * epoch + 7))
    assert [i % 7 for i in stream[:7]] != [i % 7 for i in stream[7:14]]
    for first in (0, 1, 6, 7, 16):
        assert list(islice(EndlessShuffle(7, 3, first), 30 - first)) == stream[first:]


def test_keyframes_can_be_sent_to_another_process(keyframes):
    sent = pickle.dumps(keyframes)
    assert len(sent) < 20_000, "the arrays are opened anew, not sent"
    again = pickle.loads(sent)
    assert len(again) == len(keyframes) and again[5].token == keyframes[5].token
    np.testing.assert_array_equal(again[5].boxes, keyframes[5].boxes)


@pytest.mark.parametrize("real", [False, True], ids=["synthetic", "real"])
def test_the_devkits_radar_filter_is_the_devkits(keyframes, real):
    files = sorted(REAL_RADAR.glob("*.pcd"))[:3] if real else [Path(f.path) for f in keyframes[2].radars["RADAR_FRONT"]]
    if not files:
        pytest.skip(f"no real radar files in {REAL_RADAR}")
    kept = total = 0
    for path in files:
        raw = read_radar_pcd(path)
        RadarPointCloud.default_filters()
        expected = RadarPointCloud.from_file(str(path)).points
        found = raw[kept_returns(raw, DEVKIT_RETURNS)]
        np.testing.assert_array_equal(found["x"], expected[0].astype(np.float32))
        np.testing.assert_array_equal(found["rcs"], expected[5].astype(np.float32))
        assert kept_returns(raw, EVERY_RETURN).all()
        near = kept_returns(raw, RadarFilter(range_m=(5.0, 30.0)))
        assert (np.hypot(raw["x"], raw["y"])[near] <= 30).all() and near.sum() < len(raw)
        kept, total = kept + len(found), total + len(raw)
    assert 0 < kept < total


def test_filtered_returns_do_not_reach_the_network(keyframes):
    everything = ClipDataset(keyframes, SPEC)[2]["radar_bev"]
    filtered = ClipDataset(keyframes, SPEC, DataConfig(returns=DEVKIT_RETURNS))[2]["radar_bev"]
    assert 0 < (filtered[0] > 0).sum() < (everything[0] > 0).sum()
