"""Train an experiment: `python -m training.train training.experiments.demo:full --data DIR --out runs/demo`.

Running the same command again resumes from the run directory's last checkpoint, or from the one before where that is
damaged. After a SIGTERM the run saves and ends with exit status 75, after Ctrl-C with 130: the same command goes on.
On several GPUs or machines: `torchrun --nproc-per-node 8 -m training.train ...`; batch_size is shared by all processes,
so the run stays the same.
With TRACEBACK=1 in the environment an error shows where it comes from.
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from training.changes import changes_of, override
from training.command_line import errors_as_text
from training.data.clips import ClipDataset
from training.data.frames import data_digest, rows_to_learn
from training.data.source import Source, add_source, source_of
from training.data.split_objects import require_objects
from training.experiments import load_run
from training.processes import own_threads, own_workers, rank_and_world
from training.quiet import quiet
from training.run import Run, image_targets, run_to_plain
from training.schedules import total_steps
from training.trainer.allocation import keep_freed_memory
from training.trainer.callbacks import ProgressLine, Resumption, Stopwatch
from training.trainer.checkpoint_files import LAST, CheckpointFiles, remove_parts
from training.trainer.ema import Ema
from training.trainer.epochs import EpochCheckpoints
from training.trainer.failures import explained, interruptible, restoring
from training.trainer.lightning_module import DetectorModule
from training.trainer.loading import open_keyframes, scored_split, training_loader
from training.trainer.resuming import find_resumable
from training.trainer.run_directory import begin
from training.trainer.run_lock import only_run_in
from training.trainer.starting import FRESH, Start, as_narrow_as, begin_with, heads_upon
from training.trainer.teaching import (
    ALONE,
    Teaching,
    fill_caches,
    open_caches,
    open_teachers,
    paths_of,
    seen_in_training,
)
from training.trainer.termination import Termination
from training.trainer.validation import Validation


def train(
    run: Run, source: Source, out: Path, start: Start = FRESH, teaching: Teaching = ALONE, workers: int = 0
) -> Path:
    """Fit `run` on the training split of `source`, going on from `out`/last.ckpt if there is one, or from the one
    before where that cannot be used; returns the path of the last.

    On the same machine a run that was interrupted gives what an uninterrupted one gives (see EndlessShuffle). Only a
    new run has a start. workers: loader processes.
    Raises ValueError when the split has no keyframes or no objects, another run is at work in `out`, or `out` belongs
    to one; TrainingStopped when memory runs out, a loader process dies or the loss is not finite; Preempted after a
    SIGTERM, Interrupted after Ctrl-C.
    """
    keep_freed_memory()
    rank, world = rank_and_world()
    with only_run_in(out) if rank == 0 else nullcontext():
        if rank == 0:
            remove_parts(out)
        with interruptible(out):
            return _train(run, source, out, start, teaching, workers, rank, world)


@quiet()
def _train(
    run: Run, source: Source, out: Path, start: Start, teaching: Teaching, workers: int, rank: int, world: int
) -> Path:
    lightning.seed_everything(run.seed, workers=True, verbose=False)
    targets = image_targets(run)
    keyframes = open_keyframes(run.spec, run.data, source, "train", image_targets=targets)
    require_objects(keyframes, "train")
    validation = _validation(run, source, out, workers)  # what it lacks is said before teachers are asked
    if rank == 0:
        begin(out, run, source, data_digest(source), world)
    rows, config = rows_to_learn(source, keyframes), seen_in_training(run, teaching.cache is not None)
    dataset = ClipDataset(keyframes, run.spec, config, run.seed, targets, rows)
    samples = run.batch_size * run.optim.accumulate
    steps = total_steps(run.optim, len(dataset), run.batch_size)
    if rank == 0:
        epochs = steps * samples / len(dataset)
        print(f"{len(dataset)} samples, {steps} steps of {samples}: {epochs:.1f} epochs", flush=True)
    taught = open_teachers(run, teaching.checkpoints)
    caches = open_caches(run, taught, keyframes, teaching.cache) if teaching.cache else {}
    module = DetectorModule(run, steps, taught, caches)
    found = find_resumable(out, module)
    if found is not None and found.remark and rank == 0:
        print(found.remark, flush=True)
    done = found.step if found else 0
    loader = training_loader(dataset, run, done, world, workers)
    if module.distiller is not None:
        fill_caches(module.distiller, run, keyframes, workers, None if rows is None else rows.tolist())
    if found is None:
        begin_with(module.detector, run, taught, start)
    last = out / LAST
    resumption = Resumption(done)
    callbacks = [resumption, Stopwatch(), *validation]
    if run.optim.epochs:
        callbacks.append(EpochCheckpoints(out, samples, len(dataset)))
    termination = Termination(last)
    callbacks.append(termination)
    trainer = _trainer(run, out, steps, samples, callbacks, CheckpointFiles(bool(found and found.remark)))
    with restoring(found.path if found else None, resumption), explained(run, out), termination:
        trainer.fit(module, loader, ckpt_path=found.path if found else None, weights_only=True)
        trainer.save_checkpoint(last, weights_only=False)  # steps need not be a multiple of checkpoint_every
    return last


def _validation(run: Run, source: Source, out: Path, workers: int) -> list[Callback]:
    ema = Ema(run.optim.ema) if run.optim.ema else None
    callbacks: list[Callback] = [ema] if ema else []
    if run.validate_every:
        keyframes = open_keyframes(run.spec, run.data, source, scored_split(run.data))
        require_objects(keyframes, scored_split(run.data))
        callbacks.append(Validation(keyframes, run, out, ema, workers))
    return callbacks


def _trainer(
    run: Run, out: Path, steps: int, samples: int, callbacks: list[Callback], files: CheckpointFiles
) -> lightning.Trainer:
    every = min(20, steps)
    world, local = rank_and_world()[1], int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    several: dict[str, Any] = {"plugins": [files, LightningEnvironment()]}  # not SLURM's, which requeues by itself
    if world > 1:  # parameters may rest in a step: branches of losses that a batch has no targets for
        several = {
            "strategy": DDPStrategy(find_unused_parameters=True),
            "sync_batchnorm": torch.cuda.is_available(),
            "plugins": [files],
        }
    return lightning.Trainer(
        accelerator="auto",
        devices=local,
        num_nodes=world // local,
        precision=run.precision,  # type: ignore[arg-type]
        max_steps=steps,
        accumulate_grad_batches=run.optim.accumulate,
        default_root_dir=out,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=every,
        logger=[CSVLogger(out, "csv"), TensorBoardLogger(out, "tensorboard", version=0)],  # a CSV per resume
        callbacks=[
            ModelCheckpoint(
                out, Path(LAST).stem, every_n_train_steps=run.checkpoint_every, enable_version_counter=False
            ),
            LearningRateMonitor("step"),
            ProgressLine(every, samples),
            *callbacks,
        ],
        **several,
    )


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("experiment", help="package.module:function, such as training.experiments.demo:full")
    add_source(parser, required=False)
    parser.add_argument("--out", type=Path, help="run directory; resumes from its last.ckpt")
    parser.add_argument(
        "--init",
        type=Path,
        help="checkpoint whose weights to start from (a resumed run goes on with its own); one of training.prune gives "
        "its widths, too",
    )
    parser.add_argument("--init-branch", nargs="+", default=[], metavar="MODULE=CHECKPOINT", help="such as radar=...")
    parser.add_argument(
        "--backbone", type=Path, help="torchvision's ImageNet weights, or a checkpoint with such an image backbone"
    )
    parser.add_argument("--teacher", nargs="+", default=[], metavar="NAME=CHECKPOINT", help="those the run learns from")
    parser.add_argument("--teacher-cache", type=Path, help="folder that keeps what teachers say of each sample")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="such as optim.steps=100 seed=1")
    parser.add_argument("--print-config", action="store_true", help="print the run as JSON and stop")
    parser.add_argument(
        "--workers", type=int, help="loader processes of each training process (default: from the cores it may use)"
    )
    args = parser.parse_args(argv)
    try:
        run = override(load_run(args.experiment), changes_of(args.set))
        start = Start(args.init, paths_of(args.init_branch), args.backbone)
        teaching = Teaching(paths_of(args.teacher), args.teacher_cache)
    except ValueError as error:
        parser.error(str(error))
    if args.print_config:
        print(json.dumps(run_to_plain(run), indent=2))
        return 0
    if args.data is None or args.out is None:
        parser.error("--data and --out are needed to train")
    torch.set_num_threads(own_threads())
    cv2.setNumThreads(1)  # the loader shares the cores with the network
    run = as_narrow_as(heads_upon(run, args.init), args.init)
    last = train(
        run, source_of(args), args.out, start, teaching, own_workers() if args.workers is None else args.workers
    )
    print(f"checkpoint: {last}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
