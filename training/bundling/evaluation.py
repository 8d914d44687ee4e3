"""A bundle on the keyframes that checkpoints are scored on, by the vehicle's own step.

Each scene is driven anew: its keyframes in stamp order through `BevPipeline.step`, with the runtime's preprocessing,
memory and decoding, in the engine that the vehicle runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

from bev_perception.bundle import Bundle
from bev_perception.evaluation.objects import Objects, objects_from_detections
from bev_perception.frame_proof import open_proven
from bev_perception.inference.interface import InferenceBackend
from bev_perception.pipeline import BevPipeline
from training.data.nuscenes import Keyframe
from training.data.sensor_frame import sensor_frame
from training.processes import gather_dict, own_share
from training.scoring import floor_thresholds
from training.sensor_masks import kept_by, mask_frame

TOLD_EVERY_S = 20.0


def drive_scene(
    backend: InferenceBackend, keyframes: Sequence[Keyframe], sensors: Sequence[str]
) -> dict[str, list[Objects]]:
    """Word of `sensors` (see `kept_by`) -> detections in each of one scene's keyframes, which are in stamp order."""
    spec = backend.spec

    def fresh() -> BevPipeline:
        return BevPipeline(spec, backend, floor_thresholds(spec))

    pipelines = {word: fresh() for word in sensors}
    forgetful = {word for word in sensors if "memory" not in kept_by(word, spec)}
    found: dict[str, list[Objects]] = {word: [] for word in sensors}
    for keyframe in keyframes:
        frame = sensor_frame(keyframe, spec)
        for word in sensors:
            pipeline = fresh() if word in forgetful else pipelines[word]
            detections = pipeline.step(mask_frame(frame, word, spec))
            found[word].append(objects_from_detections(detections, spec.classes))
    return found


def detect_by_bundle(
    bundle: Bundle, keyframes: Sequence[Keyframe], sensors: Sequence[str], backend: str = "onnxruntime"
) -> dict[str, dict[int, Objects]]:
    """Word -> row of the keyframe -> detections. Processes share the scenes; every process gets those of all.

    keyframes: those of a scene one after the other, in stamp order (as `Keyframes` are). Raises ValueError for a wrong
    word, before anything is run, and what `open_proven` raises.
    """
    for word in sensors:
        kept_by(word, bundle.spec)
    scenes = [list(rows) for _, rows in groupby(range(len(keyframes)), key=lambda row: keyframes[row].scene)]
    found: dict[str, dict[int, Objects]] = {word: {} for word in sensors}
    own = own_share(scenes)
    started = told = time.monotonic()
    engine, _ = open_proven(bundle, backend)
    try:
        for number, rows in enumerate(own):
            for word, objects in drive_scene(engine, [keyframes[row] for row in rows], sensors).items():
                found[word].update(zip(rows, objects, strict=True))
            if time.monotonic() - told > TOLD_EVERY_S:
                told, done = time.monotonic(), (number + 1) / len(own)
                print(f"{done:4.0%} of {len(own)} scenes, {(told - started) * (1 / done - 1):.0f} s left", flush=True)
    finally:
        engine.close()
    return {word: gather_dict(objects) for word, objects in found.items()}
