"""The score: closed forms, hand computation, and the devkit's own evaluation on a data set on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="nuscenes-devkit is part of the evaluation extra")

from devkit_scores import devkit_metrics, evaluate_nuscenes, official_config

from bev_perception.evaluation.metrics import Scores, in_common, score, scores_from_dict
from bev_perception.evaluation.nuscenes_format import result_rows, results_meta, write_results
from bev_perception.evaluation.objects import Objects, attribute_by_speed, make_objects, objects_from_detections
from bev_perception.geometry import make_transform, quaternion_from_rotation, rotation_from_yaw
from bev_perception.model_spec import CLASSES
from bev_perception.structures import Detections

SIZES = dict(zip(CLASSES, [4.6, 7.0, 6.0, 11.0, 10.0, 0.5, 2.1, 1.8, 0.7, 0.4]))


def scene(frames: int = 4, seed: int = 0) -> dict[int, Objects]:
    """Every class twice in every frame, 12 m or more apart, all inside 29 m (the shortest class range is 30 m)."""
    rng = np.random.default_rng(seed)
    truth = {}
    for frame in range(frames):
        names = CLASSES * 2
        angle = np.linspace(0, 2 * np.pi, len(names), endpoint=False) + 0.1 * frame
        radius = np.where(np.arange(len(names)) % 2, 28.0, 14.0)
        boxes = np.zeros((len(names), 7))
        boxes[:, 0], boxes[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
        boxes[:, 3] = [SIZES[n] for n in names]
        boxes[:, 4], boxes[:, 5] = 0.5 * boxes[:, 3], 1.5
        boxes[:, 6] = rng.uniform(-np.pi, np.pi, len(names))
        velocity = rng.uniform(1, 3, (len(names), 2))
        truth[frame] = make_objects(
            boxes, velocity, np.ones(len(names)), names, num_points=rng.integers(1, 9, len(names))
        )
    return truth


def found(truth: dict[int, Objects], **change) -> dict[int, Objects]:
    """Perfect detections of `truth`, then boxes, velocity or scores replaced by change[key](objects)."""
    result = {}
    for stamp, o in truth.items():
        parts = {"boxes": o.boxes.copy(), "velocity": o.velocity.copy(), "scores": np.linspace(0.9, 0.2, len(o))}
        parts |= {key: function(o) for key, function in change.items()}
        result[stamp] = make_objects(**parts, names=o.names)
    return result


def test_perfect_detections():
    truth = scene()
    scores = score(truth, found(truth))
    assert scores.mean_ap == pytest.approx(1.0)
    assert scores.nds == pytest.approx(1.0)
    assert scores.mean_ap_present == pytest.approx(1.0)
    errors = scores.errors
    assert [errors.ate, errors.ase, errors.aoe, errors.ave, errors.aae] == pytest.approx([0] * 5, abs=1e-6)
    assert scores.frames == 4
    assert scores.classes["car"].ground_truth == scores.classes["car"].predictions == 8


def test_known_offsets_give_known_errors_and_nds():
    truth = scene()

    def move(o: Objects) -> np.ndarray:
        boxes = o.boxes.copy()
        boxes[:, 0] += 0.3
        boxes[:, 3] *= 0.5  # IoU of boxes with the same centre and half the length: 0.5
        boxes[:, 6] += 0.2
        return boxes

    scores = score(truth, found(truth, boxes=move, velocity=lambda o: o.velocity + [0.0, 0.25]))
    errors = scores.errors
    assert scores.mean_ap == pytest.approx(1.0)  # 0.3 m is inside every matching distance
    assert [errors.ate, errors.ase, errors.aoe, errors.ave] == pytest.approx([0.3, 0.5, 0.2, 0.25], abs=1e-6)
    assert errors.aae == pytest.approx(0.0)
    assert scores.nds == pytest.approx((5 * 1.0 + 0.7 + 0.5 + 0.8 + 0.75 + 1.0) / 10, abs=1e-6)
    cone = scores.classes["traffic_cone"].errors
    assert math.isnan(cone.aoe) and math.isnan(cone.ave) and math.isnan(cone.aae)


def test_barrier_orientation_has_period_pi():
    truth = scene()
    turned = found(truth, boxes=lambda o: o.boxes + np.array([0, 0, 0, 0, 0, 0, np.pi]))
    scores = score(truth, turned)
    assert scores.classes["barrier"].errors.aoe == pytest.approx(0.0, abs=1e-6)
    assert scores.classes["car"].errors.aoe == pytest.approx(np.pi, abs=1e-6)


def test_offset_beyond_two_matching_distances_halves_ap():
    truth = scene()
    scores = score(truth, found(truth, boxes=lambda o: o.boxes + np.array([1.5, 0, 0, 0, 0, 0, 0])))
    assert scores.classes["pedestrian"].ap_at == pytest.approx({0.5: 0.0, 1.0: 0.0, 2.0: 1.0, 4.0: 1.0})
    assert scores.mean_ap == pytest.approx(0.5)


def test_empty_predictions():
    truth = scene()
    nothing = {stamp: o.select(np.zeros(len(o), dtype=bool)) for stamp, o in truth.items()}
    scores = score(truth, nothing)
    assert scores.mean_ap == 0 and scores.nds == 0
    assert scores.errors.ate == scores.errors.aae == 1.0


def test_average_precision_by_hand():
    """One class, ten cars; the scores put hit, miss, hit, hit ... in a known order; AP is written out."""
    boxes = np.zeros((10, 7))
    boxes[:, 0], boxes[:, 3:6] = np.arange(10) * 4 - 18, [4, 2, 1.5]
    truth = {0: make_objects(boxes, np.zeros((10, 2)), np.ones(10), ("car",) * 10, num_points=np.ones(10))}
    hits = [True, False, True, True, False, True]
    predicted = np.repeat(boxes[:1], len(hits), axis=0)
    row = 0
    for k, hit in enumerate(hits):
        predicted[k] = boxes[row]
        row += hit
        if not hit:
            predicted[k, 1] = 20.0  # beside everything
    confidence = np.linspace(0.9, 0.4, len(hits))
    found_ = {0: make_objects(predicted, np.zeros((len(hits), 2)), confidence, ("car",) * len(hits))}

    tp, precision, recall = 0, [], []
    for k, hit in enumerate(hits):
        tp += hit
        precision.append(tp / (k + 1))
        recall.append(tp / 10)
    at = np.linspace(0, 1, 101)
    curve = np.interp(at, recall, precision, right=0)
    expected = np.maximum(curve[11:] - 0.1, 0).mean() / 0.9

    scores = score(truth, found_)
    assert scores.classes["car"].ap == pytest.approx(expected)
    assert scores.mean_ap == pytest.approx(expected / 10)  # nine classes have no ground truth and count as 0
    assert scores.mean_ap_present == pytest.approx(expected)


def test_class_ranges_and_empty_ground_truth_are_filtered():
    boxes = np.zeros((4, 7))
    boxes[:, 3:6] = 1.0
    boxes[:, 0] = [10, 20, 29, 31]  # cones count up to 30 m
    truth = {0: make_objects(boxes, np.zeros((4, 2)), np.ones(4), ("traffic_cone",) * 4, num_points=[3, 0, 1, 5])}
    detections = {0: make_objects(boxes, np.zeros((4, 2)), [0.9, 0.8, 0.7, 0.99], ("traffic_cone",) * 4)}
    cone = score(truth, detections).classes["traffic_cone"]
    assert cone.ground_truth == 2  # 20 m has no points, 31 m is out of range
    assert cone.predictions == 3  # 31 m dropped


def test_at_most_500_boxes_count():
    truth = scene(1)
    many = 600
    boxes = np.tile(truth[0].boxes[:1], (many, 1))
    boxes[:, 1] += 0.01
    detections = {0: make_objects(boxes, np.zeros((many, 2)), np.linspace(0.1, 1, many), ("car",) * many)}
    assert score(truth, detections).classes["car"].predictions == 500


def test_ranges_split_the_ground_truth():
    truth = scene()
    scores = score(truth, found(truth))
    assert [(r.low, r.high) for r in scores.ranges] == [(0, 15), (15, 30), (30, 50)]
    assert [r.ground_truth for r in scores.ranges] == [40, 40, 0]
    assert scores.ranges[0].mean_ap == pytest.approx(1.0)
    assert math.isnan(scores.ranges[2].mean_ap)
    plain = json.loads(json.dumps(scores.to_dict()))
    assert plain["ranges"][2]["mean_ap"] is None
    again = scores_from_dict(plain)
    assert again.classes["car"] == scores.classes["car"] and math.isnan(again.ranges[2].mean_ap)
    assert again.to_dict() == scores.to_dict()


def test_frames_must_agree():
    truth = scene()
    with pytest.raises(ValueError, match="1 stamps are only in the ground truth"):
        score(truth, found({k: truth[k] for k in (0, 1, 2)}))
    wanted, detections = in_common(truth, found({k: truth[k] for k in (2, 0)}))
    assert list(wanted) == list(detections) == [0, 2]


def test_attributes_follow_speed():
    assert attribute_by_speed("bus", 0.1) == "vehicle.stopped"
    assert attribute_by_speed("car", 0.1) == "vehicle.parked"
    assert attribute_by_speed("bicycle", 0.9) == "cycle.with_rider"
    assert attribute_by_speed("pedestrian", float("nan")) == "pedestrian.standing"
    assert attribute_by_speed("barrier", 3.0) == ""
    detections = Detections(
        5, np.zeros((1, 7), np.float32), np.array([[1, 0]], np.float32), np.array([0.5], np.float32), np.array([8])
    )
    assert objects_from_detections(detections, CLASSES).attributes == ("pedestrian.moving",)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="one length"):
        make_objects(np.zeros((2, 7)), np.zeros((2, 2)), np.zeros(2), ("car",))


def write_dataset(
    root: Path, truth: dict[str, dict[int, Objects]], poses: dict[int, np.ndarray], in_world: bool = False
) -> None:
    """A nuScenes-format data set of tables alone: scenes of samples with annotations at the given ego poses.

    in_world: truth is in the world already, its objects are the same in all frames, and so move.
    """
    tables: dict[str, list[dict]] = {name: [] for name in ("instance", "sample_annotation", "sample_data")}
    cv2.imwrite(str(root / "map.png"), np.zeros((2, 2), np.uint8))
    tables["map"] = [{"token": "m", "log_tokens": ["l"], "category": "semantic_prior", "filename": "map.png"}]
    tables["visibility"] = [{"token": "4", "level": "v80-100", "description": ""}]
    names = {
        "car": "vehicle.car", "truck": "vehicle.truck", "construction_vehicle": "vehicle.construction",
        "bus": "vehicle.bus.rigid", "trailer": "vehicle.trailer", "barrier": "movable_object.barrier",
        "motorcycle": "vehicle.motorcycle", "bicycle": "vehicle.bicycle", "pedestrian": "human.pedestrian.adult",
        "traffic_cone": "movable_object.trafficcone",
    }  # fmt: skip
    tables["category"] = [{"token": f"c-{k}", "name": v, "description": ""} for k, v in names.items()]
    tables["attribute"] = [
        {"token": a, "name": a, "description": ""}
        for a in ("vehicle.moving", "vehicle.parked", "vehicle.stopped", "cycle.with_rider", "cycle.without_rider",
                  "pedestrian.moving", "pedestrian.standing")
    ]  # fmt: skip
    tables["sensor"] = [{"token": "s", "channel": "LIDAR_TOP", "modality": "lidar"}]
    tables["calibrated_sensor"] = [
        {"token": "cs", "sensor_token": "s", "translation": [0, 0, 0], "rotation": [1, 0, 0, 0], "camera_intrinsic": []}
    ]
    tables["log"] = [{"token": "l", "logfile": "", "vehicle": "", "date_captured": "", "location": ""}]
    tables["scene"], tables["sample"], tables["ego_pose"] = [], [], []
    for scene_name, frames in truth.items():
        tokens = [f"{scene_name}-{k}" for k in frames]
        scene_row = {"token": scene_name, "name": scene_name, "log_token": "l", "nbr_samples": len(tokens)}
        tables["scene"].append(scene_row | {"first_sample_token": tokens[0], "last_sample_token": tokens[-1]})
        for index, (frame, objects) in enumerate(frames.items()):
            token, pose = tokens[index], poses[frame]
            q = quaternion_from_rotation(pose[:3, :3]).tolist()
            stamp = 500_000 * index
            tables["ego_pose"].append(
                {"token": token, "timestamp": stamp, "rotation": q, "translation": pose[:3, 3].tolist()}
            )
            links = {
                "prev": tokens[index - 1] if index else "",
                "next": tokens[index + 1] if index + 1 < len(tokens) else "",
            }
            tables["sample"].append({"token": token, "timestamp": stamp, "scene_token": scene_name} | links)
            data = {"token": token, "sample_token": token, "ego_pose_token": token, "calibrated_sensor_token": "cs"}
            data |= {
                "timestamp": stamp,
                "is_key_frame": True,
                "filename": "",
                "fileformat": "pcd",
                "prev": "",
                "next": "",
            }
            tables["sample_data"].append(data)
            for k, row in enumerate(result_rows(token, objects, np.eye(4) if in_world else pose)):
                annotation = f"{token}-{k}"
                neighbours = {way: other and f"{other}-{k}" if in_world else "" for way, other in links.items()}
                instance = {"token": annotation, "category_token": f"c-{objects.names[k]}", "nbr_annotations": 1}
                tables["instance"].append(
                    instance | {"first_annotation_token": annotation, "last_annotation_token": annotation}
                )
                attribute = objects.attributes[k]
                tables["sample_annotation"].append(
                    {key: row[key] for key in ("sample_token", "translation", "size", "rotation")}
                    | {
                        "token": annotation,
                        "instance_token": annotation,
                        "visibility_token": "4",
                    }
                    | neighbours
                    | {"attribute_tokens": [attribute] if attribute else [], "num_radar_pts": 0}
                    | {"num_lidar_pts": int(objects.num_points[k])}
                )
    (root / "v1.0-trainval").mkdir()
    for name, rows in tables.items():
        (root / "v1.0-trainval" / f"{name}.json").write_text(json.dumps(rows))
    splits = {"held_out": [name for name in truth if name != "scene-a"]}
    (root / "v1.0-trainval" / "splits.json").write_text(json.dumps(splits))


def test_data_set_on_disk_scores_as_the_devkit_and_as_the_plain_objects(tmp_path):
    """Noisy detections of a turned, moved vehicle: our score of a scene, DetectionEval on the same custom split and
    the ego-frame score of the same objects must agree."""
    from nuscenes import NuScenes
    from nuscenes.eval.detection.evaluate import DetectionEval

    truth = {"scene-a": scene(2, seed=1), "scene-b": scene(3, seed=2)}
    # Single annotations have no neighbour to take a velocity from: the devkit's ground truth velocity is NaN.
    poses = {
        k: make_transform(rotation_from_yaw(0.7 * k + 0.3), np.array([100.0 + 8 * k, -40.0, 0.0])) for k in range(3)
    }
    write_dataset(tmp_path, truth, poses)
    rng = np.random.default_rng(5)

    def noisy(o: Objects) -> np.ndarray:
        return o.boxes + rng.normal(0, [0.8, 0.8, 0.1, 0, 0, 0, 0.2], (len(o), 7))

    detections = found(truth["scene-b"], boxes=noisy, scores=lambda o: rng.uniform(0.05, 1, len(o)))
    results = {f"scene-b-{k}": result_rows(f"scene-b-{k}", o, poses[k]) for k, o in detections.items()}
    write_results(tmp_path / "results.json", results, results_meta(True, False, True))

    ours = evaluate_nuscenes(tmp_path / "results.json", tmp_path, "v1.0-trainval", ["scene-b"])
    nusc = NuScenes("v1.0-trainval", str(tmp_path), verbose=False)
    devkit = DetectionEval(
        nusc, official_config(), str(tmp_path / "results.json"), "held_out", str(tmp_path / "eval"), verbose=False
    )
    theirs, _ = devkit.evaluate()
    assert 0.2 < ours.mean_ap < 0.95  # the noise is felt
    assert_same(ours, theirs)

    plain = score(truth["scene-b"], detections)
    assert plain.mean_ap == pytest.approx(ours.mean_ap, abs=1e-9)
    assert plain.errors.ate == pytest.approx(ours.errors.ate, abs=1e-6)
    assert plain.errors.aoe == pytest.approx(ours.errors.aoe, abs=1e-6)
    assert plain.errors.aae == pytest.approx(ours.errors.aae, abs=1e-9)

    with pytest.raises(ValueError, match="scene-x"):
        evaluate_nuscenes(tmp_path / "results.json", tmp_path, "v1.0-trainval", ["scene-x"])
    with pytest.raises(ValueError, match="lacks 2 of 2 samples"):
        evaluate_nuscenes(tmp_path / "results.json", tmp_path, "v1.0-trainval", ["scene-a"])


def test_best_score_is_the_threshold_of_the_highest_f1() -> None:
    """Three objects found with scores 0.9, 0.7 and 0.6, two false alarms below: the best threshold is 0.6."""
    wanted = make_objects(
        np.array([[x, 0.0, 1, 4, 2, 1.5, 0] for x in (5.0, 15.0, 25.0)]), np.zeros((3, 2)), np.full(3, -1.0),
        ("car",) * 3, ("vehicle.parked",) * 3, np.full(3, 9),
    )  # fmt: skip
    rows = np.array([[x, y, 1, 4, 2, 1.5, 0] for x, y in ((5, 0), (15, 0), (25, 0), (5, 20), (15, 20))], dtype=float)
    found = make_objects(rows, np.zeros((5, 2)), np.array([0.9, 0.7, 0.6, 0.3, 0.2]), ("car",) * 5)
    classes = score({0: wanted}, {0: found}).classes
    assert classes["car"].best_score == pytest.approx(0.6, abs=0.01)
    assert np.isnan(classes["bus"].best_score)


DEVKIT_ERRORS = {"ate": "trans_err", "ase": "scale_err", "aoe": "orient_err", "ave": "vel_err", "aae": "attr_err"}


def assert_same(ours: Scores, theirs: Any) -> None:
    """All that the devkit says, to the last digits."""
    near = {"rel": 1e-12, "abs": 1e-12, "nan_ok": True}
    assert ours.mean_ap == pytest.approx(theirs.mean_ap, **near)
    assert ours.nds == pytest.approx(theirs.nd_score, **near)
    for name in CLASSES:
        row = ours.classes[name]
        assert row.ap == pytest.approx(theirs.mean_dist_aps[name], **near)
        assert row.ap_at == {d: pytest.approx(theirs.get_label_ap(name, d), **near) for d in (0.5, 1.0, 2.0, 4.0)}
        for error, of_devkit in DEVKIT_ERRORS.items():
            found = getattr(row.errors, error)
            assert found == pytest.approx(theirs.get_label_tp(name, of_devkit), rel=1e-9, abs=1e-9, nan_ok=True), name
    for error, of_devkit in DEVKIT_ERRORS.items():
        assert getattr(ours.errors, error) == pytest.approx(theirs.tp_errors[of_devkit], rel=1e-9, abs=1e-9)


def drawn_frames(rng: np.random.Generator, count: int) -> tuple[dict[int, Objects], dict[int, Objects]]:
    """Ground truth and detections of anything that may come: none of a class, many at one place, equal scores, objects
    without points, velocities or attributes, places beyond the range."""
    names = tuple(rng.choice(CLASSES, rng.integers(1, 11), replace=False))

    def objects(n: int, near: Objects | None = None) -> Objects:
        boxes = np.column_stack(
            [rng.uniform(-35, 35, (n, 2)), rng.normal(0, 1, n), rng.uniform(0.3, 5, (n, 3)), rng.uniform(-7, 7, n)]
        )
        if near is not None and len(near):
            copied = rng.random(n) < 0.8
            partners = rng.integers(0, len(near), n)
            moved = near.boxes[partners] + rng.normal(0, [1, 1, 0.2, 0, 0, 0, 0.3], (n, 7))
            boxes = np.where(copied[:, None], moved, boxes)
        grid = rng.choice([1.0, 0.05])  # equal scores in some
        scores = np.maximum(np.round(rng.uniform(0, 1, n) / grid * 20) * grid / 20, 0.001)
        velocity = rng.normal(0, 3, (n, 2))
        velocity[rng.random(n) < 0.1] = np.nan
        chosen = tuple(rng.choice(names, n))
        attributes = tuple(rng.choice(["", "vehicle.moving", "vehicle.parked"], n))
        points = rng.integers(0, 4, n) if near is None else np.full(n, -1)
        return make_objects(boxes, velocity, scores, chosen, attributes, points)

    truth = {k: objects(int(rng.integers(0, 12))) for k in range(count)}
    return truth, {k: objects(int(rng.integers(0, 25)), o) for k, o in truth.items()}


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_drawn_cases_score_as_the_devkit_scores_them(seed: int) -> None:
    """50 cases each; NaN of the devkit are NaN here."""
    rng = np.random.default_rng(seed)
    found_some = 0
    for _ in range(50):
        truth, detections = drawn_frames(rng, int(rng.integers(1, 6)))
        ours = score(truth, detections)
        assert_same(ours, devkit_metrics(truth, detections))
        found_some += ours.mean_ap > 0
    assert found_some > 10
