"""BEVFormer's query head: attention, matching, losses and candidates against loops and closed forms."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from teacher_scene import BOXES, GRID, LABELS, targets
from torch import nn

from bev_perception.model_spec import CLASSES
from training.losses.queries import QueryLossConfig, focal_loss, match, query_losses, targets_of
from training.models.query_head import BevCrossAttention, query_candidates, query_maps, to_cells


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


def test_candidates_and_maps_of_queries() -> None:
    logits = torch.full((1, 3, 2), -9.0)
    logits[0, 0, 1], logits[0, 1, 0], logits[0, 2, 1] = 2.0, 1.0, 0.0
    boxes = torch.zeros(1, 3, 10)
    boxes[0, :, :3] = torch.tensor([[0.1, 0.2, 1.0], [0.3, 0.3, 2.0], [12.8, -12.8, 3.0]])  # two in one cell; the edge
    scores, labels, cells, coded = query_candidates(logits, boxes, GRID, 3)
    assert labels.tolist() == [[1, 0, 1]] and cells.tolist() == [[16 * 32 + 16, 16 * 32 + 16, 31 * 32]]
    np.testing.assert_allclose(scores[0], torch.tensor([2.0, 1.0, 0.0]).sigmoid())
    np.testing.assert_allclose(coded[0, :, :2], [[0.125, 0.25], [0.375, 0.375], [1.0, 0.0]], atol=1e-5)
    heatmap, regression = query_maps(logits, boxes, GRID)
    assert heatmap[0, :, 16, 16].tolist() == [1.0, 2.0] and heatmap[0, :, 31, 0].tolist() == [-9.0, 0.0]
    assert (heatmap > -9.5).sum() == 4
    assert regression[0, 0, 2, 16, 16] == 1.0 and regression[0, 0, 2, 31, 0] == 3.0  # the surest of the cell
    assert (regression != 0).any(2).sum() == 2
