"""Several runs, several seeds, one table: `python -m training.study PACKAGE.MODULE:FUNCTION --data DIR --out DIR`.

A study is a function that returns name -> Run. Each run trains in OUT/name/seed and is scored on the validation split,
or on training scenes that are kept back where the run's data says so (data.holdout: to search settings).
A run that learns from a teacher takes the study's own run of that name and seed, or what --teacher gives. What is done
is not done again: a study can be stopped and resumed, or widened by seeds. OUT/table.md has means and standard errors
over seeds, OUT/gains.md what teachers gave, OUT/results.csv every run that was ever scored there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from bev_perception.files import write_atomic
from bev_perception.plain import from_plain, to_plain
from training.command_line import errors_as_text
from training.data.source import Source, add_source, source_of
from training.data.split_objects import require_objects
from training.experiments import load_experiment
from training.models import STUDENTS
from training.models.exported import parameters_exported
from training.processes import own_threads
from training.run import Run
from training.study_tables import ADDED_LATER, Result, Results, gains_table, results_csv, study_table
from training.train import train
from training.trainer.checkpoint import load_module, training_minutes
from training.trainer.detect import evaluate
from training.trainer.loading import Batches, open_keyframes, scored_split
from training.trainer.starting import Start
from training.trainer.teaching import ALONE, Teaching, held_out_agreement, paths_of, teacher_names

AGREEMENT_STEP = 4  # every so many scored keyframes say how far student and teacher agree


@dataclass(frozen=True)
class Study:
    """Runs by name, each trained in `out`/name/seed as training.train does it. teaching: teachers that are not the
    study's own, and the cache of all; backbone: what students with cameras start with."""

    runs: Mapping[str, Run]
    source: Source
    out: Path
    teaching: Teaching = ALONE
    backbone: Path | None = None
    workers: int = 1

    def folder(self, name: str, seed: int) -> Path:
        return self.out / name / str(seed)

    def is_done(self, name: str, seed: int) -> bool:
        return (self.folder(name, seed) / "result.json").is_file()

    def teachers(self, name: str, seed: int) -> dict[str, Path]:
        """Checkpoints of those that a run learns from: given, or the study's own of that seed."""
        own = {t: self.folder(t, seed) / "last.ckpt" for t in teacher_names(self.runs[name])}
        return {t: self.teaching.checkpoints.get(t, path) for t, path in own.items()}


def run_study(study: Study, seeds: Sequence[int], only: Collection[str] | None = None) -> Results:
    """Train and score what `out` does not have yet, seed by seed -> all that it has by now.

    only: names of the runs to do now. Several processes may each do some, in one `out`. Raises ValueError before the
    first run when a teacher of a later one would not be there.
    """
    named = [name for name in study.runs if only is None or name in only]
    todo = [(seed, name) for seed in seeds for name in named if not study.is_done(name, seed)]
    _check_teachers(study, todo)
    for seed, name in todo:
        if study.is_done(name, seed):  # by another process, meanwhile
            continue
        print(f"== {name}, seed {seed}", flush=True)
        try:
            result = _train_and_score(study, name, seed)
        except ImportError as error:  # an optional package: the others can be had all the same
            print(f"{name} is left out: {error}", flush=True)
            continue
        write_atomic(study.folder(name, seed) / "result.json", json.dumps(to_plain(result), indent=1) + "\n")
        write_tables(study)
    return results_in(study.out, study.runs)


def _check_teachers(study: Study, todo: Sequence[tuple[int, str]]) -> None:
    """Raises ValueError unless each run's teachers are given, done, or to be done before it."""
    given = study.teaching.checkpoints
    for position, (seed, name) in enumerate(todo):
        for teacher in teacher_names(study.runs[name]):
            if teacher in given:
                if not given[teacher].is_file():
                    raise ValueError(f"{name} learns from {teacher}, and there is no {given[teacher]}")
            elif not study.is_done(teacher, seed) and (seed, teacher) not in todo[:position]:
                raise ValueError(
                    f"{name}, seed {seed}, learns from {teacher}, and {study.folder(teacher, seed)} holds no finished "
                    f"run; name {teacher} in --only, too, or give --teacher {teacher}=CHECKPOINT"
                )


def write_tables(study: Study) -> str:
    """OUT/table.md and, where runs learn from teachers, OUT/gains.md -> both. OUT/results.csv has all that OUT has."""
    out, results = study.out, results_in(study.out, study.runs)
    table, gains = study_table(results), gains_table(study.runs, results)
    every = sorted({path.parent.parent.name for path in out.glob("*/*/result.json")})
    write_atomic(out / "results.csv", results_csv(results_in(out, every)))
    write_atomic(out / "table.md", table)
    if gains:
        write_atomic(out / "gains.md", gains)
    return f"{table}\n{gains}"


def results_in(out: Path, names: Iterable[str]) -> Results:
    """Name -> seed -> what it reached, of those that are done."""
    paths = {name: sorted((out / name).glob("*/result.json"), key=lambda p: int(p.parent.name)) for name in names}
    return {name: {int(path.parent.name): read_result(path) for path in found} for name, found in paths.items()}


def read_result(path: Path) -> Result:
    """Raises ValueError naming keys that this version does not have, and those that are missing."""
    result: Result = from_plain(Result, json.loads(path.read_text()), f"{path}:", ADDED_LATER)
    return result


def _train_and_score(study: Study, name: str, seed: int) -> Result:
    run, source, workers = dataclasses.replace(study.runs[name], seed=seed), study.source, study.workers
    keyframes = open_keyframes(run.spec, run.data, source, scored_split(run.data))
    require_objects(keyframes, scored_split(run.data))  # before hours of training
    backbone = study.backbone if run.spec.cameras and run.model in STUDENTS else None
    teaching = Teaching(study.teachers(name, seed), study.teaching.cache if run.distill is not None else None)
    last = train(run, source, study.folder(name, seed), Start(backbone=backbone), teaching, workers)
    module = load_module(last)
    scores = evaluate(module, keyframes, ["all"], Batches(workers=workers))["all"].to_dict()
    agreement = {}
    if run.distill is not None and run.distill.terms:
        rows = range(0, len(keyframes), AGREEMENT_STEP)
        agreement = held_out_agreement(last, teaching.checkpoints, keyframes, rows, workers)
    known = {teacher: _own_score(path) for teacher, path in teaching.checkpoints.items()}
    return Result(
        scores,
        parameters_exported(module.detector),
        training_minutes(last),
        {teacher: score for teacher, score in known.items() if score is not None},
        agreement,
    )


def _own_score(checkpoint: Path) -> float | None:
    """The mAP of a run of a study, None for a checkpoint from elsewhere."""
    path = checkpoint.parent / "result.json"
    return float(read_result(path).scores["mean_ap"]) if path.is_file() else None


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.study", description=__doc__)
    parser.add_argument("study", help="package.module:function that returns name -> Run")
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="names of the study's runs to do now")
    parser.add_argument(
        "--teacher", nargs="+", default=[], metavar="NAME=CHECKPOINT", help="instead of the study's own"
    )
    parser.add_argument("--teacher-cache", type=Path, help="folder that keeps what teachers say of each sample")
    parser.add_argument("--backbone", type=Path, help="that students with cameras start with, as in training.train")
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    args = parser.parse_args(argv)
    torch.set_num_threads(own_threads())
    cv2.setNumThreads(1)  # the loader shares the cores with the network
    runs = load_experiment(args.study)
    if not isinstance(runs, dict):
        raise SystemExit(f"{args.study} gives a {type(runs).__name__}, a study is a dict of runs")
    unknown = sorted(set(args.only or ()) - set(runs))
    if unknown:
        raise SystemExit(f"--only: no runs {unknown}; the study has {sorted(runs)}")
    teaching = Teaching(paths_of(args.teacher), args.teacher_cache)
    study = Study(runs, source_of(args), args.out, teaching, args.backbone, args.workers)
    run_study(study, args.seeds, args.only)
    print(write_tables(study))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
