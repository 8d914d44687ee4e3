"""What networks of published weights do otherwise, against slow obvious references; none of it is a default."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch", reason="needs torch")

import cv2
import numpy as np
import torch
from test_pillars import GRID as PILLARS
from test_pillars import Z_RANGE, cloud, encoder
from test_view_transform import BINS, GRID, RIG, SIZE, STRIDE, VALID, C, H, W, X, Y, random_inputs, rig

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ImageSpec
from bev_perception.preprocess.images import img_from_cam, resize_crop
from bev_perception.structures import CameraCalibration
from training.convert.spconv import ORDERS, dense_kernels
from training.experiments import bevdet4d
from training.models.backbones.resnet import make_plain_layer
from training.models.bevdet import BevDet
from training.models.detector import Memory, empty_memory
from training.models.pillar_encoder import PillarEncoder
from training.models.view.lift_splat import LiftSplat
from training.models.view.splat import splat, splat_dense
from training.models.view.warp import warp_corners


def pillar_by_loop(model: PillarEncoder, rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Points of one pillar in the order of their arrival -> its features, with rows of zeros in its empty places."""
    rows = rows[: model.room]
    xyz = rows[:, 1:4]
    features = np.concatenate([rows[:, 1:], xyz - xyz.mean(axis=0), xyz - centre], axis=1)
    features = np.concatenate([features, np.zeros((model.room - len(rows), features.shape[1]))])
    for layer in model.layers:
        norm = layer.norm
        z = features @ layer.linear.weight.detach().double().numpy().T
        z = (z - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        z = np.maximum(z, 0)
        features = z if layer.last else np.concatenate([z, np.tile(z.max(axis=0), (len(z), 1))], axis=1)
    return np.asarray(z.max(axis=0))


@pytest.mark.parametrize("channels", [(6,), (8, 4)])
def test_pillars_have_room_for_some_points_and_zeros_in_empty_places(channels):
    model, points = encoder(*channels), cloud(600, 2)
    model.room = 3
    canvas, _ = model(points, 2)
    rows = points.double().numpy()
    cells, inside = PILLARS.cells(rows[:, 1:3])
    inside &= (rows[:, 3] >= Z_RANGE[0]) & (rows[:, 3] < Z_RANGE[1])
    sizes = set()
    for b, ix, iy in np.ndindex(2, *PILLARS.shape):
        mine = rows[inside & (rows[:, 0] == b) & (cells == [ix, iy]).all(axis=1)]
        sizes.add(min(len(mine), 4))
        expected = pillar_by_loop(model, mine, np.append(PILLARS.centers()[ix, iy], 0.0)) if len(mine) else 0.0
        np.testing.assert_allclose(canvas[b, :, ix, iy].detach().numpy(), expected, atol=1e-5)
    assert sizes == {0, 1, 2, 3, 4}, "emptier, full and overfull pillars must be among them"
    assert model(points[:0], 2)[0].abs().sum() == 0
    with pytest.raises(ValueError, match="room must be 0"):
        PillarEncoder(5, PILLARS, (4,), room=-1)


def test_the_frustum_of_lss_equals_a_loop_over_its_points():
    z_range = (-0.5, 1.0)
    context, depth = random_inputs()
    lift = LiftSplat(GRID, BINS, STRIDE, z_range, frustum="lss")
    expected, below = np.zeros((C, X, Y)), {"x": 0, "y": 0, "z": 0}
    low = np.array([GRID.x_min, GRID.y_min, z_range[0]])
    size = np.array([GRID.step, GRID.step, z_range[1] - z_range[0]])
    for n, row, column, b in np.ndindex(len(RIG), H, W, BINS.count):
        if not VALID[0, n]:
            continue
        u, v, d = column * (SIZE[1] - 1) / (W - 1), row * (SIZE[0] - 1) / (H - 1), BINS.start + b * BINS.step
        point = (np.linalg.inv(RIG[n]) @ [u * d, v * d, d, 1.0])[:3]
        place = (point - low) / size
        ix, iy, iz = np.trunc(place).astype(int)
        if 0 <= ix < X and 0 <= iy < Y and iz == 0:
            below = {axis: below[axis] + (place[i] < 0) for i, axis in enumerate("xyz")}
            expected[:, ix, iy] += depth[0, n, b, row, column].item() * context[0, n, :, row, column].numpy()
    found = lift(context, depth, rig(), VALID, SIZE)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12)
    assert below["x"] > 5 and below["z"] > 5, below
    cells = lift.cells(rig(), VALID, H, W)[0]
    for n in range(len(RIG)):  # the form for export needs each ray to be in a cell once
        rows, weights = context[0, n].flatten(1), depth[0, n].flatten(1).t()
        torch.testing.assert_close(
            splat_dense(rows, weights, cells[n], X * Y), splat(rows.t(), weights, cells[n], X * Y).t()
        )


def test_corners_are_aligned_as_a_loop_over_cells_says():
    grid, rng = BevGrid(-4.0, 4.0, -3.0, 3.0, 0.5), np.random.default_rng(0)
    rows, columns = grid.shape
    earlier = rng.standard_normal((rows, columns))
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    motion[:2, 3] = 0.7, -0.4
    expected = np.zeros((rows, columns))
    for i, j in np.ndindex(rows, columns):
        x, y = motion[:2, :2] @ [grid.x_min + i * grid.step, grid.y_min + j * grid.step] + motion[:2, 3]
        a, b = (x - grid.x_min) / grid.step, (y - grid.y_min) / grid.step
        for k, m in ((np.floor(a), np.floor(b)), (np.floor(a) + 1, np.floor(b)), (np.floor(a), np.floor(b) + 1),
                     (np.floor(a) + 1, np.floor(b) + 1)):  # fmt: skip
            if 0 <= k < rows and 0 <= m < columns:
                expected[i, j] += (1 - abs(a - k)) * (1 - abs(b - m)) * earlier[int(k), int(m)]
    centers = torch.from_numpy(grid.centers().reshape(-1, 2))
    arguments = torch.from_numpy(earlier)[None, None], torch.from_numpy(motion)[None]
    found, seen = warp_corners(*arguments, torch.ones(1, 1), grid, centers)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-9)
    assert 0 < seen.mean() < 1 and not expected[seen[0, 0].numpy() == 0].any()
    forgotten, unseen = warp_corners(*arguments, torch.zeros(1, 1), grid, centers)
    assert not forgotten.any() and not unseen.any()


@torch.no_grad()
def test_a_displacement_is_divided_by_the_interval_and_nothing_else_changes():
    torch.manual_seed(0)
    run = bevdet4d.tiny()
    spec, config = run.spec, run.config
    plain = BevDet(spec, config).eval()
    published = BevDet(spec, dataclasses.replace(config, displacement=True)).eval()
    published.load_state_dict(plain.state_dict())
    side = spec.image.height, spec.image.width
    n = len(spec.cameras)
    inputs = {
        "images": torch.rand(2, n, *side, 3) * 255, "img_from_ego": torch.eye(4).expand(2, n, 4, 4),
        "camera_valid": torch.ones(2, n),
    }  # fmt: skip
    memory = empty_memory(spec, inputs["images"], 2)
    assert memory is not None
    dt = torch.tensor([[0.5], [1.5]])
    memory = Memory(torch.randn_like(memory.bev), memory.from_curr, torch.ones(2, 1), dt)
    found, expected = published(inputs, memory).regression, plain(inputs, memory).regression
    assert torch.equal(found[:, :, :8], expected[:, :, :8])
    torch.testing.assert_close(found[:, :, 8:] * dt.reshape(2, 1, 1, 1, 1), expected[:, :, 8:])
    alone = published(inputs, None).regression[:, :, 8:] * spec.temporal.interval_s
    torch.testing.assert_close(alone, plain(inputs, None).regression[:, :, 8:])


def test_plain_shortcuts_are_convolutions_that_nothing_normalises():
    layer = make_plain_layer(4, 4, 2, 1)
    shortcut = layer[0].downsample
    assert isinstance(shortcut, torch.nn.Conv2d) and shortcut.kernel_size == (3, 3) and shortcut.bias is not None
    assert layer[1].downsample is None and make_plain_layer(4, 6, 1, 2)(torch.zeros(1, 4, 8, 8)).shape == (1, 6, 4, 4)


@pytest.mark.parametrize("kernel", ["area", "linear"])
def test_a_zoomed_image_is_the_middle_of_a_larger_one(kernel):
    wide = ImageSpec(96, 240, interpolation=kernel)
    zoomed = dataclasses.replace(wide, width=200, zoom=1.2)
    image = np.random.default_rng(0).integers(0, 256, (450, 800, 3), dtype=np.uint8)
    assert zoomed.scaled_width == 240
    np.testing.assert_array_equal(resize_crop(image, zoomed), resize_crop(image, wide)[:, 20:220])
    k = np.array([[600.0, 0, 400], [0, 600, 225], [0, 0, 1]])
    calibration = CameraCalibration(800, 450, k, np.eye(4))
    moved = np.eye(4)
    moved[0, 2] = -20
    np.testing.assert_allclose(img_from_cam(calibration, zoomed), moved @ img_from_cam(calibration, wide))
    with pytest.raises(ValueError, match=r"image.zoom must be within \[1, 10\]"):
        ImageSpec(96, 200, zoom=0.9)


def test_a_zoomed_image_of_the_published_size_is_cut_as_published():
    spec = ImageSpec(256, 704, zoom=768 / 704)
    k = np.array([[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]])
    found = img_from_cam(CameraCalibration(1600, 900, k, np.eye(4)), spec)[:3, :3] @ np.linalg.inv(k)
    published = np.array([[0.48, 0, -32], [0, 0.48, -176], [0, 0, 1]])
    # The published code takes a pixel for its corner: 0.26 pixels, 2 cm at 40 m.
    np.testing.assert_allclose(found - published, [[0, 0, -0.26], [0, 0, -0.26], [0, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("order", ORDERS.values())
def test_sparse_kernels_of_every_spconv_are_told_apart(order):
    kernel = torch.randn(64, 32, 3, 3)
    stored = kernel.permute([order.index(axis) for axis in range(4)])
    found = dense_kernels({"probe": stored, "square": torch.randn(3, 3, 5, 5).permute(order)}, "probe")
    assert torch.equal(found["probe"], kernel)
    with pytest.raises(ValueError, match=r"probe has the shape \(64, 32, 3, 3\), expected a 3x3 kernel"):
        dense_kernels({"probe": kernel}, "probe")


def test_pictures_scaled_by_zoom_are_close_to_the_area_kernel():
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8), (0, 0), 4)
    spec = ImageSpec(256, 704, zoom=768 / 704)
    true = cv2.resize(image, (768, 432), interpolation=cv2.INTER_AREA)[176:, 32:736].astype(float)
    assert np.abs(resize_crop(image, spec) - true).mean() < 0.5
