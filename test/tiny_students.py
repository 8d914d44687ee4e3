"""Every student of STUDENTS at a size that is exported in seconds: its tiny run, smaller still."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ImageSpec, ModelSpec
from training.bundling.pattern import pattern_inputs
from training.experiments.family import tiny
from training.models import STUDENTS
from training.models.center_head import CenterHead, CompactHead
from training.models.detector import Memory
from training.models.exported import MEMORY_INPUTS
from training.run import Run, build_detector

RUNS = tiny()
NAMES = [name for name in STUDENTS if name in RUNS]  # test_experiments.py names those that have no run
GRID = BevGrid(-12.8, 12.8, -6.4, 6.4, 0.8)  # 32 x 16


def run_of(name: str) -> Run:
    run = RUNS[name]
    radar = dataclasses.replace(run.spec.radar, max_pillars=150)
    spec = dataclasses.replace(
        run.spec, cameras=run.spec.cameras[:2], radars=run.spec.radars[:2], radar=radar, grid=GRID,
        image=ImageSpec(32, 64), top_k=500,
    )  # fmt: skip
    return dataclasses.replace(run, spec=spec)


def student(name: str) -> nn.Module:
    """In eval mode, with weights as after some training: nothing is 0 or 1, and no map is flat."""
    torch.manual_seed(0)
    module = build_detector(run_of(name)).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.5, 1.5)
        for parameter in module.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter += 0.2 * torch.randn_like(parameter)
        for head in module.modules():
            if isinstance(head, CenterHead):
                last = [branch["heatmap"][-1] for branch in head.branches]
            elif isinstance(head, CompactHead):
                last = [head.heatmap[-1]]
            else:
                continue
            for conv in last:
                nn.init.normal_(conv.weight, std=0.3)
    return module


def frame(spec: ModelSpec, seed: int) -> dict[str, Tensor]:
    """ModelSpec.inputs() of one frame: cameras in a ring, random images, radar points and memory."""
    rng = np.random.default_rng(seed)
    inputs = pattern_inputs(spec, seed)
    if "images" in inputs:
        inputs["images"] = rng.integers(0, 255, inputs["images"].shape).astype(np.uint8)
    if "prev_bev" in inputs:
        inputs["prev_bev"] = rng.normal(size=inputs["prev_bev"].shape).astype(np.float32)
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def batch(spec: ModelSpec, seeds: tuple[int, ...]) -> tuple[dict[str, Tensor], Memory | None]:
    """The same with a batch axis, memory apart: what a detector takes."""
    frames = [frame(spec, seed) for seed in seeds]
    inputs = {name: torch.stack([f[name] for f in frames]) for name in frames[0]}
    memory = Memory(*(inputs.pop(name) for name in MEMORY_INPUTS)) if "prev_bev" in inputs else None
    return inputs, memory
