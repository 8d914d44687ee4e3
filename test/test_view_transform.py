"""Forward projection against loops over every frustum point, in float64."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch

from bev_perception.grid import BevGrid
from training.models.view.depth_bins import DepthBins
from training.models.view.lift_splat import LiftSplat, inverse_3x3
from training.models.view.splat import splat, splat_dense

# Cell 0 begins at x = 0: the cameras see points just below it. Half-metre bins put several points of a ray in a cell.
GRID = BevGrid(0.0, 8.0, -6.4, 6.4, 1.6)
BINS = DepthBins(0.5, 0.5, 14)
SIZE, STRIDE, H, W, C = (24, 40), 8, 3, 5, 2
X, Y = GRID.shape


def camera(yaw: float, pitch: float = 0.0, roll: float = 0.0, height: float = 1.5) -> np.ndarray:
    """(4, 4) img_from_ego of a camera that looks along yaw, `pitch` radians down, at x = 0.4 m."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cam_from_ego = np.eye(4)
    cam_from_ego[:3, :3] = [
        np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right, forward,
    ]  # fmt: skip
    cam_from_ego[:3, 3] = -cam_from_ego[:3, :3] @ [0.4, 0.0, height]
    img_from_cam = np.eye(4)
    img_from_cam[:2, :3] = [[22.0, 0.3, 19.0], [0.0, 21.0, 12.5]]
    return img_from_cam @ cam_from_ego


# Two overlapping cameras (one pitched and rolled), one that looks away from the grid's corner, one switched off.
RIG = np.stack([camera(0.2, 0.15, 0.1), camera(-0.3, 0.6), camera(1.7, -0.1), camera(0.0)])
VALID = torch.tensor([[1.0, 1.0, 1.0, 0.0]])


def random_inputs(batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    context = torch.randn(batch, len(RIG), C, H, W, dtype=torch.float64)
    return context, torch.randn(batch, len(RIG), BINS.count, H, W, dtype=torch.float64).softmax(2)


def rig(batch: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(RIG).to(dtype).expand(batch, -1, -1, -1).contiguous()


def frustum_point(img_from_ego: np.ndarray, row: int, column: int, depth: float) -> np.ndarray:
    u, v = STRIDE * (column + 0.5) - 0.5, STRIDE * (row + 0.5) - 0.5
    return (np.linalg.inv(img_from_ego) @ [u * depth, v * depth, depth, 1.0])[:3]


def lift_by_loops(
    context: np.ndarray, depth: np.ndarray, valid: np.ndarray, z_range: tuple[float, float]
) -> tuple[np.ndarray, dict[str, int]]:
    bev, seen = np.zeros((C, X, Y)), {"inside": 0, "just below": 0, "outside": 0, "too high": 0, "off": 0}
    for n, row, column, b in np.ndindex(len(RIG), H, W, BINS.count):
        if valid[n] == 0:
            seen["off"] += 1
            continue
        point = frustum_point(RIG[n], row, column, BINS.start + (b + 0.5) * BINS.step)
        cells, inside = GRID.cells(point[:2])
        if not inside:
            seen["just below" if -GRID.step < point[0] < 0 and abs(point[1]) < 6.4 else "outside"] += 1
        elif not z_range[0] <= point[2] < z_range[1]:
            seen["too high"] += 1
        else:
            seen["inside"] += 1
            bev[:, cells[0], cells[1]] += depth[n, b, row, column] * context[n, :, row, column]
    return bev, seen


@pytest.mark.parametrize("z_range", [(-10.0, 10.0), (-0.5, 1.0)])
def test_lift_splat_equals_a_loop_over_frustum_points(z_range: tuple[float, float]) -> None:
    context, depth = random_inputs()
    found = LiftSplat(GRID, BINS, STRIDE, z_range)(context, depth, rig(), VALID, SIZE)
    expected, seen = lift_by_loops(context[0].numpy(), depth[0].numpy(), VALID[0].numpy(), z_range)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12)
    limited = z_range[1] == 1.0
    assert all(seen[k] > 5 for k in seen if k != "too high") and (seen["too high"] > 5) == limited, seen


def test_overlapping_cameras_add_up_and_each_frame_of_a_batch_is_its_own() -> None:
    context, depth = random_inputs(batch=2)
    lift, valid = LiftSplat(GRID, BINS, STRIDE), torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    together = lift(context, depth, rig(2), valid, SIZE)
    for i in range(2):
        one_by_one = [
            lift(context[i : i + 1], depth[i : i + 1], rig(), torch.eye(4)[n : n + 1] * valid[i], SIZE)[0]
            for n in range(4)
        ]
        torch.testing.assert_close(together[i], sum(one_by_one, torch.zeros(())))
    assert (one_by_one[1] != 0).logical_and(one_by_one[3] != 0).any(), "the cameras must overlap"


def test_a_camera_that_is_off_may_have_any_calibration() -> None:
    context, depth = random_inputs()
    lift, broken = LiftSplat(GRID, BINS, STRIDE), rig().clone()
    expected = lift(context, depth, broken, VALID, SIZE)
    for garbage in (0.0, float("nan")):
        broken[0, 3] = garbage
        torch.testing.assert_close(lift(context, depth, broken, VALID, SIZE), expected)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(1)
    context = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    depth = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    cells = torch.tensor(
        [[0, 0, 1, 6], [6, 5, 5, 2], [1, 1, 1, 1], [6, 6, 6, 6], [2, 3, 5, 0]]
    )  # 6 is outside, 4 empty
    assert torch.autograd.gradcheck(lambda c, d: splat(c, d, cells, 6), (context, depth))
    # And through the module, whose permutations the loops above do not differentiate.
    module, (context, depth) = LiftSplat(GRID, DepthBins(1.0, 2.0, 2), STRIDE), random_inputs()
    small = (context[:, :2].clone().requires_grad_(), depth[:, :2, :2].clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda c, d: module(c, d, rig()[:, :2], VALID[:, :2], SIZE), small)


def test_the_form_for_export_sums_the_same() -> None:
    context, depth = random_inputs()
    cells = LiftSplat(GRID, BINS, STRIDE).cells(rig(), VALID, H, W)[0]
    assert (cells[..., 1:] == cells[..., :-1]).logical_and(cells[..., 1:] < X * Y).any(), "rays must stay in a cell"
    for n in range(len(RIG)):
        rows, weights = context[0, n].flatten(1), depth[0, n].flatten(1).t()
        expected = splat(rows.t(), weights, cells[n], X * Y).t()
        torch.testing.assert_close(splat_dense(rows, weights, cells[n], X * Y), expected)


def test_a_ray_meets_a_cell_in_one_run_in_single_precision() -> None:
    """What the form for export rests on: also for rays along the borders between cells."""
    turned = np.stack([camera(yaw, pitch) for yaw in np.linspace(-np.pi, np.pi, 25) for pitch in (0.0, 1e-7, 0.3)])
    turned[:, :2, 3] *= 0  # many rays through the corner of cells
    img_from_ego = torch.from_numpy(turned)[None].float()
    cells = LiftSplat(BevGrid(-6.4, 6.4, -6.4, 6.4, 0.4), BINS, 1).cells(img_from_ego, torch.ones(1, len(turned)), 8, 8)
    for ray in cells.flatten(0, 2).numpy():
        runs = ray[np.flatnonzero(np.diff(ray, prepend=-1))]
        runs = runs[runs < 32 * 32]
        assert len(runs) == len(set(runs))


def test_half_precision_features_are_summed_in_single() -> None:
    context, depth = random_inputs()
    lift = LiftSplat(GRID, BINS, STRIDE)
    expected = lift(context, depth, rig(), VALID, SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lift(context.bfloat16(), depth.bfloat16(), rig(dtype=torch.float32), VALID, SIZE)
    assert found.dtype == torch.bfloat16
    # Rounded inputs and one rounded result: 3 half units of 8 bits, relative to sums of up to 1.
    torch.testing.assert_close(found.double(), expected, atol=3 * 2**-8, rtol=3 * 2**-8)


def test_wrong_sizes_are_named() -> None:
    context, depth = random_inputs()
    with pytest.raises(ValueError, match=r"\(24, 48\) / 8 and 14 depth bins, found context \(1, 4, 2, 3, 5\)"):
        LiftSplat(GRID, BINS, STRIDE)(context, depth, rig(), VALID, (24, 48))
    with pytest.raises(ValueError, match="14 depth bins"):
        LiftSplat(GRID, BINS, STRIDE)(context, depth[:, :, 1:], rig(), VALID, SIZE)


def test_inverse_by_cofactors() -> None:
    matrices = torch.from_numpy(RIG)[:, :3, :3]
    torch.testing.assert_close(inverse_3x3(matrices), torch.linalg.inv(matrices))
