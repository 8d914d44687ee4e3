"""From a run to its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Subset

from bev_perception.model_spec import ModelSpec
from training.data.clips import IMAGE_TARGETS, ClipDataset, EndlessShuffle, collate
from training.data.config import DataConfig, for_evaluation
from training.data.nuscenes import Keyframe, Keyframes, open_nuscenes, read_split, require_lidar
from training.data.source import Source
from training.processes import RankShard
from training.run import Run
from training.workers import outlive_signals


@dataclass(frozen=True)
class Batches:
    """How keyframes are read to be evaluated: so many at once, by so many processes; 0: by this one."""

    size: int = 4
    workers: int = 1


def open_keyframes(
    spec: ModelSpec,
    config: DataConfig,
    source: Source,
    split: str,
    scenes: int | None = None,
    image_targets: tuple[str, ...] = IMAGE_TARGETS,
) -> Keyframes:
    """Keyframes of a split, or of its first `scenes` scenes.

    Raises ValueError when there are none, and as Keyframes does; for training also without the LiDAR that the images'
    depth targets come from, where these are among the `image_targets`.
    """
    names = scenes_of(config, source, split)[:scenes]
    keyframes = open_nuscenes(source, names, spec, config)
    if not len(keyframes):
        raise ValueError(f"{source.root}: the split {split!r} has no keyframes; see splits.json there")
    if split == "train" and spec.cameras and config.depth_stride and "depth" in image_targets:
        instead = "set data.depth_stride=0 for a network that is not supervised in the image, such as BEVDet's"
        require_lidar(keyframes.data_index, f"the depth targets of {spec.name} come from it", instead)
    return keyframes


def scenes_of(config: DataConfig, source: Source, split: str) -> list[str]:
    """Scene names of a split of the data set, or of "holdout". Raises ValueError when there are too few."""
    if split not in ("train", "holdout"):
        return read_split(source, split)
    names = read_split(source, "train")
    kept = len(names) - config.holdout
    wanted = config.train_scenes or kept
    if kept < max(wanted, 1):
        raise ValueError(
            f"{source.root} has {len(names)} training scenes; data.holdout = {config.holdout} and data.train_scenes = "
            f"{config.train_scenes} want more"
        )
    return names[kept:] if split == "holdout" else [names[i * kept // wanted] for i in range(wanted)]


def scored_split(config: DataConfig) -> str:
    """Where a run is scored while its settings are searched, and afterwards."""
    return "holdout" if config.holdout else "val"


def training_loader(dataset: ClipDataset, run: Run, steps_done: int, world: int, workers: int) -> DataLoader:
    """Endless batches of this process, from step `steps_done` on.

    Raises ValueError when the processes cannot share a batch evenly.
    """
    if run.batch_size % world:
        raise ValueError(f"batch_size {run.batch_size} cannot be shared by {world} processes; make it a multiple")
    order = EndlessShuffle(len(dataset), run.seed, first=steps_done * run.optim.accumulate * run.batch_size)
    return DataLoader(
        dataset,
        run.batch_size // world,
        collate_fn=collate,
        sampler=RankShard(order),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),  # copies to the GPU then go on beside the network
        worker_init_fn=outlive_signals,
    )


def evaluation_loader(
    keyframes: Sequence[Keyframe],
    rows: Sequence[int],
    spec: ModelSpec,
    config: DataConfig,
    batches: Batches,
    image_targets: tuple[str, ...] = (),
) -> DataLoader:
    """The `rows` of the keyframes, each once and unchanged; `index` of a batch: their rows. Targets in the images are
    drawn where a loss is to look at them."""
    dataset = ClipDataset(keyframes, spec, for_evaluation(config), image_targets=image_targets)
    return DataLoader(
        Subset(dataset, rows),
        batches.size,
        num_workers=batches.workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=outlive_signals,
    )
