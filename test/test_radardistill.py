"""RadarDistill's AFD and PFD against loops, their bounds, and maps that are all active or all empty."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from torch import Tensor

from bev_perception.grid import BevGrid
from training.distill.radardistill import (
    AfdConfig,
    PfdConfig,
    activation_aware,
    activation_mask,
    activation_regions,
    proposal_based,
    proposal_weights,
    radardistill_afd,
    radardistill_pfd,
)
from training.distill.scene import Pair, Scene
from training.models.detector import Prediction

SHAPE = (5, 4)
GRID = BevGrid(-2.5, 2.5, -2.0, 2.0, 1.0)


def features(seed: int = 0, channels: int = 3) -> tuple[Tensor, Tensor]:
    """A radar map after GELU (some cells below zero) and a sparse LiDAR map (zero where nothing is)."""
    g = torch.Generator().manual_seed(seed)
    student = torch.nn.functional.gelu(torch.randn(2, channels, *SHAPE, generator=g))
    active = torch.rand(2, 1, *SHAPE, generator=g) > 0.5
    return student, torch.rand(2, channels, *SHAPE, generator=g) * active


def scene_of(logits: Tensor, target: Tensor) -> Scene:
    p = Prediction(logits, torch.zeros(len(logits), 1, 10, *logits.shape[2:]))
    return Scene(GRID, {"heatmap": target}, p, p)


def test_published_weights() -> None:
    assert (AfdConfig().both, AfdConfig().radar_only, AfdConfig().weight, AfdConfig().mask) == (3e-4, 5e-5, 5.0, 0.0)
    assert (PfdConfig().positive, PfdConfig().false_positive, PfdConfig().weight) == (5.0, 1.0, 25.0)


def test_afd_equals_a_loop() -> None:
    student, teacher = features()
    both, only = [], []
    for b in range(2):
        for x in range(SHAPE[0]):
            for y in range(SHAPE[1]):
                s, t = student[b, :, x, y], teacher[b, :, x, y]
                if float(s.sum()) > 0:
                    error = sum(float(a - c) ** 2 for a, c in zip(s, t, strict=True))
                    (both if float(t.sum()) > 0 else only).append(error)
    assert len(both) > 3 and len(only) > 3
    expected = (3e-4 * sum(both) + 5e-5 * len(both) / len(only) * sum(only)) / 2
    assert float(activation_aware(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_cells_that_radar_does_not_see_are_free() -> None:
    student, teacher = features()
    both, only = activation_regions(student, teacher)
    silent = ~(both | only)
    assert silent.any()
    louder = torch.where(silent[:, None], 9.0 * (teacher > 0), teacher)
    assert torch.equal(activation_aware(student, louder), activation_aware(student, teacher))


@pytest.mark.parametrize("radar", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("lidar", [1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_active_and_all_inactive_maps(radar: float, lidar: float, dtype: torch.dtype) -> None:
    student = torch.full((2, 3, *SHAPE), radar, dtype=dtype, requires_grad=True)
    teacher = torch.full((2, 3, *SHAPE), lidar, dtype=dtype)
    scene = scene_of(torch.zeros(2, 2, *SHAPE), torch.zeros(2, 2, *SHAPE))
    losses = radardistill_afd(Pair(student, teacher), scene, AfdConfig(mask=1.0))
    assert all(torch.isfinite(v) for v in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()
    assert float(losses["low"]) == 0  # equal, or silent, or radar alone with no cell to measure it by (rho = 0)
    if radar > 0 and lidar == 0:
        assert float(losses["mask"]) == pytest.approx(5 / (1 + math.exp(-3)), rel=1e-2)
    # No cell is active for radar alone: the ratio's denominator is 0, the loss is not.
    wrong = activation_aware(torch.ones(1, 3, *SHAPE), torch.full((1, 3, *SHAPE), 2.0))
    assert float(wrong) == pytest.approx(3e-4 * 3 * 20)


def test_mask_term_is_the_codes_option() -> None:
    student, teacher = features()
    scene = scene_of(torch.zeros(2, 2, *SHAPE), torch.zeros(2, 2, *SHAPE))
    assert list(radardistill_afd(Pair(student, teacher), scene)) == ["low"]
    total = 0.0
    for b in range(2):
        for x in range(SHAPE[0]):
            for y in range(SHAPE[1]):
                s = 1 / (1 + math.exp(-float(student[b, :, x, y].sum())))
                total += abs(s - float(teacher[b, :, x, y].sum() > 0))
    assert float(activation_mask(student, teacher)) == pytest.approx(total / 40, rel=1e-5)
    found = radardistill_afd(Pair(student, teacher), scene, AfdConfig(mask=1.0))
    assert float(found["mask"]) == pytest.approx(5 * total / 40, rel=1e-5)
    assert float(found["low"]) == pytest.approx(5 * float(activation_aware(student, teacher)))


def test_pfd_weights_as_drawn() -> None:
    target, logits = torch.zeros(1, *SHAPE), torch.full((1, *SHAPE), -9.0)
    target[0, 0, 0], logits[0, 0, 0] = 1.0, 2.0  # TP
    target[0, 0, 1] = 0.5  # FN
    logits[0, 4, 3] = logits[0, 3, 3] = 1.0  # FP
    target[0, 2, 2] = 0.05  # below the threshold, and not seen
    weights = proposal_weights(logits, target)
    expected = torch.zeros(1, *SHAPE)
    expected[0, 0, 0] = expected[0, 0, 1] = 5 / 2
    expected[0, 4, 3] = expected[0, 3, 3] = 1 / 2
    assert torch.equal(weights, expected)
    # What the student says of true objects does not matter.
    logits[0, 0, 0] = -9.0
    assert torch.equal(proposal_weights(logits, target), expected)


def test_pfd_equals_a_loop_and_keeps_its_bound() -> None:
    student, teacher = features(1)
    g = torch.Generator().manual_seed(2)
    target, logits = torch.rand(2, 2, *SHAPE, generator=g) ** 4, 2 * torch.randn(2, 2, *SHAPE, generator=g) - 2
    found = float(radardistill_pfd(Pair(student, teacher), scene_of(logits, target))["high"])
    positive, false = [], []
    for b in range(2):
        for x in range(SHAPE[0]):
            for y in range(SHAPE[1]):
                s = [math.exp(float(v)) for v in student[b, :, x, y]]
                t = [math.exp(float(v)) for v in teacher[b, :, x, y]]
                error = sum(abs(a / sum(s) - c / sum(t)) for a, c in zip(s, t, strict=True))
                gt, score = float(target[b, :, x, y].max()), 1 / (1 + math.exp(-float(logits[b, :, x, y].max())))
                if gt > 0.1:
                    positive.append(error)
                elif gt < 0.1 and score > 0.1:
                    false.append(error)
    assert positive and false
    assert found == pytest.approx(25 * (5 * sum(positive) / len(positive) + sum(false) / len(false)), rel=1e-5)
    # Opposite one-hot softmaxes reach the bound 2 (lambda1 + lambda2) for every cell.
    far = torch.zeros(1, 3, *SHAPE)
    far[:, 0] = 1e3
    near = far.flip(1)
    weights = proposal_weights(torch.full((1, *SHAPE), 3.0), torch.eye(5)[None, :, :4])
    assert float(proposal_based(far, near, weights)) == pytest.approx(12.0)


def test_softmax_forgives_another_scale_of_channels() -> None:
    student, _ = features(3)
    weights = torch.ones(2, *SHAPE)
    assert float(proposal_based(student + 4.0, student, weights)) == pytest.approx(0, abs=1e-4)
    assert float(proposal_based(student + 4.0, student, weights, softmax=False)) == pytest.approx(4 * 3 * 40, rel=1e-4)


def test_pfd_at_another_resolution_takes_the_highest_score() -> None:
    student, teacher = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    target = torch.zeros(1, 2, 8, 8)
    target[0, 1, 3, 5] = 1.0
    found = radardistill_pfd(Pair(student, teacher), scene_of(torch.full_like(target, -9.0), target))["high"]
    cell = (student.softmax(dim=1) - teacher.softmax(dim=1))[0, :, 1, 2].abs().sum()
    assert float(found) == pytest.approx(25 * 5 * float(cell), rel=1e-5)


def test_equal_features_give_zero_and_batch_order_does_not_matter() -> None:
    student, teacher = features(4)
    g = torch.Generator().manual_seed(5)
    target, logits = torch.rand(2, 2, *SHAPE, generator=g) ** 4, torch.randn(2, 2, *SHAPE, generator=g)
    scene, turned = scene_of(logits, target), scene_of(logits.flip(0), target.flip(0))
    for loss in (radardistill_afd, radardistill_pfd):
        assert all(float(v) == 0 for v in loss(Pair(teacher, teacher), scene).values())
        value = next(iter(loss(Pair(student, teacher), scene).values()))
        other = next(iter(loss(Pair(student.flip(0), teacher.flip(0)), turned).values()))
        assert float(value) == pytest.approx(float(other), rel=1e-5) and float(value) > 0


def test_gradients_reach_the_student_only() -> None:
    student, teacher = features(6)
    student.requires_grad_(), teacher.requires_grad_()
    logits = torch.zeros(2, 2, *SHAPE, requires_grad=True)
    target = torch.zeros(2, 2, *SHAPE)
    target[:, 0, 1, 1] = 1.0
    scene = scene_of(logits, target)
    losses = radardistill_afd(Pair(student, teacher.detach()), scene, AfdConfig(mask=1.0))
    losses |= radardistill_pfd(Pair(student, teacher.detach()), scene)
    torch.stack(list(losses.values())).sum().backward()
    assert student.grad is not None and bool((student.grad != 0).any())
    assert teacher.grad is None and logits.grad is None


@pytest.mark.parametrize("score", [-100.0, 100.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pfd_is_finite_without_objects_or_proposals(score: float, label: float, dtype: torch.dtype) -> None:
    student, teacher = features(7)
    student = (100 * student).to(dtype).requires_grad_()
    scene = scene_of(torch.full((2, 2, *SHAPE), score, dtype=dtype), torch.full((2, 2, *SHAPE), label))
    value = radardistill_pfd(Pair(student, (100 * teacher).to(dtype)), scene)["high"]
    value.backward()
    assert torch.isfinite(value) and student.grad is not None and torch.isfinite(student.grad).all()
    assert (float(value) == 0) == (label == 0 and score < 0)


def test_an_adapter_is_asked_for() -> None:
    scene = scene_of(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    for loss in (radardistill_afd, radardistill_pfd):
        with pytest.raises(ValueError, match="adapter"):
            loss(Pair(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4)), scene)
