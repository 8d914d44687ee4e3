"""Clips, intervals, batches and class balance: what a training run is fed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")

from tiny_set import LIDAR_SPEC, RADAR_SPEC, SPEC, item_of, open_set  # noqa: E402

from bev_perception.geometry import invert, points_in_box, transform_points  # noqa: E402
from bev_perception.model_spec import CLASSES, TemporalSpec  # noqa: E402
from training.data import clips  # noqa: E402
from training.data.augment import COVER_BGR, NO_AUGMENTATION, Augmentation, draw_bev  # noqa: E402
from training.data.balance import balanced_items  # noqa: E402
from training.data.clips import ClipDataset, collate  # noqa: E402
from training.data.config import SCORED_RANGE_M, DataConfig, LidarConfig, for_evaluation  # noqa: E402
from training.recipes import camera  # noqa: E402


@pytest.mark.parametrize(
    "augmentation", [NO_AUGMENTATION, dataclasses.replace(Augmentation(), drop_prev=0.0, bev_shift_m=0.5)]
)
def test_a_clip_is_a_chain_of_poses(tiny_dataset, augmentation):
    keyframes = open_set(tiny_dataset, RADAR_SPEC)
    dataset = ClipDataset(keyframes, RADAR_SPEC, DataConfig(augmentation, history=3), seed=4)
    item = item_of(dataset, 3)
    assert item["prev_valid"].tolist() == [1, 1, 1] and item["prev.radar_bev"].shape[0] == 3
    np.testing.assert_allclose(item["prev_dt"], 0.5, atol=1e-6)
    aug = draw_bev(np.random.default_rng([4, 3]), augmentation)
    for t in range(3):  # row t: from the frame after frame t into frame t
        expected = invert(keyframes[t].global_from_ego) @ keyframes[t + 1].global_from_ego
        np.testing.assert_allclose(item["prev_from_curr"][t], aug @ expected @ np.linalg.inv(aug), atol=1e-5)
    if augmentation is NO_AUGMENTATION:
        for t in range(3):
            np.testing.assert_array_equal(item["prev.radar_bev"][t], item_of(dataset, t)["radar_bev"])


def test_frames_before_a_scenes_start_are_invalid_and_repeat(tiny_dataset):
    item = item_of(ClipDataset(open_set(tiny_dataset, RADAR_SPEC), RADAR_SPEC, DataConfig(history=3)), 5)
    assert item["prev_valid"].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(item["prev_from_curr"][:2], np.stack([np.eye(4)] * 2))
    np.testing.assert_allclose(item["prev_dt"], 0.5, atol=1e-6)
    for t in (0, 1):
        np.testing.assert_array_equal(item["prev.radar_bev"][t], item["prev.radar_bev"][2])
    assert not np.array_equal(item["prev.radar_bev"][2], item["radar_bev"])


def test_an_invalid_frame_has_no_valid_one_before_it(tiny_dataset):
    half = DataConfig(dataclasses.replace(NO_AUGMENTATION, drop_prev=0.5), history=3)
    dataset = ClipDataset(open_set(tiny_dataset, RADAR_SPEC), RADAR_SPEC, half)
    patterns = {tuple(item_of(dataset, 3 + 8 * epoch)["prev_valid"].astype(int)) for epoch in range(40)}
    assert patterns == {(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)}


def test_no_history_and_no_state_have_no_earlier_frames(tiny_dataset):
    keyframes = open_set(tiny_dataset, RADAR_SPEC)
    for spec, config in ((RADAR_SPEC, DataConfig(history=0)), (LIDAR_SPEC, DataConfig(history=2))):
        assert not [name for name in ClipDataset(keyframes, spec, config)[3] if name.startswith("prev")]


def test_items_have_the_inputs_of_specs_that_lack_sensors(tiny_dataset):
    pillars = dataclasses.replace(SPEC.radar, format="pillars", max_pillars=300)
    for spec in (dataclasses.replace(SPEC, radars=()), dataclasses.replace(RADAR_SPEC, radar=pillars)):
        item = item_of(ClipDataset(open_set(tiny_dataset, spec), spec), 2)
        wanted = {t.name: t.shape for t in spec.inputs() if not t.name.startswith("prev_")}
        given = {name for name in item if name in {t.name for t in SPEC.inputs()} or name.startswith("radar")}
        assert given - {"prev_from_curr", "prev_valid", "prev_dt"} == set(wanted)
        assert all(item[name].shape == shape for name, shape in wanted.items())
        assert ("depth" in item) == bool(spec.cameras)
        assert all(item[f"prev.{name}"].shape == (1, *shape) for name, shape in wanted.items())


def test_intervals_are_drawn_from_the_sweeps_between_keyframes(tiny_dataset):
    """The tiny set's radars fire at 13 Hz: without cameras they say where a frame may be."""
    keyframes = open_set(tiny_dataset, RADAR_SPEC)
    dataset = ClipDataset(keyframes, RADAR_SPEC, DataConfig(history=1, interval=(0.15, 1.05)))
    gaps = []
    for epoch in range(25):
        item = item_of(dataset, 3 + 8 * epoch)
        assert item["prev_valid"] == 1 and item["prev.radar_bev"].any()
        gaps.append(float(item["prev_dt"][0]))
        way = np.linalg.norm(item["prev_from_curr"][0, :3, 3])
        whole = np.linalg.norm((invert(keyframes[1].global_from_ego) @ keyframes[3].global_from_ego)[:3, 3])
        assert way == pytest.approx(whole * gaps[-1], rel=0.25, abs=0.1)  # speed hardly changes within a second
    assert min(gaps) < 0.3 and max(gaps) > 0.85 and len({round(gap, 2) for gap in gaps}) > 6
    plain = ClipDataset(keyframes, RADAR_SPEC, for_evaluation(dataset.config))
    assert item_of(plain, 3)["prev_dt"] == pytest.approx(0.5)


def test_a_frame_between_keyframes_is_what_the_vehicle_had(tiny_dataset):
    keyframes = open_set(tiny_dataset, RADAR_SPEC)
    current = keyframes[3]
    frame = keyframes.earlier(current, 0.25, 1.1)
    assert frame is not None and abs((current.stamp_ns - frame.stamp_ns) * 1e-9 - 0.25) < 0.04
    assert keyframes[2].stamp_ns < frame.stamp_ns and len(frame.boxes) == 0
    for name, sweeps in frame.radars.items():
        stamps = [s.stamp_ns for s in sweeps]
        assert frame.stamp_ns - 1e8 < stamps[0] <= frame.stamp_ns and stamps == sorted(stamps, reverse=True), name
    key = keyframes.earlier(current, 0.5, 1.1)
    assert key is not None and key.token == keyframes[2].token
    assert keyframes.earlier(keyframes[0], 0.5, 0.01) is None
    with pytest.raises(ValueError, match=r"interval must be \(least, most\)"):
        DataConfig(interval=(1.0, 0.5))


def test_an_interval_beyond_what_the_memory_uses_is_refused(tiny_dataset):
    keyframes, config = open_set(tiny_dataset, RADAR_SPEC), DataConfig(history=1, interval=(0.4, 2.25))
    with pytest.raises(ValueError, match=r"reaches 2\.25 s.*max_age_s is 1\.1.*--set spec\.temporal\.max_age_s=2\.25"):
        ClipDataset(keyframes, RADAR_SPEC, config)
    longer = dataclasses.replace(RADAR_SPEC, temporal=TemporalSpec(max_age_s=2.25))
    dataset = ClipDataset(keyframes, longer, dataclasses.replace(config, interval=(0.4, 1.6)))
    gaps = [float(dataset[3 + 8 * epoch]["prev_dt"][0]) for epoch in range(30)]
    assert sum(gap > 1.1 for gap in gaps) > 5 and max(gaps) < 1.7
    ClipDataset(keyframes, LIDAR_SPEC, config)  # no memory, no interval


def test_small_runs_see_the_rates_that_the_set_has(tiny_dataset):
    """A tenth of a second where sensors fire at 13 Hz, keyframes where they fire at 2 Hz."""
    config = dataclasses.replace(camera.small_data(history=1), augmentation=NO_AUGMENTATION)
    dense = ClipDataset(open_set(tiny_dataset, RADAR_SPEC), RADAR_SPEC, config)
    gaps = [float(dense[3 + 8 * epoch]["prev_dt"][0]) for epoch in range(40)]
    assert min(gaps) < 0.2 and max(gaps) > 0.75
    sparse = ClipDataset(open_set(tiny_dataset), SPEC, config)
    assert {round(float(sparse[3 + 8 * epoch]["prev_dt"][0]), 1) for epoch in range(20)} == {0.5, 1.0}


def test_without_targets_in_the_images_lidar_is_not_read(tiny_dataset):
    keyframes = open_set(tiny_dataset)
    frames = [dataclasses.replace(keyframes[0], lidar=())]
    item = ClipDataset(frames, SPEC, DataConfig(history=0, depth_stride=0))[0]
    assert not {"depth", "semantic"} & set(item) and item["mask"].any()
    assert {"depth", "semantic"} < set(ClipDataset(keyframes, SPEC, DataConfig(history=0))[0])
    with pytest.raises(ValueError, match=r"depth_stride must be 0 .* found -8"):
        DataConfig(depth_stride=-8)


def test_only_keyframes_where_the_set_has_nothing_between(tiny_dataset):
    dataset = ClipDataset(open_set(tiny_dataset), SPEC, DataConfig(interval=(0.2, 1.1)))  # its cameras fire at 2 Hz
    gaps = {round(float(dataset[3 + 8 * epoch]["prev_dt"][0]), 1) for epoch in range(12)}
    assert gaps == {0.5, 1.0}


def test_point_clouds_are_joined_with_the_number_of_their_item():
    sizes = (3, 0, 2)
    items = [
        {"lidar": torch.full((n, 5), float(n)), "lidar_counts": torch.tensor(n), "cells": torch.arange(4)}
        for n in sizes
    ]
    batch = collate(items)
    assert batch["lidar"].shape == (5, 6) and batch["lidar"][:, 0].tolist() == [0, 0, 0, 2, 2]
    assert batch["lidar"][:, 1:].equal(torch.cat([item["lidar"] for item in items]))
    assert batch["lidar_counts"].tolist() == [3, 0, 2] and batch["cells"].shape == (3, 4)


def test_points_stay_in_their_boxes_under_augmentation(tiny_dataset):
    """LiDAR and boxes are moved alike, and each augmented box holds the points that it held before."""
    wide = LidarConfig(bounds=(-200.0, -200, -20, 200, 200, 40))
    strong = dataclasses.replace(Augmentation(), bev_scale=(0.8, 1.25), bev_shift_m=0.5)
    keyframes = open_set(tiny_dataset, LIDAR_SPEC, DataConfig(lidar=wide))
    counts = []
    for augmentation in (NO_AUGMENTATION, strong):
        item = item_of(ClipDataset(keyframes, LIDAR_SPEC, DataConfig(augmentation, lidar=wide), seed=3), 2)
        assert item["lidar_counts"].shape == () and item["lidar_counts"] == len(item["lidar"])
        aug = draw_bev(np.random.default_rng([3, 2]), augmentation)
        boxes = item["gt_boxes"][item["gt_valid"] > 0].astype(np.float64)
        home = transform_points(np.linalg.inv(aug), boxes[:, :3]).round(2)
        found = [int(points_in_box(item["lidar"], box).sum()) for box in boxes]
        counts.append({tuple(h): n for h, n in zip(home.tolist(), found)})
    both = [(counts[0][k], counts[1][k]) for k in counts[0].keys() & counts[1].keys() if counts[0][k] > 3]
    assert len(both) > 5 and all(abs(a - b) <= 0.02 * a + 1 for a, b in both)


def test_lidar_outside_its_bounds_is_left_out(tiny_dataset):
    near = LidarConfig(bounds=(-20.0, -10, -1, 20, 10, 2))
    item = item_of(ClipDataset(open_set(tiny_dataset, LIDAR_SPEC), LIDAR_SPEC, DataConfig(lidar=near)), 1)
    assert len(item["lidar"]) > 1000 and np.abs(item["lidar"][:, :2]).max(axis=0)[1] < 10
    assert item["lidar"].dtype == np.float32 and item["lidar"].shape[1] == 5


def test_classes_are_balanced_as_the_reference_does():
    labels = [np.array([0, 0, 1])] * 6 + [np.array([0])] * 12 + [np.array([2])] * 2 + [np.zeros(0, dtype=int)] * 3
    items = balanced_items(labels, 10)
    # 18 keyframes show class 0, 6 show 1, 2 show 2: 26 in all; each class gives 26 / 10
    assert len(items) == 3 * int(26 / 10)
    more = balanced_items([np.array([0])] * 900 + [np.array([1])] * 100, 2, seed=1)
    assert len(more) == 1000 and (more >= 900).sum() == 500
    assert np.array_equal(more, balanced_items([np.array([0])] * 900 + [np.array([1])] * 100, 2, seed=1))
    assert balanced_items([np.zeros(0, dtype=int)] * 3, 10).tolist() == [0, 1, 2]


def test_balanced_items_are_keyframes_and_evaluation_sees_each_once(tiny_dataset):
    keyframes = open_set(tiny_dataset, RADAR_SPEC)
    config = DataConfig(cbgs=True, history=0)
    dataset = ClipDataset(keyframes, RADAR_SPEC, config)
    assert [int(dataset[i]["index"]) for i in (0, len(dataset) + 1)] == dataset.items[:2].tolist()
    shown = [set(keyframes[i].labels.tolist()) for i in range(len(keyframes))]
    assert [set(keyframes.labels(i).tolist()) for i in range(len(keyframes))] == shown
    assert len(ClipDataset(keyframes, RADAR_SPEC, for_evaluation(config))) == len(keyframes)


def test_objects_beyond_the_scored_range_are_no_targets_when_asked(tiny_dataset):
    keyframes = open_set(tiny_dataset, RADAR_SPEC)
    every, near = (
        item_of(ClipDataset(keyframes, RADAR_SPEC, DataConfig(history=0, scored_ranges=s)), 2) for s in (False, True)
    )
    boxes, labels = every["gt_boxes"][every["gt_valid"] > 0], every["labels"][every["gt_valid"] > 0]
    reach = np.array([SCORED_RANGE_M[CLASSES[k]] for k in labels])
    inside = np.hypot(boxes[:, 0], boxes[:, 1]) <= reach
    assert 0 < inside.sum() < len(boxes)
    np.testing.assert_array_equal(near["gt_boxes"][near["gt_valid"] > 0], boxes[inside])


def test_the_scored_ranges_are_the_devkits():
    from nuscenes.eval.common.config import config_factory

    assert SCORED_RANGE_M == config_factory("detection_cvpr_2019").class_range


def test_decoded_keyframes_are_kept_as_far_as_the_room_goes(tiny_dataset):
    keyframes = open_set(tiny_dataset)
    for megabytes, kept in ((0, 0), (1, 2), (2000, 4)):
        dataset = ClipDataset(keyframes, SPEC, DataConfig(Augmentation(), history=0, cache_mb=megabytes))
        for index in (0, 0, 1):
            dataset[index]
        assert len(dataset._cache.kept) == kept if megabytes != 1 else len(dataset._cache.kept) < 4


def test_items_are_made_once_where_nothing_is_drawn(tiny_dataset, monkeypatch):
    keyframes, made = open_set(tiny_dataset), []
    targets = clips.depth_target
    monkeypatch.setattr(clips, "depth_target", lambda *a: made.append(0) or targets(*a))
    cameras, drawn = len(SPEC.cameras), DataConfig(interval=(0.2, 0.5), cache_mb=2000)
    for config, times in (
        (DataConfig(), 1),
        (DataConfig(cache_mb=0), 2),
        (DataConfig(Augmentation()), 2),
        (drawn, 2),
        (dataclasses.replace(drawn, history=0), 1),
    ):
        made.clear()
        dataset = ClipDataset(keyframes, SPEC, config)
        first, again = item_of(dataset, 1), item_of(dataset, 1 + len(dataset))
        assert len(made) == times * cameras, config
        if times == 1:
            fresh = item_of(ClipDataset(keyframes, SPEC, config), 1 + len(dataset))
            assert set(first) == set(again) == set(fresh)
            for name, array in fresh.items():
                np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_a_batch_shares_no_memory_with_the_kept_items(tiny_dataset):
    dataset = ClipDataset(open_set(tiny_dataset), SPEC, DataConfig())
    before = item_of(dataset, 0)
    batch = collate([dataset[0]])
    for tensor in batch.values():
        tensor.zero_()
    for name, array in item_of(dataset, 0).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_grid_mask_covers_the_current_frame_alone(tiny_dataset):
    """BEVFormer runs its earlier frames as in a test."""
    covered = dataclasses.replace(NO_AUGMENTATION, grid_mask=1.0)
    keyframes = open_set(tiny_dataset, SPEC)
    plain, item = (
        item_of(ClipDataset(keyframes, SPEC, DataConfig(a, history=1)), 2) for a in (NO_AUGMENTATION, covered)
    )
    np.testing.assert_array_equal(item["prev.images"], plain["prev.images"])
    painted = (item["images"] == COVER_BGR).all(axis=-1)
    assert 0.05 < painted.mean() < 0.9
    np.testing.assert_array_equal(item["images"][~painted], plain["images"][~painted])
