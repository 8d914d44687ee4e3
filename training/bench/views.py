"""How long lift-splat takes beside its textbook formulations.

BEVDet's size: 6 cameras of 256 x 704 pixels at stride 16, 59 bins, 64 channels, 128 x 128 cells. Each formulation gets
the same tensors and computes the same map and gradients (checked); forward + backward, medians, all in one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bev_perception.grid import BevGrid
from training.models.view.column_lift import ColumnLift
from training.models.view.depth_bins import DepthBins
from training.models.view.lift_splat import LiftSplat
from training.models.view.splat import splat_dense

HEIGHT, WIDTH, STRIDE, CHANNELS, CAMERAS = 256, 704, 16, 64, 6
GRID, BINS = BevGrid(), DepthBins(1.0, 1.0, 59)

Lift = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Times:
    name: str
    forward_ms: float
    both_ms: float


def camera_ring(batch: int, device: str) -> Tensor:
    """(B, N, 4, 4): level cameras at 1.5 m that look outwards, 65 degrees wide and nearly touching."""
    result = torch.zeros(batch, CAMERAS, 4, 4)
    for i in range(CAMERAS):
        yaw = 2 * np.pi * i / CAMERAS + 0.05
        cam_from_ego = np.eye(4)
        cam_from_ego[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        cam_from_ego[:3, 3] = [0, 1.5, 0]
        img_from_cam = np.eye(4)
        img_from_cam[:2, :3] = [[0.8 * WIDTH, 0, WIDTH / 2], [0, 0.8 * WIDTH, HEIGHT / 2]]
        result[:, i] = torch.from_numpy(img_from_cam @ cam_from_ego)
    return result.to(device)


def points_inside(context: Tensor, depth: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The lifted points that fall into the grid, (P, C), and their cells (P,): what the textbook forms start from."""
    count = GRID.shape[0] * GRID.shape[1]
    lifted = depth.flatten(3).transpose(2, 3)[..., None] * context.flatten(3).transpose(2, 3)[..., None, :]
    batch = torch.arange(len(cells), device=cells.device).reshape(-1, 1, 1, 1) * count
    inside = cells < count
    return lifted[inside], (cells + batch)[inside]


def to_map(rows: Tensor, batch: int) -> Tensor:
    return rows.reshape(batch, *GRID.shape, -1).permute(0, 3, 1, 2)


def index_add_lift(context: Tensor, depth: Tensor, cells: Tensor) -> Tensor:
    values, where = points_inside(context, depth, cells)
    empty = values.new_zeros(len(cells) * GRID.shape[0] * GRID.shape[1], values.shape[1])
    return to_map(empty.index_add(0, where, values), len(cells))


class QuickCumsum(torch.autograd.Function):
    """LSS's pooling (Philion & Fidler, ECCV 2020): cumulative sum over sorted points, differences at cells' ends."""

    @staticmethod
    def forward(ctx, values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        total = values.cumsum(0)
        last = torch.ones(len(where), dtype=torch.bool, device=where.device)
        last[:-1] = where[1:] != where[:-1]
        total, kept = total[last], where[last]
        ctx.save_for_backward(last)
        ctx.mark_non_differentiable(kept)
        return torch.cat([total[:1], total[1:] - total[:-1]]), kept

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (last,) = ctx.saved_tensors
        row = last.cumsum(0)
        row[last] -= 1
        return grad[row], None


def cumsum_lift(context: Tensor, depth: Tensor, cells: Tensor) -> Tensor:
    values, where = points_inside(context, depth, cells)
    order = where.argsort()
    sums, kept = QuickCumsum.apply(values[order], where[order])
    empty = values.new_zeros(len(cells) * GRID.shape[0] * GRID.shape[1], values.shape[1])
    return to_map(empty.index_copy(0, kept, sums), len(cells))


def dense_lift(context: Tensor, depth: Tensor, cells: Tensor) -> Tensor:
    """The form that LiftSplat exports."""
    count = GRID.shape[0] * GRID.shape[1]
    maps = []
    for c, d, where in zip(context, depth, cells):
        views = [splat_dense(c[n].flatten(1), d[n].flatten(1).t(), where[n], count) for n in range(len(c))]
        maps.append(sum(views[1:], views[0]).reshape(-1, *GRID.shape))
    return torch.stack(maps)


def time_once(lift: Lift, context: Tensor, depth: Tensor) -> tuple[float, float]:
    """Milliseconds of the forward pass, and of both passes: CPU time on a CPU, which other load hardly changes."""

    def now() -> float:
        if not context.is_cuda:
            return time.process_time() * 1e3
        torch.cuda.synchronize()
        return time.perf_counter() * 1e3

    context.grad = depth.grad = None
    start = now()
    bev = lift(context, depth)
    middle = now()
    bev.backward(torch.ones_like(bev))
    return middle - start, now() - start


def measure(forms: dict[str, Lift], context: Tensor, depth: Tensor, repeats: int) -> list[Times]:
    """Medians. The forms take turns, so that whatever else the machine does falls on all of them."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for i in range(repeats + 2):
        for name, lift in forms.items():
            taken = time_once(lift, context, depth)
            if i >= 2:  # the first runs warm up allocator and caches
                runs[name].append(taken)
    return [Times(name, *(statistics.median(column) for column in zip(*times))) for name, times in runs.items()]


def check_equal(reference: Lift, lift: Lift, context: Tensor, depth: Tensor, tolerance: float) -> float:
    """The largest difference of map and gradients, relative to the largest value; AssertionError above tolerance."""
    results = []
    for function in (reference, lift):
        bev = function(context, depth)
        torch.manual_seed(1)
        results.append([bev, *torch.autograd.grad(bev, (context, depth), torch.randn(bev.shape, device=bev.device))])
    worst = max(float((a - b).detach().abs().max() / a.detach().abs().max()) for a, b in zip(*results))
    assert worst < tolerance, f"the formulations differ by {worst:.1e}"
    return worst


def compare(device: str, batch: int = 1, repeats: int = 15) -> tuple[dict[str, float], list[Times]]:
    """(largest difference to index_add by formulation, times of each, ours first)."""
    torch.manual_seed(0)
    h, w = HEIGHT // STRIDE, WIDTH // STRIDE
    context = torch.randn(batch, CAMERAS, CHANNELS, h, w, device=device, requires_grad=True)
    logits = torch.randn(batch, CAMERAS, BINS.count, h, w, device=device)
    depth = (3 * logits).softmax(dim=2).requires_grad_()
    img_from_ego = camera_ring(batch, device)
    valid = torch.ones(batch, CAMERAS, device=device)
    module, column = LiftSplat(GRID, BINS, STRIDE), ColumnLift(GRID, BINS).to(device)

    def ours(c: Tensor, d: Tensor) -> Tensor:
        return module(c, d, img_from_ego, valid, (HEIGHT, WIDTH))

    def plain(c: Tensor, d: Tensor) -> Tensor:
        return index_add_lift(c, d, module.cells(img_from_ego, valid, h, w))

    def cumsum(c: Tensor, d: Tensor) -> Tensor:
        return cumsum_lift(c, d, module.cells(img_from_ego, valid, h, w))

    def dense(c: Tensor, d: Tensor) -> Tensor:
        return dense_lift(c, d, module.cells(img_from_ego, valid, h, w))

    def by_column(c: Tensor, d: Tensor) -> Tensor:
        return column(c, d.log(), img_from_ego, valid, WIDTH)[0]

    worst = {
        "LiftSplat": check_equal(plain, ours, context, depth, 1e-5),
        "as exported": check_equal(plain, dense, context, depth, 1e-5),
        "cumulative sum": check_equal(plain, cumsum, context, depth, 1e-2),  # sums over all points lose digits
    }
    forms: dict[str, Lift] = {
        "LiftSplat": ours,
        "lifted points, index_add": plain,
        "lifted points, sorted, cumulative sum (LSS's QuickCumsum)": cumsum,
        "LiftSplat as exported": dense,
        "ColumnLift (another function of the same inputs)": by_column,
    }
    return worst, measure(forms, context, depth, repeats)
