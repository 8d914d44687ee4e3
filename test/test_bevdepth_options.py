"""What BEVDepth's released weights do otherwise, against slow obvious references; none of it is a default."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from test_view_transform import BINS, GRID, RIG, SIZE, STRIDE, VALID, C, H, W, X, Y, random_inputs, rig

from bev_perception.model_spec import ImageSpec
from bev_perception.preprocess.images import img_from_cam
from bev_perception.structures import CameraCalibration
from training.experiments import bevdepth
from training.models.camera_bev import CameraBev, CameraBevConfig
from training.models.camera_vector import calibration_vector
from training.models.depth_net import DepthNetConfig, PlaneRefinement
from training.models.detector import Memory
from training.models.image_branch import ImageBranch, ImageConfig
from training.models.temporal_fusion import ConcatFusion, TemporalConfig
from training.models.view.lift_splat import FRUSTUMS, LiftSplat
from training.models.view.splat import splat_points, splat_points_dense
from training.run import run_from_plain, run_to_plain


def camera(width: int, height: int, k: np.ndarray, ego_from_cam: np.ndarray) -> torch.Tensor:
    """(1, 1, 4, 4) float32: the projection that the vehicle gives the network of 256 x 704."""
    calibration = CameraCalibration(width, height, k, ego_from_cam)
    matrix = img_from_cam(calibration, ImageSpec(256, 704)) @ np.linalg.inv(ego_from_cam)
    return torch.from_numpy(matrix)[None, None].float()


def test_the_calibration_comes_back_from_the_projection() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    ego_from_cam = np.eye(4)
    ego_from_cam[:3, :3], ego_from_cam[:3, 3] = rotation * np.linalg.det(rotation), (1.7, -0.4, 1.5)
    k = np.array([[1266.4, 0, 816.3], [0, 1270.1, 491.5], [0, 0, 1]])
    expected = [1266.4, 1270.1, 816.3, 491.5, 0.44, 0, 0, 0, 0.44, -140, 1, 0, 0, 1, 1, *ego_from_cam[:3].ravel()]
    one = torch.ones(1, 1)
    found = calibration_vector(camera(1600, 900, k, ego_from_cam), one, (256, 704))
    assert found.shape == (1, 1, 27) and found.dtype == torch.float32
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=2e-6, atol=2e-5)
    # A camera with half the pixels of the same view is the same camera; pixels lie at their centres.
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]]) @ k
    smaller = calibration_vector(camera(800, 450, half, ego_from_cam), one, (256, 704))
    np.testing.assert_allclose(smaller.numpy(), found.numpy(), rtol=1e-5, atol=1e-4)
    off = calibration_vector(torch.full((1, 1, 4, 4), torch.nan), 0 * one, (256, 704))
    assert bool(torch.isfinite(off).all())


def test_exchanged_statistics_normalise_blue_as_red() -> None:
    image = torch.randint(0, 256, (1, 1, 64, 64, 3)).float()
    seen: list[torch.Tensor] = []
    for color_order in ("bgr", "rgb"):
        config = ImageConfig("resnet18", width=8, channels=16, exchanged_statistics=True)
        branch = ImageBranch(ImageSpec(64, 64, color_order=color_order), config)
        branch.eval().backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        branch(image if color_order == "bgr" else image.flip(-1))
    blue, green, red = image[0, 0].unbind(-1)
    expected = torch.stack([(blue - 123.675) / 58.395, (green - 116.28) / 57.12, (red - 103.53) / 57.375])
    assert len(seen) == 2
    for found in seen:
        torch.testing.assert_close(found[0], expected)


def test_where_no_earlier_map_was_the_current_one_stands_again() -> None:
    spec = dataclasses.replace(bevdepth.tiny().spec, grid=GRID)
    spec = dataclasses.replace(spec, temporal=dataclasses.replace(spec.temporal, state_channels=C))
    plain, filled = (ConcatFusion(C, TemporalConfig("concat", unseen=name), spec) for name in ("zeros", "current"))
    bev, earlier, one = torch.randn(2, C, X, Y), torch.randn(2, C, X, Y), torch.ones(2, 1)
    moved = torch.eye(4).repeat(2, 1, 1)
    moved[:, 0, 3] = 2.3
    memory = Memory(earlier, moved, torch.tensor([[1.0], [0.0]]), 0.5 * one)
    found, expected = filled(bev, memory)[0], plain(bev, memory)[0]
    seen = expected[:, 2 * C] > 0
    assert bool(seen[0].any()) and not bool(seen[0].all()) and not bool(seen[1].any())
    for b, ix, iy in np.ndindex(2, X, Y):
        cell = expected[b, C : 2 * C, ix, iy] if seen[b, ix, iy] else bev[b, :, ix, iy]
        assert torch.equal(found[b, C : 2 * C, ix, iy], cell)
    assert torch.equal(found[:, 2 * C :], expected[:, 2 * C :]), "the network is told as before"
    assert torch.equal(filled(bev, None)[0][:, C : 2 * C], bev)
    with pytest.raises(ValueError, match="unseen must be one of"):
        TemporalConfig("gated", unseen="current")


@pytest.mark.parametrize("frustum", FRUSTUMS)
def test_points_with_features_of_their_own_are_summed_as_a_loop_says(frustum: str) -> None:
    context, depth = random_inputs()
    lift = LiftSplat(GRID, BINS, STRIDE, frustum=frustum)
    volume = torch.randn(1, len(RIG), C, BINS.count, H, W, dtype=torch.float64)
    cells = lift.cells(rig(), VALID, H, W)[0].reshape(len(RIG), H, W, BINS.count)
    expected = np.zeros((C, X * Y + 1))
    for n, row, column, d in np.ndindex(*cells.shape):
        expected[:, int(cells[n, row, column, d])] += volume[0, n, :, d, row, column].numpy()
    found = lift.points(volume, rig(), VALID, SIZE)
    np.testing.assert_allclose(found[0].reshape(C, -1).numpy(), expected[:, :-1], atol=1e-12)
    product = context[:, :, :, None] * depth[:, :, None]
    torch.testing.assert_close(lift.points(product, rig(), VALID, SIZE), lift(context, depth, rig(), VALID, SIZE))
    values, where = volume[0, 0].permute(0, 2, 3, 1).flatten(1, 2), cells[0].flatten(0, 1)
    torch.testing.assert_close(
        splat_points_dense(values, where, (X, Y)), splat_points(values.flatten(1).t(), where.flatten(), X * Y).t()
    )
    twice = lift.points(volume.repeat(2, 1, 1, 1, 1, 1), rig().repeat(2, 1, 1, 1), VALID.repeat(2, 1), SIZE)
    torch.testing.assert_close(twice[1], found[0])
    with pytest.raises(ValueError, match="14 depth bins, found points"):
        lift.points(volume[:, :, :, 1:], rig(), VALID, SIZE)


@torch.no_grad()
def test_every_row_is_refined_on_its_own() -> None:
    spec = dataclasses.replace(bevdepth.tiny().spec, grid=GRID, image=ImageSpec(64, 96))
    image = ImageConfig("resnet18", width=8, neck="second", stride=16, channels=16)
    config = CameraBevConfig(image, BINS, 6, refine=True, rows=True, frustum="lss", z_range=(-5.0, 3.0))
    module = CameraBev(spec, config).eval()
    assert isinstance(module.refine, PlaneRefinement) and isinstance(module.lift, LiftSplat)
    h, w = 4, 6
    context, depth = torch.randn(1, 2, 6, h, w), torch.randn(1, 2, BINS.count, h, w).softmax(2)
    expected = torch.zeros(1, 2, 6, BINS.count, h, w)
    for n, row in np.ndindex(2, h):
        plane = depth[0, n, None, :, row] * context[0, n, :, None, row]  # (C, D, w)
        expected[0, n, :, :, row] = module.refine(plane[None])[0]
    projection, valid = rig(dtype=torch.float32)[:, :2], torch.ones(1, 2)
    torch.testing.assert_close(
        module.lifted(context, depth, projection, valid), module.lift.points(expected, projection, valid, (64, 96))
    )
    with pytest.raises(ValueError, match="needs refine"):
        CameraBevConfig(rows=True)
    with pytest.raises(ValueError, match='"centres" with refine but without rows'):
        CameraBevConfig(refine=True, frustum="lss")
    with pytest.raises(ValueError, match=r"camera must be one of \['calibration', 'projection'\]"):
        DepthNetConfig(camera="name")


def test_runs_stored_before_these_options_are_read_as_they_were_meant() -> None:
    run = bevdepth.r50()
    plain = run_to_plain(run)
    lifted = plain["config"]["camera"]
    for of, names in ((lifted, ("rows", "z_range")), (lifted["image"], ("exchanged_statistics",)),
                      (lifted["depth_net"], ("camera",)), (plain["config"]["temporal"], ("unseen",))):  # fmt: skip
        for name in names:
            del of[name]
    assert run_from_plain(plain, "a run") == run
