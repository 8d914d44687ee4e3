"""The teachers of a distilled run, from their checkpoints, and what a student takes over of one before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from training.data.config import DataConfig
from training.data.nuscenes import Keyframes
from training.distill.cache import TeacherCache
from training.distill.losses import DISTILL_LOSSES
from training.distill.module import Distiller
from training.processes import own_device, own_share
from training.run import Run, image_targets
from training.teachers.frozen import FrozenTeacher
from training.trainer.checkpoint import load_network, read_checkpoint
from training.trainer.loading import Batches, evaluation_loader
from training.trainer.network import predict_clip


@dataclass(frozen=True)
class Teaching:
    """What a run learns from: the checkpoint of each teacher that run.distill names, and a folder that keeps what they
    say of each sample; without one they are asked in every epoch."""

    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None


ALONE = Teaching()


def teacher_names(run: Run) -> tuple[str, ...]:
    """The teachers that a run's distillation names, none for a run without."""
    config = run.distill
    if config is None:
        return ()
    named = {term.source for term in config.terms} | {config.inherit_head, config.start_from}
    return tuple(sorted(named - {""}))


def paths_of(texts: Sequence[str]) -> dict[str, Path]:
    """["centerpoint=runs/a/last.ckpt", ...] -> {"centerpoint": Path}. Raises ValueError for one without `=`."""
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise ValueError(f"{' '.join(wrong)}: expected NAME=CHECKPOINT, such as centerpoint=runs/centerpoint/last.ckpt")
    return {name: Path(path) for name, path in (text.split("=", 1) for text in texts)}


def open_teachers(run: Run, checkpoints: Mapping[str, Path]) -> dict[str, FrozenTeacher]:
    """Name -> trained teacher, on this process's device.

    Raises ValueError when a teacher is missing or not wanted, has no training behind it, or was trained on other LiDAR
    sweeps or virtual points than the run gives it.
    """
    names = teacher_names(run)
    if set(names) != set(checkpoints):
        raise ValueError(
            f"this run learns from the teachers {list(names)}, given are {sorted(checkpoints)}: "
            "name each one's checkpoint, --teacher NAME=CHECKPOINT"
        )
    return {name: _open(name, checkpoints[name], run) for name in names}


def _open(name: str, path: Path, run: Run) -> FrozenTeacher:
    network = load_network(path)
    for what in ("lidar", "virtual"):
        wanted, found = getattr(network.run.data, what), getattr(run.data, what)
        if wanted is not None and wanted != found:
            raise ValueError(
                f"teacher {name!r} was trained with data.{what} = {wanted}, this run has {found}: set the same"
            )
    return FrozenTeacher(network.detector).to(own_device())


def open_caches(
    run: Run, teachers: Mapping[str, FrozenTeacher], keyframes: Keyframes, folder: Path
) -> dict[str, TeacherCache]:
    """A cache for each teacher that terms read, under `folder`. Raises ValueError when the run's augmentation changes
    what they see."""
    tokens, digest = keyframes.tokens(), keyframes.data_index.digest
    asked = {term.source for term in run.distill.terms} if run.distill else set()
    return {n: TeacherCache(folder, teachers[n].detector, tokens, run.data, digest) for n in sorted(asked)}


def fill_caches(
    distiller: Distiller, run: Run, keyframes: Keyframes, workers: int, learnt: Sequence[int] | None = None
) -> None:
    """Ask each teacher of what its cache lacks of the rows that are learnt from, None for all; several processes share
    the work.

    A process looks at its own share of the samples alone: what the others lack changes while they write.
    """
    for name, cache in distiller.caches.items():
        wanted = range(len(cache.tokens)) if learnt is None else sorted(set(learnt))
        rows = cache.lacking(distiller.read_of(name), own_share(wanted))
        loader = evaluation_loader(keyframes, rows, run.spec, run.data, Batches(run.batch_size, workers))
        for number, batch in enumerate(loader):
            distiller.teach(name, {key: tensor.to(own_device()) for key, tensor in batch.items()})
            if number % 20 == 19 or number + 1 == len(loader):
                print(f"teacher {name}: {number + 1} of {len(loader)} batches into {cache.folder}", flush=True)


@torch.no_grad()
def held_out_agreement(
    checkpoint: Path, teachers: Mapping[str, Path], keyframes: Keyframes, rows: Sequence[int], workers: int
) -> dict[str, float]:
    """How far a trained student says what its teachers say, in eval mode: the mean over `rows` of the keyframes of what
    training.distill.agreement measures, "<term>/cosine/foreground" and so on."""
    network = load_network(checkpoint)
    run, state = network.run, read_checkpoint(checkpoint)["state_dict"]
    assert run.distill is not None
    distiller = Distiller(network.detector, open_teachers(run, teachers), run.distill, predict_clip, diagnose=True)
    own = {name.removeprefix("distiller."): value for name, value in state.items() if name.startswith("distiller.")}
    distiller.load_state_dict(own)
    distiller.eval()
    totals: dict[str, float] = {}
    targets = image_targets(run)
    for batch in evaluation_loader(keyframes, rows, run.spec, run.data, Batches(run.batch_size, workers), targets):
        found = distiller(network.predict(batch), batch).diagnostics
        share = len(batch["index"]) / len(rows)
        totals = {name: totals.get(name, 0.0) + share * float(value) for name, value in found.items()}
    return totals


def seen_in_training(run: Run, cached: bool) -> DataConfig:
    """The run's data; points that only teachers read are left out where these are not asked any more."""
    config = run.distill
    if config is None or not cached or any(DISTILL_LOSSES[term.loss].lidar for term in config.terms):
        return run.data
    return dataclasses.replace(run.data, lidar=None, virtual=None)
