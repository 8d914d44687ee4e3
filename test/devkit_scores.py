"""The official score of a results file on any scenes of a nuScenes-format data set, by the devkit's own loaders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from nuscenes import NuScenes
from nuscenes.eval.common.loaders import (
    add_center_dist,
    filter_eval_boxes,
    get_samples_of_scenes,
    load_gt_of_sample_tokens,
    load_prediction_of_sample_tokens,
)
from nuscenes.eval.detection.data_classes import DetectionBox

from bev_perception.evaluation.metrics import Scores, official_config, score_eval_boxes


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
    return score_eval_boxes(boxes[0], boxes[1], config)
