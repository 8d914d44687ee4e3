"""Build the object database that an experiment pastes from, before it trains.

    python -m training.object_database training.experiments.centerpoint:pillar --data DIR

A run without one builds it at its start. What was built when the command ended is built on.
"""

from __future__ import annotations

import argparse

import numpy as np

from bev_perception.model_spec import CLASSES
from training.command_line import errors_as_text
from training.data.database import default_workers, open_database
from training.data.source import add_source, source_of
from training.data.split_objects import require_objects
from training.experiments import load_run
from training.trainer.loading import open_keyframes


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.object_database", description=__doc__)
    parser.add_argument("experiment", help="package.module:function of a run with data.paste")
    add_source(parser)
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes that read keyframes (default: one for a core)"
    )
    args = parser.parse_args(argv)
    run = load_run(args.experiment)
    if run.data.paste is None:
        raise ValueError(f"{args.experiment} pastes nothing: its data.paste is None")
    keyframes = open_keyframes(run.spec, run.data, source_of(args), "train")
    require_objects(keyframes, "train")
    database = open_database(keyframes, run.spec, run.data, args.workers)
    counts = np.bincount(database.arrays["label"], minlength=len(CLASSES))
    print(", ".join(f"{n} {name}" for name, n in zip(CLASSES, counts)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
