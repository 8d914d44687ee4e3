"""What detections are worth: `python -m training.calibrate BUNDLE --data HOLDOUT --out calibration.json`.

Drives scenes that the model has not learnt from by the vehicle's own step, fits probability and variances by class,
distance and score, and writes them into the bundle (uncertainty.json): the node then publishes them. How well it holds
is measured on scenes that each fit has not seen. Where the network says itself how far its boxes may be off, each
channel takes of that and of the table what is likeliest there. A checkpoint is driven in torch; --bundle names the
bundle made of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_perception.bundle import load_bundle, write_table
from bev_perception.files import write_atomic
from bev_perception.uncertainty import CHANNELS, UNCERTAINTY
from training.bundling.engines import open_model
from training.command_line import errors_as_text
from training.data.config import PLAIN
from training.data.source import add_source, source_of
from training.data.split_objects import require_objects
from training.trainer.loading import open_keyframes
from training.uncertainty.driving import drive, pairs_in
from training.uncertainty.fitting import TABLE, Use, fit
from training.uncertainty.pairs import Pairs
from training.uncertainty.ways import OF_TABLE, USES, best_uses, everywhere, folds_of, held_out, measured, ways_of

FOLDS = 5


def compare(pairs: Pairs, classes: Sequence[str], folds: int = FOLDS) -> dict[str, dict[str, Any]]:
    """Way -> what holds of it on scenes that its fit has not seen. Of a network that says something itself also what
    USES make of that. Raises as `folds_of`."""
    fold = folds_of(pairs, folds)
    uses = USES if pairs.said.any() else {OF_TABLE: TABLE}
    ways = ways_of(classes, {name: everywhere(use) for name, use in uses.items()})
    return {name: measured(held_out(pairs, way, fold), pairs) for name, way in ways.items()}


def report(pairs: Pairs, frames: int, rows: Mapping[str, Mapping[str, Any]], best: Mapping[str, Use]) -> str:
    """Markdown."""
    seen = f"{len(pairs.scores)} detections in {frames} keyframes"
    lines = [f"{seen}, each measured with a fit to other scenes.", ""]
    lines += ["| worth from | ECE, % | Brier score | negative log likelihood |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {100 * row['ece']:.2f} | {row['brier']:.4f} | {row['log_loss']:.4f} |"
        for name, row in rows.items()
    ]
    head = ["channel", "deviation from", "inside 50 %", "inside 90 %", "inside 95 %", "mean deviation",
            "negative log likelihood"]  # fmt: skip
    lines += ["", "| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * 5]
    shown = [name for name in USES if name in rows]
    if len(shown) > 1:
        lines += [
            "",
            "Bold is what a channel takes; it was chosen by these rows, and others will see a little less of it.",
        ]
    for channel in CHANNELS:
        for name in shown:
            row = rows[name]["coverage"][channel]
            shares = " | ".join(f"{100 * row[level]:.1f}" for level in ("0.5", "0.9", "0.95"))
            chosen = f"**{name}**" if len(shown) > 1 and best[channel] == USES[name] else name
            lines.append(f"| {channel} | {chosen} | {shares} | {row['deviation']:.3f} | {row['nll']:.3f} |")
    return "\n".join(lines) + "\n"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=__doc__)
    parser.add_argument("model", type=Path, help="bundle, or checkpoint of training.train")
    add_source(parser)
    parser.add_argument("--split", default="val", help="scenes that the model has not learnt from")
    parser.add_argument("--scenes", type=int, help="only the first n scenes of the split")
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the scenes, to measure with; 0: only a table")
    parser.add_argument("--bundle", type=Path, help="of a checkpoint: the bundle to write into")
    parser.add_argument("--backend", default="onnxruntime", help="engine of a bundle")
    parser.add_argument("--out", type=Path, help="write what was measured as JSON")
    args = parser.parse_args(argv)
    if not args.model.is_dir() and args.bundle is None:
        parser.error("--bundle names the bundle that was made of this checkpoint")
    bundle = load_bundle(args.bundle or args.model)
    engine = open_model(args.model, args.backend, bundle)
    try:
        keyframes = open_keyframes(engine.spec, PLAIN, source_of(args), args.split, args.scenes)
        require_objects(keyframes, args.split)
        pairs = pairs_in(keyframes, engine.spec, drive(engine, keyframes))
    finally:
        engine.close()
    classes = engine.spec.classes
    best: dict[str, Use] = {}
    if args.folds:
        rows = compare(pairs, classes, args.folds)
        best = best_uses(rows)
        print(f"\n{report(pairs, len(keyframes), rows, best)}")
        if args.out:
            write_atomic(args.out, json.dumps(rows, indent=1))
    table = fit(pairs, classes, bundle.spec.onnx_sha256, len(keyframes), best)
    write_table(bundle, UNCERTAINTY, table.to_json())
    print(f"written: {bundle.path / UNCERTAINTY}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
