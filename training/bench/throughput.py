"""Samples per second: data loading alone, and training with the share of the time that it waits for data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.clips import ClipDataset
from training.data.source import Source
from training.processes import own_device
from training.run import Run, build_detector, image_targets
from training.teachers.frozen import FrozenTeacher
from training.trainer.lightning_module import DetectorModule
from training.trainer.loading import open_keyframes, training_loader

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Throughput:
    """first: samples per second of one loader process alone, every file read for the first time; again: the same
    samples from the process's memory. training: samples per second of optimiser steps with `workers` loader processes
    beside them; waiting: share of that time without a batch to work on. memory_gb: peak on the GPU, 0 on a CPU."""

    first: float
    again: float
    training: float
    waiting: float
    memory_gb: float


def loading_alone(run: Run, source: Source, samples: int) -> tuple[float, float]:
    """Samples per second of ClipDataset in this process: (files read, keyframes kept in memory)."""
    dataset = open_dataset(run, source)
    count = min(samples, len(dataset))
    rates = []
    for _ in range(2):
        started = time.perf_counter()
        for index in range(count):
            dataset[index]
        rates.append(count / (time.perf_counter() - started))
    return rates[0], rates[1]


def training(
    run: Run,
    source: Source,
    workers: int,
    steps: int,
    teachers: Mapping[str, Run] | None = None,
    warm_up: int = 2,
) -> tuple[float, float, float]:
    """(samples per second, share of the time that waits, GB on the GPU), medians over steps after the warm-up.

    teachers: those of a distilled run; they run untrained, which takes as long.
    """
    device = own_device()
    frozen = {name: FrozenTeacher(build_detector(teacher)).to(device) for name, teacher in (teachers or {}).items()}
    module = DetectorModule(run, steps, frozen).to(device)
    optimizer = module.configure_optimizers()["optimizer"]
    loader = training_loader(open_dataset(run, source), run, 0, 1, workers)
    batches: Iterator[dict[str, Tensor]] = iter(loader)
    waits, totals = [], []
    for _ in range(steps + warm_up):
        started = time.perf_counter()
        batch = {name: tensor.to(device) for name, tensor in next(batches).items()}
        waits.append(time.perf_counter() - started)
        with torch.autocast(device.type, AUTOCAST[run.precision], enabled=AUTOCAST[run.precision] is not None):
            prediction = module.network.predict(batch)
            losses = module.network.losses(prediction, batch)
            if module.distiller is not None:
                losses = losses | module.distiller(prediction, batch).losses
            total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        totals.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    return run.batch_size / statistics.median(totals[warm_up:]), sum(waits[warm_up:]) / sum(totals[warm_up:]), memory


def open_dataset(run: Run, source: Source) -> ClipDataset:
    targets = image_targets(run)
    keyframes = open_keyframes(run.spec, run.data, source, "train", image_targets=targets)
    return ClipDataset(keyframes, run.spec, run.data, run.seed, targets)


def measure(run: Run, source: Source, workers: int, steps: int) -> Throughput:
    """Alone first, then together; each a few seconds to a minute."""
    first, again = loading_alone(run, source, steps * run.batch_size // 2)
    return Throughput(first, again, *training(run, source, workers, steps))
