"""How much data does a score need? `python -m training.data_need CURVE.csv --target 0.4 [--rounds 3 --out PLOT.svg]`

CURVE.csv has the columns `samples` and `score` and a row for each training: nested parts of the data, with repeats
where there were some. Says how many samples the target needs, with an interval, and how many to label in which round.
The interval is from 40 bootstrap draws of each of four families, within the bounds of training.data_need.curves; what
needs more than 10,000 times the largest size that was measured is no number.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from training.command_line import errors_as_text
from training.data_need.collecting import Plan, plan
from training.data_need.curves import FAMILIES, fit_curve
from training.data_need.estimating import Need, estimate


def read_curve(path: Path) -> tuple[list[float], list[float]]:
    """(samples, scores). Raises ValueError naming the line that is none."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"samples", "score"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has the columns {reader.fieldnames}, expected samples and score")
        rows = list(reader)
    samples, scores = [], []
    for line, row in enumerate(rows, 2):
        try:
            size, score = float(row["samples"]), float(row["score"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
        if not (0 < size < math.inf and 0 <= score <= 1):
            raise ValueError(f"{path}, line {line}: samples above 0 and scores from 0 to 1, found {size} and {score}")
        samples.append(size)
        scores.append(score)
    return samples, scores


def told(need: Need, have: float, found: Plan | None) -> str:
    """For a person."""
    lines = [f"target {need.target:g}: {_count(need.middle)} samples, {_count(need.low)} to {_count(need.high)} (90 %)"]
    lines.append(f"today's {_count(have)} are enough with a probability of {need.likely(have):.0%}")
    if found is not None:
        rounds = ", ".join(_count(size) for size in found.sizes)
        lines.append(
            f"collect until there are {rounds}: expected cost {found.cost:.4g}, missed with {found.failing:.0%}"
        )
    return "\n".join(lines)


def draw(path: Path, samples: list[float], scores: list[float], need: Need) -> None:
    """The measurements, every family's curve, the target, and what it needs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    far = max(samples) * 10 if not math.isfinite(need.high) else max(need.high, max(samples)) * 1.3
    sizes = np.geomspace(min(samples) / 2, far, 200)
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    axes.scatter(samples, scores, color="black", zorder=3, label="trained")
    for family in FAMILIES:
        axes.plot(sizes, fit_curve(family, np.array(samples), np.array(scores))(sizes), label=family, linewidth=1)
    axes.axhline(need.target, color="grey", linestyle="--", linewidth=1)
    axes.axvspan(need.low, min(need.high, far), color="tab:green", alpha=0.15, label="needed, 90 %")
    axes.set(xscale="log", xlabel="samples with labels", ylabel="score", xlim=(sizes[0], far))
    axes.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def _count(samples: float) -> str:
    return f"{samples:,.0f}" if math.isfinite(samples) else "no number"


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data_need", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curve", type=Path)
    parser.add_argument("--target", type=float, required=True, help="the score that is wanted, from 0 to 1")
    parser.add_argument("--rounds", type=int, default=0, help="plan so many rounds of labelling")
    parser.add_argument("--label-cost", type=float, default=1.0, help="of a sample")
    parser.add_argument("--penalty", type=float, help="of missing the target; default: ten times today's data")
    parser.add_argument("--out", type=Path, help="draw the curves into a picture")
    args = parser.parse_args(argv)
    samples, scores = read_curve(args.curve)
    need, have = estimate(samples, scores, args.target), max(samples, default=0.0)
    penalty = args.penalty if args.penalty is not None else 10.0 * have * args.label_cost
    print(told(need, have, plan(need, have, args.rounds, args.label_cost, penalty) if args.rounds else None))
    if args.out:
        draw(args.out, samples, scores, need)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
