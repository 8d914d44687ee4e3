"""The pictures of what the network sees: targets read back, returns where they are, every panel drawn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from bev_perception.geometry import project, transform_boxes
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec
from training.check_data import BEV_SIZE, check, draw_item, main, radar_returns, target_objects
from training.data.augment import Augmentation, draw_bev
from training.data.clips import ClipDataset
from training.data.config import DataConfig, LidarConfig
from training.data.nuscenes import open_nuscenes
from training.data.prepared import prepare
from training.data.source import Source
from training.experiments import demo
from training.experiments.demo import CAMERAS, RADARS

SPEC = ModelSpec(
    "tiny", CAMERAS, RADARS, dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 0.0), image=ImageSpec(64, 128)
)
AUGMENTED = DataConfig(
    dataclasses.replace(
        Augmentation(), drop_camera=0, drop_all_cameras=0, drop_all_radars=0, drop_radar=0, drop_prev=0
    ),
    history=2,
    lidar=LidarConfig(),
)


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    return open_nuscenes(Source(tiny_dataset), "train", SPEC, AUGMENTED)


@pytest.fixture(scope="module")
def item(keyframes):
    return {name: value.numpy() for name, value in ClipDataset(keyframes, SPEC, AUGMENTED, seed=1)[3].items()}


def test_the_drawn_objects_are_the_annotations_after_augmentation(keyframes, item):
    aug = draw_bev(np.random.default_rng([1, 3]), AUGMENTED.augmentation)
    expected = transform_boxes(aug, keyframes[3].boxes)
    expected = expected[SPEC.grid.cells(expected[:, :2])[1]]
    objects = target_objects(item, SPEC)
    assert len(objects) == len(expected) > 3
    np.testing.assert_allclose(objects.boxes[:, :3], expected[:, :3], atol=1e-4)


@pytest.mark.parametrize("kind", ["map", "pillars"])
def test_radar_returns_are_where_the_points_are(keyframes, kind):
    radar = dataclasses.replace(SPEC.radar, format=kind)
    spec = dataclasses.replace(SPEC, radar=radar, cameras=())
    item = {n: v.numpy() for n, v in ClipDataset(keyframes, spec, DataConfig(history=0))[2].items()}
    found = radar_returns(item, spec)
    points = np.concatenate(prepare(keyframes[2], spec).radars)
    points = points[spec.grid.cells(points[:, :2])[1]]
    distance = np.linalg.norm(found[:, None, :2] - points[None, :, :2], axis=2)
    alone = np.bincount(distance.argmin(axis=0), minlength=len(found)) == 1
    assert alone.sum() > 10 and distance[alone].min(axis=1).max() < (0.6 if kind == "map" else 1e-4)


def test_every_panel_is_drawn(item):
    picture = draw_item(item, SPEC)
    images = 4 * (64 + 2)  # boxes, depth, two earlier frames
    assert picture.shape == (images + BEV_SIZE + 2, max(6 * 128, 3 * BEV_SIZE), 3)
    for k in range(3):
        panel = picture[images : images + BEV_SIZE, k * BEV_SIZE : (k + 1) * BEV_SIZE]
        assert (panel.max(axis=2) > 100).sum() > 300
    shown = picture[66:130, : 6 * 128].astype(int)
    plain = np.concatenate(list(item["images"]), axis=1).astype(int)
    patches = cv2.resize(np.concatenate(list(item["depth"]), axis=1), (6 * 128, 64), interpolation=cv2.INTER_NEAREST)
    changed = np.abs(shown - plain).max(axis=2) > 0
    changed[:24, :64] = False  # the title
    patches[:24, :64] = 0
    assert changed[patches > 0].mean() > 0.9 and not changed[patches == 0].any()


def test_lidar_falls_on_its_pixels_after_augmentation(item):
    """The depth target is made of the very points that a LiDAR network gets, through the very projection."""
    newest = item["lidar"][item["lidar"][:, 4] < 0.01]
    close = found = 0
    for projection, depth in zip(item["img_from_ego"], item["depth"], strict=True):
        pixels, far = project(projection.astype(np.float64), newest[:, :3].astype(np.float64))
        cells = np.floor((pixels + 0.5) / 8).astype(int)
        seen = (far > 0.5) & (cells >= 0).all(axis=1) & (cells < [16, 8]).all(axis=1)
        behind = far[seen] - depth[cells[seen, 1], cells[seen, 0]]
        assert behind.min() > -1e-2, "no point is nearer than its patch's target"
        close, found = close + (behind < 1e-2).sum(), found + seen.sum()
    assert found > 1000 and close > 100


def test_lidar_is_drawn_where_it_only_gives_depths(keyframes, tmp_path, capsys):
    config = dataclasses.replace(AUGMENTED, lidar=None)
    dataset = ClipDataset(keyframes, SPEC, config, seed=1)
    item = {name: value.numpy() for name, value in dataset[3].items()}
    points = dataset.depth_points(3)
    for projection, depth in zip(item["img_from_ego"], item["depth"], strict=True):
        pixels, far = project(projection.astype(np.float64), points)
        cells = np.floor((pixels + 0.5) / 8).astype(int)
        seen = (far > 0.5) & (cells >= 0).all(axis=1) & (cells < [16, 8]).all(axis=1)
        nearest = np.full(depth.shape, np.inf)
        np.minimum.at(nearest, tuple(cells[seen, ::-1].T), far[seen])
        np.testing.assert_allclose(nearest[depth > 0], depth[depth > 0], atol=1e-2)
    (path,) = check(keyframes, SPEC, config, 0, 1, tmp_path)
    assert "points for depth" in capsys.readouterr().out
    picture = cv2.imread(str(path))[-BEV_SIZE - 2 :]
    assert picture.shape[1] == 3 * BEV_SIZE and (picture[:, :BEV_SIZE].max(axis=2) > 100).sum() > 1000
    (path,) = check(keyframes, SPEC, dataclasses.replace(config, depth_stride=0), 0, 1, tmp_path)
    assert cv2.imread(str(path)).shape[1] == 2 * BEV_SIZE


def test_scenes_kept_back_can_be_looked_at(tiny_dataset, tmp_path, capsys):
    for path in tiny_dataset.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "splits.json").unlink()
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["scene-0000", "scene-0001"], "val": []}))
    base = ["--data", str(tmp_path), "--experiment", f"{Path(__file__).stem}:kept_back", "--samples", "1"]
    for split, scene in (("train", "scene-0000"), ("holdout", "scene-0001")):
        assert main([*base, "--split", split, "--files"]) == 0
        assert "every file of 4 keyframes is there" in capsys.readouterr().out
        assert main([*base, "--split", split, "--out", str(tmp_path / split)]) == 0
        assert [path.name[:10] for path in (tmp_path / split).iterdir()] == [scene]


def kept_back():
    run = demo.full()
    return dataclasses.replace(run, data=dataclasses.replace(run.data, holdout=1))


def test_the_command_writes_pictures_and_counts_files(tiny_dataset, tmp_path, capsys):
    base = ["--data", str(tiny_dataset), "--experiment", "training.experiments.demo:full"]
    assert main([*base, "--files"]) == 0
    assert "every file of 4 keyframes is there" in capsys.readouterr().out
    assert main([*base, "--split", "vla"]) == 1
    assert "has no split 'vla'" in capsys.readouterr().err


def test_pictures_are_written(keyframes, tmp_path):
    (path,) = check(keyframes, SPEC, AUGMENTED, 0, 1, tmp_path)
    assert path.name.startswith("scene-0000_") and cv2.imread(str(path)).shape[1] >= 768
