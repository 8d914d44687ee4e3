"""What detections are worth: `python -m training.calibrate BUNDLE --data HOLDOUT --out calibration.json`.

Drives scenes that the model has not learnt from by the vehicle's own step, fits probability and variances by class,
distance and score, and writes them into the bundle (uncertainty.json): the node then publishes them. How well it holds
is measured on scenes that each fit has not seen. A checkpoint is driven in torch; --bundle names the bundle made of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.files import write_atomic
from bev_perception.inference.interface import InferenceBackend
from bev_perception.signing import SIGNATURE
from bev_perception.uncertainty import UNCERTAINTY, Estimator, UncertaintyTable
from training.bundling.engines import open_model
from training.bundling.evaluation import drive_scene
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.nuscenes import Keyframe
from training.data.source import add_source, source_of
from training.data.split_objects import require_objects
from training.scoring import ground_truth
from training.trainer.loading import open_keyframes
from training.uncertainty.fitting import fit
from training.uncertainty.measures import brier, calibration_error, cooled, coverage, temperature, worst_gaps
from training.uncertainty.pairs import Pairs, join_pairs, pairs_of

FOLDS = 5


def pairs_in(engine: InferenceBackend, keyframes: Sequence[Keyframe]) -> Pairs:
    """Every detection of every scene, down to the floor of scoring, beside what was there."""
    parts = []
    for number, (scene, rows) in enumerate(groupby(keyframes, key=lambda keyframe: keyframe.scene)):
        own = list(rows)
        found = drive_scene(engine, own, ["all"])["all"]
        parts += [
            pairs_of(ground_truth(keyframe, engine.spec), objects, engine.spec.classes, number)
            for keyframe, objects in zip(own, found, strict=True)
        ]
        print(f"{scene}: {len(own)} keyframes, {sum(len(p.scores) for p in parts[-len(own) :])} detections", flush=True)
    return join_pairs(parts)


def held_out(pairs: Pairs, classes: Sequence[str], frames: int, folds: int = FOLDS) -> dict[str, Any]:
    """What holds on scenes that a fit has not seen: each fold of the scenes is measured with the fit of the others.

    Raises ValueError where there are fewer scenes than folds, or fewer folds than two.
    """
    scenes = np.unique(pairs.scenes)
    if not 2 <= folds <= len(scenes):
        raise ValueError(f"{len(scenes)} scenes cannot be shared by {folds} folds; give more scenes, or other --folds")
    fold = np.searchsorted(scenes, pairs.scenes) % folds
    fitted, tempered = np.zeros(len(fold)), np.zeros(len(fold))
    covered = []
    for number in range(folds):
        others, own = pairs.select(fold != number), pairs.select(fold == number)
        table = fit(others, classes, "", frames)
        estimator = Estimator(table, tuple(classes))
        fitted[fold == number] = estimator.probabilities(own.metres, own.scores, own.labels)
        tempered[fold == number] = cooled(own.scores, temperature(others.scores, others.right))
        covered.append((coverage(table, own, classes), len(own.scores)))
    ways = {"score": pairs.scores, "temperature": tempered, "by class, distance and score": fitted}
    rows = {
        name: {"ece": calibration_error(p, pairs.right), "brier": brier(p, pairs.right)} for name, p in ways.items()
    }
    means = {
        channel: {key: _mean([(c[channel][key], n) for c, n in covered]) for key in covered[0][0][channel]}
        for channel in covered[0][0]
    }
    return {"detections": len(pairs.scores), "frames": frames, "probability": rows, "coverage": means,
            "worst": worst_gaps(means)}  # fmt: skip


def report(measured: dict[str, Any]) -> str:
    """Markdown."""
    seen = f"{measured['detections']} detections in {measured['frames']} keyframes"
    lines = [f"{seen}, each measured with a fit to other scenes.", ""]
    lines += ["| probability from | ECE, % | Brier score |", "| --- | ---: | ---: |"]
    lines += [f"| {n} | {100 * r['ece']:.2f} | {r['brier']:.4f} |" for n, r in measured["probability"].items()]
    lines += [
        "",
        "| channel | inside 50 % | inside 90 % | inside 95 % | mean deviation |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for channel, row in measured["coverage"].items():
        shares = " | ".join(f"{100 * row[level]:.1f}" for level in ("0.5", "0.9", "0.95"))
        lines.append(f"| {channel} | {shares} | {row['deviation']:.3f} |")
    return "\n".join(lines) + "\n"


def write_into(bundle: Bundle, table: UncertaintyTable) -> None:
    """Beside the model; what is there of it is replaced. Raises ValueError for a bundle that is signed."""
    if (bundle.path / SIGNATURE).exists():
        raise ValueError(f"{bundle.path} is signed: calibrate before signing, or calibrate a copy without {SIGNATURE}")
    write_atomic(bundle.path / UNCERTAINTY, table.to_json())


def _mean(values: Sequence[tuple[float, int]]) -> float:
    known = [(value, count) for value, count in values if np.isfinite(value)]
    return float(np.average([v for v, _ in known], weights=[n for _, n in known])) if known else float("nan")


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=__doc__)
    parser.add_argument("model", type=Path, help="bundle, or checkpoint of training.train")
    add_source(parser)
    parser.add_argument("--split", default="val", help="scenes that the model has not learnt from")
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the scenes, to measure with; 0: only fit")
    parser.add_argument("--bundle", type=Path, help="of a checkpoint: the bundle to write into")
    parser.add_argument("--backend", default="onnxruntime", help="engine of a bundle")
    parser.add_argument("--out", type=Path, help="write what was measured as JSON")
    args = parser.parse_args(argv)
    if not args.model.is_dir() and args.bundle is None:
        parser.error("--bundle names the bundle that was made of this checkpoint")
    bundle = load_bundle(args.bundle or args.model)
    engine = open_model(args.model, args.backend)
    try:
        keyframes = open_keyframes(engine.spec, PLAIN, source_of(args), args.split, args.scenes)
        require_objects(keyframes, args.split)
        pairs = pairs_in(engine, keyframes)
    finally:
        engine.close()
    classes = engine.spec.classes
    if args.folds:
        measured = held_out(pairs, classes, len(keyframes), args.folds)
        print(f"\n{report(measured)}")
        if args.out:
            write_atomic(args.out, json.dumps(measured, indent=1))
    write_into(bundle, fit(pairs, classes, bundle.spec.onnx_sha256, len(keyframes)))
    print(f"written: {bundle.path / UNCERTAINTY}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
