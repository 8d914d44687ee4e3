"""Likelihoods against scipy's, gradients against the papers', mixtures against draws, heads against their noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("scipy", reason="needs scipy")

import torch
from scipy import stats

from bev_perception.grid import BevGrid
from bev_perception.model_spec import BOX_CHANNELS, CLASSES, SPREAD_CHANNELS
from training.losses.spread import (
    Found,
    class_nll,
    find_errors,
    gaussian_nll,
    laplace_nll,
    mixture_nll,
    spread_losses,
)
from training.models.spread_head import FORMS, Spread, SpreadConfig, SpreadHead

GRID = BevGrid(-12.8, 12.8, -6.4, 6.4, 0.8)
CHANNELS = len(SPREAD_CHANNELS)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# ---- likelihoods


def test_gaussian_and_laplace_are_scipys() -> None:
    error, log_std = drawn(50), drawn(50, seed=1)
    std = log_std.exp().numpy()
    np.testing.assert_allclose(gaussian_nll(error, log_std), -stats.norm.logpdf(error, scale=std), rtol=1e-9)
    expected = -stats.laplace.logpdf(error, scale=std / math.sqrt(2))
    np.testing.assert_allclose(laplace_nll(error, log_std), expected, rtol=1e-9)
    assert stats.laplace(scale=1 / math.sqrt(2)).std() == pytest.approx(1.0), "log_std is of a standard deviation"


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_weighs_the_gradient_as_the_paper_says(beta: float) -> None:
    """Seitzer et al., eqs. 5 and 6: (mu - y) / s^(2 - 2 beta), and (s^2 - (y - mu)^2) / (2 s^(4 - 2 beta)) to s^2."""
    mean, target, variance = drawn(20).requires_grad_(), drawn(20, seed=1), drawn(20, seed=2).exp().requires_grad_()
    gaussian_nll(mean - target, 0.5 * variance.log(), beta).sum().backward()
    s2, off = variance.detach(), (mean - target).detach()
    torch.testing.assert_close(mean.grad, off / s2 ** (1 - beta))
    torch.testing.assert_close(variance.grad, (s2 - off**2) / (2 * s2 ** (2 - beta)))


def test_with_beta_one_a_laplacian_mean_learns_as_from_l1() -> None:
    mean, log_std = drawn(20).requires_grad_(), drawn(20, seed=1)
    laplace_nll(mean, log_std, 1.0).sum().backward()
    torch.testing.assert_close(mean.grad, mean.detach().sign())


def mixture(seed: int = 0, frames: int = 2, count: int = 3) -> Spread:
    shape = (frames, count, 4, CHANNELS)
    log_weights = torch.log_softmax(drawn(*shape, seed=seed), dim=2)
    offsets = drawn(*shape, seed=seed + 1)
    offsets = offsets - (log_weights.exp() * offsets).sum(dim=2, keepdim=True)
    return Spread(0.3 * drawn(*shape, seed=seed + 2), offsets, log_weights)


def test_a_mixtures_likelihood_is_that_of_its_density() -> None:
    spread, error = mixture(), drawn(2, 3, CHANNELS, seed=7)
    density = sum(
        spread.log_weights[:, :, k].exp().numpy()
        * stats.norm.pdf(error, spread.offsets[:, :, k], spread.log_std[:, :, k].exp())
        for k in range(4)
    )
    np.testing.assert_allclose(mixture_nll(error, spread), -np.log(density), rtol=1e-9)


def test_aleatoric_and_epistemic_add_up_to_the_variance_of_what_is_drawn() -> None:
    spread = mixture(frames=1, count=1)
    rng = np.random.default_rng(0)
    parts = (2 * spread.parts()[0, 0]).exp().numpy()
    for channel in range(CHANNELS):
        weights, offsets, std = (
            array.numpy()[0, 0, :, channel]
            for array in (spread.log_weights.exp(), spread.offsets, spread.log_std.exp())
        )
        component = rng.choice(4, 200_000, p=weights / weights.sum())
        values = rng.normal(offsets[component], std[component])
        assert values.mean() == pytest.approx(0.0, abs=0.02), "the mixture is about the box"
        assert parts[:, channel].sum() == pytest.approx(values.var(), rel=0.02)
        assert parts[0, channel] == pytest.approx(np.sum(weights * std**2))
        assert parts[1, channel] == pytest.approx(np.sum(weights * offsets**2))


# ---- classes


def test_the_cross_entropy_is_that_of_the_mean_probability() -> None:
    logit, std = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[0.5, 2.0, 1.0]])
    zero = torch.zeros(1, 3, 1)
    right = torch.tensor([[1.0, 0.0, 1.0]])
    found = class_nll(logit, right, std.log()[..., None], zero, zero)
    draws = logit + std * torch.randn(200_000, 1, 3, generator=torch.Generator().manual_seed(0))
    mean = draws.sigmoid().mean(dim=0)
    expected = -(right * mean.log() + (1 - right) * (1 - mean).log())
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.05)


def test_a_spread_pays_where_the_network_is_wrong_and_never_in_the_mean_of_cross_entropies() -> None:
    """Of a logit that promises too much; that is why the mean stands within the logarithm."""
    logit, zero = torch.full((1, 1000), 3.0), torch.zeros(1, 1000, 1)
    right = (torch.arange(1000) < 700).float()[None]  # 0.70, and 0.95 is said
    losses = [float(class_nll(logit, right, zero + math.log(s), zero, zero).mean()) for s in (0.01, 1.0, 3.0, 100.0)]
    assert losses[2] < losses[1] < losses[0] and losses[2] < losses[3]
    noise = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    cross = torch.nn.functional.binary_cross_entropy_with_logits
    drawn_losses = [float(cross(logit + s * (noise - noise.mean()), right)) for s in (0.0, 1.0, 3.0)]
    assert drawn_losses == sorted(drawn_losses)


# ---- errors of candidates


def scene(boxes: list[list[float]], labels: list[int], velocity: tuple[float, float] = (0.0, 0.0)) -> dict:
    """Targets of one frame, as `bev_targets` has them."""
    from training.data.targets import bev_targets

    array = np.array(boxes)
    targets = bev_targets(array, np.tile(velocity, (len(array), 1)), np.array(labels), GRID, len(CLASSES))
    return {name: torch.from_numpy(value)[None] for name, value in targets.items()}


def candidates(rows: list[tuple[float, int, list[float], tuple[float, float]]]):
    """(score, label, box, velocity) each -> as a network gives them."""
    cells, coded = [], []
    for _, _, box, speed in rows:
        where, _ = GRID.cells(np.array([box[:2]]))
        fraction = GRID.fractional_cells(np.array([box[:2]])) - where
        cells.append(int(where[0, 0] * GRID.shape[1] + where[0, 1]))
        coded.append([*fraction[0], box[2], *np.log(box[3:6]), np.sin(box[6]), np.cos(box[6]), *speed])
    scores = torch.tensor([[row[0] for row in rows]])
    labels = torch.tensor([[row[1] for row in rows]])
    return scores, labels, torch.tensor([cells]), torch.tensor([coded], dtype=torch.float32)


def test_errors_are_those_of_the_strongest_candidate_near_an_object_in_its_line_of_sight() -> None:
    car = CLASSES.index("car")
    batch = scene([[0.0, 5.0, 1.0, 4.0, 2.0, 1.5, 0.0]], [car], (0.0, 3.0))
    found = find_errors(
        candidates(
            [
                (0.5, car, [0.2, 5.3, 1.1, 4.4, 2.0, 1.5, 0.1], (1.0, 5.0)),
                (0.9, car, [0.0, 5.5, 1.2, 4.0, 2.2, 1.5, 0.1], (1.0, 5.0)),
                (0.8, car, [9.0, 5.0, 1.0, 4.0, 2.0, 1.5, 0.0], (0.0, 0.0)),
                (0.95, car + 1, [0.0, 5.0, 1.0, 4.0, 2.0, 1.5, 0.0], (0.0, 0.0)),
            ]
        ),
        batch, GRID, CLASSES,
    )  # fmt: skip
    assert found.right.tolist() == [[0, 1, 0, 0]]
    assert found.counts.tolist() == [[0, 1, 1, 1]], "what is near an object and not its detection says nothing"
    expected = [0.5, 0.0, 0.2, 0.0, math.log(1.1), 0.0, math.sin(0.1), math.cos(0.1) - 1, 2.0, -1.0]
    np.testing.assert_allclose(found.errors[0, 1], expected, atol=1e-5)
    assert found.known[0, 1].tolist() == [1] * 10 and not found.known[0, [0, 2, 3]].any()


def test_what_the_benchmark_does_not_ask_is_not_asked() -> None:
    cone, barrier = CLASSES.index("traffic_cone"), CLASSES.index("barrier")
    box = [4.0, 0.0, 0.5, 0.4, 0.4, 1.0, 0.0]
    other = [4.0, 4.0, 0.5, 0.6, 2.0, 1.0, 0.2]
    turned = [*other[:6], 0.2 + math.pi]
    found = find_errors(
        candidates([(0.9, cone, box, (1.0, 0.0)), (0.9, barrier, turned, (1.0, 0.0))]),
        scene([box, other], [cone, barrier]), GRID, CLASSES,
    )  # fmt: skip
    assert found.known[0, 0].tolist() == [1] * 6 + [0] * 4 and found.known[0, 1].tolist() == [1] * 8 + [0, 0]
    np.testing.assert_allclose(found.errors[0, 1, 6:8], 0.0, atol=1e-5)  # which end is in front


def test_no_objects_have_no_errors_and_unknown_velocities_none_either() -> None:
    box = [4.0, 0.0, 0.5, 4.0, 2.0, 1.5, 0.0]
    batch = scene([box], [0], (math.nan, math.nan))
    found = find_errors(candidates([(0.9, 0, box, (1.0, 0.0))]), batch, GRID, CLASSES)
    assert found.known[0, 0].tolist() == [1] * 8 + [0, 0]
    batch["gt_valid"] = torch.zeros_like(batch["gt_valid"])
    found = find_errors(candidates([(0.9, 0, box, (1.0, 0.0))]), batch, GRID, CLASSES)
    assert not found.known.any() and not found.right.any() and found.counts.all()


# ---- what a head learns


@pytest.mark.parametrize("form", FORMS)
def test_a_head_finds_the_noise_that_it_was_shown(form: str) -> None:
    """Errors whose deviation grows with one of the features and differs by class."""
    torch.manual_seed(0)
    config = SpreadConfig(form, hidden=32, beta=0.0, weight=1.0)
    head = SpreadHead((2,), 2, config)
    maps = torch.rand(8, 2, *GRID.shape, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)

    def batch():
        cells = torch.from_numpy(rng.integers(0, GRID.shape[0] * GRID.shape[1], (8, 64)))
        labels = torch.from_numpy(rng.integers(0, 2, (8, 64)))
        found = (torch.full((8, 64), 0.5), labels, cells, torch.zeros(8, 64, len(BOX_CHANNELS)))
        feature = maps[:, 0].flatten(1).gather(1, cells)
        return found, (0.1 + feature) * torch.where(labels == 1, 2.0, 1.0)

    for step in range(400):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 400)
        found, deviation = batch()
        noise = (
            rng.laplace(scale=1 / math.sqrt(2), size=(8, 64, 10)) if form == "laplace" else rng.normal(size=(8, 64, 10))
        )
        errors = torch.from_numpy(noise).float() * deviation[..., None]
        ones = torch.ones(8, 64)
        losses = spread_losses(
            head([maps], found, GRID), found, Found(errors, torch.ones_like(errors), ones, ones), config
        )
        optimiser.zero_grad()
        losses["spread"].backward()
        optimiser.step()
    found, deviation = batch()
    said = (2 * head([maps], found, GRID).parts()).exp().sum(dim=2).sqrt().detach()
    ratio = (said[..., :10] / deviation[..., None]).numpy()
    assert np.median(ratio) == pytest.approx(1.0, abs=0.08)
    assert np.abs(np.log(ratio)).mean() < 0.15


def test_nothing_flows_back_unless_it_is_asked_to() -> None:
    for detach in (True, False):
        head = SpreadHead((3,), len(CLASSES), SpreadConfig(detach=detach))
        maps = torch.rand(1, 3, *GRID.shape, requires_grad=True)
        box = [0.0, 5.0, 1.0, 4.0, 2.0, 1.5, 0.0]
        scores, labels, cells, boxes = candidates([(0.5, 0, [0.2, 5.3, 1.1, 4.4, 2.0, 1.5, 0.1], (1.0, 5.0))])
        boxes.requires_grad_()
        found = (scores, labels, cells, boxes)
        errors = find_errors(found, scene([box], [0]), GRID, CLASSES)
        torch.stack(
            list(spread_losses(head([maps], found, GRID), found, errors, head.config).values())
        ).sum().backward()
        assert (maps.grad is None) == (boxes.grad is None) == detach
        assert all(parameter.grad is not None for parameter in head.last.parameters())
