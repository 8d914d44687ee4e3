"""One frame -> its statistics, by part: what is compared with the usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bev_perception.model_spec import CAMERA_FEATURES, MAP_FEATURES, ModelSpec
from bev_perception.structures import SensorFrame
from bev_perception.usual.image_statistics import IMAGE_STATISTICS, image_statistics
from bev_perception.usual.returns import RETURN_STATISTICS, newest_returns, return_statistics
from bev_perception.usual.scene_statistics import SCENE_STATISTICS, scene_statistics

SCENE = "scene"  # the name that stands for all sensors together
IMAGES, RETURNS = "images", "returns"
PARTS = (IMAGES, CAMERA_FEATURES, RETURNS, SCENE, MAP_FEATURES)


@dataclass(frozen=True)
class Glimpse:
    """What one step of the pipeline saw and gave. inputs, outputs: of the network, on the host. boxes (M, 7):
    detections by the bundle's thresholds, with which the usual was fitted, not by the vehicle's."""

    frame: SensorFrame
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    boxes: np.ndarray


def sensors_of(part: str, spec: ModelSpec) -> tuple[str, ...]:
    """Whom the rows of a part are about."""
    return {IMAGES: spec.cameras, CAMERA_FEATURES: spec.cameras, RETURNS: spec.radars}.get(part, (SCENE,))


def names_of(part: str, width: int) -> tuple[str, ...]:
    """What the columns of a part are called; of features, which mean nothing to a person, all the same."""
    named = {IMAGES: IMAGE_STATISTICS, RETURNS: RETURN_STATISTICS, SCENE: SCENE_STATISTICS}
    return named.get(part, ("features of the network",) * width)


def parts_of(spec: ModelSpec) -> tuple[str, ...]:
    """Those that a model has: what it has sensors and outputs for."""
    there = {
        IMAGES: bool(spec.cameras), CAMERA_FEATURES: bool(spec.health.camera_width), RETURNS: bool(spec.radars),
        SCENE: True, MAP_FEATURES: bool(spec.health.map_width),
    }  # fmt: skip
    return tuple(part for part in PARTS if there[part])


def statistics_of(glimpse: Glimpse, spec: ModelSpec) -> dict[str, np.ndarray]:
    """Part -> (S, D) float64, a row for each of `sensors_of`; NaN where a sensor was not used or does not tell."""
    returns = newest_returns(glimpse.frame)
    found = {SCENE: scene_statistics(glimpse.outputs["scores"], glimpse.boxes, returns)}
    if spec.cameras:
        valid = glimpse.inputs["camera_valid"]
        found[IMAGES] = image_statistics(glimpse.inputs["images"], valid)
        if spec.health.camera_width:
            features = glimpse.outputs[CAMERA_FEATURES].astype(np.float64)
            found[CAMERA_FEATURES] = np.where(valid[:, None] > 0, features, np.nan)
    if spec.radars:
        heard = glimpse.inputs["radar_valid"][:, None] > 0
        found[RETURNS] = np.where(heard, return_statistics(returns), np.nan)
    if spec.health.map_width:
        found[MAP_FEATURES] = glimpse.outputs[MAP_FEATURES].astype(np.float64)[None]
    return found
