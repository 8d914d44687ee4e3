"""Teach an inverse head on near objects: draws, losses, and the run around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bev_perception.model_spec import CLASSES
from bev_perception.plain import to_plain
from training.changes import differences
from training.command_line import TrainingStopped
from training.data.clips import EndlessShuffle
from training.long_range.checkpoint import TeachConfig, as_run, config_of
from training.long_range.near_objects import Found
from training.long_range.network import ANGLES, InverseHead
from training.long_range.views import moved, spans
from training.quiet import quiet
from training.trainer.callbacks import ProgressLine, Resumption, Stopwatch
from training.trainer.checkpoint import read_checkpoint
from training.trainer.checkpoint_files import LAST, CheckpointFiles, remove_parts
from training.trainer.failures import interruptible
from training.trainer.resuming import newest_whole
from training.trainer.run_lock import only_run_in
from training.trainer.termination import Termination

SIDES = (4, 8, 16)  # px: how finely objects far away are seen; finer ones stay as they are


@dataclass(frozen=True)
class Draw:
    """A batch as the head is asked: crops (N, 3, side, side) in 0..1, labels (N,), sizes (N, K, 2), and what it should
    say: depths (N, K) m, log_size (N, 3), turn (N, 2) sine and cosine."""

    crops: Tensor
    labels: Tensor
    sizes: Tensor
    depths: Tensor
    log_size: Tensor
    turn: Tensor


def draw(batch: dict[str, Tensor], config: TeachConfig) -> Draw:
    """Each object where it stands and at `moves` other depths; its crop as finely as at one of these. Half of them are
    mirrored. Random numbers are torch's."""
    centre, corners = batch["centre"], batch["corners"]
    count, device = len(centre), centre.device
    low = (1 - (corners[..., 2] - centre[:, None, 2]).amin(dim=1)).clamp(4.0, config.farthest / 2)
    share = torch.rand(count, config.moves, device=device)
    elsewhere = low[:, None] * (config.farthest / low[:, None]) ** share
    depths = torch.cat([centre[:, 2:], elsewhere], dim=1)
    sizes = spans(moved(corners[:, None], centre[:, None].expand(-1, depths.shape[1], -1), depths))
    noise = torch.randn_like(sizes) * (math.sqrt(2) * config.edge_px) / batch["focal"][:, None]
    sizes = (sizes + noise).clamp(*ANGLES)
    as_here = torch.rand(count, 1, device=device) < 0.5
    pixels = (torch.where(as_here, sizes[:, 0], sizes[:, -1]) * batch["focal"]).amax(dim=1)
    crops = seen_at(batch["crop"].permute(0, 3, 1, 2).float() / 255, pixels)
    mirrored = torch.rand(count, device=device) < 0.5
    crops = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
    yaw = torch.where(mirrored, -batch["turn"], batch["turn"])
    return Draw(crops, batch["label"], sizes, depths, batch["size"].log(), torch.stack([yaw.sin(), yaw.cos()], dim=1))


def seen_at(crops: Tensor, pixels: Tensor) -> Tensor:
    """(N, 3, side, side) crops as they are where the object is (N,) pixels large."""
    seen, side = crops.clone(), crops.shape[-1]
    edges = [0.0, *(math.sqrt(a * b) for a, b in pairwise(SIDES)), 1.5 * SIDES[-1]]
    for coarse, (low, high) in zip(SIDES, pairwise(edges)):
        of = (pixels >= low) & (pixels < high)
        if coarse < side and bool(of.any()):
            small = F.interpolate(crops[of], size=coarse, mode="area")
            seen[of] = F.interpolate(small, size=side, mode="bilinear")
    return seen


class TeachModule(lightning.LightningModule):
    """The head and its losses: the negative logarithm of the Laplace density of log d (an L1 loss that also learns what
    it is worth), L1 of log size and of the turn."""

    def __init__(self, config: TeachConfig) -> None:
        super().__init__()
        self.config = config
        self.head = InverseHead(config.head)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draws depend on (seed, step) alone: a run that goes on draws what an uninterrupted one does."""
        key = (self.config.seed, self.global_step)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        drawn = draw(batch, self.config)
        guess = self.head(drawn.crops, drawn.labels, drawn.sizes)
        off = (guess.log_depth - drawn.depths.log()).abs()
        losses = {
            "depth": (off / guess.log_scale.exp() + guess.log_scale).mean(),
            "size": (guess.log_size - drawn.log_size).abs().mean(),
            "turn": (guess.turn - drawn.turn).abs().mean(),
        }
        total = losses["depth"] + 2 * losses["size"] + losses["turn"]
        if not torch.isfinite(total):
            raise TrainingStopped(f"the loss is not finite at step {self.global_step}; teach anew with a lower --lr")
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        self.log("train/off", off.mean().detach())
        return total

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.lr, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.config.lr, self.config.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = as_run(self.config)


class _Crops(Dataset[dict[str, Tensor]]):
    """Rows of `open_near_objects`, a batch at once: they lie in a file that is mapped."""

    def __init__(self, arrays: Found) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["label"])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = np.sort(np.asarray(indices) % len(self))
        return {name: torch.from_numpy(np.array(array[rows])) for name, array in self.arrays.items()}


def class_means(arrays: Found) -> tuple[Tensor, Tensor]:
    """(C,) and (C, 3): of each class the mean logarithms of the height that its 2D boxes speak of, d h, and of length,
    width, height; of a class that is not there those of all."""
    labels = torch.from_numpy(np.array(arrays["label"]))
    corners = torch.from_numpy(np.array(arrays["corners"]))
    height = (spans(corners)[:, 1] * torch.from_numpy(arrays["centre"][:, 2].copy())).log()
    size = torch.from_numpy(np.array(arrays["size"])).log()
    heights, sizes = height.mean().repeat(len(CLASSES)), size.mean(dim=0).repeat(len(CLASSES), 1)
    for label in labels.unique().tolist():
        heights[label], sizes[label] = height[labels == label].mean(), size[labels == label].mean(dim=0)
    return heights, sizes


def teach(arrays: Found, config: TeachConfig, out: Path) -> Path:
    """The path of the last checkpoint; goes on from it where there is one, or from the one before.

    Raises ValueError where `out` is of another run or another run is at work there; TrainingStopped where the loss is
    not finite, Preempted after a SIGTERM, Interrupted after Ctrl-C.
    """
    with only_run_in(out), interruptible(out):
        remove_parts(out)
        return _teach(arrays, config, out)


@quiet()
def _teach(arrays: Found, config: TeachConfig, out: Path) -> Path:
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    found = newest_whole(out)
    if found is None and (out / LAST).exists():
        raise ValueError(f"{out / LAST} cannot be read; move it away to begin anew")
    if found is not None:
        changed = differences(to_plain(config_of(read_checkpoint(found[0]), found[0])), to_plain(config))
        if changed:
            told = "\n  ".join(changed)
            raise ValueError(f"{out} was begun otherwise (there -> now); choose another --out:\n  {told}")
    path, done = found or (None, 0)
    module, last = TeachModule(config), out / LAST
    for mine, mean in zip((module.head.class_height, module.head.class_size), class_means(arrays), strict=True):
        mine.copy_(mean)
    order = EndlessShuffle(len(arrays["label"]), config.seed, first=done * config.batch_size)
    loader: Any = DataLoader(_Crops(arrays), config.batch_size, sampler=order, collate_fn=lambda batch: batch)
    every = min(50, config.steps)
    termination = Termination(last)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=config.steps,
        gradient_clip_val=5.0,
        default_root_dir=out,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=[
            ModelCheckpoint(out, Path(LAST).stem, every_n_train_steps=min(250, config.steps),
                            enable_version_counter=False),
            ProgressLine(every, config.batch_size),
            Stopwatch(),
            Resumption(done),
            termination,
        ],
        plugins=[CheckpointFiles(), LightningEnvironment()],
    )  # fmt: skip
    with termination:
        trainer.fit(module, loader, ckpt_path=path, weights_only=True)
        trainer.save_checkpoint(last, weights_only=False)
    return last
