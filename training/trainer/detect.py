"""A network in torch on keyframes, in batches: each keyframe with its own earlier frames."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.objects import Objects
from training.data.nuscenes import Keyframe
from training.processes import gather_dict, own_share
from training.scoring import floor_thresholds, score_found
from training.sensor_masks import kept_by, mask_sensors
from training.trainer.lightning_module import DetectorModule
from training.trainer.loading import evaluation_loader


def detect(
    module: DetectorModule, keyframes: Sequence[Keyframe], sensors: Sequence[str], rows: Sequence[int], batch_size: int,
    workers: int,
) -> dict[str, dict[int, Objects]]:  # fmt: skip
    """Word -> row of the keyframe -> detections; every process gets those of all."""
    for word in sensors:
        kept_by(word, module.spec)  # a wrong word is told at once
    loader = evaluation_loader(keyframes, module.spec, module.data, own_share(rows), batch_size, workers)
    thresholds = floor_thresholds(module.spec)
    found: dict[str, dict[int, Objects]] = {word: {} for word in sensors}
    started = time.monotonic()
    for number, batch in enumerate(loader):
        for word in sensors:
            objects = module.detect_batch(mask_sensors(batch, word, module.spec), thresholds)
            found[word].update(zip(batch["index"].flatten().tolist(), objects, strict=True))
        if number % 20 == 19:
            done = (number + 1) / len(loader)
            left = (time.monotonic() - started) * (1 / done - 1)
            print(f"{done:4.0%} of {len(rows)} keyframes, {left:.0f} s left", flush=True)
    return {word: gather_dict(objects) for word, objects in found.items()}


def evaluate(
    module: DetectorModule, keyframes: Sequence[Keyframe], sensors: Sequence[str], batch_size: int = 4, workers: int = 1
) -> dict[str, Scores]:
    """Official scores of every word of `sensors` (see `mask_sensors`) on all keyframes."""
    rows = range(len(keyframes))
    module.eval()
    with torch.inference_mode():
        found = detect(module, keyframes, sensors, rows, batch_size, workers)
    return {word: score_found(keyframes, module.spec, objects, rows) for word, objects in found.items()}
