"""A student that takes less time: `python -m training.prune CHECKPOINT --budget 0.55 --data DIR --out DIR`.

Channels are cut until the network takes --budget of its latency before, as measured on the engine of --engine: those
that the training loss misses least for the time that they take (HALP). Then the network is trained on, as
training.train does it, on the run of its checkpoint or on that of --experiment, with the same teachers.
OUT/pruned.ckpt is the network after the cut, OUT/finetuned/last.ckpt after training, OUT/report.json what was
predicted, measured and lost. The latency of layers is measured once and kept in OUT/latency_ENGINE.json; the same
command, given again, goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import lightning
import torch

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.files import write_atomic
from bev_perception.inference.backend import open_backend
from training.changes import changes_of, override
from training.command_line import errors_as_text
from training.data.clips import ClipDataset
from training.data.frames import rows_to_learn
from training.data.nuscenes import Keyframes
from training.data.source import Source, add_source, source_of
from training.data.split_objects import require_objects
from training.experiments import load_run
from training.export import export_bundle
from training.models import STUDENTS
from training.models.detector import Detector
from training.models.widths import Cut
from training.processes import own_threads
from training.pruning.dependencies import cut, cut_of
from training.pruning.engines import ENGINES, engine_version
from training.pruning.frames import two_frames
from training.pruning.importance import taylor_importance
from training.pruning.latency import Table, measure_network, measure_table
from training.pruning.pieces import find_pieces
from training.pruning.plan import Plan, make_plan
from training.pruning.proof import TOLERANCE, Channels, difference, find_channels, masked
from training.pruning.report import channel_lines, latency_lines, report, score_lines
from training.run import Run, image_targets, run_to_plain, seen_by_network
from training.train import train
from training.trainer.checkpoint import load_network, weights_of
from training.trainer.checkpoint_files import CheckpointFiles
from training.trainer.detect import evaluate
from training.trainer.loading import Batches, open_keyframes, training_loader
from training.trainer.network import Network
from training.trainer.starting import Start, as_narrow_as
from training.trainer.teaching import Teaching, paths_of, teacher_names

PRUNED, REPORT = "pruned.ckpt", "report.json"
TIMED_RUNS = 9
# The table knows layers by themselves, and a cut may save less in the whole network than it says (`make_plan`): so the
# network that results is measured, and the choice made again with the share of the savings that showed.
ROUNDS = 4
LEAST_SAVED = 0.05
NEAR = 0.015  # of the dense network's latency, by which a measured share may miss the budget


@dataclass(frozen=True)
class Settings:
    """budget: share of the latency; engine, threads: that are to run; batches: of the training split, for importance;
    seed: of their order; scenes: of the validation split that are scored, None for all."""

    budget: float
    engine: str = "onnxruntime"
    threads: int = 1
    batches: int = 32
    seed: int = 0
    scenes: int | None = None


@dataclass(frozen=True)
class Trial:
    """What was cut, its measured ms, and its checkpoint."""

    plan: Plan
    made: Cut
    ms: float
    checkpoint: bytes


def prune(checkpoint: Path, source: Source, out: Path, latency: Path, settings: Settings) -> dict[str, Any]:
    """Write OUT/pruned.ckpt and OUT/report.json -> what the latter holds.

    Raises ImportError without torch-pruning or the engine, ValueError for a budget that cannot be met, a network that
    is no student, and a cut that cannot be proven.
    """
    version = engine_version(settings.engine)  # what is missing is told first
    network = load_network(checkpoint)
    if network.run.model not in STUDENTS:
        raise ValueError(f"{checkpoint} is a {network.run.model}; vehicles run students: {sorted(STUDENTS)}")
    out.mkdir(parents=True, exist_ok=True)
    validation = open_keyframes(network.spec, network.data, source, "val", settings.scenes)
    require_objects(validation, "val")
    dense, frames = network.detector, two_frames(network.spec)
    channels = find_channels(dense, frames)
    pieces = find_pieces(dense, frames, channels.groups)
    print(f"{len(channels.groups)} groups of channels can be cut; latency with {settings.engine} {version}", flush=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        bundle = load_bundle(export_bundle(dense, Path(folder, "dense")))
        table = measure_table(
            pieces,
            bundle.spec.onnx_sha256,
            lambda: in_turns([bundle], settings.engine, settings.threads)[0],
            settings.engine,
            settings.threads,
            latency,
        )
        body = replace(network, run=replace(network.run, spread=None))  # nothing is cut for how far boxes may be off
        importance = taylor_importance(body, _batches(body, source, settings), channels.groups)
        shown, tried = 1.0, []
        for number in range(ROUNDS):
            plan = make_plan(channels.groups, pieces, table, importance, settings.budget, shown)
            narrower, made = _cut(dense, channels, plan, network.run)
            _write(Path(folder, PRUNED), narrower, replace(network.run, spec=narrower.spec, cut=made))
            found = load_bundle(export_bundle(narrower, Path(folder, f"pruned_{number}")))
            ms = measure_network(latency, found.spec.onnx_sha256, partial(_beside, bundle, found, table, settings))
            tried.append(Trial(plan, made, ms, Path(folder, PRUNED).read_bytes()))
            share, predicted = ms / table.network_ms, plan.predicted_ms / table.network_ms
            print(f"cut {number + 1}: predicted {predicted:.3f} of the latency, measured {share:.3f}", flush=True)
            if abs(share - settings.budget) <= NEAR:
                break
            shown *= max(1 - share, LEAST_SAVED) / max(1 - predicted, LEAST_SAVED)
        best = min(tried, key=lambda trial: abs(trial.ms / table.network_ms - settings.budget))
        plan, made, after = best.plan, best.made, best.ms
        write_atomic(out / PRUNED, best.checkpoint)
    pruned, before = load_network(out / PRUNED), table.network_ms
    print(
        f"\n{channel_lines(channels.groups, plan, channels.fixed)}\n\n{latency_lines(table, plan, (before, after))}\n"
    )
    scores = {"dense": _scores(network, validation), "pruned": _scores(pruned, validation)}
    print(score_lines(scores), flush=True)
    said = {"checkpoint": str(checkpoint), **asdict(settings)}
    content = report(channels.groups, plan, table, channels.fixed, made, (before, after), said, scores)
    write_atomic(out / REPORT, json.dumps(content, indent=1) + "\n")
    return content


def _beside(dense: Bundle, found: Bundle, table: Table, settings: Settings) -> float:
    """ms of a narrower network by the table's measure: its share of the dense one, both in turns, of the table's ms."""
    before, after = in_turns([dense, found], settings.engine, settings.threads)
    return table.network_ms * after / before


def _cut(dense: Detector, channels: Channels, plan: Plan, run: Run) -> tuple[Detector, Cut]:
    """The network without the plan's channels, proven, and the table of its widths against the run's config."""
    frames = two_frames(dense.spec)
    narrower = cut(dense, frames, channels.groups, plan.dropped)
    found = difference(narrower, masked(dense, channels.groups, plan.dropped), frames)
    if not found <= TOLERANCE:
        raise ValueError(f"the cut network answers otherwise than the whole one with the channels at zero: {found:.1e}")
    made = cut_of(dense, narrower)
    before = run.cut or Cut({}, made.state)  # of a network that was cut already
    return narrower, Cut({**before.layers, **made.layers}, before.state)


def _write(path: Path, detector: Detector, run: Run) -> None:
    content = {"state_dict": weights_of(detector), "run": run_to_plain(run), "global_step": 0}
    CheckpointFiles().save_checkpoint(content, path)


def _batches(network: Network, source: Source, settings: Settings) -> Any:
    """The first batches of a training run of this seed, without what only teachers read."""
    run = replace(network.run, seed=settings.seed)
    lightning.seed_everything(run.seed, verbose=False)
    targets = image_targets(run)
    keyframes = open_keyframes(run.spec, run.data, source, "train", image_targets=targets)
    rows = rows_to_learn(source, keyframes)
    dataset = ClipDataset(keyframes, run.spec, seen_by_network(run), run.seed, targets, rows)
    for number, batch in enumerate(islice(training_loader(dataset, run, 0, 1, 0), settings.batches)):
        if number % 10 == 9:
            print(f"importance: {number + 1} of {settings.batches} batches", flush=True)
        yield batch


def in_turns(bundles: Sequence[Bundle], engine: str, threads: int) -> list[float]:
    """The least of TIMED_RUNS answers of each to its golden inputs, in ms, one bundle after the other: CPU time of all
    threads, with TensorRT the wall clock."""
    options, clock = {"threads": threads}, time.process_time
    if engine == "tensorrt":
        options, clock = {}, time.perf_counter
    engines = [open_backend(bundle, engine, **options) for bundle in bundles]
    inputs = [bundle.golden()[0] for bundle in bundles]
    taken: list[list[float]] = [[] for _ in bundles]
    try:
        for _ in range(TIMED_RUNS + 1):
            for opened, given, times in zip(engines, inputs, taken):
                begun = clock()
                for value in opened.infer(given).values():
                    opened.fetch(value)
                times.append(1e3 * (clock() - begun))
    finally:
        for opened in engines:
            opened.close()
    return [min(times[1:]) for times in taken]  # the first warms up


def _scores(network: Network, keyframes: Keyframes) -> dict[str, Any]:
    return evaluate(network, keyframes, ["all"], Batches(network.run.batch_size))["all"].to_dict()


def finetune(run: Run, source: Source, out: Path, teaching: Teaching, workers: int, scenes: int | None) -> Path:
    """Train the pruned network on, score it into the report -> its checkpoint."""
    last = train(run, source, out / "finetuned", Start(network=out / PRUNED), teaching, workers)
    network = load_network(last)
    content = json.loads((out / REPORT).read_text())
    content["scores"]["fine-tuned"] = _scores(network, open_keyframes(run.spec, network.data, source, "val", scenes))
    write_atomic(out / REPORT, json.dumps(content, indent=1) + "\n")
    print(score_lines(content["scores"]), flush=True)
    return last


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.prune", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="trained student, of training.train")
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True, help="share of its latency, such as 0.55")
    parser.add_argument("--engine", choices=sorted(ENGINES), default=Settings.engine, help="which is to run it")
    parser.add_argument("--threads", type=int, default=Settings.threads, help="of the engine (%(default)s)")
    parser.add_argument("--latency", type=Path, help="table of the layers' latency (default: OUT/latency_ENGINE.json)")
    parser.add_argument(
        "--batches", type=int, default=Settings.batches, help="of the training split, for importance (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of their order (%(default)s)")
    parser.add_argument("--scenes", type=int, help="score the first n scenes of the validation split only")
    parser.add_argument("--no-finetune", action="store_true", help="stop after the cut")
    parser.add_argument("--experiment", help="run to train on (default: that of the checkpoint)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="in that run, such as optim.steps=500"
    )
    parser.add_argument("--teacher", nargs="+", default=[], metavar="NAME=CHECKPOINT", help="those the run learns from")
    parser.add_argument("--teacher-cache", type=Path, help="folder that keeps what teachers say of each sample")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of training")
    args = parser.parse_args(argv)
    torch.set_num_threads(own_threads())
    cv2.setNumThreads(1)
    settings = Settings(args.budget, args.engine, args.threads, args.batches, args.seed, args.scenes)
    source, teaching = source_of(args), Teaching(paths_of(args.teacher), args.teacher_cache)
    if not 0 < settings.budget < 1:
        parser.error(f"--budget is a share of the latency before, above 0 and below 1, found {settings.budget:g}")
    run = load_run(args.experiment) if args.experiment else load_network(args.checkpoint).run
    run = override(run, changes_of(args.set))
    if not args.no_finetune and set(teacher_names(run)) != set(teaching.checkpoints):
        parser.error(
            f"the run learns from the teachers {list(teacher_names(run))}, given are {sorted(teaching.checkpoints)}: "
            "name each one's checkpoint, --teacher NAME=CHECKPOINT, or leave training out with --no-finetune"
        )
    prune(args.checkpoint, source, args.out, args.latency or args.out / f"latency_{args.engine}.json", settings)
    print(f"checkpoint: {args.out / PRUNED}")
    if not args.no_finetune:
        narrow_run = as_narrow_as(run, args.out / PRUNED)
        last = finetune(narrow_run, source, args.out, teaching, args.workers, args.scenes)
        print(f"checkpoint: {last}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
