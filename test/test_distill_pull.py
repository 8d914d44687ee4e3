"""How far student and teacher agree, and how hard each term pulls."""

from __future__ import annotations

import dataclasses
import math

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from tiny_distill import BOTH, GRID, batch_of, both, total

from training.distill.agreement import agreement, gradient_norms, gradient_share
from training.distill.scene import Scene
from training.models.detector import Prediction
from training.trainer.lightning_module import gradients_due


def test_agreement_by_region() -> None:
    batch, teacher = batch_of(1), torch.randn(1, 4, *GRID.shape)
    prediction = Prediction(torch.full((1, 10, *GRID.shape), -9.0), torch.zeros(1, 1, 10, *GRID.shape))
    prediction.heatmap[0, 0, 0, 0] = 3.0
    scene = Scene(GRID, batch, prediction, prediction)
    same = agreement(teacher, teacher, scene)
    assert {n: float(v) for n, v in same.items()} == pytest.approx(
        {
            f"{kind}/{r}": float(kind == "cosine")
            for r in ("foreground", "false_positive", "background")
            for kind in ("cosine", "error")
        }
    )
    student_map = teacher.clone()
    student_map[:, :, 0, 0] *= -1  # the cell of the false positive
    changed = agreement(student_map, teacher, scene)
    assert float(changed["cosine/false_positive"]) == pytest.approx(-1)
    assert float(changed["error/false_positive"]) == pytest.approx(4)
    assert float(changed["cosine/foreground"]) == pytest.approx(1) and float(changed["error/background"]) == 0
    _, _, diagnostics = both(diagnose=True)(batch_of())
    assert "distillbev_neck/cosine/foreground" in diagnostics
    assert all(not v.requires_grad and torch.isfinite(v) for v in diagnostics.values())
    assert both()(batch_of())[2] == {}


def test_terms_pull_as_hard_as_they_are_told() -> None:
    """Together they have the share of detection's gradient that `pull` says, each by its weight; later they follow
    slowly."""
    module, batch = both(), batch_of()
    config = dataclasses.replace(
        BOTH, pull=0.2, terms=(dataclasses.replace(BOTH.terms[0], weight=0.5), *BOTH.terms[1:])
    )
    module.distiller.config = config
    keys = [term.key for term in config.terms]

    def shares(detection: float = 3.0) -> dict[str, float]:
        _, losses, _ = module(batch)
        terms = {key: total({n: v for n, v in losses.items() if n.split("/")[0] == key}) for key in keys}
        norms = gradient_norms(terms, module.student.parameters())
        return {key: float(norm.norm()) / detection for key, norm in norms.items()}

    before = shares()
    changes = module.distiller.balance(before, settled=True)  # the first time at once
    weights = sum(term.weight for term in config.terms)
    expected = {term.key: 0.2 * term.weight / weights for term in config.terms}
    assert len(set(expected.values())) == 2
    assert sum(expected.values()) == pytest.approx(0.2)
    assert shares() == pytest.approx(expected, rel=1e-3)
    assert changes == pytest.approx({key: expected[key] / before[key] for key in keys}, rel=1e-3)
    module.distiller.balance(shares(12.0), settled=True)  # four times detection: half of the way
    assert shares() == pytest.approx({key: 2 * value for key, value in expected.items()}, rel=1e-3)
    module.distiller.balance(shares(12.0), settled=False)  # early: all of it
    assert shares(12.0) == pytest.approx(expected, rel=1e-3)
    scales = module.distiller.scales.clone()
    assert module.distiller.balance(shares(1e9) | {keys[1]: math.nan}, settled=True)[keys[1]] == 1.0
    assert module.distiller.scales.tolist() == pytest.approx((scales * torch.tensor([4.0, 1.0, *[4.0] * 4])).tolist())
    assert "distiller.scales" in module.state_dict()
    untouched = both()
    assert untouched.distiller.balance(dict.fromkeys(keys, 1.0), settled=False) == dict.fromkeys(keys, 1.0)
    assert untouched.distiller.scales.tolist() == [0.0] * len(keys)


def test_gradient_norms_are_those_of_each_loss_alone() -> None:
    w, other = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    frozen, unused = torch.ones(2), torch.ones(2, requires_grad=True)
    losses = {"a": 2 * (w**2).sum() + 5 * other.sum(), "b": w.sum(), "c": torch.tensor(1.0), "d": unused.sum()}
    norms = gradient_norms(losses, [w, frozen, other])
    assert {n: v.tolist() for n, v in norms.items()} == {
        "a": [20.0, 5.0], "b": [pytest.approx(2**0.5), 0.0], "c": [0.0, 0.0], "d": [0.0, 0.0],
    }  # fmt: skip
    # "b" does not reach `other`, so what detection asks of it does not count.
    assert gradient_share(norms["b"], norms["a"]) == pytest.approx(2**0.5 / 20)
    assert math.isnan(gradient_share(norms["c"], norms["a"])) and math.isnan(gradient_share(norms["a"], norms["c"]))
    assert w.grad is None
    total({n: v for n, v in losses.items() if n != "c"}).backward()  # the graph is still there


def test_gradients_are_looked_at_often_at_first() -> None:
    assert [step for step in range(401) if gradients_due(step)] == [0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400]
