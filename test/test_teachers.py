"""Teachers: shapes, invariants, learning one scene, and that a frozen one stays as it is."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bev_perception.decode import Thresholds, decode
from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec
from training.box_iou import overlap_area, paired_diou, paired_iou
from training.data.targets import bev_targets
from training.losses import LossConfig, detection_losses, iou_losses
from training.models.detector import Prediction
from training.models.exported import peaks_of
from training.models.query_head import BevCrossAttention, query_maps, query_peaks, to_cells
from training.teachers import TEACHERS, bevdepth_large, centerpoint, lidar_transformer, mvp, pillarnet, voxelnet
from training.teachers.frozen import FrozenTeacher
from training.teachers.query_losses import QueryLossConfig, focal_loss, match, query_losses, targets_of
from training.teachers.virtual_points import VIRTUAL_CHANNELS

GRID = BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8)
SPEC = ModelSpec(
    "tiny", (), (), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=GRID,
    temporal=TemporalSpec(state_channels=0), top_k=50,
)  # fmt: skip
SPCONV = importlib.util.find_spec("spconv") is not None
TINY: dict[str, Callable[[], Any]] = {
    "centerpoint": centerpoint.tiny,
    "centerpoint_voxel": voxelnet.tiny,
    "pillarnet": pillarnet.tiny,
    "mvp": mvp.tiny,
    "lidar_transformer": lidar_transformer.tiny,
}
TRAINABLE = [name for name in TINY if name != "centerpoint_voxel"]  # spconv's CPU build has no gradients
NAMES = [
    pytest.param(n, marks=pytest.mark.skipif(n == "centerpoint_voxel" and not SPCONV, reason="needs spconv"))
    for n in TINY
]
# Two cars and a pedestrian; the second car drives along +y.
BOXES = np.array(
    [[5.0, 2.1, 0.8, 4.5, 1.9, 1.6, 0.3], [-6.0, -4.0, 0.9, 4.2, 1.8, 1.5, math.pi / 2], [3, -7, 0.9, 0.7, 0.7, 1.8, 0]]
)
VELOCITY, LABELS = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 0.0]]), np.array([0, 0, 8])


def scene(seed: int = 0, ground: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (P, 5) on the ground and in the boxes, and virtual ones (Q, 15) in the boxes."""
    rng = np.random.default_rng(seed)
    flat = np.stack([*rng.uniform(-12.8, 12.8, (2, ground)), np.zeros(ground)], axis=1)
    hits = []
    for x, y, z, length, width, height, yaw in BOXES:
        local = rng.uniform(-0.5, 0.5, (60, 3)) * [length, width, height]
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        hits.append(np.concatenate([local[:, :2] @ turn.T + [x, y], local[:, 2:] + z], axis=1))
    xyz = np.concatenate([flat, *hits])
    points = np.concatenate([xyz, rng.uniform(0, 1, (len(xyz), 1)), np.zeros((len(xyz), 1))], axis=1)
    virtual = np.zeros((len(hits) * 20, VIRTUAL_CHANNELS))
    virtual[:, :3] = np.concatenate([h[:20] for h in hits])
    virtual[np.arange(len(virtual)), 4 + np.repeat(LABELS, 20)], virtual[:, 14] = 1, 0.9
    return torch.from_numpy(points).float(), torch.from_numpy(virtual).float()


def batched(clouds: list[torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """What the loader's collate makes of clouds of different lengths."""
    rows = [torch.cat([torch.full((len(c), 1), float(i)), c], dim=1) for i, c in enumerate(clouds)]
    return {name: torch.cat(rows), f"{name}_counts": torch.tensor([len(c) for c in clouds])}


def inputs_of(scenes: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return batched([s[0] for s in scenes], "lidar") | batched([s[1] for s in scenes], "virtual")


def targets(count: int) -> dict[str, torch.Tensor]:
    arrays = bev_targets(BOXES, VELOCITY, LABELS, GRID, len(CLASSES))
    return {name: torch.from_numpy(np.stack([value] * count)) for name, value in arrays.items()}


def tiny(name: str) -> Any:
    """In eval mode, with statistics as they are after some training: fresh ones let the signal fade to nothing."""
    torch.manual_seed(0)
    model = TEACHERS[name].module(SPEC, TINY[name]())
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
    model = TEACHERS[name].module(SPEC, TINY[name]())
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
        scores, labels, cells, boxes = (t[0].numpy() for t in peaks_of(model, prediction))
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
        TEACHERS["centerpoint_voxel"].module(SPEC, voxelnet.tiny())


def test_teachers_refuse_a_state_and_odd_grids() -> None:
    remembering = dataclasses.replace(SPEC, temporal=TemporalSpec(state_channels=8))
    for name in TRAINABLE:
        with pytest.raises(ValueError, match="state_channels"):
            TEACHERS[name].module(remembering, TINY[name]())
    odd = dataclasses.replace(SPEC, grid=BevGrid(-12.8, 12.8, -12.8, 12.0, 0.8))
    with pytest.raises(ValueError, match="even"):
        TEACHERS["pillarnet"].module(odd, pillarnet.tiny())


def test_large_camera_teacher_is_the_students_network_with_a_wider_image_branch() -> None:
    assert TEACHERS["bevdepth_large"].config().camera.image.backbone == "convnext_base"
    assert isinstance(bevdepth_large.tiny(), TEACHERS["bevdepth_large"].config)


# --- frozen ---


class Student(nn.Module):
    """Any module that has a teacher as an attribute."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        super().__init__()
        self.teacher, self.layer, self.norm = teacher, nn.Conv2d(72, 1, 1), nn.BatchNorm2d(72)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = self.layer(self.norm(self.teacher(inputs).features["neck"]))
        return out


def test_a_frozen_teacher_is_out_of_reach() -> None:
    detector = tiny("centerpoint")
    before = copy.deepcopy(detector.state_dict())
    student = Student(FrozenTeacher(detector)).train()
    student.teacher.detector.train()  # even on purpose
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
    prediction = student.teacher(inputs)
    assert not detector.training and not prediction.heatmap.requires_grad


def test_a_frozen_teacher_moves() -> None:
    teacher = FrozenTeacher(tiny("centerpoint"))
    assert teacher.to("meta") is teacher
    tensors = [*teacher.detector.parameters(), *teacher.detector.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}


# --- the query head ---


def test_cross_attention_equals_a_loop() -> None:
    torch.manual_seed(0)
    attention = BevCrossAttention(6, 2, 3)
    nn.init.normal_(attention.offsets.weight, std=0.5)
    nn.init.normal_(attention.weights.weight)
    query, bev, reference = torch.randn(1, 4, 6), torch.randn(1, 6, 5, 7), torch.rand(1, 4, 2)
    found = attention(query, bev, reference)
    value = attention.value(bev)[0].reshape(2, 3, 5, 7)
    offsets = attention.offsets(query).reshape(4, 2, 3, 2)
    weights = attention.weights(query).reshape(4, 2, 3).softmax(-1)
    rows = torch.zeros(4, 2, 3)
    for q, h, p in itertools.product(range(4), range(2), range(3)):
        at = reference[0, q] * torch.tensor([5.0, 7.0]) + offsets[q, h, p] - 0.5  # in cells, centres at whole numbers
        low = at.floor()
        for dx, dy in itertools.product((0, 1), repeat=2):
            ix, iy = int(low[0]) + dx, int(low[1]) + dy
            share = (1 - (at[0] - ix).abs()) * (1 - (at[1] - iy).abs())
            if 0 <= ix < 5 and 0 <= iy < 7:
                rows[q, h] += weights[q, h, p] * share * value[h, :, ix, iy]
    torch.testing.assert_close(found[0], attention.output(rows.reshape(4, 6)), atol=1e-5, rtol=1e-4)


def test_matching_is_the_cheapest_of_all() -> None:
    torch.manual_seed(0)
    config = QueryLossConfig()
    logits, boxes, labels, truth = torch.randn(5, 4), torch.randn(5, 10), torch.tensor([1, 3, 0]), torch.randn(3, 10)
    query, which = match(logits, boxes, labels, truth, config)

    def cost(q: int, m: int) -> float:
        x = logits[q, labels[m]]
        gain = focal_loss(x, torch.tensor(1.0)) - focal_loss(x, torch.tensor(0.0))
        return float(config.classify * gain + config.box * (boxes[q, :8] - truth[m, :8]).abs().sum())

    best = min(sum(cost(q, m) for m, q in enumerate(p)) for p in itertools.permutations(range(5), 3))
    assert abs(sum(cost(q, m) for q, m in zip(query.tolist(), which.tolist())) - best) < 1e-5
    with pytest.raises(FloatingPointError, match="not finite"):
        match(logits * torch.nan, boxes, labels, truth, config)


def test_focal_loss_values() -> None:
    logits = torch.tensor([0.0, 2.0])
    p = logits.sigmoid()
    torch.testing.assert_close(focal_loss(logits, torch.ones(2)), -0.25 * (1 - p) ** 2 * p.log())
    torch.testing.assert_close(focal_loss(logits, torch.zeros(2)), -0.75 * p**2 * (1 - p).log())


def test_targets_in_metres_are_the_boxes() -> None:
    (labels, boxes, weight), *_ = targets_of(targets(1), GRID)
    assert labels.tolist() == LABELS.tolist() and weight.min() == 1
    np.testing.assert_allclose(boxes[:, :3], BOXES[:, :3], atol=1e-5)
    np.testing.assert_allclose(boxes[:, 3:6].exp(), BOXES[:, 3:6], rtol=1e-5)
    np.testing.assert_allclose(torch.atan2(boxes[:, 6], boxes[:, 7]), BOXES[:, 6], atol=1e-5)
    cells, coded = to_cells(boxes, GRID)
    assert cells.tolist() == targets(1)["cells"][0, :3].tolist()
    np.testing.assert_allclose(coded, targets(1)["boxes"][0, :3], atol=1e-4)


def test_perfect_queries_cost_nothing_and_padding_neither() -> None:
    batch = targets(1)
    (labels, truth, _), *_ = targets_of(batch, GRID)
    boxes = torch.zeros(1, 1, 6, 10)
    boxes[0, 0, 1:4] = truth
    logits = torch.full((1, 1, 6, len(CLASSES)), -30.0)
    logits[0, 0, torch.arange(1, 4), labels] = 30.0
    losses = query_losses(logits, boxes, batch, GRID, QueryLossConfig())
    assert float(losses["classify"]) < 1e-6 and float(losses["box"]) < 1e-5
    batch["mask"][0, 0, 8:] = 0  # an unknown velocity
    boxes[0, 0, 1, 8:] = 99.0
    assert float(query_losses(logits, boxes, batch, GRID, QueryLossConfig())["box"]) < 1e-5
    batch["mask"][:] = 0
    empty = query_losses(logits.requires_grad_(), boxes, batch, GRID, QueryLossConfig())
    empty["classify"].backward()
    assert float(empty["box"]) == 0 and torch.isfinite(empty["classify"])


def test_peaks_and_maps_of_queries() -> None:
    logits = torch.full((1, 3, 2), -9.0)
    logits[0, 0, 1], logits[0, 1, 0], logits[0, 2, 1] = 2.0, 1.0, 0.0
    boxes = torch.zeros(1, 3, 10)
    boxes[0, :, :3] = torch.tensor([[0.1, 0.2, 1.0], [0.3, 0.3, 2.0], [12.8, -12.8, 3.0]])  # two in one cell; the edge
    scores, labels, cells, coded = query_peaks(logits, boxes, GRID, 3)
    assert labels.tolist() == [[1, 0, 1]] and cells.tolist() == [[16 * 32 + 16, 16 * 32 + 16, 31 * 32]]
    np.testing.assert_allclose(scores[0], torch.tensor([2.0, 1.0, 0.0]).sigmoid())
    np.testing.assert_allclose(coded[0, :, :2], [[0.125, 0.25], [0.375, 0.375], [1.0, 0.0]], atol=1e-5)
    heatmap, regression = query_maps(logits, boxes, GRID)
    assert heatmap[0, :, 16, 16].tolist() == [1.0, 2.0] and heatmap[0, :, 31, 0].tolist() == [-9.0, 0.0]
    assert (heatmap > -9.5).sum() == 4
    assert regression[0, 0, 2, 16, 16] == 1.0 and regression[0, 0, 2, 31, 0] == 3.0  # the surest of the cell
    assert (regression != 0).any(2).sum() == 2


# --- overlap of boxes ---


def test_overlap_of_turned_boxes_in_closed_form() -> None:
    square = torch.tensor([0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0])
    cases = [
        (square, square, 4.0),
        (square, square + torch.tensor([1.0, 0.5, 0, 0, 0, 0, 0]), 1.5),
        (square, square + torch.tensor([0.0, 0, 0, 0, 0, 0, math.pi / 4]), 8 * (math.sqrt(2) - 1)),  # an octagon
        (square, square + torch.tensor([5.0, 0, 0, 0, 0, 0, 0.3]), 0.0),
        (square, torch.tensor([0.1, 0.1, 0, 0.5, 0.4, 1, 1.0]), 0.2),  # inside
        (square, square + torch.tensor([0.0, 0, 0, 0, 0, 0, math.pi / 2]), 4.0),
    ]
    for a, b, expected in cases:
        far = torch.tensor([40.0, -30.0, 0, 0, 0, 0, 0])
        assert abs(float(overlap_area(a, b)) - expected) < 1e-3, (a, b, expected)
        assert abs(float(overlap_area(b + far, a + far)) - expected) < 1e-3
    assert abs(float(paired_iou(square, square)) - 1) < 1e-4
    half = square + torch.tensor([0, 0, 1.0, 0, 0, 0, 0])
    assert abs(float(paired_iou(square, half)) - 1 / 3) < 1e-4


def test_overlap_equals_counting_points() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate(
        [rng.uniform(-1, 1, (2, 30, 3)), rng.uniform(0.5, 3, (2, 30, 3)), rng.uniform(-4, 4, (2, 30, 1))], -1
    )
    found = overlap_area(*torch.from_numpy(boxes))
    xy = np.stack(np.meshgrid(*[np.linspace(-4, 4, 400)] * 2), -1).reshape(-1, 2)

    def inside(box: np.ndarray) -> np.ndarray:
        along = (xy - box[:2]) @ [np.cos(box[6]), np.sin(box[6])]
        across = (xy - box[:2]) @ [-np.sin(box[6]), np.cos(box[6])]
        return (np.abs(along) <= box[3] / 2) & (np.abs(across) <= box[4] / 2)

    counted = [(inside(a) & inside(b)).mean() * 64 for a, b in zip(*boxes)]
    np.testing.assert_allclose(found, counted, atol=0.06)
    assert max(counted) > 1


def test_diou_in_closed_form_and_its_gradient() -> None:
    cube = torch.tensor([0.0, 0, 0, 2, 2, 2])
    moved = cube + torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert abs(float(paired_diou(cube, cube)) - 1) < 1e-6
    assert abs(float(paired_diou(cube, moved)) - (1 / 3 - 1 / 17)) < 1e-6
    apart = (cube + torch.tensor([9.0, 0, 0, 0, 0, 0])).requires_grad_()
    paired_diou(cube, apart).backward()
    assert apart.grad is not None and apart.grad[0] < 0  # it pulls boxes together that do not touch


def test_iou_losses_of_a_perfect_box() -> None:
    batch = targets(1)
    regression = torch.zeros(1, 10, *GRID.shape)
    for cell, box in zip(batch["cells"][0, :3], batch["boxes"][0, :3]):
        regression[0, :, cell // 32, cell % 32] = box
    arguments = (regression.requires_grad_(), batch["cells"], batch["boxes"], batch["mask"], GRID.step)
    branch, diou = iou_losses(torch.ones(1, *GRID.shape), *arguments)
    assert branch.item() < 1e-3 and diou.item() < 1e-5
    branch, _ = iou_losses(torch.zeros(1, *GRID.shape), *arguments)
    assert abs(branch.item() - 1) < 1e-3
    (branch + diou).backward()
    assert regression.grad is not None and torch.isfinite(regression.grad).all()
