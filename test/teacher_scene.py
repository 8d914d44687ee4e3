"""One scene for LiDAR networks: points, boxes and targets."""

from __future__ import annotations

import math

import numpy as np
import torch

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES
from training.data.targets import bev_targets
from training.data.virtual_points import VIRTUAL_CHANNELS

GRID = BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8)
# Two cars and a pedestrian; the second car drives along +y.
BOXES = np.array(
    [[5.0, 2.1, 0.8, 4.5, 1.9, 1.6, 0.3], [-6.0, -4.0, 0.9, 4.2, 1.8, 1.5, math.pi / 2], [3, -7, 0.9, 0.7, 0.7, 1.8, 0]]
)
VELOCITY, LABELS = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 0.0]]), np.array([0, 0, 8])


def scene(seed: int = 0, ground: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (P, 5) on the ground and in the boxes, and virtual ones (Q, 15) in the boxes."""
    rng = np.random.default_rng(seed)
    flat = np.stack([*rng.uniform(-12.8, 12.8, (2, ground)), np.zeros(ground)], axis=1)
    hits = []
    for x, y, z, length, width, height, yaw in BOXES:
        local = rng.uniform(-0.5, 0.5, (60, 3)) * [length, width, height]
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        hits.append(np.concatenate([local[:, :2] @ turn.T + [x, y], local[:, 2:] + z], axis=1))
    xyz = np.concatenate([flat, *hits])
    points = np.concatenate([xyz, rng.uniform(0, 1, (len(xyz), 1)), np.zeros((len(xyz), 1))], axis=1)
    virtual = np.zeros((len(hits) * 20, VIRTUAL_CHANNELS))
    virtual[:, :3] = np.concatenate([h[:20] for h in hits])
    virtual[np.arange(len(virtual)), 4 + np.repeat(LABELS, 20)], virtual[:, 14] = 1, 0.9
    return torch.from_numpy(points).float(), torch.from_numpy(virtual).float()


def batched(clouds: list[torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """What the loader's collate makes of clouds of different lengths."""
    rows = [torch.cat([torch.full((len(c), 1), float(i)), c], dim=1) for i, c in enumerate(clouds)]
    return {name: torch.cat(rows), f"{name}_counts": torch.tensor([len(c) for c in clouds])}


def inputs_of(scenes: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return batched([s[0] for s in scenes], "lidar") | batched([s[1] for s in scenes], "virtual")


def targets(count: int) -> dict[str, torch.Tensor]:
    arrays = bev_targets(BOXES, VELOCITY, LABELS, GRID, len(CLASSES))
    return {name: torch.from_numpy(np.stack([value] * count)) for name, value in arrays.items()}
