"""A network's own frame: what goes in and comes out, against closed forms; without one nothing changes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, RadarSpec, TemporalSpec
from training.models.detector import Memory, Prediction
from training.models.frame import EGO, LIDAR_TOP, Frame, Turn, grid_in, spec_in

GRID = BevGrid(-12.8, 12.8, -9.6, 16.0, 0.8)
SPEC = ModelSpec(
    "frame", (), ("RADAR_FRONT",), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=GRID,
    radar=RadarSpec(format="pillars", pillar_step=0.4), temporal=TemporalSpec(state_channels=0),
)  # fmt: skip
FRAMES = [LIDAR_TOP, Frame((0.5, -0.3, 1.0), -3.0), Frame((0.0, 0.4, 0.0), mirrored=True)]


def boxes_of(regression: torch.Tensor, grid: BevGrid) -> np.ndarray:
    """(1, 1, 10, X, Y) -> (X, Y, 7): x y z, cos, sin, vx, vy, by the coding's definition."""
    dx, dy, z, _, _, _, sine, cosine, vx, vy = regression[0, 0].double().numpy()
    ix, iy = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    x, y = grid.x_min + (ix + dx) * grid.step, grid.y_min + (iy + dy) * grid.step
    return np.stack([x, y, z, cosine, sine, vx, vy], axis=-1)


def test_in_the_ego_frame_nothing_is_touched():
    turn, inputs = Turn(EGO, SPEC), {"lidar": torch.ones(2, 6)}
    prediction = Prediction(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 10, 2, 2))
    memory = Memory(*(torch.zeros(1, 4, 4) for _ in range(4)))
    assert turn.inputs(inputs) is inputs and turn.prediction(prediction) is prediction and turn.memory(memory) is memory
    assert spec_in(EGO, SPEC) is SPEC and not turn.state_dict(), "checkpoints are what they were"


@pytest.mark.parametrize("frame", FRAMES)
def test_boxes_come_out_where_they_are(frame):
    torch.manual_seed(0)
    turn, own = Turn(frame, SPEC), grid_in(frame, GRID)
    regression = torch.randn(1, 1, 10, *GRID.shape)
    matrix = frame.ego_from_network()
    inner = boxes_of(regression, own)
    expected = inner.copy()
    expected[..., :3] = inner[..., :3] @ matrix[:3, :3].T + matrix[:3, 3]
    for first in (3, 5):  # direction and velocity lie in the plane of their frame
        expected[..., first : first + 2] = inner[..., first : first + 2] @ matrix[:2, :2].T
    found = turn.prediction(Prediction(torch.zeros(1, 1, *GRID.shape), regression))
    outer = boxes_of(found.regression, GRID)
    if frame.mirrored:
        expected = expected[:, ::-1]
    assert np.abs(outer - expected).max() < 2e-5
    assert torch.equal(found.regression[:, :, 3:6].sum(), regression[:, :, 3:6].sum())


@pytest.mark.parametrize("frame", FRAMES)
def test_points_go_in_and_cells_with_them(frame):
    rng = np.random.default_rng(0)
    turn, own = Turn(frame, SPEC), spec_in(frame, SPEC)
    ego = rng.uniform(-8, 8, (200, 3))
    inverse = np.linalg.inv(frame.ego_from_network())
    expected = ego @ inverse[:3, :3].T + inverse[:3, 3]
    lidar = torch.from_numpy(np.column_stack([np.zeros(200), ego, rng.random((200, 2))]).astype(np.float32))
    turned = turn.inputs({"lidar": lidar})["lidar"]
    assert np.abs(turned[:, 1:4].numpy() - expected).max() < 1e-5
    assert torch.equal(turned[:, [0, 4, 5]], lidar[:, [0, 4, 5]])
    cells, _ = SPEC.pillar_grid().cells(ego[:, :2])
    flat = cells[:, 0] * SPEC.pillar_grid().shape[1] + cells[:, 1]
    points = np.column_stack([ego, rng.random((200, 3))]).astype(np.float32)[None, :, None]
    inputs = {"radar_points": torch.from_numpy(points), "radar_cells": torch.from_numpy(flat)[None]}
    turned = turn.inputs(inputs)
    assert np.abs(turned["radar_points"][0, :, 0, 2].numpy() - expected[:, 2]).max() < 1e-5, "the height has the pitch"
    there = np.stack(np.divmod(turned["radar_cells"][0].numpy(), own.pillar_grid().shape[1]), axis=1)
    place = own.pillar_grid().fractional_cells(turned["radar_points"][0, :, 0, :2].double().numpy())
    assert (np.abs(place - there - 0.5) < 0.5 + 1e-4).all(), "a return lies in its cell, whatever the pitch"
    moved = turned["radar_points"][0, :, 0, 4:6].numpy()
    assert np.allclose(moved, points[0, :, 0, 4:6] * ([1, -1] if frame.mirrored else [1, 1]))
    behind = torch.tensor([[64 * 64, 64 * 64 + 3]])
    assert torch.equal(turn.inputs(inputs | {"radar_cells": behind})["radar_cells"], behind)


def test_projections_and_motion_are_those_of_the_turned_points():
    turn, matrix = Turn(LIDAR_TOP, SPEC), LIDAR_TOP.ego_from_network()
    rng = np.random.default_rng(1)
    projection = torch.from_numpy(rng.standard_normal((1, 2, 4, 4))).float()
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    motion[:2, 3] = 4.0, -1.0
    inner = rng.standard_normal(4)
    inner[3] = 1.0
    turned = turn.inputs({"img_from_ego": projection})["img_from_ego"]
    assert np.allclose(turned.numpy() @ inner, projection.numpy() @ (matrix @ inner), atol=1e-5)
    memory = Memory(torch.zeros(1), torch.from_numpy(motion)[None].float(), torch.ones(1, 1), torch.ones(1, 1))
    found = turn.memory(memory)
    assert found is not None
    assert np.allclose(matrix @ (found.from_curr[0].double().numpy() @ inner), motion @ matrix @ inner, atol=1e-5)
