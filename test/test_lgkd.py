"""BEV-LGKD and the simpler losses against loops, at their fixed points and on empty scenes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.grid import BevGrid
from bev_perception.model_spec import BOX_CHANNELS
from training.distill import DISTILL_LOSSES
from training.distill.lgkd import (
    LgkdDepthConfig,
    LgkdFeatureConfig,
    LgkdResponseConfig,
    depth_imitation,
    lgkd_feature,
    masked_imitation,
    response_imitation,
)
from training.distill.places import gaussians
from training.distill.responses import regroup, sigmoid_kl, soft_kl
from training.distill.scene import Pair, Scene
from training.distill.unidistill import KEY_POINTS, UniResponseConfig, relation, sample_key_points, unidistill_response
from training.models.detector import Prediction
from training.models.view.depth_bins import DepthBins

GRID = BevGrid(-4.0, 4.0, -3.0, 3.0, 1.0)
SHAPE = GRID.shape
BINS = DepthBins(0.5, 1.0, 4)
H, W, STRIDE = 3, 5, 8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def camera() -> Tensor:
    """At the origin, 1 m up, looking along +x."""
    k = torch.tensor([[10.0, 0, W * STRIDE / 2 - 0.5, 0], [0, 10, H * STRIDE / 2 - 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return k @ torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 0], [0, 0, 0, 1]])


def prediction(seed: int, tasks: int = 1, samples: int = 2) -> Prediction:
    g = generator(seed)
    return Prediction(
        torch.randn(samples, 3, *SHAPE, generator=g),
        torch.randn(samples, tasks, 10, *SHAPE, generator=g),
        aux={"depth": torch.randn(samples, 2, BINS.count, H, W, generator=g)},
        features={"neck": torch.randn(samples, 6, *SHAPE, generator=g)},
    )


def batch_of(samples: int = 2) -> dict[str, Tensor]:
    boxes = torch.tensor([[2.5, 0.5, 0.5, 3.0, 2.0, 1.6, 0.1], [-2.0, -1.0, 0.5, 2.0, 2.0, 1.5, 1.0]])
    points = torch.rand(60 * samples, 6, generator=generator(7)) * torch.tensor([1, 8, 6, 1, 1, 0.5]) - torch.tensor(
        [0, 4.0, 3, 0, 0, 0]
    )
    points[:, 0] = torch.arange(len(points)) % samples
    depth = torch.zeros(samples, 2, 2 * H, 2 * W)
    depth[:, :, ::3, ::2] = 2.0
    target = torch.zeros(samples, 3, *SHAPE)
    target[:, 1, 5:8, 2:4] = 0.5
    target[:, 1, 6, 3] = 1.0
    return {
        "gt_boxes": boxes.repeat(samples, 1, 1), "gt_valid": torch.ones(samples, 2), "heatmap": target, "lidar": points,
        "depth": depth, "img_from_ego": camera().expand(samples, 2, 4, 4), "camera_valid": torch.ones(samples, 2),
    }  # fmt: skip


def scene_of(student: Prediction, teacher: Prediction, batch: dict[str, Tensor]) -> Scene:
    return Scene(GRID, batch, student, teacher, (0, 0, 0), (0, 0, 0), BINS, H * STRIDE)


NAMES = {
    "lgkd_depth": "depth", "lgkd_response": "heatmap", "logits": "heatmap", "unidistill_response": "heatmap",
    "bevdistill_instances": "regression",
}  # fmt: skip


def pair_for(loss: str, student: Prediction, teacher: Prediction) -> Pair:
    found = []
    for p in (student, teacher):
        name = NAMES.get(loss, "neck")
        found.append({"depth": p.aux["depth"], "neck": p.features["neck"]}.get(name, getattr(p, name, p.heatmap)))
    return Pair(*found)


OTHERS = ("distillbev", "radardistill", "bevdistill_contrast")
HERE = [name for name in DISTILL_LOSSES if not name.startswith(OTHERS)]


def test_masked_imitation_is_a_mean_per_view() -> None:
    g = generator()
    s, t = torch.randn(2, 3, 4, 5, generator=g), torch.randn(2, 3, 4, 5, generator=g).relu()
    lidar, views = torch.rand(2, 4, 5, generator=g) > 0.4, torch.rand(2, 3, 4, 5, generator=g) > 0.5
    views[:, 2] = False  # a view that reaches nothing adds nothing
    total = 0.0
    for v in range(3):
        terms = [
            float(s[b, c, x, y] - t[b, c, x, y]) ** 2
            for b in range(2)
            for c in range(3)
            for x in range(4)
            for y in range(5)
            if t[b, c, x, y] != 0 and lidar[b, x, y] and views[b, v, x, y]
        ]
        total += sum(terms) / len(terms) if terms else 0.0
    assert total > 0
    assert float(masked_imitation(s, t, lidar, views)) == pytest.approx(total, rel=1e-5)


def test_lidar_in_boxes_or_everywhere() -> None:
    student, teacher, batch = prediction(1), prediction(2), batch_of()
    scene, pair = scene_of(student, teacher, batch), Pair(student.features["neck"], teacher.features["neck"])
    # Only the cell (6, 3) holds an object's point; the other point lies on the ground.
    batch["lidar"] = torch.tensor([[0, 2.5, 0.5, 0.5, 0, 0], [0, 1.5, -0.5, -0.9, 0, 0]]).float()
    error = (pair.student - pair.teacher) ** 2
    inside = lgkd_feature(pair, scene, LgkdFeatureConfig(view_threshold=0.0))["feature"]
    assert float(inside) == pytest.approx(2 * float(error[0, :, 6, 3].mean()), rel=1e-5)
    both = lgkd_feature(pair, scene, LgkdFeatureConfig(points="all", view_threshold=0.0))["feature"]
    cells = torch.stack([error[0, :, 6, 3], error[0, :, 5, 2]]).mean()
    assert float(both) == pytest.approx(2 * float(cells), rel=1e-5)
    one = lgkd_feature(pair, scene, LgkdFeatureConfig(points="all", view_threshold=0.0, views=1))["feature"]
    assert float(one) == pytest.approx(float(cells), rel=1e-5)
    assert float(lgkd_feature(pair, scene, LgkdFeatureConfig(view_threshold=1.0))["feature"]) == 0


@pytest.mark.parametrize("form", ["logits", "released"])
def test_depth_imitation_equals_a_loop(form: str) -> None:
    g = generator(3)
    s, t = torch.randn(1, 2, 4, 2, 3, generator=g), torch.randn(1, 2, 4, 2, 3, generator=g)
    known = torch.rand(1, 2, 2, 3, generator=g) > 0.3
    total, pixels, temperature = 0.0, 0, 1.25

    def distribution(z: Tensor) -> list[float]:
        if form == "logits":
            return [float(v) for v in (z.double() / temperature).softmax(dim=0)]
        return [float(v) / temperature for v in z.double().softmax(dim=0)]

    for n in range(2):
        for y in range(2):
            for x in range(3):
                if known[0, n, y, x]:
                    pixels += 1
                    for p, q in zip(distribution(t[0, n, :, y, x]), distribution(s[0, n, :, y, x]), strict=True):
                        total -= p * math.log(q) + (1 - p) * math.log(1 - q)
                        total += p * math.log(p) + (1 - p) * math.log(1 - p) if form == "logits" else 0.0
    found = depth_imitation(s, t, known, LgkdDepthConfig(form=form))
    assert float(found) == pytest.approx(temperature**2 * total / pixels, rel=1e-4)


def test_the_entropy_taken_off_does_not_change_the_gradient() -> None:
    g = generator(4)
    s, t = torch.randn(1, 1, 4, 2, 3, generator=g, requires_grad=True), torch.randn(1, 1, 4, 2, 3, generator=g)
    known = torch.ones(1, 1, 2, 3, dtype=torch.bool)
    depth_imitation(s, t, known, LgkdDepthConfig()).backward()
    other = s.detach().clone().requires_grad_()
    p, q = (t / 1.25).softmax(dim=2), (other / 1.25).softmax(dim=2)
    (1.25**2 * F.binary_cross_entropy(q, p, reduction="sum") / 6).backward()
    assert s.grad is not None and other.grad is not None
    assert torch.allclose(s.grad, other.grad, atol=1e-6)


@pytest.mark.parametrize("form", ["logits", "released"])
@pytest.mark.parametrize("lead", [0.0, 14.0, 40.0])
def test_depths_are_taught_however_sure_of_another_the_student_is(lead: float, form: str) -> None:
    """Against double precision, in which 40 logits leave something of one."""
    t = torch.zeros(1, 1, 6, 1, 1)
    t[0, 0, 4] = 3.0
    s = torch.zeros_like(t)
    s[0, 0, 1] = lead
    s.requires_grad_()
    known, config = torch.ones(1, 1, 1, 1, dtype=torch.bool), LgkdDepthConfig(form=form)
    (gradient,) = torch.autograd.grad(depth_imitation(s, t, known, config), s)
    exact = s.detach().double().flatten().requires_grad_()
    p, q = t.double().flatten(), exact
    if form == "logits":
        p, q = (p / 1.25).softmax(0), (q / 1.25).softmax(0)
        total = (exact / 1.25).logsumexp(0)
        rest = torch.stack([(exact[torch.arange(6) != i] / 1.25).logsumexp(0) for i in range(6)])
        loss = -(p * ((exact / 1.25) - total) + (1 - p) * (rest - total)).sum()
    else:
        p, q = p.softmax(0) / 1.25, q.log_softmax(0)
        loss = -(p * (q - math.log(1.25)) + (1 - p) * torch.log1p(-q.exp() / 1.25)).sum()
    (wanted,) = torch.autograd.grad(1.25**2 * loss, exact)
    torch.testing.assert_close(gradient.flatten().double(), wanted, rtol=1e-4, atol=1e-6)
    assert lead == 0 or wanted[4] < -0.3


def test_released_depths_refuse_a_temperature_below_one() -> None:
    known, depth = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 6, 1, 1)
    with pytest.raises(ValueError, match=r"1 or more, found 0\.5"):
        depth_imitation(depth, depth, known, LgkdDepthConfig(temperature=0.5, form="released"))


def test_response_equals_a_loop_over_tasks() -> None:
    student, teacher = prediction(5, tasks=2), prediction(6, tasks=2)
    t, total = 1.25, 0.0
    for task, classes in enumerate(([0], [1, 2])):
        kl, offset, rotation = [], [], []
        for b in range(2):
            for x in range(SHAPE[0]):
                for y in range(SHAPE[1]):
                    p = (teacher.heatmap[b, classes, x, y].double() / t).softmax(dim=0)
                    q = (student.heatmap[b, classes, x, y].double() / t).softmax(dim=0)
                    kl.append(t * t * sum(float(a) * math.log(float(a) / float(c)) for a, c in zip(p, q, strict=True)))
                    for names, out in ((("dx", "dy"), offset), (("sin_yaw", "cos_yaw"), rotation)):
                        for name in names:
                            k = BOX_CHANNELS.index(name)
                            d = abs(float(student.regression[b, task, k, x, y] - teacher.regression[b, task, k, x, y]))
                            out.append(0.5 * d * d if d < 1 else d - 0.5)
        total += 0.25 * sum(kl) / len(kl) + sum(offset) / len(offset) + sum(rotation) / len(rotation)
    found = response_imitation(
        student.heatmap, teacher.heatmap, student.regression, teacher.regression, (0, 1, 1), LgkdResponseConfig()
    )
    assert float(found) == pytest.approx(total, rel=1e-4)


def test_a_class_alone_in_its_task_has_no_soft_label() -> None:
    x = torch.randn(1, 1, 3, 3, generator=generator())
    assert (soft_kl(x, x + 3, 1.25) == 0).all()
    assert float(sigmoid_kl(x, x + 3, 1.25).min()) > 0


def test_regroup_takes_the_box_of_the_likeliest_class() -> None:
    heatmap, regression = torch.zeros(1, 3, 2, 2), torch.arange(2.0).reshape(1, 2, 1, 1, 1).expand(1, 2, 10, 2, 2)
    heatmap[0, 2, 0, 1] = 5.0  # class 2 belongs to task 1
    heatmap[0, 0, 1, 1] = 5.0
    one = regroup(regression, heatmap, (0, 0, 1), (0, 0, 0))
    assert one.shape == (1, 1, 10, 2, 2)
    assert one[0, 0, 4].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    back = regroup(one, heatmap, (0, 0, 0), (0, 0, 1))
    assert torch.equal(back, one.expand(1, 2, 10, 2, 2))
    assert regroup(regression, heatmap, (0, 0, 1), (0, 0, 1)) is regression


def test_key_points_are_read_where_they_lie() -> None:
    """A feature that is its own coordinate comes back as the key points' coordinates."""
    xs = torch.arange(SHAPE[0]) + 0.5 + GRID.x_min
    ys = torch.arange(SHAPE[1]) + 0.5 + GRID.y_min
    feature = torch.stack(torch.meshgrid(xs, ys, indexing="ij"))[None]
    box = torch.tensor([[[0.5, -0.5, 0.0, 4.0, 2.0, 1.0, math.pi / 2]]])
    read = sample_key_points(feature, box, GRID)[0, 0]
    assert len({tuple(p) for p in KEY_POINTS}) == 9
    for (u, v), (x, y) in zip(KEY_POINTS, read.tolist(), strict=True):
        assert (x, y) == (pytest.approx(0.5 - v, abs=1e-5), pytest.approx(-0.5 + 2 * u, abs=1e-5))
    matrix = relation(torch.randn(1, 1, 9, 4, generator=generator()))
    assert torch.allclose(matrix, matrix.transpose(2, 3)) and torch.allclose(matrix[0, 0].diag(), torch.ones(9))


def test_relation_ignores_the_size_of_features() -> None:
    student, teacher = prediction(1), prediction(2)
    scene, function = scene_of(student, teacher, batch_of()), DISTILL_LOSSES["unidistill_relation"]
    f = student.features["neck"]
    assert float(function(Pair(7 * f, f), scene)["relation"]) == pytest.approx(0, abs=1e-4)
    assert float(function(Pair(f, teacher.features["neck"]), scene)["relation"]) > 1


def test_unidistill_asks_the_centres_for_the_teachers_halved_logits() -> None:
    """A least IoU of 0.7 leaves boxes of this size their centre's cell; the heads' logits there are 3 and 5."""
    student, teacher, batch = prediction(1), prediction(2), batch_of()
    teacher.regression.copy_(student.regression)
    student.heatmap.fill_(-9.0)
    teacher.heatmap.fill_(-9.0)
    teacher.heatmap[:, :, 0] = 9.0  # beside
    for p, logit in ((student, 3.0), (teacher, 5.0)):
        p.heatmap[:, 2, 6, 3] = p.heatmap[:, 0, 2, 2] = logit
    found = unidistill_response(Pair(student.heatmap, teacher.heatmap), scene_of(student, teacher, batch))
    wanted = 1 / (1 + math.exp(-3.0)) - 1 / (1 + math.exp(-2.5))
    assert float(found["response"]) == pytest.approx(10 * wanted, rel=1e-4)
    teacher.regression[:, :, 0, 6, 3] += 0.4  # one of ten channels, of one of two objects
    found = unidistill_response(Pair(student.heatmap, teacher.heatmap), scene_of(student, teacher, batch))
    assert float(found["response"]) == pytest.approx(10 * (wanted + 0.04 / 2), rel=1e-4)


def test_foreground_and_gaussian_losses_look_only_there() -> None:
    student, teacher, batch = prediction(1), prediction(2), batch_of()
    scene = scene_of(student, teacher, batch)
    s, t = student.features["neck"], teacher.features["neck"].clone()
    plain = DISTILL_LOSSES["plain_feature"](Pair(s, t), scene)["feature"]
    assert float(plain) == pytest.approx(float(((s - t) ** 2).mean()))
    before = {
        n: float(next(iter(DISTILL_LOSSES[n](Pair(s, t), scene).values())))
        for n in ("foreground_feature", "bevdistill_dense")
    }
    t[:, :, 0, :2] += 100.0  # neither in a box nor under a Gaussian
    for name, value in before.items():
        assert float(next(iter(DISTILL_LOSSES[name](Pair(s, t), scene).values()))) == value > 0
    gaussian = gaussians(batch["gt_boxes"], batch["gt_valid"], GRID, SHAPE, 0.1, 1)
    dense = ((s - t) ** 2 * gaussian[:, None]).sum() / gaussian.sum()
    assert before["bevdistill_dense"] == pytest.approx(1e-2 * float(dense), rel=1e-5)


@pytest.mark.parametrize("loss", HERE)
def test_equal_networks_give_zero(loss: str) -> None:
    p = prediction(3)
    config = UniResponseConfig(soften=1.0) if loss == "unidistill_response" else None
    for name, value in DISTILL_LOSSES[loss](pair_for(loss, p, p), scene_of(p, p, batch_of()), config).items():
        assert float(value) == pytest.approx(0, abs=1e-4), name


@pytest.mark.parametrize("loss", HERE)
def test_gradient_reaches_the_student_only(loss: str) -> None:
    student, teacher = prediction(1), prediction(2)
    for p in (student, teacher):
        for tensor in (p.heatmap, p.regression, p.aux["depth"], p.features["neck"]):
            tensor.requires_grad_()
    frozen = prediction(2)
    losses = DISTILL_LOSSES[loss](pair_for(loss, student, frozen), scene_of(student, frozen, batch_of()))
    torch.stack(list(losses.values())).sum().backward()
    gradient = pair_for(loss, student, frozen).student.grad
    assert gradient is not None and torch.isfinite(gradient).all() and bool((gradient != 0).any())


@pytest.mark.parametrize("loss", HERE)
def test_batch_order_and_padding(loss: str) -> None:
    def flip(p: Prediction) -> Prediction:
        turn: Callable[[Any], Any] = lambda d: {n: v.flip(0) for n, v in d.items()}  # noqa: E731
        return Prediction(p.heatmap.flip(0), p.regression.flip(0), aux=turn(p.aux), features=turn(p.features))

    student, teacher, batch = prediction(1), prediction(2), batch_of()
    batch["gt_boxes"][1, 1] += 0.7
    value = DISTILL_LOSSES[loss](pair_for(loss, student, teacher), scene_of(student, teacher, batch))
    turned = {n: v.flip(0) for n, v in batch.items()}
    turned["lidar"][:, 0] = 1 - turned["lidar"][:, 0]
    s, t = flip(student), flip(teacher)
    other = DISTILL_LOSSES[loss](pair_for(loss, s, t), scene_of(s, t, turned))
    padded = batch | {
        "gt_boxes": torch.cat([batch["gt_boxes"], torch.ones(2, 3, 7)], dim=1),
        "gt_valid": torch.cat([batch["gt_valid"], torch.zeros(2, 3)], dim=1),
    }
    third = DISTILL_LOSSES[loss](pair_for(loss, student, teacher), scene_of(student, teacher, padded))
    for name in value:
        assert float(other[name]) == pytest.approx(float(value[name]), rel=1e-4)
        assert float(third[name]) == pytest.approx(float(value[name]), rel=1e-6)


@pytest.mark.parametrize("loss", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_finite_on_empty_scenes(loss: str, dtype: torch.dtype) -> None:
    def cast(p: Prediction, factor: float) -> Prediction:
        each: Callable[[Any], Any] = lambda d: {n: (factor * v).to(dtype).requires_grad_() for n, v in d.items()}  # noqa: E731
        heatmap, regression = ((factor * v).to(dtype).requires_grad_() for v in (p.heatmap, p.regression))
        return Prediction(heatmap, regression, aux=each(p.aux), features=each(p.features))

    empty = batch_of() | {"gt_boxes": torch.zeros(2, 0, 7), "gt_valid": torch.zeros(2, 0)}
    empty |= {
        "lidar": torch.zeros(0, 6),
        "heatmap": torch.zeros(2, 3, *SHAPE),
        "depth": torch.zeros(2, 2, 2 * H, 2 * W),
    }
    empty["camera_valid"] = torch.zeros(2, 2)
    for batch in (empty, batch_of()):
        for factor in (1.0, 300.0, 0.0):
            student, teacher = cast(prediction(1), factor), cast(prediction(2), factor)
            pair = pair_for(loss, student, teacher)
            found = DISTILL_LOSSES[loss](Pair(pair.student, pair.teacher.detach()), scene_of(student, teacher, batch))
            assert all(torch.isfinite(v) for v in found.values()), (found, factor)
            torch.stack(list(found.values())).sum().backward()
            gradient = pair.student.grad
            assert gradient is None or torch.isfinite(gradient).all(), factor


def test_clear_words_for_what_does_not_fit() -> None:
    student, teacher, batch = prediction(1), prediction(2), batch_of()
    scene = scene_of(student, teacher, batch)
    pair = Pair(student.features["neck"], teacher.features["neck"])
    with pytest.raises(ValueError, match="foreground"):
        lgkd_feature(pair, scene, LgkdFeatureConfig(points="some"))
    with pytest.raises(ValueError, match="depth"):
        lgkd_feature(pair, Scene(GRID, batch, student, teacher))
    with pytest.raises(ValueError, match="released"):
        depth_imitation(
            student.aux["depth"], teacher.aux["depth"], torch.ones(2, 2, H, W) > 0, LgkdDepthConfig(form="x")
        )
    for name in HERE:
        # Relations and objects are compared: channels may differ.
        if name not in ("unidistill_relation", "bevdistill_instances"):
            with pytest.raises(ValueError, match="adapter"):
                DISTILL_LOSSES[name](Pair(student.features["neck"][:, :2], teacher.features["neck"]), scene)
