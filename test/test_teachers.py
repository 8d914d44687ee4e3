"""Teachers: shapes, invariants, learning one scene, and that a frozen one stays as it is."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from teacher_scene import BOXES, GRID, LABELS, inputs_of, scene, targets
from tiny_networks import CONFIGS
from torch import nn

from bev_perception.decode import Thresholds, decode
from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec
from training.data.virtual_points import VIRTUAL_CHANNELS
from training.losses.detection import LossConfig, detection_losses
from training.models.detector import Prediction
from training.models.exported import candidates_of
from training.teachers import TEACHERS
from training.teachers.frozen import FrozenTeacher

SPEC = ModelSpec(
    "tiny", (), (), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=GRID,
    temporal=TemporalSpec(state_channels=0), top_k=50,
)  # fmt: skip
SPCONV = importlib.util.find_spec("spconv") is not None
LIDAR = ("centerpoint", "centerpoint_voxel", "pillarnet", "mvp", "lidar_transformer")
TRAINABLE = [name for name in LIDAR if name != "centerpoint_voxel"]  # spconv's CPU build has no gradients
NAMES = [
    pytest.param(n, marks=pytest.mark.skipif(n == "centerpoint_voxel" and not SPCONV, reason="needs spconv"))
    for n in LIDAR
]


def tiny(name: str) -> Any:
    """In eval mode, with statistics as they are after some training: fresh ones let the signal fade to nothing."""
    torch.manual_seed(0)
    model = TEACHERS[name].module(SPEC, CONFIGS[name])
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.05, 0.2)
    return model.eval()


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    """But for rounding, which many layers make larger than one operation's."""
    assert (a - b).abs().max() < 1e-3 * b.abs().max()


@pytest.mark.parametrize("name", TRAINABLE)
def test_norms_may_be_converted_for_several_gpus(name: str) -> None:
    """As Lightning's sync_batchnorm does: the same parameters, and alone the same results."""
    inputs = inputs_of([scene(0), scene(1)])
    model = tiny(name).train()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    torch.testing.assert_close(converted(inputs).heatmap, model(inputs).heatmap)
    torch.testing.assert_close(dict(converted.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_items_of_a_batch_are_independent(name: str) -> None:
    model, scenes = tiny(name), [scene(0), scene(1, ground=200), (torch.zeros(0, 5), torch.zeros(0, VIRTUAL_CHANNELS))]
    with torch.no_grad():
        together: Prediction = model(inputs_of(scenes))
        assert together.heatmap.shape == (3, len(CLASSES), *GRID.shape) and together.state is None
        assert together.regression.shape == (3, len(model.tasks), 10, *GRID.shape)
        assert together.features["neck"].shape[2:] == GRID.shape
        for i, one in enumerate(scenes):
            alone = model(inputs_of([one]))
            assert_same(alone.heatmap[0], together.heatmap[i])
            assert_same(alone.features["neck"][0], together.features["neck"][i])
        neck = together.features["neck"]
        assert (neck[0] - neck[2]).abs().max() > 0.1 * neck.abs().max()  # points do matter


@pytest.mark.parametrize("name", NAMES)
def test_order_of_points_is_of_no_matter(name: str) -> None:
    model, (points, virtual) = tiny(name), scene()
    shuffled = points[torch.randperm(len(points))], virtual[torch.randperm(len(virtual))]
    with torch.no_grad():
        a, b = model(inputs_of([(points, virtual)])), model(inputs_of([shuffled]))
    assert_same(a.features["neck"], b.features["neck"])


@pytest.mark.parametrize("name", TRAINABLE)
def test_learns_one_scene(name: str) -> None:
    """After some steps every object of the scene is the best of its class, at its place; no parameter was left out."""
    torch.manual_seed(0)
    model = TEACHERS[name].module(SPEC, CONFIGS[name])
    inputs, batch = inputs_of([scene(0), scene(1)]), targets(2)
    queries = name == "lidar_transformer"
    steps, rate = (120, 2e-3) if queries else (30, 4e-3)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    totals = []
    for step in range(steps):
        prediction = model(inputs)
        losses = (
            model.losses(prediction, batch) if queries else detection_losses(prediction, batch, model, LossConfig())
        )
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            assert [n for n, p in model.named_parameters() if p.grad is None] == []
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.3 * totals[0], totals
    with torch.no_grad():
        scores, labels, cells, boxes = (t[0].numpy() for t in candidates_of(model, prediction))
    found = decode(
        {"scores": scores, "labels": labels, "cells": cells, "boxes": boxes}, SPEC,
        Thresholds(dict.fromkeys(CLASSES, 0.15), dict.fromkeys(CLASSES, 1.0)),
    )  # fmt: skip
    for box, label in zip(BOXES, LABELS):
        near = np.hypot(*(found.boxes[:, :2] - box[:2]).T) < 1.0
        assert (near & (found.labels == label)).any(), (found.boxes[:, :2], found.labels, found.scores)


def test_paper_sizes() -> None:
    """Parameters of the published configurations, in millions, as their authors' checkpoints and logs have them."""
    counts = {}
    for name in ("centerpoint", "pillarnet", "lidar_transformer"):
        with torch.device("meta"):
            model = TEACHERS[name].module(SPEC, TEACHERS[name].config())
        counts[name] = sum(p.numel() for p in model.parameters()) / 1e6
    assert abs(counts["centerpoint"] - 6.0) < 0.1  # OpenPCDet's checkpoint: 23 MB
    assert 15 < counts["pillarnet"] < 17 and 20 < counts["lidar_transformer"] < 22
    pillars = model.pillars.grid
    assert abs(pillars.step - 0.1) < 1e-9 and pillars.shape == (256, 256)


def test_voxels_without_spconv_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "spconv.pytorch", None)
    with pytest.raises(ImportError, match=r"pip install spconv.*centerpoint"):
        TEACHERS["centerpoint_voxel"].module(SPEC, CONFIGS["centerpoint_voxel"])


def test_teachers_refuse_a_state_and_odd_grids() -> None:
    remembering = dataclasses.replace(SPEC, temporal=TemporalSpec(state_channels=8))
    for name in TRAINABLE:
        with pytest.raises(ValueError, match="state_channels"):
            TEACHERS[name].module(remembering, CONFIGS[name])
    odd = dataclasses.replace(SPEC, grid=BevGrid(-12.8, 12.8, -12.8, 12.0, 0.8))
    with pytest.raises(ValueError, match="even"):
        TEACHERS["pillarnet"].module(odd, CONFIGS["pillarnet"])


def test_large_camera_teacher_is_the_students_network_with_a_wider_image_branch() -> None:
    assert TEACHERS["bevdepth_large"].config().camera.image.backbone == "convnext_base"
    assert isinstance(CONFIGS["bevdepth_large"], TEACHERS["bevdepth_large"].config)


class Student(nn.Module):
    """Any module that has a teacher as an attribute."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        super().__init__()
        self.teacher, self.layer, self.norm = teacher, nn.Conv2d(72, 1, 1), nn.BatchNorm2d(72)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            neck = self.teacher.detector(inputs, None).features["neck"]
        out: torch.Tensor = self.layer(self.norm(neck))
        return out


def test_a_frozen_teacher_is_out_of_reach() -> None:
    detector = tiny("centerpoint")
    before = copy.deepcopy(detector.state_dict())
    student = Student(FrozenTeacher(detector)).train()
    inputs = inputs_of([scene(0), scene(1)])
    assert {n.split(".")[0] for n in student.state_dict()} == {"layer", "norm"}
    assert {n.split(".")[0] for n, _ in student.named_parameters()} == {"layer", "norm"}
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for _ in range(2):
        loss = student(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert student.layer.weight.grad is not None and student.layer.weight.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in detector.parameters())
    after = detector.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # statistics of batch norm, too
    assert not detector.training


def test_a_frozen_teacher_moves() -> None:
    teacher = FrozenTeacher(tiny("centerpoint"))
    assert teacher.to("meta") is teacher
    tensors = [*teacher.detector.parameters(), *teacher.detector.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}
