"""Overlap of boxes: closed forms, counted points, and the losses that use it."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from teacher_scene import GRID, targets

from training.losses.box_iou import overlap_area, paired_diou, paired_iou
from training.losses.detection import iou_losses


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
