"""A SensorFrame -> the network's inputs, except the temporal state (see bev_perception.temporal)."""

from __future__ import annotations

import numpy as np

from bev_perception.fault import Fault
from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.images import ImageReady, prepare_images
from bev_perception.preprocess.radar import prepare_radar
from bev_perception.structures import SensorFrame


def prepare_inputs(
    frame: SensorFrame, spec: ModelSpec, image_ready: ImageReady | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Fault], dict[str, int]]:
    """-> arrays named as in ModelSpec.inputs(), without prev_*; sensor -> why it is there but unusable; reason ->
    number of radar returns that do not reach the network (`radar/returns_out_of_range`, and for want of room
    `radar/pillars_over_limit`, `radar/points_over_limit`). image_ready: told of each image when it is made."""
    inputs: dict[str, np.ndarray] = {}
    problems: dict[str, Fault] = {}
    lost: dict[str, int] = {}
    if spec.cameras:
        made = prepare_images(frame, spec, ready=image_ready)
        inputs["images"], inputs["img_from_ego"], inputs["camera_valid"], problems = made
    if spec.radars:
        radar, radar_problems, over = prepare_radar(frame, spec)
        inputs |= radar
        problems |= radar_problems
        lost = {f"radar/{reason}": n for reason, n in over.items()}
    return inputs, problems, lost
