"""Instance masks: every COCO form, those that are missing, and the virtual points made with them."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from tiny_set import LIDAR_SPEC, item_of, open_set

from bev_perception.geometry import points_in_box
from bev_perception.model_spec import CLASSES
from training.data.clips import ClipDataset
from training.data.config import DataConfig, LidarConfig, VirtualConfig
from training.data.file_checks import bad_files, needed_files
from training.data.masks import decode, mask_path, read_masks, run_lengths, uncompress
from training.data.prepared import prepare_clouds


def test_missing_masks_are_named_with_their_sample(tiny_dataset):
    config = DataConfig(lidar=LidarConfig(), virtual=VirtualConfig(masks="nowhere"))
    keyframes = open_set(tiny_dataset, LIDAR_SPEC, config)
    with pytest.raises(FileNotFoundError, match=f"sample {keyframes[1].token} of scene-0000: .*nowhere.*no masks of"):
        prepare_clouds(keyframes[1], config, tiny_dataset)
    with pytest.raises(FileNotFoundError, match=r"no masks of this image"):
        ClipDataset(keyframes, LIDAR_SPEC, config)[1]
    cameras = len(config.virtual.cameras)
    lines = [line for line in bad_files(needed_files(keyframes), 0) if "nowhere" in line]
    assert len(lines) == cameras * len(keyframes) and keyframes[0].token in lines[0]


def test_masks_of_every_coco_form(tmp_path):
    rng = np.random.default_rng(0)
    mask = cv2.GaussianBlur(rng.random((40, 70)), (0, 0), 4) > 0.5
    assert 0.2 < mask.mean() < 0.8
    np.testing.assert_array_equal(decode(run_lengths(mask), (40, 70)), mask)
    np.testing.assert_array_equal(decode(run_lengths(~mask), (40, 70)), ~mask)
    compressed = {"size": [40, 70], "counts": compress(run_lengths(mask)["counts"])}
    np.testing.assert_array_equal(decode(compressed, (40, 70)), mask)
    polygon = decode([[10, 5, 30, 5, 30, 15, 10, 15]], (40, 70))
    assert polygon[5:15, 10:30].all() and polygon.sum() <= 21 * 11
    with pytest.raises(ValueError, match=r"size \[40, 70\], the image has \[70, 40\]"):
        decode(compressed, (70, 40))
    path = mask_path(tmp_path, "samples/CAM_FRONT/a.jpg")
    assert path == tmp_path / "CAM_FRONT" / "a.json"
    with pytest.raises(FileNotFoundError, match=r"a\.json: no masks of this image"):
        read_masks(tmp_path, "samples/CAM_FRONT/a.jpg", (40, 70))
    path.parent.mkdir()
    rows = [{"category_id": k, "segmentation": compressed, "score": 0.4} for k in (1, 2)]
    path.write_text(
        json.dumps({"categories": [{"id": 1, "name": "bus"}, {"id": 2, "name": "sky"}], "annotations": rows})
    )
    found = read_masks(tmp_path, "samples/CAM_FRONT/a.jpg", (40, 70))
    assert found.labels.tolist() == [CLASSES.index("bus")] and found.scores.tolist() == [0.4]
    np.testing.assert_array_equal(found.masks[0], mask)
    with pytest.raises(ValueError, match=r"a\.json: not COCO instance masks of a 70x41 image"):
        read_masks(tmp_path, "samples/CAM_FRONT/a.jpg", (41, 70))


def compress(runs: list[int]) -> str:
    """cocoapi's rleToString, as its C code reads."""
    text = ""
    for i, run in enumerate(runs):
        x = run - (runs[i - 2] if i > 2 else 0)
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    assert uncompress(text) == runs
    return text


def test_virtual_points_lie_on_objects_of_their_class(tiny_dataset):
    synthetic = pytest.importorskip("training.world.masks", reason="needs the ray caster")
    config = DataConfig(lidar=LidarConfig(bounds=(-200.0, -200, -20, 200, 200, 40)), virtual=VirtualConfig())
    keyframes = open_set(tiny_dataset, LIDAR_SPEC, config)
    if not (tiny_dataset / "masks").exists():
        dataset = ClipDataset(keyframes, LIDAR_SPEC, config)
        with pytest.raises(FileNotFoundError, match="no masks of this image"):
            dataset[1]
        synthetic.write_masks(tiny_dataset, workers=1)
    item = item_of(ClipDataset(keyframes, LIDAR_SPEC, config), 1)
    points, keyframe = item["virtual"], keyframes[1]
    assert item["virtual_counts"] == len(points) > 300 and points.shape[1] == 15
    assert (points[:, 4:14].sum(axis=1) >= 1).all() and (points[:, 14] == 1).all()
    near = total = 0
    for label in np.unique(keyframe.labels):
        of_class = points[points[:, 4 + label] > 0]
        boxes = keyframe.boxes[keyframe.labels == label]
        inside = np.zeros(len(of_class), dtype=bool)
        for box in boxes:
            inside |= points_in_box(of_class, box, 0.5)
        near, total = near + inside.sum(), total + len(of_class)
    assert total > 200 and near / total > 0.85
    with pytest.raises(ValueError, match=r"takes its depths from LiDAR"):
        DataConfig(virtual=VirtualConfig())


def test_masks_are_not_made_of_another_world_than_the_images(tiny_dataset, tmp_path):
    synthetic = pytest.importorskip("training.world.masks", reason="needs the ray caster")
    shutil.copytree(tiny_dataset / ".scenes", tmp_path / ".scenes")
    for folder in (tiny_dataset / "samples").glob("CAM_*"):
        (tmp_path / "samples" / folder.name).mkdir(parents=True)
        for path in folder.iterdir():  # the right size, another picture
            cv2.imwrite(str(tmp_path / "samples" / folder.name / path.name), cv2.imread(str(path))[:, ::-1])
    with pytest.raises(ValueError, match="not what this version of the synthetic world draws"):
        synthetic.write_masks(tmp_path, workers=1)
    assert not list(tmp_path.glob("masks/CAM_*/*.json"))
