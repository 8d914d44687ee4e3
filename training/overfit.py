"""Can each network learn at all? `python -m training.overfit --data DIR --out DIR [--only NAMES] [--steps N]`.

Each family's tiny run learns eight keyframes of the training split by heart and is scored on the same eight. A network
that stays below an mAP of about 0.9 has an error somewhere between its inputs and its boxes. Families that
OUT/<name>.json has with the same settings and data are not done again; OUT/table.md has them all.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from bev_perception.decode import Thresholds
from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.objects import Objects
from bev_perception.files import write_atomic
from training.changes import differences
from training.command_line import errors_as_text
from training.data.clips import ClipDataset, collate
from training.data.config import for_evaluation
from training.data.index import open_index
from training.data.source import Source, add_source, source_of
from training.data.split_objects import require_objects
from training.experiments.family import tiny
from training.quiet import quiet
from training.run import Run, image_targets, run_to_plain
from training.scoring import SCORE_FLOOR, score_found
from training.trainer.callbacks import ProgressLine
from training.trainer.lightning_module import DetectorModule
from training.trainer.loading import open_keyframes
from training.trainer.network import Network

KEYFRAMES = 8


@quiet()
def overfit(run: Run, source: Source, keyframes: int = KEYFRAMES) -> tuple[Scores, Network]:
    """Train on `keyframes` of the training split, spread over it, without augmentation; scores on the same ones."""
    assert run.optim.steps is not None
    lightning.seed_everything(run.seed, verbose=False)
    opened = open_keyframes(run.spec, run.data, source, "train", image_targets=image_targets(run))
    require_objects(opened, "train")
    rows = np.linspace(0, len(opened) - 1, keyframes).round().astype(int).tolist()
    dataset = ClipDataset(opened, run.spec, for_evaluation(run.data), run.seed, image_targets(run))
    items = [dataset[row] for row in rows]
    repeats = -(-run.optim.steps * run.batch_size // len(items))
    samples: Any = items * repeats
    loader: DataLoader = DataLoader(samples, run.batch_size, shuffle=True, collate_fn=collate)
    module = DetectorModule(run, run.optim.steps)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=run.precision,  # type: ignore[arg-type]
        max_steps=run.optim.steps,
        gradient_clip_val=run.optim.clip_norm,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=[ProgressLine(50, run.batch_size)],
    )
    trainer.fit(module, loader)
    return score_found(opened, run.spec, detections(module.network, items, run.batch_size), rows), module.network


def detections(network: Network, items: list[dict[str, torch.Tensor]], batch_size: int) -> dict[int, Objects]:
    """Row of the keyframe -> what the network finds there."""
    thresholds = Thresholds(dict.fromkeys(network.spec.classes, SCORE_FLOOR), network.spec.nms_radius)
    found: dict[int, Objects] = {}
    network.detector.eval()
    with torch.inference_mode():
        for start in range(0, len(items), batch_size):
            batch = collate(items[start : start + batch_size])
            found.update(zip(batch["index"].flatten().tolist(), network.detect_batch(batch, thresholds), strict=True))
    return found


def _of_steps(run: Run, steps: int | None) -> Run:
    return dataclasses.replace(run, optim=dataclasses.replace(run.optim, steps=steps)) if steps else run


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, one row per family."""
    lines = ["| network | mAP | mATE | mAOE | mAVE | parameters (M) | steps | minutes |", "|---" * 8 + "|"]
    for name, r in results.items():
        lines.append(
            f"| {name} | {r['mean_ap']:.3f} | "
            + " | ".join(f"{r['errors'][e]:.2f}" for e in ("ate", "aoe", "ave"))
            + f" | {r['parameters'] / 1e6:.2f} | {r['steps']} | {r['minutes']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def made_of(run: Run, source: Source) -> dict[str, Any]:
    """What a result follows from, as JSON has it."""
    digest = open_index(source.root, source.version, source.classes).digest
    plain: dict[str, Any] = json.loads(json.dumps({"run": run_to_plain(run), "data": digest, "keyframes": KEYFRAMES}))
    return plain


def kept(path: Path, made: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """The result in a file if it was made of `made`, else None and in what it differs; nothing where there is none."""
    if not path.is_file():
        return None, []
    result: dict[str, Any] = json.loads(path.read_text())
    if "made_of" not in result:
        return None, ["made_of: it does not say what it was made of"]
    changed = differences(result["made_of"], made)
    return (None, changed) if changed else (result, [])


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.overfit", description=__doc__)
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="names of families")
    parser.add_argument("--steps", type=int, help="instead of each run's own")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(argv)
    runs = {name: _of_steps(run, args.steps) for name, run in tiny().items()}
    unknown = sorted(set(args.only or ()) - set(runs))
    if unknown:
        raise SystemExit(f"--only: no families {unknown}; there are {sorted(runs)}")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    source = source_of(args)
    results: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        path, made = args.out / f"{name}.json", made_of(run, source)
        result, changed = kept(path, made)
        if result is not None:
            results[name] = result
            continue
        asked = not args.only or name in args.only
        if changed:
            print(f"{path}: {'made anew' if asked else 'left out of the table'}, it was made otherwise (there -> now):")
            print("  " + "\n  ".join(changed), flush=True)
        if not asked:
            continue
        print(f"== {name}", flush=True)
        started = time.monotonic()
        try:
            scores, network = overfit(run, source)
        except ImportError as error:  # an optional package: the others can be had all the same
            print(f"{name} is left out: {error}", flush=True)
            continue
        result = {
            "mean_ap": scores.mean_ap_present,
            "steps": run.optim.steps,
            "minutes": (time.monotonic() - started) / 60,
            "parameters": sum(p.numel() for p in network.detector.parameters()),
            "classes": {n: c.ap for n, c in scores.classes.items() if c.ground_truth},
            "errors": dataclasses.asdict(scores.errors),
            "made_of": made,
        }
        print(json.dumps({n: value for n, value in result.items() if n != "made_of"}), flush=True)
        write_atomic(path, json.dumps(result, indent=1) + "\n")
        results[name] = result
    write_atomic(args.out / "table.md", table(results))
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
