"""Does choosing pay? Strategies against chance on one pool, several seeds, one table; goes on where it was stopped.

    python -m training.data_engine.study --data DATA --out runs/choosing --waits 8x12 --noise missing=0.1 \
        --seeds 0 1 2 --first 100 --budget 100 --rounds 5

The pool is the training split, of which with --waits some frames are there many times (a car that waits), labelled by
an oracle that errs as --noise says. All strategies of a seed begin with the same frames and network. OUT/curves.csv has
a row for each strategy, seed and round; OUT/table.md the means. Begin with `--by random`: where the curve of chance no
longer rises from one round to the next there is nothing to win, and the sizes are too large.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from bev_perception.files import write_atomic
from training.command_line import errors_as_text
from training.data.source import source_of
from training.data_engine.loop import Loop, add_loop, prepared, run_loop
from training.data_engine.oracle import Errors
from training.data_engine.strategies import STRATEGIES
from training.data_engine.waits import Waits

BY = ("random", "random_distinct", "entropy", "entropy_sum", "flips", "sensors", "novelty", "rarity", "core_set",
      "entropy_core_set")  # fmt: skip
FIELDS = ("strategy", "seed", "round", "frames", "different", "mAP", "NDS")
Curves = Mapping[tuple[str, int], Sequence[Mapping[str, float]]]  # (strategy, seed) -> rounds


def curves_csv(curves: Curves) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for (by, seed), rounds in curves.items():
        for number, row in enumerate(rounds):
            writer.writerow(
                [by, seed, number, row["frames"], row["different"], f"{row['mAP']:.5f}", f"{row['NDS']:.5f}"]
            )
    return text.getvalue()


def table(curves: Curves) -> str:
    """Markdown: mAP by strategy and frames, mean and standard error over seeds, and the last minus that of chance with
    the same seeds."""
    sizes = sorted({int(row["frames"]) for rounds in curves.values() for row in rounds})
    lines = ["| strategy | " + " | ".join(f"{n} frames" for n in sizes) + " | last, minus chance |"]
    lines.append("| --- |" + " ---: |" * (len(sizes) + 1))
    for by in dict.fromkeys(by for by, _ in curves):
        of = {
            seed: {int(row["frames"]): row["mAP"] for row in rounds} for (b, seed), rounds in curves.items() if b == by
        }
        cells = [_mean([found[n] for found in of.values() if n in found]) for n in sizes]
        gains = [
            rounds[sizes[-1]] - curves["random", seed][-1]["mAP"]
            for seed, rounds in of.items()
            if sizes[-1] in rounds and ("random", seed) in curves and curves["random", seed][-1]["frames"] == sizes[-1]
        ]
        lines.append(f"| {by} | " + " | ".join(cells) + f" | {_mean(gains, sign='+')} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):{sign}.3f}"
    return f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else mean


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data_engine.study", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--by", nargs="+", default=list(BY), choices=STRATEGIES, metavar="STRATEGY")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    add_loop(parser)
    args = parser.parse_args(argv)
    run, start = prepared(args)
    waits, curves = Waits.of(args.waits), {}
    for seed in args.seeds:
        for by in args.by:
            print(f"== {by}, seed {seed}", flush=True)
            shared = args.out / "start" / str(seed)
            loop = Loop(
                source_of(args), run, args.out / by / str(seed), by, args.first, args.budget, args.rounds,
                Errors.of(args.noise, seed), waits, seed, start, shared, args.workers,
            )  # fmt: skip
            curves[by, seed] = run_loop(loop)
            write_atomic(args.out / "curves.csv", curves_csv(curves))
            write_atomic(args.out / "table.md", table(curves))
    print(table(curves))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
