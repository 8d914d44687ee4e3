"""A SensorFrame -> the network's inputs, except the temporal state (see bev_perception.temporal)."""

from __future__ import annotations

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.images import prepare_images
from bev_perception.preprocess.radar import prepare_radar, radar_problems
from bev_perception.structures import SensorFrame


def prepare_inputs(frame: SensorFrame, spec: ModelSpec) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """-> (arrays named as in ModelSpec.inputs(), without prev_*; sensor -> reason where there but unusable)."""
    images, img_from_ego, camera_valid, problems = prepare_images(frame, spec)
    radar_bev, radar_valid = prepare_radar(frame, spec)
    inputs = {
        "images": images,
        "img_from_ego": img_from_ego,
        "camera_valid": camera_valid,
        "radar_bev": radar_bev,
        "radar_valid": radar_valid,
    }
    return inputs, problems | radar_problems(frame, spec)
