"""The pillar encoder against a loop over pillars; order, emptiness and neighbours in the batch do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
import torch.multiprocessing

from bev_perception.grid import BevGrid
from training.models.pillar_encoder import PillarEncoder, group_mean, norm_linear, norm_rows, segment_max

GRID = BevGrid(-4.0, 4.0, -2.0, 3.0, 0.5)
Z_RANGE = (-2.0, 2.0)


def cloud(count: int, batch: int, seed: int = 0) -> torch.Tensor:
    """Points somewhat larger than the grid: some fall outside in x, y or z."""
    rng = np.random.default_rng(seed)
    low, high = [-5, -3, -2.5, 0, 0], [5, 4, 2.5, 1, 0.5]
    points = np.concatenate([rng.integers(0, batch, (count, 1)), rng.uniform(low, high, (count, 5))], axis=1)
    return torch.from_numpy(points.astype(np.float32))


def encoder(*channels: int) -> PillarEncoder:
    torch.manual_seed(0)
    model = PillarEncoder(5, GRID, channels, Z_RANGE).eval()
    for layer in model.layers:
        layer.norm.running_mean.uniform_(-0.2, 0.2)
        layer.norm.running_var.uniform_(0.5, 1.5)
    return model


def by_loop(model: PillarEncoder, points: torch.Tensor, batch: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = GRID.shape
    canvas, mask = np.zeros((batch, model.out_channels, x, y)), np.zeros((batch, 1, x, y))
    rows = points.double().numpy()
    cells, inside = GRID.cells(rows[:, 1:3])
    inside &= (rows[:, 3] >= Z_RANGE[0]) & (rows[:, 3] < Z_RANGE[1])
    for b, ix, iy in np.ndindex(batch, x, y):
        mine = rows[inside & (rows[:, 0] == b) & (cells == [ix, iy]).all(axis=1)]
        if not len(mine):
            continue
        centre = np.append(GRID.centers()[ix, iy], 0.0)
        xyz = mine[:, 1:4]
        features = np.concatenate([mine[:, 1:], xyz - xyz.mean(axis=0), xyz - centre], axis=1)
        for layer in model.layers:
            norm = layer.norm
            z = features @ layer.linear.weight.detach().double().numpy().T
            z = (z - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
            z = np.maximum(z, 0)
            features = z if layer.last else np.concatenate([z, np.tile(z.max(axis=0), (len(z), 1))], axis=1)
        canvas[b, :, ix, iy], mask[b, 0, ix, iy] = z.max(axis=0), 1
    return canvas, mask


@pytest.mark.parametrize("channels", [(6,), (8, 4)])
def test_equals_a_loop_over_pillars(channels: tuple[int, ...]) -> None:
    model, points = encoder(*channels), cloud(400, 2)
    canvas, mask = model(points, 2)
    expected, expected_mask = by_loop(model, points, 2)
    assert 0 < expected_mask.mean() < 1 and np.abs(expected).max() > 0.1
    np.testing.assert_array_equal(mask.numpy(), expected_mask)
    np.testing.assert_allclose(canvas.detach().numpy(), expected, atol=1e-5)


def test_order_of_points_is_of_no_matter() -> None:
    model, points = encoder(8, 4), cloud(300, 2)
    shuffled = points[torch.from_numpy(np.random.default_rng(1).permutation(300))]
    torch.testing.assert_close(model(shuffled, 2)[0], model(points, 2)[0], atol=1e-6, rtol=1e-5)


def test_items_of_a_batch_are_independent() -> None:
    model, points = encoder(6), cloud(300, 3)
    together, mask = model(points, 3)
    for b in range(3):
        alone = points[points[:, 0] == b].clone()
        alone[:, 0] = 0
        canvas, own = model(alone, 1)
        torch.testing.assert_close(canvas[0], together[b], atol=1e-6, rtol=1e-5)
        assert torch.equal(own[0], mask[b])


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_points_in_training(count: int) -> None:
    model = encoder(8, 4).train()
    point = torch.tensor([[1.0, 0.1, 0.1, 0.0, 0.5, 0.0]])[:count]
    canvas, mask = model(point, 2)
    assert canvas.shape == (2, 4, *GRID.shape) and mask.sum() == count
    canvas.square().sum().backward()
    weight = model.layers[0].linear.weight
    assert weight.grad is not None and torch.isfinite(weight.grad).all()
    assert all(torch.isfinite(b).all() for b in model.buffers())


def test_mixed_precision_keeps_coordinates() -> None:
    model, points = encoder(8, 4), cloud(300, 2)
    with torch.autocast("cpu", torch.bfloat16):
        canvas, _ = model(points, 2)
    assert canvas.dtype == torch.float32 and torch.equal(canvas, model(points, 2)[0])


def test_points_on_the_edges() -> None:
    model = encoder(4)
    rows = [(-4.0, -2.0, 0.0), (3.9999, 2.9999, 0.0), (-4.0001, 0.0, 0.0), (4.0, 0.0, 0.0), (0.0, 0.0, 2.0)]
    points = torch.tensor([[0.0, *row, 0.0, 0.0] for row in rows] + [[0.0, float("nan"), 0.0, 0.0, 0.0, 0.0]])
    _, mask = model(points, 1)
    assert mask[0, 0].nonzero().tolist() == [[0, 0], [15, 9]]


def test_gradient_of_maximum_and_mean() -> None:
    torch.manual_seed(0)
    rows = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    group, starts = torch.tensor([0, 0, 0, 1, 2, 2, 2]), torch.tensor([0, 3, 4])
    expected = torch.stack([rows[group == g].amax(dim=0) for g in range(3)])
    assert torch.equal(segment_max(rows, starts), expected)
    assert torch.autograd.gradcheck(lambda r: segment_max(r, starts), rows)
    assert torch.autograd.gradcheck(lambda r: group_mean(r, group, 3), rows)


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_inside_the_weights_is_batch_norm(training: bool) -> None:
    """Values, gradients of everything and running statistics."""
    torch.manual_seed(0)
    rows = (5 + 3 * torch.randn(200, 4, dtype=torch.float64)).requires_grad_()
    results = []
    for folded in (False, True):
        torch.manual_seed(1)
        linear, norm = torch.nn.Linear(4, 6, bias=False).double(), torch.nn.BatchNorm1d(6, 1e-3, 0.3).double()
        with torch.no_grad():
            norm.weight.normal_()
            norm.bias.normal_()
            norm.running_mean.normal_()
        norm.train(training)
        out = torch.add(*norm_linear(linear, norm, rows)) if folded else norm(linear(rows))
        learnt = [rows, linear.weight, norm.weight, norm.bias]
        gradients = torch.autograd.grad((out * torch.arange(6.0) * out.detach().sin()).sum(), learnt)
        results.append([out, *gradients, norm.running_mean, norm.running_var, norm.num_batches_tracked])
    for found, expected in zip(results[1], results[0]):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="batch index in column 0"):
        encoder(4)(torch.zeros(3, 5), 1)
    with pytest.raises(ValueError, match="for 1 items"):
        encoder(4)(cloud(50, 2), 1)


SHARES = ((slice(0, 60), slice(60, 60)), (slice(0, 20), slice(20, 60)), (slice(0, 1), slice(1, 1)))


def taught_norms(share: slice, shared: bool) -> list[torch.Tensor]:
    """A share of 60 rows through both forms of the norm -> gradients of the rows, of what is learnt; statistics."""
    torch.manual_seed(0)
    rows = 5 + 3 * torch.randn(60, 4)
    rows = rows[share].requires_grad_()
    layers = torch.nn.ModuleList([torch.nn.Linear(4, 6, bias=False), torch.nn.BatchNorm1d(6), torch.nn.BatchNorm1d(6)])
    if shared:
        layers = torch.nn.SyncBatchNorm.convert_sync_batchnorm(layers)
    x = norm_rows(layers[2], torch.add(*norm_linear(layers[0], layers[1], rows)).relu())
    gradients = torch.autograd.grad((x * torch.arange(6.0) * x.detach().sin()).sum(), [rows, *layers.parameters()])
    return [*gradients, *layers.buffers()]


def one_of_two(rank: int, folder: str) -> None:
    """Leaves the results of its share of each of SHARES."""
    torch.set_num_threads(1)  # a forked process has no threads of its parent's
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save([taught_norms(shares[rank], shared=True) for shares in SHARES], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_statistics_of_two_processes_are_those_of_all_their_rows(tmp_path: Path) -> None:
    """Also where one process has no rows, or both together too few for statistics."""
    torch.multiprocessing.start_processes(one_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for shares, first, second in zip(SHARES, *found, strict=True):
        rows, *expected = taught_norms(slice(shares[0].start, shares[1].stop), shared=False)
        torch.testing.assert_close(torch.cat([first[0], second[0]]), rows, rtol=1e-3, atol=1e-5)
        for i, (a, b, whole) in enumerate(zip(first[1:], second[1:], expected, strict=True)):
            learnt = i < 5
            torch.testing.assert_close(a + b if learnt else a, whole, rtol=1e-3, atol=1e-4)
            assert learnt or torch.equal(a, b)
