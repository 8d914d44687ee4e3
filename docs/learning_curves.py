"""The logs of training runs, thinned to what a plot shows: learning_curves.csv in docs/data.

    python -m docs.learning_curves "NAME=RUN_FOLDER" ... [--out CSV]

NAME is what the plot calls the run. RUN_FOLDER is the --out of training.train; a resumed run has several logs, of which
the latest says what a step gave. Runs that were scored while they trained (`--set validate_every=100`) have a panel of
scores, too.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.measured import DATA

QUANTITIES = {"train/heatmap": "heatmap loss, training drives", "val/mAP": "mAP, held-out drives"}
POINTS = 60  # of a curve, at most


def curve(logs: Sequence[Sequence[Mapping[str, str]]], name: str) -> list[tuple[int, float]]:
    """(step, value) in order of steps; where several logs have a step, the last one counts."""
    found = {int(row["step"]): float(row[name]) for log in logs for row in log if row.get(name)}
    return sorted(found.items())


def thinned(points: Sequence[tuple[int, float]], most: int = POINTS) -> list[tuple[int, float]]:
    """At most so many points, each the mean of neighbours: (mean step, mean value)."""
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), max(size, 1))]
    return [(round(sum(s for s, _ in g) / len(g)), sum(v for _, v in g) / len(g)) for g in groups]


def rows_of(name: str, folder: Path) -> list[list[str]]:
    """Rows of learning_curves.csv. Raises ValueError for a folder without logs."""
    paths = sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    if not paths:
        raise ValueError(f"{folder} has no csv/version_*/metrics.csv: it is no --out of training.train")
    logs = [list(csv.DictReader(path.read_text().splitlines())) for path in paths]
    return [
        [name, str(step), title, f"{value:.4f}"]
        for column, title in QUANTITIES.items()
        for step, value in thinned(curve(logs, column))
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.learning_curves", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER")
    parser.add_argument("--out", type=Path, default=DATA / "learning_curves.csv")
    args = parser.parse_args(argv)
    rows = []
    for run in args.runs:
        name, equals, folder = run.partition("=")
        if not equals:
            parser.error(f"expected NAME=RUN_FOLDER, found {run!r}")
        try:
            rows += rows_of(name, Path(folder))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
    with args.out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["run", "step", "quantity", "value"], *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
