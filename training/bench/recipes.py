"""How long the paper-size recipes take: a few steps of each, in a process of its own, times its schedule."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from bev_perception.evaluation.spread import end_with_parent
from bev_perception.files import write_atomic
from bev_perception.plain import from_plain, to_plain
from training.bench import throughput
from training.data.source import Source
from training.experiments import family, load_run
from training.run import Run
from training.trainer.allocation import keep_freed_memory
from training.trainer.teaching import teacher_names

KEYFRAMES, BALANCED = 28_130, 123_580  # of nuScenes' train split; its length after class-balanced resampling
RECIPES = (
    "bevdet:r50", "distillbev:bevdet_r50_from_centerpoint", "distillbev:bevdet_r50_from_mvp",
    "bevdet4d:r50", "distillbev:bevdet4d_r50_from_centerpoint", "distillbev:bevdet4d_r50_from_mvp",
    "bevdepth:r50", "distillbev:bevdepth_r50_from_centerpoint", "distillbev:bevdepth_r50_from_mvp",
    "bevformer:r50", "distillbev:bevformer_r50_from_centerpoint", "distillbev:bevformer_r50_from_mvp",
    "lgkd:bevdepth_r50_from_convnext", "radar_pillarnet:radar18", "radardistill:radar18",
    "centerpoint:pillar", "mvp:pillar", "pillarnet:lidar18", "lidar_transformer:lidar18",
    "bevdepth_large:convnext_base",
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """seconds: of one sample in training, its teachers running; None where the system ended the process. memory_gb:
    peak on the GPU, 0 on a CPU. samples: of the whole schedule on nuScenes."""

    seconds: float | None
    memory_gb: float
    samples: int


def measure_all(source: Source, batch: int, workers: int, kept: Path) -> dict[str, Cost]:
    """Recipe -> Cost. What the JSON file `kept` has is not measured again; what is measured is added to it at once."""
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    costs: dict[str, Cost] = {name: from_plain(Cost, cost, f"{kept}: {name}") for name, cost in found.items()}
    for name in RECIPES:
        if name not in costs:
            costs[name] = _in_own_process(name, source, batch, workers)
            known = {n: to_plain(c) for n, c in costs.items() if c.seconds}
            write_atomic(kept, json.dumps(known, indent=1))
        print(name, costs[name], flush=True)
    return costs


def measure(name: str, source: Source, batch: int, workers: int) -> Cost:
    """Two steps of one recipe after one that is not timed."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()  # as training does
    run = load_run(f"training.experiments.{name}")
    tried = dataclasses.replace(run, batch_size=batch)
    teachers = family.paper()
    taught = {teacher: teachers[teacher] for teacher in teacher_names(run)}
    rate, _, memory_gb = throughput.training(tried, source, workers, 2, taught, warm_up=1)
    return Cost(1 / rate, memory_gb, samples(run))


def samples(run: Run) -> int:
    """That a run sees on nuScenes' training split."""
    assert run.optim.epochs is not None, "a recipe's schedule is in epochs"
    return round((BALANCED if run.data.cbgs else KEYFRAMES) * run.optim.epochs)


def _in_own_process(name: str, source: Source, batch: int, workers: int) -> Cost:
    """Each recipe starts with all of the memory, and one that needs more takes nothing with it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with_parent) as process:
        try:
            return process.submit(measure, name, source, batch, workers).result()
        except BrokenProcessPool:
            return Cost(None, 0.0, samples(load_run(f"training.experiments.{name}")))
