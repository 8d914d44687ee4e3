"""Official scores of a checkpoint on held-out scenes: `python -m training.evaluate CHECKPOINT --data DIR`.

`--sensors` scores the same network with inputs masked as the vehicle masks missing sensors: all, no_temporal, camera,
radar, or `blank:CAM_FRONT`. Several may be given.
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
from training.data.clips import ClipDataset
from training.data.nuscenes import Keyframe, load_keyframes, read_splits
from training.lightning_module import StudentModule

SCORE_FLOOR = 0.03  # AP wants the whole curve: far below any threshold that a vehicle would use


def mask_sensors(batch: dict[str, Tensor], sensors: str, spec: ModelSpec) -> dict[str, Tensor]:
    """The batch with inputs blanked as `sensors` says (module docstring). Raises ValueError for an unknown word."""
    batch = dict(batch)
    cameras = radars = ()  # type: tuple[int, ...]
    if sensors in ("camera", "camera+temporal"):
        radars = tuple(range(len(spec.radars)))
    elif sensors in ("radar", "radar+temporal"):
        cameras = tuple(range(len(spec.cameras)))
    elif sensors.startswith("blank:") and sensors[6:] in spec.cameras:
        cameras = (spec.cameras.index(sensors[6:]),)
    elif sensors not in ("all", "no_temporal"):
        raise ValueError(
            f"--sensors {sensors}: expected all, no_temporal, camera, radar, camera+temporal, radar+temporal, blank:<camera>"
        )
    if sensors in ("camera", "radar", "no_temporal"):
        batch["prev_valid"] = torch.zeros_like(batch["prev_valid"])
    for prefix in ("", "prev."):
        if cameras:
            keep = torch.ones(len(spec.cameras))
            keep[list(cameras)] = 0
            batch[prefix + "camera_valid"] = batch[prefix + "camera_valid"] * keep
            batch[prefix + "images"] = batch[prefix + "images"] * keep[:, None, None, None].to(torch.uint8)
        if radars:
            batch[prefix + "radar_valid"] = torch.zeros_like(batch[prefix + "radar_valid"])
            batch[prefix + "radar_bev"] = torch.zeros_like(batch[prefix + "radar_bev"])
    return batch


def ground_truth(keyframe: Keyframe, spec: ModelSpec) -> Objects:
    """The keyframe's annotations in the ego frame."""
    names = tuple(spec.classes[i] for i in keyframe.labels)
    return make_objects(
        keyframe.boxes, keyframe.velocity, np.full(len(names), -1.0), names, keyframe.attributes, keyframe.num_points
    )


def evaluate(
    module: StudentModule, keyframes: list[Keyframe], sensors: Sequence[str], batch_size: int = 4
) -> dict[str, Scores]:
    """Official scores for each word of `sensors`, on every keyframe."""
    spec = module.spec
    thresholds = Thresholds(dict.fromkeys(spec.classes, SCORE_FLOOR), spec.nms_radius)
    loader = DataLoader(ClipDataset(keyframes, spec), batch_size, num_workers=1)
    found: dict[str, dict[int, Objects]] = {word: {} for word in sensors}
    started = time.monotonic()
    module.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=False):
        for number, batch in enumerate(loader):
            for word in sensors:
                objects = module.detect_batch(mask_sensors(batch, word, spec), thresholds)
                found[word].update(zip(batch["index"].tolist(), objects, strict=True))
            if number % 20 == 19:
                done = (number + 1) / len(loader)
                print(
                    f"{done:4.0%} of {len(keyframes)} keyframes, {(time.monotonic() - started) * (1 / done - 1):.0f} s left",
                    flush=True,
                )
    wanted = {i: ground_truth(k, spec) for i, k in enumerate(keyframes)}
    return {word: score(wanted, found[word]) for word in sensors}


def table(scores: dict[str, Scores]) -> str:
    """Markdown rows of the official numbers."""
    rows = ["| sensors | mAP | NDS | mATE | mASE | mAOE | mAVE | mAAE |", "|---|---|---|---|---|---|---|---|"]
    for word, s in scores.items():
        e = s.errors
        numbers = (s.mean_ap, s.nds, e.ate, e.ase, e.aoe, e.ave, e.aae)
        rows.append(f"| {word} | " + " | ".join(f"{x:.3f}" for x in numbers) + " |")
    return "\n".join(rows)


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
    scenes = read_splits(args.data)[args.split][: args.scenes]
    keyframes = load_keyframes(NuScenes(args.version, str(args.data), verbose=False), scenes, module.spec)
    scores = evaluate(module, keyframes, args.sensors)
    print(table(scores))
    first = next(iter(scores.values()))
    print(
        "\nper class, "
        + args.sensors[0]
        + ": "
        + ", ".join(f"{name} {c.ap:.3f} (AVE {c.errors.ave:.2f})" for name, c in first.classes.items())
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({word: s.to_dict() for word, s in scores.items()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
