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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from bev_perception.files import write_atomic
from training.command_line import errors_as_text
from training.experiments import load_experiment
from training.models import STUDENTS
from training.models.exported import parameters_exported
from training.processes import own_threads
from training.run import Run
from training.study_tables import gains_table, results_csv, study_table
from training.train import train
from training.trainer.checkpoint import load_module, training_minutes
from training.trainer.detect import evaluate
from training.trainer.loading import open_keyframes, scored_split
from training.trainer.teaching import held_out_agreement, paths_of, teacher_names

AGREEMENT_STEP = 4  # every so many scored keyframes say how far student and teacher agree


def run_study(
    study: dict[str, Run],
    data: Path,
    version: str,
    out: Path,
    seeds: Sequence[int],
    workers: int = 1,
    teachers: Mapping[str, Path] | None = None,
    teacher_cache: Path | None = None,
    only: Collection[str] | None = None,
    backbone: Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Train and score what OUT does not have yet, seed by seed -> name -> one result per seed that OUT has by now.

    only: names of the runs to do now; backbone: what students with cameras start with (training.train). Several
    processes may each do some, in one OUT. Raises ValueError before the first run when a teacher of a later one would
    not be there.
    """
    given = teachers or {}
    named = [name for name in study if only is None or name in only]
    todo = [(seed, name) for seed in seeds for name in named if not _is_done(out, name, seed)]
    _check_teachers(study, todo, given, out)
    for seed, name in todo:
        if _is_done(out, name, seed):  # by another process, meanwhile
            continue
        print(f"== {name}, seed {seed}", flush=True)
        run, folder = dataclasses.replace(study[name], seed=seed), out / name / str(seed)
        chosen = {t: given.get(t, out / t / str(seed) / "last.ckpt") for t in teacher_names(run)}
        try:
            result = _train_and_score(run, data, version, folder, workers, chosen, teacher_cache, backbone)
        except ImportError as error:  # an optional package: the others can be had all the same
            print(f"{name} is left out: {error}", flush=True)
            continue
        write_atomic(folder / "result.json", json.dumps(result, indent=1) + "\n")
        write_tables(out, study)
    return results_in(out, study)


def _is_done(out: Path, name: str, seed: int) -> bool:
    return (out / name / str(seed) / "result.json").is_file()


def _check_teachers(
    study: Mapping[str, Run], todo: Sequence[tuple[int, str]], given: Mapping[str, Path], out: Path
) -> None:
    """Raises ValueError unless each run's teachers are given, done, or to be done before it."""
    for position, (seed, name) in enumerate(todo):
        for teacher in teacher_names(study[name]):
            if teacher in given:
                if not given[teacher].is_file():
                    raise ValueError(f"{name} learns from {teacher}, and there is no {given[teacher]}")
            elif not _is_done(out, teacher, seed) and (seed, teacher) not in todo[:position]:
                raise ValueError(
                    f"{name}, seed {seed}, learns from {teacher}, and {out / teacher / str(seed)} holds no finished "
                    f"run; name {teacher} in --only, too, or give --teacher {teacher}=CHECKPOINT"
                )


def write_tables(out: Path, study: dict[str, Run]) -> str:
    """OUT/table.md and, where runs learn from teachers, OUT/gains.md -> both. OUT/results.csv has all that OUT has."""
    results = results_in(out, study)
    table, gains = study_table(results), gains_table(study, results)
    every = sorted({path.parent.parent.name for path in out.glob("*/*/result.json")})
    write_atomic(out / "results.csv", results_csv(results_in(out, every)))
    write_atomic(out / "table.md", table)
    if gains:
        write_atomic(out / "gains.md", gains)
    return f"{table}\n{gains}"


def results_in(out: Path, study: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Name -> what its seeds reached, of those that are done."""
    paths = {name: sorted((out / name).glob("*/result.json"), key=lambda p: int(p.parent.name)) for name in study}
    return {
        name: [json.loads(path.read_text()) | {"seed": int(path.parent.name)} for path in found]
        for name, found in paths.items()
    }


def _train_and_score(
    run: Run,
    data: Path,
    version: str,
    folder: Path,
    workers: int,
    teachers: Mapping[str, Path],
    teacher_cache: Path | None,
    backbone: Path | None,
) -> dict[str, Any]:
    cache = teacher_cache if run.distill is not None else None
    start = backbone if run.spec.cameras and run.model in STUDENTS else None
    last = train(run, data, version, folder, workers, teachers=teachers, teacher_cache=cache, backbone=start)
    module = load_module(last)
    keyframes = open_keyframes(run.spec, run.data, data, version, scored_split(run.data))
    scores = evaluate(module, keyframes, ["all"], workers=workers)["all"].to_dict()
    agreement = {}
    if run.distill is not None and run.distill.terms:
        rows = range(0, len(keyframes), AGREEMENT_STEP)
        agreement = held_out_agreement(last, teachers, keyframes, rows, workers)
    return {
        "scores": scores,
        "parameters": parameters_exported(module.detector),
        "train_minutes": training_minutes(last),
        "teachers": {name: score for name in teachers if (score := _own_score(teachers[name])) is not None},
        "agreement": agreement,
    }


def _own_score(checkpoint: Path) -> float | None:
    """The mAP of a run of a study, None for a checkpoint from elsewhere."""
    result = checkpoint.parent / "result.json"
    return float(json.loads(result.read_text())["scores"]["mean_ap"]) if result.is_file() else None


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.study", description=__doc__)
    parser.add_argument("study", help="package.module:function that returns name -> Run")
    parser.add_argument("--data", type=Path, required=True, help="nuScenes-format data root")
    parser.add_argument("--version", default="v1.0-trainval")
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
    study = load_experiment(args.study)
    if not isinstance(study, dict):
        raise SystemExit(f"{args.study} gives a {type(study).__name__}, a study is a dict of runs")
    unknown = sorted(set(args.only or ()) - set(study))
    if unknown:
        raise SystemExit(f"--only: no runs {unknown}; the study has {sorted(study)}")
    run_study(
        study,
        args.data,
        args.version,
        args.out,
        args.seeds,
        args.workers,
        paths_of(args.teacher),
        args.teacher_cache,
        args.only,
        args.backbone,
    )
    print(write_tables(args.out, study))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
