"""DistillBEV's losses against loops written from its formulas, at their fixed points and on empty scenes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.distill.attention import joint_attention
from training.distill.distillbev import (
    BEVFORMER,
    PAPER,
    DistillBevConfig,
    attention_imitation,
    distillbev,
    feature_imitation,
    region_weights,
    spatial_projection,
)
from training.distill.scene import Pair, Scene
from training.models.detector import Prediction

GRID = BevGrid(-4.0, 4.0, -3.0, 3.0, 1.0)
SHAPE = GRID.shape
CODE = DistillBevConfig(false_positives=True)


def example(samples: int = 2, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
    """student, teacher (B, C, X, Y), batch, teacher heatmap logits; two boxes in each sample, the second one padding in
    the last sample; two false positives of the teacher in each."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, channels, *SHAPE, generator=generator)
    teacher = torch.randn(samples, channels, *SHAPE, generator=generator).relu()
    boxes = torch.tensor([[0.5, 1.5, 0, 3.0, 1.2, 1.5, 0.2], [-2.0, -1.0, 0, 2.2, 2.0, 1.5, 1.0]]).repeat(samples, 1, 1)
    valid = torch.ones(samples, 2)
    valid[-1, 1] = 0
    target = torch.zeros(samples, 2, *SHAPE)
    target[:, 0, 4, 4] = 1.0
    logits = torch.full_like(target, -6.0)
    logits[:, 1, 0, 5] = logits[:, 0, 7, 0] = 2.0
    logits[:, 0, 4, 4] = 2.0
    return student, teacher, {"gt_boxes": boxes, "gt_valid": valid, "heatmap": target}, logits


def scene_of(batch: dict[str, Tensor], logits: Tensor) -> Scene:
    regression = torch.zeros(len(logits), 1, 10, *logits.shape[2:])
    return Scene(GRID, batch, Prediction(logits, regression), Prediction(logits, regression))


def loops(
    student: Tensor, teacher: Tensor, batch: dict[str, Tensor], logits: Tensor, config: DistillBevConfig, kernel: Any
) -> dict[str, float]:
    """The released code's nine steps, one cell at a time."""
    s, t = student.double(), teacher.double()
    samples, channels, rows, columns = s.shape
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    total = {"foreground": 0.0, "background": 0.0, "false_positive": 0.0, "attention": 0.0}
    shift = 0.0 if config.cell_point == "corner" else 0.5
    for b in range(samples):

        def attention(feature: Tensor) -> dict[tuple[int, int], float]:
            e = {c: math.exp(float(feature[:, c[0], c[1]].abs().mean()) / config.temperature) for c in cells}
            return {c: len(cells) * v / sum(e.values()) for c, v in e.items()}

        of_t, of_s = attention(t[b]), attention(s[b])
        a = {c: (of_t[c] + of_s[c]) / 2 if config.attention == "teacher_student" else of_t[c] for c in cells}
        peak = [math.exp(float(t[b, k].abs().mean()) / config.temperature) for k in range(channels)]
        of_channel = [channels * v / sum(peak) for v in peak]
        scale, background, false_positive = {}, [], []
        for i, j in cells:
            x, y = -4 + i + shift, -3 + j + shift
            for m in range(2):
                bx, by, _, length, width, _, yaw = batch["gt_boxes"][b, m].tolist()
                u = (x - bx) * math.cos(yaw) + (y - by) * math.sin(yaw)
                v = (y - by) * math.cos(yaw) - (x - bx) * math.sin(yaw)
                if batch["gt_valid"][b, m] and abs(u) <= length / 2 and abs(v) <= width / 2:
                    scale[i, j] = 1 / math.sqrt(length * width)
                    break
            else:
                score = 1 / (1 + math.exp(-float(logits[b, :, i, j].max())))
                wrong = score > config.threshold and float(batch["heatmap"][b, :, i, j].max()) < config.threshold
                (false_positive if wrong and config.false_positives else background).append((i, j))
        assert scale and background and (false_positive or not config.false_positives)

        def squares(c: tuple[int, int], weights: list[float], b: int = b) -> float:
            return sum(w * float(s[b, k, c[0], c[1]] - t[b, k, c[0], c[1]]) ** 2 for k, w in enumerate(weights))

        ones = [1.0] * channels
        total["foreground"] += config.foreground * sum(squares(c, ones) * v * a[c] for c, v in scale.items())
        total["background"] += config.background * sum(squares(c, ones) * a[c] for c in background) / len(background)
        if false_positive:
            share = 1 / len(false_positive)
            weights = of_channel if config.fp_channel_attention else ones
            total["false_positive"] += (
                config.false_positive * share * sum(squares(c, weights) * a[c] for c in false_positive)
            )
        for i, j in cells:
            if config.imitation == "activation":
                difference = float(t[b, :, i, j].abs().mean() - s[b, :, i, j].abs().mean())
            else:
                means = 0.0
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if 0 <= i + di < rows and 0 <= j + dj < columns:
                            means += float(kernel[di + 1, dj + 1]) * float(s[b, :, i + di, j + dj].mean())
                difference = float(t[b, :, i, j].mean()) - means
            total["attention"] += config.spatial * abs(difference)
    return {name: value / samples for name, value in total.items() if value}


def project(kernel: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, 3, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(kernel[None, None])
        assert conv.bias is not None
        conv.bias.zero_()
    return conv


IDENTITY = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    "config",
    [CODE, dataclasses.replace(PAPER, false_positives=True), BEVFORMER],
    ids=["released", "paper", "bevformer"],
)
def test_equals_the_formula_cell_by_cell(config: DistillBevConfig) -> None:
    student, teacher, batch, logits = example()
    kernel = torch.randn(3, 3, generator=torch.Generator().manual_seed(5))
    found = distillbev(Pair(student, teacher, project(kernel)), scene_of(batch, logits), config)
    expected = loops(student, teacher, batch, logits, config, kernel)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(value, rel=1e-4), name


def test_published_weights() -> None:
    c = DistillBevConfig()
    assert (c.foreground, c.background, c.false_positive, c.spatial) == (6e-3, 4e-2, 6e-2, 2.5e-3)
    assert (c.temperature, c.student_ratio, c.threshold, c.attention) == (0.5, 1.0, 0.1, "teacher_student")
    assert (BEVFORMER.foreground, BEVFORMER.background, BEVFORMER.spatial) == (5e-3, 4e-3, 5e-4)
    assert not BEVFORMER.false_positives and BEVFORMER.attention == "teacher"


def test_equal_features_give_zero_but_for_the_unlearned_projection() -> None:
    _, teacher, batch, logits = example()
    scene = scene_of(batch, logits)
    exact = distillbev(Pair(teacher, teacher, project(IDENTITY)), scene, CODE)
    assert {name: float(value.detach()) for name, value in exact.items()} == dict.fromkeys(exact, 0.0)
    other = distillbev(Pair(teacher, teacher, spatial_projection(CODE)), scene, CODE)
    assert float(other["attention"].detach()) > 0
    assert all(float(other[n]) == 0 for n in ("foreground", "background", "false_positive"))


def test_unit_error_gives_root_of_area_per_box_and_one_per_other_region() -> None:
    """With A = 1 and a squared error of 1 in one channel: sqrt(area) for a box, 1 for background, 1 for FP."""
    config = DistillBevConfig(1.0, 1.0, 1.0, false_positives=True, fp_channel_attention=False, cell_point="center")
    config = dataclasses.replace(config, attention="none")
    boxes = torch.tensor([[[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0]]])  # covers 8 whole cells
    fired = torch.zeros(1, *SHAPE, dtype=torch.bool)
    fired[0, 0, :3] = True
    student = torch.zeros(1, 4, *SHAPE)
    teacher = student.clone()
    teacher[:, 2] = 1.0
    regions = region_weights(boxes, torch.ones(1, 1), fired, GRID, SHAPE, config)
    found = feature_imitation(student, teacher, regions, config)
    assert float(found["foreground"]) == pytest.approx(math.sqrt(8))
    assert float(found["background"]) == pytest.approx(1.0)
    assert float(found["false_positive"]) == pytest.approx(1.0)
    even = region_weights(boxes, torch.ones(1, 1), fired, GRID, SHAPE, dataclasses.replace(config, scaling="uniform"))
    assert float(even["foreground"].sum()) == pytest.approx(math.sqrt(8))
    bare = region_weights(boxes, torch.ones(1, 1), fired, GRID, SHAPE, dataclasses.replace(config, scaling="none"))
    assert [float(bare[n].sum()) for n in ("foreground", "false_positive", "background")] == [8, 3, 48 - 11]


def test_constant_features_have_attention_one() -> None:
    _, _, batch, logits = example()
    student, teacher = torch.zeros(2, 3, *SHAPE), torch.ones(2, 3, *SHAPE)
    with_attention = distillbev(
        Pair(student, teacher), scene_of(batch, logits), dataclasses.replace(CODE, imitation="none")
    )
    without = dataclasses.replace(CODE, imitation="none", attention="none")
    for name, value in distillbev(Pair(student, teacher), scene_of(batch, logits), without).items():
        assert float(with_attention[name]) == pytest.approx(float(value), rel=1e-5)


def test_false_positives_leave_the_background_and_never_enter_boxes() -> None:
    _, _, batch, _ = example(1)
    everywhere = torch.ones(1, *SHAPE, dtype=torch.bool)
    regions = region_weights(batch["gt_boxes"], batch["gt_valid"], everywhere, GRID, SHAPE, CODE)
    assert float(regions["background"].sum()) == 0
    assert not ((regions["false_positive"] > 0) & (regions["foreground"] > 0)).any()
    assert ((regions["false_positive"] > 0) | (regions["foreground"] > 0)).all()


def test_without_regions_it_is_plain_imitation() -> None:
    student, teacher, batch, logits = example()
    config = DistillBevConfig(1.0, regions=False, attention="none", imitation="none")
    found = distillbev(Pair(student, teacher), scene_of(batch, logits), config)
    assert list(found) == ["foreground"]
    mean = ((student - teacher) ** 2).sum(dim=1).mean()
    assert float(found["foreground"]) == pytest.approx(float(mean), rel=1e-5)


def test_batch_order_padding_and_batch_size() -> None:
    student, teacher, batch, logits = example(3)
    part = project(torch.randn(3, 3, generator=torch.Generator().manual_seed(6)))
    whole = distillbev(Pair(student, teacher, part), scene_of(batch, logits), CODE)
    turned = distillbev(
        Pair(student.flip(0), teacher.flip(0), part),
        scene_of({n: v.flip(0) for n, v in batch.items()}, logits.flip(0)),
        CODE,
    )
    padded = batch | {
        "gt_boxes": torch.cat([batch["gt_boxes"], torch.ones(3, 4, 7)], dim=1),
        "gt_valid": torch.cat([batch["gt_valid"], torch.zeros(3, 4)], dim=1),
    }
    with_padding = distillbev(Pair(student, teacher, part), scene_of(padded, logits), CODE)
    single = [
        distillbev(
            Pair(student[i : i + 1], teacher[i : i + 1], part),
            scene_of({n: v[i : i + 1] for n, v in batch.items()}, logits[i : i + 1]),
            CODE,
        )
        for i in range(3)
    ]
    for name, value in whole.items():
        assert turned[name].item() == pytest.approx(value.item(), rel=1e-5)
        assert float(with_padding[name]) == float(value)
        assert sum(float(one[name]) for one in single) / 3 == pytest.approx(float(value), rel=1e-5)


def test_gradients_reach_the_student_and_the_projection_only() -> None:
    student, teacher, batch, logits = example()
    student.requires_grad_(), logits.requires_grad_()
    part = spatial_projection(CODE)
    assert part is not None
    losses = distillbev(Pair(student, teacher, part), scene_of(batch, logits), CODE)
    torch.stack(list(losses.values())).sum().backward()
    assert student.grad is not None and bool((student.grad != 0).any())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in part.parameters())
    assert logits.grad is None


def test_gradient_of_the_features_treats_attention_as_constant() -> None:
    student, teacher, batch, _ = example(1)
    student.requires_grad_()
    config = dataclasses.replace(CODE, imitation="none", false_positives=False)
    regions = region_weights(batch["gt_boxes"], batch["gt_valid"], None, GRID, SHAPE, config)
    torch.stack(list(feature_imitation(student, teacher, regions, config).values())).sum().backward()
    weight = config.foreground * regions["foreground"] + config.background * regions["background"]
    attention = joint_attention(teacher, student.detach(), config.attention, 0.5, 1.0)
    expected = 2 * (student.detach() - teacher) * (weight * attention)[:, None]
    assert student.grad is not None and torch.allclose(student.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["no boxes", "empty teacher", "fires everywhere", "labelled everywhere", "large"])
def test_finite_and_differentiable_on_extreme_scenes(dtype: torch.dtype, case: str) -> None:
    student, teacher, batch, logits = example()
    if case == "no boxes":
        batch |= {"gt_boxes": torch.zeros(2, 0, 7), "gt_valid": torch.zeros(2, 0), "heatmap": torch.zeros(2, 2, *SHAPE)}
    elif case == "empty teacher":
        teacher, logits = torch.zeros_like(teacher), torch.full_like(logits, -100.0)
    elif case == "fires everywhere":
        logits = torch.full_like(logits, 100.0)
        batch |= {"heatmap": torch.zeros(2, 2, *SHAPE), "gt_valid": torch.zeros(2, 2)}
    elif case == "labelled everywhere":
        batch["gt_boxes"][..., 3:5] = 100.0
    else:
        student, teacher = 3e3 * student, 3e3 * teacher
    student = student.to(dtype).requires_grad_()
    losses = distillbev(
        Pair(student, teacher.to(dtype), spatial_projection(CODE)), scene_of(batch, logits.to(dtype)), CODE
    )
    assert all(torch.isfinite(v) and v.dtype == torch.float32 for v in losses.values()), losses
    torch.stack(list(losses.values())).sum().backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_clear_words_for_what_does_not_fit() -> None:
    student, teacher, batch, logits = example()
    scene = scene_of(batch, logits)
    with pytest.raises(ValueError, match="adapter"):
        distillbev(Pair(student[:, :2], teacher), scene)
    with pytest.raises(ValueError, match="3x3"):
        attention_imitation(student, teacher, CODE, None)
    with pytest.raises(ValueError, match="scaling"):
        distillbev(Pair(student, teacher), scene, DistillBevConfig(scaling="adaptiv"))
    with pytest.raises(KeyError, match="gt_boxes"):
        distillbev(Pair(student, teacher), scene_of({"heatmap": batch["heatmap"]}, logits))
