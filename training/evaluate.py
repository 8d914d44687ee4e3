"""Official scores of a checkpoint on held-out scenes: `python -m training.evaluate CHECKPOINT --data DIR`.

`--sensors` scores the same network with inputs masked as the vehicle masks missing sensors. Several words may be given:
all, no_temporal, camera, radar, camera+temporal, radar+temporal, or one blanked camera, such as blank:CAM_FRONT.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nuscenes.nuscenes import NuScenes
from torch import Tensor
from torch.utils.data import DataLoader

from bev_perception.decode import Thresholds
from bev_perception.evaluation.metrics import Scores, score
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.model_spec import ModelSpec
from training.checkpoint import load_module
from training.data.clips import ClipDataset, collate
from training.data.config import for_evaluation
from training.data.nuscenes import Keyframe, load_keyframes, read_split
from training.lightning_module import DetectorModule
from training.model_card import class_table, score_table

SCORE_FLOOR = 0.03  # AP wants the whole curve: far below any threshold that a vehicle would use
RADAR_INPUTS = ("radar_valid", "radar_bev", "radar_points", "radar_counts")
# Word -> what is switched off.
MASKS: dict[str, tuple[str, ...]] = {
    "all": (),
    "no_temporal": ("memory",),
    "camera": ("radars", "memory"),
    "radar": ("cameras", "memory"),
    "camera+temporal": ("radars",),
    "radar+temporal": ("cameras",),
}


def mask_sensors(batch: dict[str, Tensor], sensors: str, spec: ModelSpec) -> dict[str, Tensor]:
    """A batch of ClipDataset with what `sensors` leaves out blanked, now and in the earlier frame.

    sensors: a key of MASKS or `blank:` and a camera. Raises ValueError for anything else.
    """
    blanked = sensors.removeprefix("blank:")
    if sensors not in MASKS and not (sensors.startswith("blank:") and blanked in spec.cameras):
        raise ValueError(
            f"--sensors {sensors}: expected one of {list(MASKS)} or blank:CAMERA with one of {spec.cameras}"
        )
    off = MASKS.get(sensors, ())
    batch = dict(batch)
    if "memory" in off and "prev_valid" in batch:
        batch["prev_valid"] = torch.zeros_like(batch["prev_valid"])
    keep = torch.tensor([float("cameras" not in off and name != blanked) for name in spec.cameras])
    for prefix in ("", "prev."):
        if prefix + "images" in batch:
            batch[prefix + "camera_valid"] = batch[prefix + "camera_valid"] * keep
            batch[prefix + "images"] = batch[prefix + "images"] * keep[:, None, None, None].to(torch.uint8)
        for name in RADAR_INPUTS if "radars" in off else ():
            if prefix + name in batch:
                batch[prefix + name] = torch.zeros_like(batch[prefix + name])
    return batch


def ground_truth(keyframe: Keyframe, spec: ModelSpec) -> Objects:
    """The keyframe's annotations in the ego frame."""
    names = tuple(spec.classes[i] for i in keyframe.labels)
    return make_objects(
        keyframe.boxes, keyframe.velocity, np.full(len(names), -1.0), names, keyframe.attributes, keyframe.num_points
    )


def evaluate(
    module: DetectorModule, keyframes: list[Keyframe], sensors: Sequence[str], batch_size: int = 4, workers: int = 1
) -> dict[str, Scores]:
    """Official scores of every word of `sensors` (see `mask_sensors`) on all keyframes."""
    spec = module.run.spec
    thresholds = Thresholds(dict.fromkeys(spec.classes, SCORE_FLOOR), spec.nms_radius)
    loader = DataLoader(
        ClipDataset(keyframes, spec, for_evaluation(module.run.data)),
        batch_size,
        num_workers=workers,
        collate_fn=collate,
    )
    found: dict[str, dict[int, Objects]] = {word: {} for word in sensors}
    started = time.monotonic()
    module.eval()
    with torch.inference_mode():
        for number, batch in enumerate(loader):
            for word in sensors:
                objects = module.detect_batch(mask_sensors(batch, word, spec), thresholds)
                found[word].update(zip(batch["index"].flatten().tolist(), objects, strict=True))
            if number % 20 == 19:
                done = (number + 1) / len(loader)
                left = (time.monotonic() - started) * (1 / done - 1)
                print(f"{done:4.0%} of {len(keyframes)} keyframes, {left:.0f} s left", flush=True)
    wanted = {i: ground_truth(k, spec) for i, k in enumerate(keyframes)}
    return {word: score(wanted, found[word]) for word in sensors}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--version", default="v1.0-trainval")
    parser.add_argument("--split", default="val")
    parser.add_argument("--sensors", nargs="+", default=["all"])
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--out", type=Path, help="write all scores as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    module = load_module(args.checkpoint)
    scenes = read_split(args.data, args.version, args.split)[: args.scenes]
    keyframes = load_keyframes(NuScenes(args.version, str(args.data), verbose=False), scenes, module.run.spec)
    scores = evaluate(module, keyframes, args.sensors)
    plain = {word: s.to_dict() for word, s in scores.items()}
    first = args.sensors[0]
    print(f"{score_table(plain)}\n\nPer class with {first}:\n\n{class_table(plain[first])}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(plain, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
