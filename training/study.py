"""Several runs, several seeds, one table: `python -m training.study PACKAGE.MODULE:FUNCTION --data DIR --out DIR`.

A study is a function that returns name -> Run. Each run trains in OUT/name/seed and is scored on the validation split,
or on training scenes that are kept back where the run's data says so (data.holdout: to search settings).
A run that learns from a teacher takes the study's own run of that name and seed, or what --teacher gives. What is done
is not done again: a study can be stopped and resumed, or widened by seeds. What was done with other settings, data,
backbone or teachers is refused when it is asked for and left out of the tables otherwise. OUT/table.md has means and
standard errors over seeds, OUT/gains.md what teachers gave, OUT/results.csv every run that was ever scored there.
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

from bev_perception.evaluation.result_folder import sha256
from bev_perception.files import write_atomic
from bev_perception.plain import from_plain, to_plain
from training.changes import changes_of, differences, override
from training.command_line import errors_as_text
from training.data.frames import data_digest
from training.data.source import Source, add_source, source_of
from training.data.split_objects import require_objects
from training.experiments import load_experiment
from training.models import STUDENTS
from training.models.exported import parameters_exported
from training.processes import own_threads
from training.run import Run
from training.study_tables import ADDED_LATER, Result, Results, gains_table, results_csv, study_table
from training.train import train
from training.trainer.checkpoint import load_network, training_minutes
from training.trainer.detect import evaluate
from training.trainer.loading import Batches, open_keyframes, scored_split
from training.trainer.run_directory import changes_since
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

    def start(self, name: str) -> Path | None:
        """What the run's image backbone starts with."""
        run = self.runs[name]
        return self.backbone if run.spec.cameras and run.model in STUDENTS else None

    def given(self, name: str, seed: int) -> dict[str, str]:
        """sha256 of the files that a run begins with and learns from, those of teachers where they are there."""
        backbone = self.start(name)
        files = {f"teacher {t}": path for t, path in self.teachers(name, seed).items() if path.is_file()}
        return {role: sha256(path) for role, path in (files | ({"backbone": backbone} if backbone else {})).items()}


def run_study(study: Study, seeds: Sequence[int], only: Collection[str] | None = None) -> Results:
    """Train and score what `out` does not have yet, seed by seed -> all that it has by now.

    only: names of the runs to do now. Several processes may each do some, in one `out`. Raises ValueError before the
    first run when a teacher of a later one would not be there, or one of these is there and was done otherwise.
    """
    named = [name for name in study.runs if only is None or name in only]
    others = done_otherwise(study)
    own = {t for name in named for t in teacher_names(study.runs[name]) if t not in study.teaching.checkpoints}
    _refuse_old({at: why for at, why in others.items() if at[0] in {*named, *own} and at[1] in seeds}, study)
    for (name, seed), changed in others.items():
        print(f"left out of the tables: {study.folder(name, seed)}, done otherwise ({'; '.join(changed)})", flush=True)
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
        write_tables(study, others)
    write_tables(study, others)
    return _without(results_in(study.out, study.runs), others)


def done_otherwise(study: Study) -> dict[tuple[str, int], list[str]]:
    """(name, seed) of the study's runs that `out` has with other settings, of other data, or with another backbone or
    other teachers -> in what they differ, `name: there -> now` each."""
    found = {}
    for name, results in results_in(study.out, study.runs).items():
        for seed, result in results.items():
            run, folder = dataclasses.replace(study.runs[name], seed=seed), study.folder(name, seed)
            changed = changes_since(folder, run, study.source, data_digest(study.source))
            if result.given is not None:
                now = study.given(name, seed)
                gone = {f"teacher {t}" for t in study.teachers(name, seed)} - set(now)  # cannot be compared any more
                changed += differences({role: of for role, of in result.given.items() if role not in gone}, now)
            if changed:
                found[name, seed] = changed
    return found


def _refuse_old(asked: Mapping[tuple[str, int], list[str]], study: Study) -> None:
    if asked:
        folders = [
            f"{study.folder(name, seed)}\n    " + "\n    ".join(why) for (name, seed), why in sorted(asked.items())
        ]
        raise ValueError(
            "these runs are done, but otherwise than asked for now; choose another --out, or move them away to do them "
            "anew (of a teacher, --teacher NAME=CHECKPOINT takes it as it is). What differs (there -> now):\n  "
            + "\n  ".join(folders)
        )


def _without(results: Results, others: Collection[tuple[str, int]]) -> Results:
    return {n: {seed: r for seed, r in done.items() if (n, seed) not in others} for n, done in results.items()}


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


def write_tables(study: Study, others: Collection[tuple[str, int]] = ()) -> str:
    """OUT/table.md and, where runs learn from teachers, OUT/gains.md -> both, without the runs and seeds in `others`.
    OUT/results.csv has all that OUT has."""
    out, results = study.out, _without(results_in(study.out, study.runs), others)
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
    given = study.given(name, seed)  # before hours in which a file may change
    teaching = Teaching(study.teachers(name, seed), study.teaching.cache if run.distill is not None else None)
    last = train(run, source, study.folder(name, seed), Start(backbone=study.start(name)), teaching, workers)
    network = load_network(last)
    scores = evaluate(network, keyframes, ["all"], Batches(workers=workers))["all"].to_dict()
    agreement = {}
    if run.distill is not None and run.distill.terms:
        rows = range(0, len(keyframes), AGREEMENT_STEP)
        agreement = held_out_agreement(last, teaching.checkpoints, keyframes, rows, workers)
    known = {teacher: _own_score(path) for teacher, path in teaching.checkpoints.items()}
    return Result(
        scores,
        parameters_exported(network.detector),
        training_minutes(last),
        {teacher: score for teacher, score in known.items() if score is not None},
        agreement,
        given,
    )


def _own_score(checkpoint: Path) -> float | None:
    """The mAP of a run of a study, None for a checkpoint from elsewhere."""
    path = checkpoint.parent / "result.json"
    return float(read_result(path).scores["mean_ap"]) if path.is_file() else None


def with_changes(runs: Mapping[str, Run], changes: Mapping[str, str], only: Collection[str] | None) -> dict[str, Run]:
    """`runs` with `changes` in those of `only`, in all without it. Raises ValueError naming the run that cannot have
    one, and for a seed."""
    if "seed" in changes:
        raise ValueError("--set seed: a study's seeds are given by --seeds")
    changed = dict(runs)
    for name in runs if only is None else only:
        try:
            changed[name] = override(runs[name], changes)
        except ValueError as error:
            raise ValueError(f"--set for {name}: {error}; --only names the runs that are changed") from error
    return changed


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.study", description=__doc__)
    parser.add_argument("study", help="package.module:function that returns name -> Run")
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="names of the study's runs to do now")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="such as optim.steps=100, in the runs to do now"
    )
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
    try:
        runs = with_changes(runs, changes_of(args.set), args.only)
    except ValueError as error:
        parser.error(str(error))
    study = Study(runs, source_of(args), args.out, teaching, args.backbone, args.workers)
    results = run_study(study, args.seeds, args.only)
    print(f"{study_table(results)}\n{gains_table(runs, results)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
