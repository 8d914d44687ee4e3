"""Official scores of a checkpoint or a bundle: `python -m training.evaluate CHECKPOINT_OR_BUNDLE --data DIR`.

`--sensors` scores the same network with inputs masked as the vehicle masks missing sensors. Several words may be given:
all, no_temporal, camera, radar, camera+temporal, radar+temporal, or one blanked camera, such as blank:CAM_FRONT.
Under torchrun the processes share the keyframes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bev_perception.decode import Thresholds
from bev_perception.evaluation.metrics import Scores, score
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.model_spec import ModelSpec, load_bundle
from training.bundling.bundle_model import BundleModel
from training.bundling.model_card import class_table, range_table, score_table
from training.command_line import errors_as_text
from training.data.config import DataConfig
from training.data.nuscenes import Keyframe
from training.sensor_masks import kept_by, mask_sensors
from training.trainer.checkpoint import load_module
from training.trainer.distributed import gather_dict, join_processes, own_device, own_share, own_threads, rank_and_world
from training.trainer.loading import evaluation_loader, open_keyframes

SCORE_FLOOR = 0.03  # AP wants the whole curve: far below any threshold that a vehicle would use
RANGES = ((0.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, 50.0))  # metres
CYCLES = ("bicycle", "motorcycle")


class Model(Protocol):
    """DetectorModule or BundleModel."""

    spec: ModelSpec
    data: DataConfig

    def detect_batch(self, batch: dict[str, Tensor], thresholds: Thresholds) -> list[Objects]:
        """Detections of each item."""


def ground_truth(keyframe: Keyframe, spec: ModelSpec) -> Objects:
    """The keyframe's annotations in the ego frame, as far as the spec's grid reaches.

    That changes nothing for grids of 50 m and more, where the benchmark ends; a network of a smaller one is asked for
    what it can see, and its scores must say so.
    """
    names = tuple(spec.classes[i] for i in keyframe.labels)
    objects = make_objects(
        keyframe.boxes, keyframe.velocity, np.full(len(names), -1.0), names, keyframe.attributes, keyframe.num_points
    )
    return objects.select(spec.grid.cells(keyframe.boxes[:, :2])[1])


def outside_racks(objects: Objects, racks: np.ndarray) -> Objects:
    """Without the cycles whose centre is in a bicycle rack, (R, 7) boxes: the benchmark scores none there."""
    cycle = np.array([name in CYCLES for name in objects.names], dtype=bool)
    if not len(racks) or not cycle.any():
        return objects
    offset = objects.boxes[:, None, :3] - racks[None, :, :3]
    cos, sin = np.cos(racks[:, 6]), np.sin(racks[:, 6])
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    inside = (np.abs(np.stack([along, across, offset[..., 2]], axis=-1)) <= racks[:, 3:6] / 2).all(axis=-1)
    return objects.select(~(cycle & inside.any(axis=1)))


def detect(
    model: Model, keyframes: Sequence[Keyframe], sensors: Sequence[str], rows: Sequence[int], batch_size: int,
    workers: int,
) -> dict[str, dict[int, Objects]]:  # fmt: skip
    """Word -> row of the keyframe -> detections; every process gets those of all."""
    for word in sensors:
        kept_by(word, model.spec)  # a wrong word is told at once
    loader = evaluation_loader(keyframes, model.spec, model.data, own_share(rows), batch_size, workers)
    thresholds = Thresholds(dict.fromkeys(model.spec.classes, SCORE_FLOOR), model.spec.nms_radius)
    found: dict[str, dict[int, Objects]] = {word: {} for word in sensors}
    started = time.monotonic()
    for number, batch in enumerate(loader):
        for word in sensors:
            objects = model.detect_batch(mask_sensors(batch, word, model.spec), thresholds)
            found[word].update(zip(batch["index"].flatten().tolist(), objects, strict=True))
        if number % 20 == 19:
            done = (number + 1) / len(loader)
            left = (time.monotonic() - started) * (1 / done - 1)
            print(f"{done:4.0%} of {len(rows)} keyframes, {left:.0f} s left", flush=True)
    return {word: gather_dict(objects) for word, objects in found.items()}


def score_found(
    keyframes: Sequence[Keyframe], spec: ModelSpec, found: dict[int, Objects], rows: Sequence[int]
) -> Scores:
    """Official scores of the detections in `rows` of the keyframes."""
    frames = {i: keyframes[i] for i in rows}
    wanted = {i: outside_racks(ground_truth(k, spec), k.racks) for i, k in frames.items()}
    return score(wanted, {i: outside_racks(found[i], k.racks) for i, k in frames.items()}, RANGES)


def evaluate(
    model: Model, keyframes: Sequence[Keyframe], sensors: Sequence[str], batch_size: int = 4, workers: int = 1
) -> dict[str, Scores]:
    """Official scores of every word of `sensors` (see `mask_sensors`) on all keyframes."""
    rows = range(len(keyframes))
    if isinstance(model, torch.nn.Module):
        model.eval()
    with torch.inference_mode():
        found = detect(model, keyframes, sensors, rows, batch_size, workers)
    return {word: score_found(keyframes, model.spec, objects, rows) for word, objects in found.items()}


def load_model(path: Path, history: int | None = None) -> Model:
    """A bundle (a folder) or a checkpoint; history: earlier frames of each sample, None for the model's own."""
    if path.is_dir():
        bundle = load_bundle(path)
        return BundleModel(bundle, history=1 if history is None else history)
    module = load_module(path).to(own_device())
    if history is not None:
        module.data = replace(module.data, history=history)
    return module


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint of training.train, or bundle")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--version", default="v1.0-trainval")
    parser.add_argument("--split", default="val", help="val, train, or holdout: what the run's data.holdout kept back")
    parser.add_argument("--sensors", nargs="+", default=["all"])
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--history", type=int, help="earlier frames of each sample (default: the run's; a bundle: 1)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--out", type=Path, help="write all scores as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(own_threads())
    join_processes()
    model = load_model(args.model, args.history)
    print(f"{args.model}: each keyframe after {model.data.history} earlier frame(s)", flush=True)
    keyframes = open_keyframes(model.spec, model.data, args.data, args.version, args.split, args.scenes)
    scores = evaluate(model, keyframes, args.sensors, args.batch_size, args.workers)
    if rank_and_world()[0]:
        return 0
    plain = {word: s.to_dict() for word, s in scores.items()}
    first = args.sensors[0]
    print(f"{score_table(plain)}\n\nPer class with {first}:\n\n{class_table(plain[first])}")
    print(f"\nPer range with {first}:\n\n{range_table(plain[first])}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        part = args.out.with_name(f".{args.out.name}.part")
        part.write_text(json.dumps(plain, indent=1))
        os.replace(part, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
