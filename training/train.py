"""Train an experiment: `python -m training.train training.experiments.demo:full --data DIR --out runs/demo`.

Running the same command again resumes from the run directory's last checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from nuscenes.nuscenes import NuScenes
from torch.utils.data import DataLoader

from training.checkpoint import load_module
from training.data.clips import ClipDataset, EndlessShuffle, collate
from training.data.nuscenes import load_keyframes, read_split
from training.lightning_module import DetectorModule
from training.plain import override
from training.run import Run, run_to_plain


class ProgressLine(Callback):
    """One line every `every` steps: losses, samples per second, time left."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.started: tuple[int, float] | None = None

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        step, now = trainer.global_step, time.monotonic()
        if self.started is None:
            self.started = (step, now)
        if step % self.every == 0 and step > self.started[0]:
            rate = (step - self.started[0]) / (now - self.started[1])
            terms = "  ".join(
                f"{k.removeprefix('train/')} {float(v):.3f}"
                for k, v in trainer.callback_metrics.items()
                if k.startswith("train/")
            )
            speed = f"{rate * len(batch['index']):.2f} samples/s  {(trainer.max_steps - step) / rate / 60:.1f} min left"
            print(f"step {step}/{trainer.max_steps}  {terms}  {speed}", flush=True)


def load_experiment(name: str) -> Run:
    """`package.module:function` -> Run. Raises ValueError naming what is wrong."""
    module_name, _, function = name.partition(":")
    module = importlib.import_module(module_name)
    if not hasattr(module, function):
        raise ValueError(
            f"{name}: no such experiment; {module_name} has {[n for n in vars(module) if not n.startswith('_')]}"
        )
    return getattr(module, function)()


def train(run: Run, data: Path, version: str, out: Path, workers: int = 0, init: Path | None = None) -> Path:
    """Fit `run` on the training split of `data`, going on from `out`/last.ckpt if there is one; returns that path.

    On the same machine a run that was interrupted gives what an uninterrupted one gives (see EndlessShuffle).
    init: a checkpoint whose weights a new run starts from.
    Raises ValueError when the split has no keyframes, FloatingPointError when the loss is not finite.
    """
    lightning.seed_everything(run.seed, workers=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps(run_to_plain(run), indent=2))
    scenes = read_split(data, version, "train")
    keyframes = load_keyframes(NuScenes(version, str(data), verbose=False), scenes, run.spec)
    if not keyframes:
        raise ValueError(f"{data}: the split `train` has no keyframes; see splits.json there")
    last = out / "last.ckpt"
    resume = str(last) if last.is_file() else None
    done = torch.load(last, map_location="cpu", weights_only=True)["global_step"] if resume else 0
    loader = DataLoader(
        ClipDataset(keyframes, run.spec, run.data, run.seed),
        run.batch_size,
        collate_fn=collate,
        sampler=EndlessShuffle(len(keyframes), run.seed, first=done * run.batch_size),
        num_workers=workers,
    )
    steps = run.optim.steps
    epochs = steps * run.batch_size / len(keyframes)
    print(f"{len(keyframes)} keyframes, {steps} steps of {run.batch_size}: {epochs:.1f} epochs", flush=True)
    every = min(20, steps)
    trainer = lightning.Trainer(
        accelerator="auto",
        precision=run.precision,  # type: ignore[arg-type]
        max_steps=steps,
        gradient_clip_val=run.optim.clip_norm,
        default_root_dir=out,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=every,
        logger=[CSVLogger(out, "csv"), TensorBoardLogger(out, "tensorboard", version=0)],  # a CSV per resume
        callbacks=[
            ModelCheckpoint(out, "last", every_n_train_steps=run.checkpoint_every, enable_version_counter=False),
            LearningRateMonitor("step"),
            ProgressLine(every),
        ],
    )
    module = DetectorModule(run)
    if init is not None and resume is None:
        module.load_state_dict(load_module(init).state_dict())
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(last)  # steps need not be a multiple of checkpoint_every
    return last


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("experiment", help="package.module:function, such as training.experiments.demo:full")
    parser.add_argument("--data", type=Path, required=True, help="nuScenes-format data root")
    parser.add_argument("--version", default="v1.0-trainval")
    parser.add_argument("--out", type=Path, required=True, help="run directory; resumes from its last.ckpt")
    parser.add_argument(
        "--init", type=Path, help="checkpoint whose weights to start from (a resumed run goes on with its own)"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="such as optim.steps=100 seed=1")
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    args = parser.parse_args(argv)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    cv2.setNumThreads(1)  # the loader shares the cores with the network
    run = load_experiment(args.experiment)
    run = override(run, dict(change.split("=", 1) for change in args.set))
    print(f"checkpoint: {train(run, args.data, args.version, args.out, args.workers, args.init)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
