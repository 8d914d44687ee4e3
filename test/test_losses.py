"""Losses against loops written from the formulas, and at their fixed points."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
import torch.multiprocessing

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec
from training.losses.detection import (
    LossConfig,
    box_loss,
    depth_bce,
    depth_cross_entropy,
    detection_losses,
    foreground_loss,
    foreground_target,
    heatmap_loss,
    iou_losses,
    semantic_loss,
)
from training.losses.probabilities import log_probabilities
from training.models.detector import ONE_TASK, SIX_TASKS, Prediction, task_index
from training.models.view.depth_bins import DepthBins


def test_heatmap_loss_equals_the_formula() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 2, 3, 3), torch.rand(1, 2, 3, 3) * 0.9
    target[0, 0, 1, 1] = target[0, 1, 2, 0] = 1.0
    total = 0.0
    for z, t in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        total -= (1 - p) ** 2 * math.log(p) if t == 1 else (1 - t) ** 4 * p**2 * math.log(1 - p)
    assert float(heatmap_loss(logits, target)) == pytest.approx(total / 2, rel=1e-5)


def test_heatmap_loss_without_objects_is_finite_and_vanishes_for_a_sure_network() -> None:
    empty = torch.zeros(1, 2, 3, 3)
    assert 0 <= float(heatmap_loss(torch.full_like(empty, -20.0), empty)) < 1e-6
    assert torch.isfinite(heatmap_loss(torch.full_like(empty, 80.0, dtype=torch.bfloat16), empty))


def test_a_cell_that_is_surely_wrong_pays_for_its_lead_and_learns() -> None:
    """Far on the wrong side both focal terms fall by 1 per logit; limits on probabilities would make that 0."""
    target = torch.zeros(1, 1, 1, 2)
    target[..., 0] = 1.0
    for sign, wrong in ((-1, 0), (1, 1)):
        logits = torch.full((1, 1, 1, 2), 20.0 * sign, requires_grad=True)
        loss = heatmap_loss(logits, target)
        assert float(loss.detach()) == pytest.approx(20, rel=1e-4)
        assert torch.autograd.grad(loss, logits)[0].flatten()[wrong] == pytest.approx(sign, rel=1e-4)


def test_box_loss_reads_its_cells_and_masks() -> None:
    torch.manual_seed(1)
    config, beta = LossConfig(velocity=0.7, velocity_beta=5.0, rotation=0.4), 5.0
    regression, boxes = 5 * torch.randn(2, 10, 4, 5), torch.randn(2, 3, 10)
    cells, mask = torch.randint(0, 20, (2, 3)), torch.ones(2, 3, 10)
    mask[0, 2] = 0
    mask[1, 1, 8:] = 0
    total = 0.0
    for b in range(2):
        for m in range(3):
            for k in range(10):
                value = regression[b, k, cells[b, m] // 5, cells[b, m] % 5]
                error = abs(float(value - boxes[b, m, k]))
                if k in (6, 7):
                    error *= 0.4
                if k >= 8:
                    error = 0.7 * (0.5 * error**2 / beta if error < beta else error - 0.5 * beta)
                total += error * float(mask[b, m, k])
    assert float(box_loss(regression, cells, boxes, mask, config)) == pytest.approx(0.25 * total / 5, rel=1e-5)
    assert float(box_loss(regression, cells, boxes, torch.zeros_like(mask), config)) == 0


def test_velocity_loss_pulls_towards_the_movers_while_most_objects_stand() -> None:
    """Plain L1 has no gradient at zero that would favour a feature shared by two movers and three standing ones."""
    weight = torch.zeros(1, requires_grad=True)
    regression = torch.zeros(1, 10, 1, 5).index_add(1, torch.tensor([8]), (weight * torch.ones(1, 1, 1, 5)))
    boxes = torch.zeros(1, 5, 10)
    boxes[0, :2, 8] = -8.0
    config = LossConfig(velocity=1.0, velocity_beta=5.0)
    box_loss(regression, torch.arange(5)[None], boxes, torch.ones(1, 5, 10), config).backward()
    assert weight.grad is not None and float(weight.grad) == pytest.approx(0.25 * 2 / 5)


def test_depth_and_semantic_losses_ignore_what_is_unknown() -> None:
    bins = DepthBins(1.0, 1.0, 4)
    logits = torch.zeros(1, 2, 4, 1, 3)
    depth = torch.tensor([[[[0.0, 1.5, 4.9]], [[2.5, 5.1, 0.3]]]])  # 5.1 and 0.3 m lie outside the bins
    valid = torch.tensor([[1.0, 1.0]])
    assert float(depth_cross_entropy(logits, depth, valid, bins)) == pytest.approx(math.log(4))
    sure = torch.full((1, 2, 4, 1, 3), -30.0)
    for n, w, b in ((0, 1, 0), (0, 2, 3), (1, 0, 1)):
        sure[0, n, b, 0, w] = 30.0
    assert float(depth_cross_entropy(sure, depth, valid, bins)) == pytest.approx(0, abs=1e-6)
    wrong = torch.cat([sure[:, :1], -sure[:, 1:]], dim=1)
    assert float(depth_cross_entropy(wrong, depth, torch.tensor([[1.0, 0.0]]), bins)) == pytest.approx(0, abs=1e-6)
    target = torch.tensor([[[[0, 1, 2]], [[3, 0, 0]]]])
    assert float(semantic_loss(torch.zeros(1, 2, 4, 1, 3), target, valid)) == pytest.approx(math.log(4))
    assert float(semantic_loss(torch.zeros(1, 2, 4, 1, 3), target, torch.zeros(1, 2))) == 0


@pytest.mark.parametrize(
    ("start", "bin_of"),
    [  # metres -> bin; None: unknown, and the network is sure of bin 1, which none of them is near
        (1.0, {0.999: None, 1.0: 0, 1.499: 0, 1.5: 1, 2.499: 2, 2.5: None}),
        (0.0, {-0.5: None, 0.0: None, 0.001: 0}),
    ],
)
def test_depths_are_known_from_the_first_bin_to_the_last(start: float, bin_of: dict[float, int | None]) -> None:
    bins, logits = DepthBins(start, 0.5, 3), torch.full((1, 1, 3, 1, len(bin_of)), -30.0)
    for i, k in enumerate(bin_of.values()):
        logits[0, 0, 1 if k is None else k, 0, i] = 30.0
    depth = torch.tensor([*bin_of]).reshape(1, 1, 1, -1)
    for loss in (depth_cross_entropy, depth_bce):
        assert float(loss(logits, depth, torch.ones(1, 1), bins)) == pytest.approx(0, abs=1e-4)


def test_semantic_loss_weighs_foreground_four_times_and_masks_cameras() -> None:
    torch.manual_seed(5)
    logits, target = torch.randn(2, 2, 3, 2, 2), torch.randint(0, 3, (2, 2, 2, 2))
    valid = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    total, weights = 0.0, 0.0
    for b, n, i, j in np.ndindex(2, 2, 2, 2):
        label = int(target[b, n, i, j])
        weight = (4 if label else 1) * float(valid[b, n])
        total -= weight * float(logits[b, n, :, i, j].log_softmax(0)[label])
        weights += weight
    assert float(semantic_loss(logits, target, valid)) == pytest.approx(total / weights, rel=1e-5)


def test_depth_losses_equal_their_formulas() -> None:
    torch.manual_seed(3)
    bins, logits = DepthBins(1.0, 1.0, 4), torch.randn(2, 2, 4, 2, 3)
    depth, valid = torch.rand(2, 2, 2, 3) * 6, torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    entropy = binary = 0.0
    known = 0
    for b, n, i, j in np.ndindex(2, 2, 2, 3):
        k = math.floor(float(depth[b, n, i, j])) - 1
        if 0 <= k < 4 and valid[b, n]:
            p = logits[b, n, :, i, j].softmax(0).tolist()
            entropy -= math.log(p[k])
            binary -= sum(math.log(q if c == k else 1 - q) for c, q in enumerate(p))
            known += 1
    assert 5 < known < 18
    assert float(depth_cross_entropy(logits, depth, valid, bins)) == pytest.approx(entropy / known, rel=1e-5)
    assert float(depth_bce(logits, depth, valid, bins)) == pytest.approx(binary / known, rel=1e-4)
    for loss in (depth_cross_entropy, depth_bce):
        assert float(loss(logits, torch.zeros_like(depth), valid, bins)) == 0


def depth_bce_gradient(logits: np.ndarray, right: int) -> np.ndarray:
    """Of -log p_r - sum over i != r of log(1 - p_i) by each logit, float64: of a bin's own term it is p_i, of another's
    -p_i p_k / (1 - p_i). What p leaves to one is summed from the others: it cancels in double precision, too."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    bins = np.arange(len(p))
    rest = np.array([p[bins != i].sum() for i in bins])
    gradient = np.where(bins == right, -rest, 2 * p)
    for i in bins[bins != right]:
        gradient[bins != i] -= p[i] * p[bins != i] / rest[i]
    return gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lead", [0.0, 14.0, 40.0])
def test_gradient_of_the_depth_loss_in_closed_form(lead: float, dtype: torch.dtype) -> None:
    """However far a wrong bin leads, the right one is pulled up by 1 and its share of what the wrong one leaves."""
    bins = DepthBins(1.0, 1.0, 112)
    logits = np.zeros(112)
    logits[5] = lead
    for right in (5, 7):
        given = torch.from_numpy(logits).to(dtype).reshape(1, 1, -1, 1, 1).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            loss = depth_bce(given, torch.full((1, 1, 1, 1), 1.5 + right), torch.ones(1, 1), bins)
        (gradient,) = torch.autograd.grad(loss, given)
        tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
        np.testing.assert_allclose(
            gradient.flatten().float().numpy(), depth_bce_gradient(logits, right), rtol=tolerance, atol=tolerance / 10
        )
        assert right == 5 or lead == 0 or float(gradient.flatten()[7]) == pytest.approx(-1.009, abs=2e-2)


@pytest.mark.parametrize("lead", [0.0, 3.0, 14.0, 40.0, 200.0])
def test_log_probabilities_are_those_of_double_precision(lead: float) -> None:
    torch.manual_seed(11)
    logits = torch.randn(4, 7)
    logits[:, 2] += lead
    p = logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)
    others = torch.stack([logits.double()[:, torch.arange(7) != i].exp().sum(dim=1) for i in range(7)], dim=1)
    log_p, log_not_p = log_probabilities(logits, dim=1)
    torch.testing.assert_close(log_p.double(), p.log(), rtol=1e-5, atol=1e-5)
    wanted = (others / logits.double().exp().sum(dim=1, keepdim=True)).log()
    torch.testing.assert_close(log_not_p.double(), wanted, rtol=1e-5, atol=1e-9)
    assert [float(t) for t in log_probabilities(torch.ones(1), dim=0)] == [0.0, pytest.approx(-3.4e38, rel=1e-2)]


def half_of_a_foreground(rank: int, folder: str) -> None:
    """A process of two leaves the loss of its half of the batch and the gradient."""
    torch.set_num_threads(1)  # a forked process has no threads of its parent's
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(graded_foreground(slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def graded_foreground(items: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits, target = torch.randn(4, 1, 5, 5), torch.rand(4, 1, 5, 5) < torch.arange(4).reshape(4, 1, 1, 1) / 5
    logits = logits[items].requires_grad_()
    loss = foreground_loss(logits, target[items])
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def test_foreground_loss_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """DDP averages: the mean of losses and gradients."""
    torch.multiprocessing.start_processes(half_of_a_foreground, (str(tmp_path),), nprocs=2, start_method="fork")
    (first, left), (second, right) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    loss, gradient = graded_foreground(slice(0, 4))
    torch.testing.assert_close((first + second) / 2, loss)
    torch.testing.assert_close(torch.cat([left, right]) / 2, gradient)


def test_foreground_loss_rewards_the_right_region() -> None:
    target = torch.zeros(1, 1, 4, 4)
    target[..., 1:3, 1:3] = 1
    right, wrong = (foreground_loss(20 * (2 * t - 1), target) for t in (target, 1 - target))
    assert float(right) == pytest.approx(0, abs=1e-4) and float(wrong) > 5
    assert torch.isfinite(foreground_loss(torch.zeros_like(target), torch.zeros_like(target)))


def test_foreground_loss_is_weighed_cross_entropy_plus_dice() -> None:
    torch.manual_seed(6)
    logits, target = torch.randn(2, 1, 3, 4), (torch.rand(2, 1, 3, 4) < 0.4).float()
    p = logits.sigmoid()
    entropy = -(2.13 * target * p.log() + (1 - target) * (1 - p).log()).mean()
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    assert float(foreground_loss(logits, target)) == pytest.approx(float(entropy + dice), rel=1e-5)


def test_foreground_is_what_boxes_cover_and_where_small_objects_stand() -> None:
    grid = BevGrid(-12.8, 12.8, -9.6, 9.6, 0.8)
    heatmap = torch.zeros(1, len(CLASSES), *grid.shape)
    cells, _ = grid.cells(np.array([[0.4, 0.4], [-6.0, 2.0]]))
    for ix, iy in cells:
        heatmap[0, 0, ix, iy] = 1.0
    heatmap[0, 1] += 0.5  # the slopes of a Gaussian are no object
    boxes = torch.tensor([[[0.4, 0.4, 0.0, 4.0, 1.6, 1.5, np.pi / 2], [-5.9, 2.1, 0.0, 0.1, 0.1, 1.0, 0.0], [9.0] * 7]])
    found = foreground_target({"heatmap": heatmap, "gt_boxes": boxes, "gt_valid": torch.tensor([[1, 1, 0]])}, grid)
    centers = grid.centers()
    expected = (np.abs(centers[..., 0] - 0.4) <= 0.8 + 1e-6) & (np.abs(centers[..., 1] - 0.4) <= 2.0)
    expected[tuple(cells[1])] = True
    np.testing.assert_array_equal(found[0, 0].numpy().astype(bool), expected)
    assert expected.sum() == 3 * 5 + 1


def test_iou_losses_in_closed_form() -> None:
    """Cubes of 2 m: moved by 1 m along x or z their IoU is 1 / 3; DIoU takes away distance^2 / diagonal^2 = 1 / 17."""
    step, size, half = 0.8, [math.log(2)] * 3, 1 / 3 - 1 / 17
    real = torch.tensor([0.5, 0.5, 1.0, *size, 0.0, 1.0, 0.0, 0.0])
    boxes, regression = real.repeat(2, 3, 1), real.repeat(2, 3, 4, 1).permute(0, 3, 1, 2).clone()
    cells, mask = torch.tensor([[5, 0, 7], [11, 4, 4]]), torch.ones(2, 3, 10)
    regression[0, 0, 1, 1] += 1 / step  # of cell 5, in cells
    regression[1, 2, 2, 3] -= 1.0  # of cell 11, in metres
    regression[0, :, 1, 3] = 9.0  # of cell 7, which is padding
    mask[0, 2] = 0
    iou = torch.full((2, 3, 4), 0.5)
    branch, diou = iou_losses(iou, regression.requires_grad_(), cells, boxes, mask, step)
    assert branch.item() == pytest.approx((2 * abs(0.5 + 1 / 3) + 3 * 0.5) / 5, abs=1e-3)
    assert diou.item() == pytest.approx(2 * (1 - half) / 5, abs=1e-3)
    assert not branch.requires_grad  # the branch learns how good the box is, the box nothing from it
    (gradient,) = torch.autograd.grad(diou, regression)
    assert gradient[0, 0, 1, 1] > 0 > gradient[1, 2, 2, 3] and not gradient[:, 6:].any()


def test_boxes_of_an_untrained_network_stay_finite() -> None:
    regression, boxes = torch.zeros(1, 10, 1, 1), torch.zeros(1, 1, 10)
    boxes[..., 7] = 1.0
    for log_size, volume in ((300.0, math.exp(5) ** 3), (-300.0, math.exp(-5) ** 3)):
        regression[:, 3:6] = log_size
        branch, _ = iou_losses(torch.zeros(1, 1, 1), regression, torch.tensor([[0]]), boxes, torch.ones(1, 1, 10), 1.0)
        assert float(branch) == pytest.approx(abs(2 * min(volume, 1 / volume) - 1), abs=1e-3)


class _Heads:
    def __init__(self, tasks: tuple[tuple[str, ...], ...]) -> None:
        self.tasks = tasks
        self.spec = ModelSpec(
            "t", (), (), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=BevGrid(0, 4, 0, 5, 1.0)
        )
        self.bins = DepthBins(1.0, 1.0, 4)


def test_six_tasks_sum_what_each_says_of_its_own_classes() -> None:
    torch.manual_seed(4)
    of_class = task_index(SIX_TASKS, CLASSES)
    heatmap, regression = torch.randn(2, 10, 4, 5), torch.randn(2, 6, 10, 4, 5)
    batch = {
        "heatmap": torch.rand(2, 10, 4, 5),
        "cells": torch.randint(0, 20, (2, 3)),
        "labels": torch.randint(0, 10, (2, 3)),
        "boxes": torch.randn(2, 3, 10),
        "mask": torch.ones(2, 3, 10),
    }
    losses = detection_losses(Prediction(heatmap, regression), batch, _Heads(SIX_TASKS), LossConfig())
    total = 0.0
    for task in range(6):
        rows = [(b, m) for b in range(2) for m in range(3) if of_class[batch["labels"][b, m]] == task]
        error = 0.0
        for b, m in rows:
            cell = int(batch["cells"][b, m])
            difference = (regression[b, task, :, cell // 5, cell % 5] - batch["boxes"][b, m]).abs()
            error += float(difference[:8].sum() + 0.2 * difference[8:].sum())
        total += 0.25 * error / max(len(rows), 1)
    assert float(losses["box"]) == pytest.approx(total, rel=1e-5)
    one = detection_losses(Prediction(heatmap, regression[:, :1]), batch, _Heads(ONE_TASK), LossConfig())
    assert float(one["heatmap"]) == pytest.approx(float(heatmap_loss(heatmap, batch["heatmap"])), rel=1e-5)


def test_every_term_has_its_weight_and_its_place() -> None:
    """What a prediction holds is supervised by its own part of the batch, and nothing else is."""
    torch.manual_seed(7)
    heatmap, regression = torch.randn(2, 10, 4, 5), torch.randn(2, 6, 10, 4, 5)
    aux = {
        "depth": torch.randn(2, 1, 4, 2, 2),
        "semantic": torch.randn(2, 1, 11, 2, 2),
        "foreground": torch.randn(2, 1, 4, 5),
        "iou": torch.rand(2, 6, 4, 5),
    }
    batch = {
        "heatmap": torch.rand(2, 10, 4, 5),
        "cells": torch.randint(0, 20, (2, 3)),
        "labels": torch.tensor([[0, 1, 8], [5, 9, 8]]),
        "boxes": torch.randn(2, 3, 10),
        "mask": torch.ones(2, 3, 10),
        "depth": torch.rand(2, 1, 2, 2) * 3 + 1,
        "semantic": torch.randint(0, 11, (2, 1, 2, 2)),
        "camera_valid": torch.ones(2, 1),
        "gt_boxes": torch.rand(2, 3, 7) + 1,
        "gt_valid": torch.ones(2, 3),
    }
    weights = LossConfig(depth=2.0, semantic=3.0, foreground=5.0, iou=7.0, diou=11.0, depth_form="cross_entropy")
    heads = _Heads(SIX_TASKS)
    found = detection_losses(Prediction(heatmap, regression, aux=aux), batch, heads, weights)
    of_class = torch.tensor(task_index(SIX_TASKS, CLASSES))
    branch = diou = 0.0
    for task in range(6):
        mask = batch["mask"] * (of_class[batch["labels"]] == task)[..., None]
        terms = iou_losses(aux["iou"][:, task], regression[:, task], batch["cells"], batch["boxes"], mask, 1.0)
        branch, diou = branch + float(terms[0]), diou + float(terms[1])
    expected = {
        "depth": 2 * float(depth_cross_entropy(aux["depth"], batch["depth"], batch["camera_valid"], heads.bins)),
        "semantic": 3 * float(semantic_loss(aux["semantic"], batch["semantic"], batch["camera_valid"])),
        "foreground": 5 * float(foreground_loss(aux["foreground"], foreground_target(batch, heads.spec.grid))),
        "iou": 7 * branch,
        "diou": 11 * diou,
    }
    assert set(found) == {"heatmap", "box", *expected}
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected, rel=1e-5)
    for missing, names in {"depth": {"depth"}, "iou": {"iou", "diou"}, "foreground": {"foreground"}}.items():
        less = Prediction(heatmap, regression, aux={name: value for name, value in aux.items() if name != missing})
        assert set(found) - set(detection_losses(less, batch, heads, weights)) == names


def test_the_weights_are_those_of_the_papers() -> None:
    """Reference numbers and recorded runs hold for these."""
    assert LossConfig() == LossConfig(
        box=0.25, velocity=0.2, velocity_beta=0.0, rotation=1.0, depth=3.0, depth_form="bce", semantic=0.3,
        foreground=1.0, iou=1.0, diou=0.25,
    )  # fmt: skip
