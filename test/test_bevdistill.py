"""BEVDistill: Gaussians, instances, their assignment, and the losses over them, against loops."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
import torch.nn.functional as F
from tiny_distill import Taught, batch_of, centerpoint, student, total
from torch import Tensor

from bev_perception.grid import BevGrid
from training.data.targets import draw_gaussian, gaussian_radius
from training.distill.bevdistill import (
    BevDistillContrastConfig,
    BevDistillInstanceConfig,
    ContrastHead,
    bevdistill_contrast,
    bevdistill_instances,
)
from training.distill.config import DistillConfig, Term
from training.distill.instances import Instances, assign, instances
from training.distill.places import gaussians, read_at
from training.distill.scene import Pair, Scene
from training.models.detector import Prediction
from training.recipes.distillation import bevdistill

GRID = BevGrid(-8.0, 8.0, -6.0, 6.0, 1.0)


@pytest.mark.parametrize(("shape", "overlap", "least"), [((16, 12), 0.1, 1), ((16, 12), 0.7, 0), ((32, 24), 0.1, 2)])
def test_gaussians_are_drawn_as_the_targets_are(shape: tuple[int, int], overlap: float, least: int) -> None:
    rng = np.random.default_rng(2)
    boxes = rng.uniform([-9, -7, 0, 0.4, 0.4, 1, -3], [9, 7, 1, 12, 6, 2, 3], (2, 9, 7))
    boxes[0, 0, :2], boxes[0, 1, :2] = (-8.0, -6.0), (8.0, 0.0)  # in the first cell; on the far edge: outside
    valid, step = np.ones((2, 9)), 16 / shape[0]
    valid[1, 4:] = 0
    wanted = np.zeros((2, *shape), dtype=np.float32)
    radii = []
    for b, m in np.ndindex(2, 9):
        x, y = math.floor((boxes[b, m, 0] + 8) / step), math.floor((boxes[b, m, 1] + 6) / step)
        if valid[b, m] and 0 <= x < shape[0] and 0 <= y < shape[1]:
            radii.append(max(least, int(gaussian_radius(boxes[b, m, 4] / step, boxes[b, m, 3] / step, overlap))))
            draw_gaussian(wanted[b], (x, y), radii[-1])
    found = gaussians(torch.from_numpy(boxes), torch.from_numpy(valid), GRID, shape, overlap, least)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
    assert min(radii) == least < max(radii)


def maps(seed: int, tasks: int = 1, shape: tuple[int, int] = (16, 12)) -> Prediction:
    g = torch.Generator().manual_seed(seed)
    heatmap, regression = torch.randn(2, 3, *shape, generator=g), torch.randn(2, tasks, 10, *shape, generator=g)
    return Prediction(heatmap, regression, features={"neck": torch.randn(2, 6, *shape, generator=g)})


def scene_of(one: Prediction, other: Prediction) -> Scene:
    return Scene(GRID, {}, one, other, (0, 0, 0), (0, 1, 1))


def test_instances_are_the_strongest_peaks_with_the_boxes_of_their_task() -> None:
    prediction = maps(3, tasks=2, shape=(8, 6))  # cells of 2 m
    prediction.heatmap.fill_(-5.0)
    for label, ix, iy, logit in ((2, 5, 1, 3.0), (2, 5, 2, 2.0), (0, 0, 0, 1.0), (1, 7, 5, 0.5)):
        prediction.heatmap[1, label, ix, iy] = logit  # the second is beside the first, no peak
    found = instances(prediction, (0, 1, 1), GRID, 3)
    assert found.logits.shape == (2, 3, 3) and found.boxes.shape == (2, 3, 10)
    for k, (task, ix, iy) in enumerate(((1, 5, 1), (0, 0, 0), (1, 7, 5))):
        coded = prediction.regression[1, task, :, ix, iy]
        place = torch.tensor([-8.0, -6.0]) + 2 * (torch.tensor([ix, iy]) + coded[:2])
        torch.testing.assert_close(found.boxes[1, k], torch.cat([place, coded[2:]]))
        assert torch.equal(found.logits[1, k], prediction.heatmap[1, :, ix, iy])
    assert torch.allclose(found.scores()[1], torch.tensor([3.0, 1.0, 0.5]).sigmoid())
    assert instances(prediction, (0, 1, 1), GRID, 900).logits.shape == (2, 48, 3), "no more than cells"


def cost(s: Instances, t: Instances, b: int, i: int, k: int) -> float:
    p = t.logits[b, k].double().sigmoid()
    entropy = F.binary_cross_entropy_with_logits(s.logits[b, i].double(), p, reduction="sum")
    return float(entropy + 0.25 * (s.boxes[b, i, :8] - t.boxes[b, k, :8]).double().abs().sum())


def test_assignment_is_the_cheapest_of_all() -> None:
    s, t = (instances(maps(seed), (0, 0, 0), GRID, count) for seed, count in ((1, 5), (2, 3)))
    mine, theirs = assign(s, t, 0.25)
    for b in range(2):
        best = min(
            itertools.permutations(range(5), 3), key=lambda rows: sum(cost(s, t, b, i, k) for k, i in enumerate(rows))
        )
        assert {(int(i), int(k)) for i, k in zip(mine[b], theirs[b], strict=True)} == set(zip(best, range(3)))
    broken = s._replace(boxes=s.boxes.clone().fill_(math.nan))
    with pytest.raises(FloatingPointError, match="not finite"):
        assign(broken, t, 0.25)


def test_boxes_are_taught_by_how_sure_the_teacher_is() -> None:
    one, other = maps(1), maps(2, tasks=2)
    one.regression.requires_grad_()
    config, scene = BevDistillInstanceConfig(teacher=4, student=7), scene_of(one, other)
    s, t = instances(one, (0, 0, 0), GRID, 7), instances(other, (0, 1, 1), GRID, 4)
    mine, theirs = assign(s, t, 0.25)
    error = quality = 0.0
    for b, k in np.ndindex(2, 4):
        q = float(t.scores()[b, theirs[b, k]])
        apart = (s.boxes[b, mine[b, k]] - t.boxes[b, theirs[b, k]]).abs()
        error += q**2 * float((apart[:8].sum() + 0.2 * apart[8:].sum()).detach())
        quality += q
    (found,) = bevdistill_instances(Pair(one.regression, other.regression), scene, config).values()
    assert float(found.detach()) == pytest.approx(0.25 * error / quality, rel=1e-5)
    (gradient,) = torch.autograd.grad(found, one.regression)
    assert int((gradient != 0).any(dim=2).sum()) == 8, "at the assigned cells alone"


@pytest.mark.parametrize("places", ["matched", "released"])
def test_contrast_equals_a_loop(places: str) -> None:
    torch.manual_seed(4)
    one, other = maps(1), maps(2, tasks=2, shape=(8, 6))
    config = BevDistillContrastConfig(
        student_channels=6, teacher_channels=6, hidden=5, teacher=4, student=7, places=places
    )
    head, scene = ContrastHead(config).eval(), scene_of(one, other)
    one.features["neck"].requires_grad_()
    pair = Pair(one.features["neck"], other.features["neck"], head)
    (found,) = bevdistill_contrast(pair, scene, config).values()
    s, t = instances(one, (0, 0, 0), GRID, 7), instances(other, (0, 1, 1), GRID, 4)
    mine, theirs = assign(s, t, 0.25)
    rows: list[tuple[Tensor, Tensor]] = []
    for b, k in np.ndindex(2, 4 if places == "matched" else 7):
        here = there = s.boxes[b, k, :2]
        if places == "matched":
            here, there = s.boxes[b, mine[b, k], :2], t.boxes[b, theirs[b, k], :2]
        read = [
            head_of(read_at(neck[b : b + 1], place.reshape(1, 1, 1, 2), GRID).reshape(1, -1))
            for head_of, neck, place in ((head.student, pair.student, here), (head.teacher, pair.teacher, there))
        ]
        rows.append((F.normalize(read[0], dim=1)[0], F.normalize(read[1], dim=1)[0]))
    loss, of_frame = 0.0, len(rows) // 2
    for i, (_, teaching) in enumerate(rows):
        frame = i - i % of_frame
        likeness = torch.stack([teaching @ learning for learning, _ in rows[frame : frame + of_frame]]) / 0.07
        loss -= float(likeness.detach().log_softmax(dim=0)[i - frame])
    assert float(found.detach()) == pytest.approx(0.2 * loss / len(rows), rel=1e-4)
    found.backward()
    assert one.features["neck"].grad is not None and one.features["neck"].grad.any()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_equal_maps_are_told_apart_better_than_mixed_ones() -> None:
    torch.manual_seed(5)
    one = maps(1)
    config = BevDistillContrastConfig(student_channels=6, teacher_channels=6, hidden=32, student=20)
    head = ContrastHead(config)
    head.teacher.load_state_dict(head.student.state_dict())
    scene, neck = scene_of(one, dataclasses.replace(one, regression=one.regression.repeat(1, 2, 1, 1, 1))), "neck"
    same, mixed = (
        float(bevdistill_contrast(Pair(one.features[neck], other, head), scene, config)["contrast"].detach())
        for other in (one.features[neck], one.features[neck].flip(0))
    )
    assert same < 0.1 < mixed


def test_the_whole_method_as_terms_of_a_distiller() -> None:
    torch.manual_seed(0)
    module = Taught(student(), {"teacher": centerpoint()}, bevdistill(10, 72))
    losses = module(batch_of())[1]
    assert {name.rpartition("/")[2] for name in losses} == {"feature", "box", "contrast"}
    total(losses).backward()
    part = module.distiller.parts["bevdistill_contrast_neck"]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters())
    reached = {n for n, p in module.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"head", "neck"} <= {n.partition(".")[0] for n in reached}
    wrong = DistillConfig((Term("bevdistill_contrast", "neck", "neck"),))
    with pytest.raises(ValueError, match="maps have 10 and 72 channels"):
        Taught(student(), {"teacher": centerpoint()}, wrong)(batch_of())
    with pytest.raises(ValueError, match="'released', 'matched'"):
        BevDistillContrastConfig(places="everywhere")
