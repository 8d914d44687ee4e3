"""Drives by the vehicle's own step, and what their detections were worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.objects import Objects, objects_from_detections
from bev_perception.inference.interface import InferenceBackend
from bev_perception.model_spec import ModelSpec
from bev_perception.pipeline import BevPipeline
from training.data.nuscenes import Keyframe
from training.data.sensor_frame import sensor_frame
from training.scoring import floor_thresholds, ground_truth
from training.uncertainty.pairs import Pairs, join_pairs, pairs_of


@dataclass(frozen=True)
class Frame:
    """What was found in a keyframe, down to the floor of scoring, and of each detection the deviations (M,
    METRIC_CHANNELS) that the network says, zeros where it says nothing."""

    objects: Objects
    said: np.ndarray


def drive(engine: InferenceBackend, keyframes: Sequence[Keyframe]) -> list[Frame]:
    """A frame for each keyframe, which stand scene by scene in stamp order; the memory begins anew with each scene."""
    spec, found, scene = engine.spec, [], None
    for keyframe in keyframes:
        if keyframe.scene != scene:
            if scene is not None:
                print(f"{scene}: {len(found)} of {len(keyframes)} keyframes driven", flush=True)
            pipeline, scene = BevPipeline(spec, engine, floor_thresholds(spec)), keyframe.scene
        detections = pipeline.step(sensor_frame(keyframe, spec))
        said = np.sqrt(detections.variances.sum(axis=1))
        found.append(Frame(objects_from_detections(detections, spec.classes), said))
    return found


def pairs_in(keyframes: Sequence[Keyframe], spec: ModelSpec, frames: Sequence[Frame]) -> Pairs:
    """Every detection beside what was there; drives are numbered in their order."""
    numbers = {scene: number for number, scene in enumerate(dict.fromkeys(k.scene for k in keyframes))}
    return join_pairs(
        [
            pairs_of(ground_truth(keyframe, spec), frame.objects, spec.classes, numbers[keyframe.scene], frame.said)
            for keyframe, frame in zip(keyframes, frames, strict=True)
        ]
    )
