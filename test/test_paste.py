"""Pasted objects: where they may stand and what they bring."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from tiny_set import LIDAR_SPEC, SPEC, item_of, open_set

from bev_perception.geometry import points_in_box
from bev_perception.model_spec import CLASSES
from training.data.clips import ClipDataset
from training.data.config import DataConfig, LidarConfig, PasteConfig
from training.data.paste import OWN_BOX, overlaps


def test_footprints_overlap_as_opencv_says():
    rng = np.random.default_rng(0)
    place, size, yaw = rng.uniform(-5, 5, (300, 3)), rng.uniform(0.5, 6, (300, 3)), rng.uniform(-4, 4, 300)
    boxes = np.column_stack([place, size, yaw])
    agreed = 0
    for box in boxes[:20]:
        found = overlaps(box, boxes)
        for other, hit in zip(boxes, found, strict=True):
            a, b = (((x[0], x[1]), (x[3], x[4]), float(np.degrees(x[6]))) for x in (box, other))
            kind, area = cv2.rotatedRectangleIntersection(a, b)
            size = cv2.contourArea(cv2.convexHull(area)) if kind else 0.0
            if size > 1e-3 or not kind:
                assert hit == bool(kind)
                agreed += int(hit)
    assert agreed > 500
    assert not overlaps(boxes[0], np.zeros((0, 7))).any()


def test_pasted_objects_bring_their_points_and_touch_nothing(tiny_dataset):
    few = PasteConfig(tuple((name, 6) for name in CLASSES))
    config = DataConfig(lidar=LidarConfig(bounds=(-200.0, -200, -20, 200, 200, 40)), paste=few)
    keyframes = open_set(tiny_dataset, LIDAR_SPEC, config)
    dataset = ClipDataset(keyframes, LIDAR_SPEC, config, seed=2)
    plain = ClipDataset(keyframes, LIDAR_SPEC, dataclasses.replace(config, paste=None))
    assert dataset.database is not None and len(dataset.database) > 20
    more = 0
    for index in range(2):
        with_more, without = item_of(dataset, index), item_of(plain, index)
        boxes = with_more["gt_boxes"][with_more["gt_valid"] > 0].astype(np.float64)
        own = without["gt_boxes"][without["gt_valid"] > 0]
        keyframe = keyframes[index]
        inside = dataset.spec.grid.cells(keyframe.boxes[:, :2])[1]
        assert len(own) == inside.sum()
        np.testing.assert_array_equal(boxes[: len(own)], own)
        for k in range(len(own), len(boxes)):
            assert not overlaps(boxes[k], np.concatenate([keyframe.boxes, OWN_BOX[None]])).any()
            assert not overlaps(boxes[k], np.delete(boxes, k, axis=0)).any()
            assert points_in_box(with_more["lidar"], boxes[k], 0.01).sum() >= few.min_lidar
            more += 1
        for label in np.unique(keyframe.labels):  # classes that have enough get nothing
            if (keyframe.labels == label).sum() >= 6:
                added = with_more["labels"][len(own) : len(boxes)]
                assert label not in added
        grown = with_more["radar_bev"][0].sum() - without["radar_bev"][0].sum()
        assert (grown > 0) == (len(boxes) > len(own)) or len(boxes) - len(own) < 2
    assert more > 5
    again = ClipDataset(keyframes, LIDAR_SPEC, config, seed=2)
    np.testing.assert_array_equal(again[1]["gt_boxes"], dataset[1]["gt_boxes"])


def test_nothing_is_pasted_after_the_epochs_that_are_told(tiny_dataset):
    config = DataConfig(lidar=LidarConfig(), paste=PasteConfig(tuple((name, 6) for name in CLASSES), epochs=2))
    keyframes = open_set(tiny_dataset, LIDAR_SPEC, config)
    dataset = ClipDataset(keyframes, LIDAR_SPEC, config)
    counts = [int(dataset[epoch * len(dataset)]["gt_valid"].sum()) for epoch in range(4)]
    own = int(ClipDataset(keyframes, LIDAR_SPEC, DataConfig(lidar=LidarConfig()))[0]["gt_valid"].sum())
    assert min(counts[:2]) > own and counts[2:] == [own, own]
    with pytest.raises(ValueError, match=r"data\.paste\.epochs must be 0"):
        DataConfig(lidar=LidarConfig(), paste=PasteConfig(epochs=-1))


def test_objects_of_the_database_have_what_the_keyframe_had(tiny_dataset):
    config = DataConfig(lidar=LidarConfig(bounds=(-200.0, -200, -20, 200, 200, 40)), paste=PasteConfig())
    keyframes = open_set(tiny_dataset, LIDAR_SPEC, config)
    database = ClipDataset(keyframes, LIDAR_SPEC, config).database
    assert database is not None
    cloud = item_of(ClipDataset(keyframes, LIDAR_SPEC, DataConfig(lidar=config.lidar)), 0)["lidar"]
    for i in range(5):  # the first objects are those of the first keyframe
        box = database.arrays["box"][i]
        expected = cloud[points_in_box(cloud, box)]
        np.testing.assert_array_equal(database.points("lidar", i), expected)
        radar = database.points("radar", i)
        assert len(radar) >= 1 and np.hypot(*(radar[:, :2] - box[:2]).T).max() < np.hypot(*box[3:5]) / 2 + 0.8


def test_nothing_is_pasted_into_images(tiny_dataset):
    with pytest.raises(ValueError, match="cannot be pasted into images"):
        ClipDataset(open_set(tiny_dataset), SPEC, DataConfig(lidar=LidarConfig(), paste=PasteConfig()))
