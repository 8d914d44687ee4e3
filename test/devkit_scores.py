"""nuscenes-devkit's own functions: loaders of a results file and of any scenes, filters, metric."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import (
    add_center_dist,
    filter_eval_boxes,
    get_samples_of_scenes,
    load_gt_of_sample_tokens,
    load_prediction_of_sample_tokens,
)
from nuscenes.eval.common.utils import Quaternion, quaternion_yaw
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig, DetectionMetrics

from bev_perception.evaluation.metrics import Scores, score
from bev_perception.evaluation.objects import Objects, make_objects

NO_VELOCITY = ("traffic_cone", "barrier")


def official_config() -> DetectionConfig:
    """detection_cvpr_2019."""
    return config_factory("detection_cvpr_2019")


def devkit_metrics(ground_truth: Mapping[int, Objects], detections: Mapping[int, Objects]) -> DetectionMetrics:
    """What the devkit makes of objects in ego frames: its filter of ranges and of boxes without points, then the steps
    of its DetectionEval.evaluate."""
    config = official_config()
    wanted, found = (_eval_boxes(objects, config) for objects in (ground_truth, detections))
    metrics = DetectionMetrics(config)
    for name in config.class_names:
        data = {d: accumulate(wanted, found, name, config.dist_fcn_callable, d) for d in config.dist_ths}
        for distance, curve in data.items():
            metrics.add_label_ap(name, distance, calc_ap(curve, config.min_recall, config.min_precision))
        for metric in TP_METRICS:
            undefined = (name in NO_VELOCITY and metric in ("attr_err", "vel_err")) or (
                name == "traffic_cone" and metric == "orient_err"
            )
            error = np.nan if undefined else calc_tp(data[config.dist_th_tp], config.min_recall, metric)
            metrics.add_label_tp(name, metric, error)
    return metrics


def _eval_boxes(frames: Mapping[int, Objects], config: DetectionConfig) -> EvalBoxes:
    result = EvalBoxes()
    for stamp, objects in frames.items():
        boxes = [
            DetectionBox(
                sample_token=str(stamp),
                translation=tuple(box[:3].tolist()),
                size=(float(box[4]), float(box[3]), float(box[5])),  # the devkit's order is w l h
                rotation=(math.cos(box[6] / 2), 0.0, 0.0, math.sin(box[6] / 2)),
                velocity=tuple(objects.velocity[k].tolist()),
                ego_translation=tuple(box[:3].tolist()),
                num_pts=int(objects.num_points[k]),
                detection_name=objects.names[k],
                detection_score=float(objects.scores[k]),
                attribute_name=objects.attributes[k],
            )
            for k, box in enumerate(objects.boxes)
        ]
        kept = [b for b in boxes if b.ego_dist < config.class_range[b.detection_name] and b.num_pts != 0]
        result.add_boxes(str(stamp), kept)
    return result


def _objects(boxes: list[Any]) -> tuple[Objects, np.ndarray]:
    """Boxes of the devkit -> (objects in the same frame, where the vehicle is)."""
    rows = np.array(
        [[*b.translation, b.size[1], b.size[0], b.size[2], quaternion_yaw(Quaternion(b.rotation))] for b in boxes]
    ).reshape(-1, 7)
    objects = make_objects(
        rows,
        np.array([b.velocity for b in boxes]),
        np.array([b.detection_score for b in boxes]),
        tuple(b.detection_name for b in boxes),
        tuple(b.attribute_name for b in boxes),
        np.array([b.num_pts for b in boxes], dtype=np.int64),
    )
    vehicle = np.array(boxes[0].translation) - np.array(boxes[0].ego_translation) if boxes else np.zeros(3)
    return objects, vehicle


def evaluate_nuscenes(results: str | Path, dataroot: str | Path, version: str, scenes: Iterable[str]) -> Scores:
    """Official score of a results file on the named scenes.

    The devkit's DetectionEval wants a named split; this loads, filters (class ranges, empty boxes, bike racks) and
    scores with the same functions on any scenes. Raises ValueError for scenes that are not there and for samples that
    the results lack.
    """
    nusc = NuScenes(version=version, dataroot=str(dataroot), verbose=False)
    scenes = list(scenes)
    known = {scene["name"] for scene in nusc.scene}
    if not scenes or set(scenes) - known:
        raise ValueError(
            f"scenes {sorted(set(scenes) - known)} are not in {dataroot}/{version}; it has {sorted(known)}"
        )
    tokens = get_samples_of_scenes(scene_names=scenes, nusc=nusc)
    given = json.loads(Path(results).read_text())["results"]
    missing = [t for t in tokens if t not in given]
    if missing:
        raise ValueError(
            f"{results} lacks {len(missing)} of {len(tokens)} samples (first {missing[0]}); "
            "a sample in which nothing was found wants an empty list"
        )
    config = official_config()
    found, _ = load_prediction_of_sample_tokens(str(results), config.max_boxes_per_sample, DetectionBox, tokens)
    wanted = load_gt_of_sample_tokens(nusc, tokens, DetectionBox)
    boxes = []
    for eval_boxes in (wanted, found):
        eval_boxes = add_center_dist(nusc, eval_boxes)
        boxes.append(filter_eval_boxes(nusc, eval_boxes, config.class_range) if len(eval_boxes.all) else eval_boxes)
    wanted, found = boxes
    pairs = {k: (_objects(wanted[token]), _objects(found[token])) for k, token in enumerate(tokens)}
    vehicle = {
        k: (of_wanted if len(objects) else of_found) for k, ((objects, of_wanted), (_, of_found)) in pairs.items()
    }
    return score({k: w[0] for k, (w, _) in pairs.items()}, {k: f[0] for k, (_, f) in pairs.items()}, vehicle=vehicle)
