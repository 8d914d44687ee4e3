"""Label, train, score, choose, and again: active learning by one command, which goes on where it was stopped.

    python -m training.data_engine.loop --data POOL --out OUT --by entropy \
        --experiment training.experiments.near:study:camera_radar --first 100 --budget 100 --rounds 4

POOL is a data set; the scenes that the run would train on are chosen from, the validation split is scored on. The
labeller is an oracle that knows the pool's labels, with `--noise missing=0.1` one that errs; with `--labeller files` a
person or a tool: the loop writes OUT/round_N/to_label.json, ends, and goes on once OUT/round_N/labelled.json is there,
in the same form (training.data_engine.exchange).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bev_perception.files import sha256_of, write_atomic
from bev_perception.plain import to_plain
from training.changes import changes_of, only_with, override
from training.command_line import TrainingStopped, errors_as_text
from training.data.frames import data_digest
from training.data.nuscenes import open_nuscenes
from training.data.source import Source, add_source, source_of
from training.data.split_objects import require_objects
from training.data_engine.choosing import Chosen, Picked, Request, choose
from training.data_engine.chosen_list import ChosenList, by_drive, list_of, read_list, write_list
from training.data_engine.exchange import export_cuboids, import_cuboids, merged
from training.data_engine.looking import Networks
from training.data_engine.oracle import NO_ERRORS, Errors, ask_oracle
from training.data_engine.pool import survey
from training.data_engine.scoring import fill, open_store
from training.data_engine.strategies import STRATEGIES, random_of
from training.data_engine.views import write_view
from training.data_engine.waits import NO_WAITS, WaitingStore, Waits, without_number
from training.experiments import load_run
from training.processes import own_threads
from training.run import Run, run_to_plain
from training.train import train
from training.trainer.checkpoint import load_network
from training.trainer.detect import evaluate
from training.trainer.loading import Batches, open_keyframes, scenes_of, scored_split
from training.trainer.starting import FRESH, Start, as_narrow_as, heads_upon

LIST, SCORES, VIEW, LOOP = "chosen.json", "scores.json", "data", "loop.json"
TO_LABEL, LABELLED = "to_label.json", "labelled.json"
MEMBERS = 2  # of an ensemble, where the strategy asks one


@dataclass(frozen=True)
class Loop:
    """run: what is trained in each round, anew. first, budget: frames that are labelled before the first training, and
    after each. errors: of the oracle, None for labels by files. waits: frames that the pool shows several times.
    shared: folder of the first round, where several loops begin alike; None: in `out`."""

    pool: Source
    run: Run
    out: Path
    by: str
    first: int
    budget: int
    rounds: int
    errors: Errors | None = NO_ERRORS
    waits: Waits = NO_WAITS
    seed: int = 0
    start: Start = FRESH
    shared: Path | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if self.by not in STRATEGIES:
            raise ValueError(f"--by {self.by}: expected one of {', '.join(STRATEGIES)}")
        if min(self.first, self.budget, self.rounds) < 1:
            raise ValueError(
                f"--first, --budget and --rounds are 1 or more, found {self.first}, {self.budget}, {self.rounds}"
            )

    def folder(self, number: int) -> Path:
        return (self.shared if number == 0 and self.shared else self.out) / f"round_{number}"

    def begun_with(self) -> dict[str, Any]:
        """What the first round is made by, in plain values; of files and data their digests."""
        return {
            "data": data_digest(self.pool),
            "run": run_to_plain(dataclasses.replace(self.run, seed=self.seed)),
            "init": None if self.start.network is None else sha256_of(self.start.network),
            "first": self.first,
            "noise": "labels by files" if self.errors is None else to_plain(self.errors.kinds),
            "waits": to_plain(self.waits),
            "seed": self.seed,
        }

    @property
    def members(self) -> int:
        return MEMBERS if "ensemble" in STRATEGIES[self.by].views else 1


def run_loop(loop: Loop) -> list[dict[str, float]]:
    """Every round that is not there yet -> for each the frames labelled, how many of them differ, mAP and NDS.

    Raises TrainingStopped where labels are waited for, ValueError where what is there was made otherwise, and as
    choosing and training do.
    """
    facts = loop.begun_with()
    if loop.shared:
        only_with(loop.shared / LOOP, facts)
    only_with(loop.out / LOOP, facts | {"by": loop.by, "budget": loop.budget})
    results = []
    for number in range(loop.rounds):
        folder = loop.folder(number)
        if not (folder / LIST).is_file():
            write_list(folder / LIST, _chosen(loop, number))
        labelled = [read_list(loop.folder(k) / LIST) for k in range(number + 1)]
        if not (folder / SCORES).is_file():
            _train(loop, folder, labelled, 0)
            write_atomic(folder / SCORES, json.dumps(_scores(loop, folder, labelled), indent=1) + "\n")
        results.append(json.loads((folder / SCORES).read_bytes()))
        told = results[-1]
        print(f"round {number}: {told['frames']} frames, mAP {told['mAP']:.3f}, NDS {told['NDS']:.3f}", flush=True)
    return results


def _run(folder: Path, member: int) -> Path:
    return folder / f"run_{member}"


def _train(loop: Loop, folder: Path, labelled: Sequence[ChosenList], member: int) -> Path:
    """A member of an ensemble has weights, order and augmentation of its own, and all labels: what differs is the seed
    (deep ensembles, Lakshminarayanan et al., NeurIPS 2017). What is trained already is not trained again."""
    run, view = dataclasses.replace(loop.run, seed=loop.seed + member), _labelled(loop, folder, labelled)
    return train(run, view, _run(folder, member), loop.start, workers=loop.workers)


def _chosen(loop: Loop, number: int) -> ChosenList:
    """The first frames by chance, all others by what the network of the round before makes of them."""
    request = Request(loop.by if number else "random", loop.budget if number else loop.first, seed=loop.seed)
    drives = scenes_of(loop.run.data, loop.pool, "train")  # what training opens: all others would not be learnt from
    if number == 0:
        return list_of(loop.pool.root, loop.pool.version, request, _by_chance(loop, drives))
    before = loop.folder(number - 1)
    lists = [read_list(loop.folder(k) / LIST) for k in range(number)]
    # The others are trained when they are asked: what is scored is one, and a last round asks nobody.
    others = [_train(loop, before, lists, member) for member in range(1, loop.members)]
    checkpoints = (_run(before, 0) / "last.ckpt", *others)
    networks, spec = Networks(checkpoints), load_network(checkpoints[0]).spec
    store = open_store(loop.out / "frames", loop.pool, networks, request.views)
    fill(store, loop.pool, drives, networks)
    waiting = WaitingStore(store.folder, store.views, loop.waits)
    labelled = by_drive(lists)
    pool = survey(waiting, drives, len(spec.classes), labelled, seed=loop.seed)
    chosen = choose(waiting, drives, spec.classes, pool, request, labelled)
    return list_of(loop.pool.root, loop.pool.version, request, chosen)


def _by_chance(loop: Loop, drives: Sequence[str]) -> Chosen:
    keyframes = open_nuscenes(loop.pool, drives, loop.run.spec, loop.run.data)
    every: list[Picked] = []
    for keyframe in keyframes:
        every += [Picked(t, keyframe.scene, keyframe.stamp_ns // 1000, 0.0) for t in loop.waits.tokens(keyframe.token)]
    order = np.argsort(-random_of([frame.token for frame in every], loop.seed), kind="stable")[: loop.first]
    return Chosen(tuple(every[i] for i in order), len(every), 0, 0)


def _labelled(loop: Loop, folder: Path, lists: Sequence[ChosenList]) -> Source:
    """The data set of all that is labelled by now."""
    tokens = [without_number(frame.token) for one in lists for frame in one.frames]
    if loop.errors is not None:
        return write_view(folder / VIEW, loop.pool, tokens, ask_oracle(loop.pool, tokens, loop.errors))
    if not (folder / LABELLED).is_file():
        export_cuboids(lists[-1], folder / TO_LABEL, loop.run.spec)
        raise TrainingStopped(
            f"{folder / TO_LABEL} has {len(lists[-1].frames)} frames to label; put {LABELLED} beside it, filled in, "
            "and give the same command again"
        )
    labelled = Source(loop.pool.root, loop.pool.version, loop.pool.classes)
    for number, one in enumerate(lists):
        labels = import_cuboids(loop.folder(number) / LABELLED, one)
        tables = merged(labelled, [frame.token for frame in one.frames], labels)
        labelled = write_view(folder / VIEW, loop.pool, tokens, tables)
    return labelled


def _scores(loop: Loop, folder: Path, lists: Sequence[ChosenList]) -> dict[str, float]:
    split = scored_split(loop.run.data)
    keyframes = open_keyframes(loop.run.spec, loop.run.data, loop.pool, split)
    require_objects(keyframes, split)
    scores = evaluate(load_network(_run(folder, 0) / "last.ckpt"), keyframes, ["all"], Batches(workers=loop.workers))
    tokens = [frame.token for one in lists for frame in one.frames]
    return {
        "frames": len(tokens),
        "different": len(set(map(without_number, tokens))),
        "mAP": scores["all"].mean_ap,
        "NDS": scores["all"].nds,
    }


def add_loop(parser: argparse.ArgumentParser) -> None:
    """The options that a study has as well."""
    parser.add_argument("--experiment", default="training.experiments.near:study:camera_radar", help="what is trained")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=100, help="frames that are labelled at the beginning, by chance")
    parser.add_argument("--budget", type=int, default=100, help="and in each later round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--noise", nargs="+", default=[], metavar="KIND=AMOUNT", help="in the oracle's labels")
    parser.add_argument("--waits", default="", metavar="EVERYxLENGTH", help="each EVERYth frame is there LENGTH times")
    parser.add_argument("--init", type=Path, help="checkpoint that every training begins with")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="such as optim.steps=100")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    add_source(parser)


def prepared(args: argparse.Namespace) -> tuple[Run, Start]:
    """The run with its changes, and where it starts; one thread for images."""
    torch.set_num_threads(own_threads())
    cv2.setNumThreads(1)  # the loader shares the cores with the network
    run = as_narrow_as(heads_upon(override(load_run(args.experiment), changes_of(args.set)), args.init), args.init)
    return run, Start(network=args.init) if args.init else FRESH


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data_engine.loop", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--by", default="entropy", metavar="STRATEGY", help=", ".join(STRATEGIES))
    parser.add_argument("--labeller", choices=("oracle", "files"), default="oracle")
    parser.add_argument("--seed", type=int, default=0)
    add_loop(parser)
    args = parser.parse_args(argv)
    run, start = prepared(args)
    errors = Errors.of(args.noise, args.seed) if args.labeller == "oracle" else None
    run_loop(
        Loop(source_of(args), run, args.out, args.by, args.first, args.budget, args.rounds, errors,
             Waits.of(args.waits), args.seed, start, workers=args.workers)
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
