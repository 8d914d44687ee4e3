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
from training.trainer.loading import Batches, evaluation_loader
from training.trainer.network import Network


def detect(
    network: Network, keyframes: Sequence[Keyframe], rows: Sequence[int], sensors: Sequence[str], batches: Batches
) -> dict[str, dict[int, Objects]]:
    """Word of `sensors` (see `mask_sensors`) -> row of the keyframe -> detections; every process gets those of all."""
    for word in sensors:
        kept_by(word, network.spec)  # a wrong word is told at once
    loader = evaluation_loader(keyframes, own_share(rows), network.spec, network.data, batches)
    thresholds = floor_thresholds(network.spec)
    found: dict[str, dict[int, Objects]] = {word: {} for word in sensors}
    started = time.monotonic()
    for number, batch in enumerate(loader):
        for word in sensors:
            objects = network.detect_batch(mask_sensors(batch, word, network.spec), thresholds)
            found[word].update(zip(batch["index"].flatten().tolist(), objects, strict=True))
        if number % 20 == 19:
            done = (number + 1) / len(loader)
            left = (time.monotonic() - started) * (1 / done - 1)
            print(f"{done:4.0%} of {len(rows)} keyframes, {left:.0f} s left", flush=True)
    return {word: gather_dict(objects) for word, objects in found.items()}


def evaluate(
    network: Network, keyframes: Sequence[Keyframe], sensors: Sequence[str], batches: Batches
) -> dict[str, Scores]:
    """Official scores of every word of `sensors` (see `mask_sensors`) on all keyframes."""
    rows = range(len(keyframes))
    network.detector.eval()
    with torch.inference_mode():
        found = detect(network, keyframes, rows, sensors, batches)
    return {word: score_found(keyframes, network.spec, objects, rows) for word, objects in found.items()}
