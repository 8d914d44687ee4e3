"""Inputs of a network without a data set: a pattern that touches each of them."""

from __future__ import annotations

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.radar import radar_arrays


def pattern_inputs(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """A deterministic, compressible pattern: cameras in a ring, radar cells, an earlier state. It touches every input,
    but a trained network finds little in it; `recorded_inputs` proves more."""
    rng = np.random.default_rng(seed)
    n = len(spec.cameras)
    h, w = spec.image.height, spec.image.width
    ramp = np.add.outer(np.arange(h), np.arange(w))[None, :, :, None]
    images = ((ramp * (1 + np.arange(n))[:, None, None, None] // 4 + 40 * np.arange(3)) % 256).astype(np.uint8)
    img_from_ego = np.zeros((n, 4, 4), dtype=np.float32)
    for i in range(n):  # a level camera at 1.5 m, looking along yaw
        # Not along x or y: points of one depth may all lie on an edge between cells there, and rounding would decide.
        yaw = 2 * np.pi * i / n + 0.1
        cam_from_ego = np.eye(4)
        cam_from_ego[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        cam_from_ego[:3, 3] = [0, 1.5, 0]
        K = np.array([[0.8 * w, 0, w / 2, 0], [0, 0.8 * w, h / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        img_from_ego[i] = K @ cam_from_ego
    state = np.zeros((spec.temporal.state_channels, *spec.grid.shape), dtype=np.float32)
    state[:, ::8, ::8] = 1.0
    prev_from_curr = np.eye(4, dtype=np.float32)
    prev_from_curr[0, 3] = 2.0
    arrays = _pattern_radar(spec, rng) | {
        "images": images,
        "img_from_ego": img_from_ego,
        "camera_valid": np.ones(n, dtype=np.float32),
        "radar_valid": np.ones(len(spec.radars), dtype=np.float32),
        "prev_bev": state,
        "prev_from_curr": prev_from_curr,
        "prev_valid": np.ones(1, dtype=np.float32),
        "prev_dt": np.full(1, spec.temporal.interval_s, dtype=np.float32),
    }
    return {t.name: arrays[t.name] for t in spec.inputs()}


def _pattern_radar(spec: ModelSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random map cells, or random points within the grid."""
    if spec.radar.format == "map":
        radar = np.zeros((len(spec.radar.channels), *spec.grid.shape), dtype=np.float32)
        cells = rng.integers(0, min(spec.grid.shape), (200, 2))
        radar[:, cells[:, 0], cells[:, 1]] = rng.normal(size=(len(radar), 200)).astype(np.float32).round(2)
        return {"radar_bev": radar}
    points = rng.normal(size=(min(200, spec.radar.max_pillars), 7)).astype(np.float32).round(2)
    points[:, 0] = rng.uniform(spec.grid.x_min, spec.grid.x_max, len(points)).round(2)
    points[:, 1] = rng.uniform(spec.grid.y_min, spec.grid.y_max, len(points)).round(2)
    points = np.repeat(points, 2, axis=0)
    points[::2, 3:6] += 0.5
    return radar_arrays(points, spec)[0]
