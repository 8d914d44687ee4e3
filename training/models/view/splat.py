"""Sum of depth x context over the frustum points of each cell, without a tensor of depth x context.

LSS's pooling (Philion & Fidler, ECCV 2020), computed as in BEVPoolv2 (Huang & Huang, 2022): points are sorted by cell
once; each cell then gathers the depth weight and the context row of its points. Here the gather-and-sum is torch's
embedding bag, which has kernels for CPU and CUDA: nothing to compile.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.models.precision import is_shape_alone


class _Splat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, context: Tensor, depth: Tensor, cells: Tensor, count: int) -> Tensor:  # type: ignore[no-untyped-def]
        flat = cells.flatten()
        inside = (flat < count).nonzero().flatten()
        keys, order = flat[inside].int().sort(stable=True)  # 32 bits: a radix sort on CPU, ten times faster than 64
        points = inside[order]
        first = torch.searchsorted(keys, torch.arange(count, device=keys.device, dtype=torch.int32))
        rays = torch.div(points, cells.shape[1], rounding_mode="floor")
        ctx.save_for_backward(context, depth, cells)
        return F.embedding_bag(rays, context, first, mode="sum", per_sample_weights=depth.flatten()[points])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[no-untyped-def]
        context, depth, cells = ctx.saved_tensors
        grad = F.pad(grad, (0, 0, 0, 1))  # the row of zeros that points outside the grid read
        # Points lie ray after ray already: this direction needs no sorting. The bag's own gradient of its weights,
        # the product of the bag's row and the point's row, is at the same time the gradient of depth.
        with torch.enable_grad():
            weights = depth.detach().requires_grad_()
            grad_context = F.embedding_bag(cells, grad, mode="sum", per_sample_weights=weights)
            (grad_depth,) = torch.autograd.grad(grad_context, weights, context)
        return grad_context.detach(), grad_depth, None, None


def splat(context: Tensor, depth: Tensor, cells: Tensor, count: int) -> Tensor:
    """context (R, C) and depth (R, D) of R rays, cells (R, D) int64 -> (count, C) sums.

    cells[r, d] in [0, count) is where point d of ray r falls; `count` itself means outside. Row i of the result is the
    sum of depth[r, d] * context[r] over all points with cells[r, d] == i.
    """
    if is_shape_alone(context):
        return context.new_empty(count, context.shape[1])
    result: Tensor = _Splat.apply(context.contiguous(), depth.contiguous(), cells, count)
    return result


def splat_dense(context: Tensor, depth: Tensor, cells: Tensor, count: int) -> Tensor:
    """context (C, R), depth (R, D), cells (R, D) -> (C, count): the same sums in operators of TensorRT's parser.

    No scatter that adds is among them. A straight ray crosses a convex cell in one run of depth bins: the run's weights
    are summed first; then every (ray, cell) pair occurs once, so that a plain scatter builds the (R, count) matrix of
    weights, and one matrix product sums over rays. Needs equal cells of a ray adjacent, as `LiftSplat.cells` has them.
    """
    rays, bins = cells.shape
    same = (cells[:, :, None] == cells[:, None, :]).to(depth.dtype)
    run_weight = torch.matmul(same, depth[..., None])[..., 0]
    before = torch.cat([torch.full_like(cells[:, :1], -1), cells[:, :-1]], dim=1)
    # Points outside, and all but the first of a run, go to columns of their own behind the last cell.
    spare = count + torch.arange(bins, device=cells.device)
    column = torch.where((cells != before) & (cells < count), cells, spare)
    weights = torch.zeros(rays, count + bins, dtype=depth.dtype, device=depth.device).scatter(1, column, run_weight)
    return torch.matmul(context, weights)[:, :count]


def splat_points(values: Tensor, cells: Tensor, count: int) -> Tensor:
    """values (P, C) of P points, cells (P,) int64 as in `splat` -> (count, C) sums: LSS's pooling itself."""
    return values.new_zeros(count + 1, values.shape[1]).index_add(0, cells, values)[:count]


def splat_points_dense(values: Tensor, cells: Tensor, shape: tuple[int, int]) -> Tensor:
    """values (C, R, D), cells (R, D) as in `splat` over a grid of `shape` -> (C, X * Y): the same sums in two products.

    Points with features of their own cannot be summed along their rays first, as `splat_dense` does. sum over points of
    value * [is in row x] * [is in column y], with the rows first: of 4,928 points on 128 x 128 cells the largest tensor
    has 200 MB for 80 channels, where a matrix of points by cells has 323 MB and TensorRT's builder wants seven of them.
    """
    x, y = shape
    flat = cells.reshape(-1, 1)
    in_row = torch.div(flat, y, rounding_mode="floor") == torch.arange(x, device=cells.device)  # outside: row X, none
    in_column = flat % y == torch.arange(y, device=cells.device)
    of_rows = values.flatten(1)[:, None] * in_row.to(values.dtype).t()  # (C, X, P)
    return torch.matmul(of_rows, in_column.to(values.dtype)).flatten(1)
