"""What a taught step costs beside one of the student alone: time and memory, part by part, from a filled cache."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.bench.throughput import AUTOCAST, open_dataset
from training.data.clips import collate
from training.data.source import Source
from training.processes import own_device
from training.run import Run, build_detector
from training.teachers.frozen import FrozenTeacher
from training.trainer.lightning_module import DetectorModule
from training.trainer.loading import open_keyframes
from training.trainer.teaching import fill_caches, open_caches, seen_in_training, teacher_names


@dataclass(frozen=True)
class StepCost:
    """Milliseconds per sample (processor time on a CPU, wall time on a GPU): forward, the network and the detection
    losses; cache, reading what teachers said; terms, adapters and distillation losses; backward. kept_mb: what autograd
    keeps for the backward pass, MB per sample."""

    forward: float
    cache: float
    terms: float
    backward: float
    kept_mb: float

    @property
    def total(self) -> float:
        return self.forward + self.cache + self.terms + self.backward


def measure(
    run: Run, teachers: Mapping[str, Run], source: Source, cache: Path, steps: int
) -> tuple[StepCost, StepCost]:
    """(the student alone, the same taught), medians of `steps` steps that take turns; loading is not counted.

    teachers: those of the distilled run; they are not trained, what they say is as large.
    """
    device = own_device()
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, train_scenes=0))  # any data set will do
    frozen = {name: FrozenTeacher(build_detector(teachers[name])).to(device) for name in teacher_names(run)}
    keyframes = open_keyframes(run.spec, run.data, source, "train")
    taught = DetectorModule(run, 1, frozen, open_caches(run, frozen, keyframes, cache)).to(device)
    assert taught.distiller is not None
    fill_caches(taught.distiller, run, keyframes, workers=0)
    alone = DetectorModule(dataclasses.replace(run, distill=None), 1).to(device)
    dataset = open_dataset(dataclasses.replace(run, data=seen_in_training(run, cached=True)), source)
    costs: dict[str, list[StepCost]] = {"alone": [], "taught": []}
    for step in range(steps + 1):
        rows = [(step * run.batch_size + i) % len(dataset) for i in range(run.batch_size)]
        batch = {name: tensor.to(device) for name, tensor in collate([dataset[row] for row in rows]).items()}
        for name, module in (("alone", alone), ("taught", taught)):
            costs[name].append(_step(module, batch, run))
    return _median(costs["alone"][1:]), _median(costs["taught"][1:])


def _step(module: DetectorModule, batch: dict[str, Tensor], run: Run) -> StepCost:
    """One optimiser step without the optimiser, whose share is the same for both."""
    device, precision = module.device, AUTOCAST[run.precision]
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autocast(device.type, precision, enabled=precision is not None),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        (prediction, losses), forward = _timed(device, lambda: _detection(module, batch))
        reading = terms = 0.0
        if module.distiller is not None:
            distiller = module.distiller
            _, reading = _timed(device, lambda: [distiller.teach(name, batch) for name in teacher_names(run)])
            distilled, both = _timed(device, lambda: distiller(prediction, batch))
            losses, terms = losses | distilled.losses, both - reading
    total = torch.stack(list(losses.values())).sum()
    _, backward = _timed(device, total.backward)
    module.zero_grad()
    samples = run.batch_size
    ms = 1000 / samples
    return StepCost(forward * ms, reading * ms, terms * ms, backward * ms, sum(kept.values()) / 1e6 / samples)


def _detection(module: DetectorModule, batch: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    prediction = module.network.predict(batch)
    return prediction, module.network.losses(prediction, batch)


def _timed(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """(what it gives, seconds)."""
    if device.type != "cuda":
        started = time.process_time()
        return work(), time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = work()
    torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def _median(costs: list[StepCost]) -> StepCost:
    names = [field.name for field in dataclasses.fields(StepCost)]
    return StepCost(**{name: statistics.median(getattr(cost, name) for cost in costs) for name in names})
