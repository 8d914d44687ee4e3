"""Every published pair of teacher and student, with the real networks at tiny size: one distilled step each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from tiny_distill import Taught
from tiny_networks import CONFIGS, STATES
from torch import Tensor

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, RadarSpec, TemporalSpec
from training.bundling.pattern import pattern_inputs
from training.distill import DistillConfig
from training.distill.channels import feature_channels
from training.models import STUDENTS
from training.models.exported import ExportedDetector
from training.recipes.distillation import (
    LAYERS,
    bevdistill,
    distillbev,
    distillbev_bevformer,
    lgkd,
    radardistill,
    together,
)
from training.teachers import TEACHERS
from training.teachers.frozen import FrozenTeacher

GRID = BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8)  # 32 x 32
SCORES = dict.fromkeys(CLASSES, 0.1)
CAMERAS = {"bevdet", "bevdet4d", "bevdepth", "bevformer", "bevfusion", "camera_radar", "bevdepth_large"}
RADARS = {"bevfusion", "camera_radar", "radar_pillarnet"}


def network(name: str) -> Any:
    torch.manual_seed(0)
    radar = RadarSpec()
    if name == "radar_pillarnet":
        radar = RadarSpec(format="pillars", pillar_step=0.4, max_pillars=60, pillar_points=4)
    spec = ModelSpec(
        name, ("a", "b") if name in CAMERAS else (), ("r",) if name in RADARS else (), SCORES, SCORES, grid=GRID,
        image=ImageSpec(32, 64), radar=radar, temporal=TemporalSpec(state_channels=STATES.get(name, 0)), top_k=5,
    )  # fmt: skip
    return (STUDENTS | TEACHERS)[name].module(spec, CONFIGS[name])


def batch_for(spec: ModelSpec, samples: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    batch = {n: torch.from_numpy(np.stack([v] * samples)) for n, v in pattern_inputs(spec).items()}
    if "img_from_ego" not in batch:
        batch |= {"img_from_ego": torch.eye(4).repeat(samples, 2, 1, 1), "camera_valid": torch.ones(samples, 2)}
    for name, columns in (("lidar", 6), ("virtual", 16)):
        points = torch.rand(100 * samples, columns, generator=g)
        points[:, 1:3] = 24 * points[:, 1:3] - 12
        points[:, 0] = torch.arange(len(points)) // 100
        batch |= {name: points, f"{name}_counts": torch.full((samples,), 100)}
    target = torch.zeros(samples, len(CLASSES), *GRID.shape)
    target[:, 0, 20, 20] = 1.0
    depth = torch.zeros(samples, 2, 2, 4)
    depth[..., ::2] = 5.0
    boxes = torch.tensor([[[3.6, 0.6, 0.5, 14.0, 12.0, 1.5, 0.3]]]).repeat(samples, 1, 1)
    return batch | {"heatmap": target, "depth": depth, "gt_boxes": boxes, "gt_valid": torch.ones(samples, 1)}


def step(student: Any, teachers: dict[str, Any], config: DistillConfig) -> tuple[Taught, dict[str, Tensor]]:
    """One forward and backward pass; checks what must hold for every pair."""
    module = Taught(student, {n: FrozenTeacher(t) for n, t in teachers.items()}, config, diagnose=True).train()
    _, losses, diagnostics = module(batch_for(student.spec))
    assert all(torch.isfinite(v) for v in diagnostics.values()), diagnostics
    assert all(torch.isfinite(v) for v in losses.values()), losses
    # A fresh teacher's scores lie at the threshold: cells may be false positives or background, all of either.
    assert all(float(v.detach()) > 0 for n, v in losses.items() if "positive" not in n and "neck/back" not in n), losses
    torch.stack(list(losses.values())).sum().backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in student.parameters())
    assert all(p.grad is not None for p in module.distiller.parameters())
    assert all(p.grad is None for t in teachers.values() for p in t.parameters())
    return module, losses


@pytest.mark.parametrize("teacher", ["centerpoint", "mvp"])
@pytest.mark.parametrize("student", ["bevdet", "bevdet4d", "bevdepth", "camera_radar"])
def test_distillbev_pairs(student: str, teacher: str) -> None:
    two_stages = (("encoder1", "encoder2"), ("encoder2", "encoder3"), ("neck", "neck"))
    recipe = distillbev(two_stages if student == "camera_radar" else LAYERS, inherit=False)
    module, losses = step(network(student), {"teacher": network(teacher)}, recipe)
    assert len(module.distiller.adapters) == len(module.distiller.parts) == 3
    assert len([n for n in losses if n.endswith("/foreground")]) == 3


@pytest.mark.parametrize("teacher", ["lidar_transformer", "centerpoint", "mvp"])
def test_distillbev_of_bevformer(teacher: str) -> None:
    _, losses = step(network("bevformer"), {"teacher": network(teacher)}, distillbev_bevformer())
    assert {n.split("/")[1] for n in losses} == {"foreground", "background", "attention"}


@pytest.mark.parametrize("teacher", ["lidar_transformer", "centerpoint"])
def test_bevdistill_of_bevformer(teacher: str) -> None:
    student, lidar = network("bevformer"), network(teacher)
    channels = [feature_channels(detector)["neck"] for detector in (student, lidar)]
    _, losses = step(student, {"teacher": lidar}, bevdistill(*channels))
    assert {n.split("/")[1] for n in losses} == {"feature", "box", "contrast"}


def test_radardistill_pair_starts_from_its_teacher() -> None:
    student, teacher = network("radar_pillarnet"), network("pillarnet")
    channels, theirs = feature_channels(student), feature_channels(teacher)
    same = channels["low1"] == theirs["conv4"] and channels["high1"] == theirs["high"]
    recipe = radardistill(mask=1.0, adapter="identity" if same else "conv1x1", start=True)
    module, losses = step(student, {"teacher": teacher}, recipe)
    assert {n.split("/")[1] for n in losses} == {"low", "mask", "high"} and len(losses) == 6
    copied = module.inherited["weights"].copied
    assert any(n.startswith("backbone.") for n in copied) and not any(n.startswith("cma.") for n in copied)
    theirs, ours = teacher.state_dict(), student.state_dict()
    assert all(torch.equal(theirs[n], ours[n]) for n in copied if n.endswith(("weight", "bias")))


def test_lgkd_pair() -> None:
    _, losses = step(network("bevdepth"), {"teacher": network("bevdepth_large")}, lgkd())
    assert {n.split("/")[1] for n in losses} == {"feature", "depth", "response"}


def test_camera_and_radar_student_with_both_methods() -> None:
    radar = radardistill(("radar",), (("radar", "high"),), adapter="conv1x1", source="pillars")
    recipe = together(distillbev(source="lidar", inherit=False), radar)
    student = network("bevfusion")
    module, losses = step(student, {"lidar": network("centerpoint"), "pillars": network("pillarnet")}, recipe)
    assert {n.split("_")[0] for n in losses} == {"distillbev", "radardistill"}
    assert any(p.grad is not None for p in student.radar.parameters())
    # What is exported has neither adapters nor teachers: the same graph inputs, parameters and outputs as ever.
    alone, distilled = ExportedDetector(network("bevfusion")), ExportedDetector(module.student)
    assert [(n, p.shape) for n, p in alone.named_parameters()] == [
        (n, p.shape) for n, p in distilled.named_parameters()
    ]


def test_a_head_of_the_same_tasks_is_inherited() -> None:
    student = network("bevdet")
    config = dataclasses.replace(CONFIGS["centerpoint"], head=student.config.head)
    spec = dataclasses.replace(student.spec, cameras=())
    teacher = TEACHERS["centerpoint"].module(spec, config)
    module = Taught(student, {"teacher": FrozenTeacher(teacher)}, distillbev())
    copied, kept = module.inherited["head"]
    branches = [n for n in student.state_dict() if ".head.branches." in n]
    assert set(branches) <= set(copied)
    assert "tail.head.shared.0.weight" in kept
