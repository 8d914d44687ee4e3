"""What a bundle's golden sample and golden frame are made of: what must be answered correctly before a drive."""

from __future__ import annotations

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.radar import radar_arrays
from bev_perception.structures import SensorFrame
from training.data.clips import ClipDataset, collate
from training.data.config import DataConfig
from training.data.nuscenes import Keyframes
from training.data.sensor_frame import sensor_frame
from training.data.source import Source
from training.models.detector import Detector
from training.trainer.lightning_module import recall
from training.trainer.loading import open_keyframes

# The file must stay small: colours and the earlier state are rounded. That changes the question, not its worth.
COLOR_STEP = 16
STATE_STEP = 0.25
STATE_REACH_CELLS = 24  # around the ego vehicle; the earlier state is zero beyond


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


HISTORY = DataConfig(history=1)


def recorded_frames(spec: ModelSpec, source: Source) -> tuple[SensorFrame, SensorFrame]:
    """The first validation keyframe that has an earlier one, and that, as a vehicle would see them: (earlier, later).

    Raises ValueError when the data set has none.
    """
    keyframes, index = _first_with_earlier(spec, source)
    earlier, later = (sensor_frame(keyframes[i], spec) for i in (keyframes[index].prev, index))
    return earlier, later


def _first_with_earlier(spec: ModelSpec, source: Source) -> tuple[Keyframes, int]:
    keyframes = open_keyframes(spec, HISTORY, source, "val", scenes=1)
    index = next((i for i in range(len(keyframes)) if keyframes[i].prev >= 0), None)
    if index is None:
        raise ValueError(f"{source.root}: the first scene of the split `val` has no two keyframes in a row")
    return keyframes, index


def recorded_inputs(student: Detector, source: Source) -> dict[str, np.ndarray]:
    """The first validation keyframe that has an earlier one, with the student's own state of that earlier one.

    Raises ValueError when the data set has none.
    """
    keyframes, index = _first_with_earlier(student.spec, source)
    batch = collate([ClipDataset(keyframes, student.spec, HISTORY)[index]])
    memory = recall(student, batch)
    inputs = {t.name: batch[t.name][0].numpy() for t in student.spec.inputs() if t.name in batch}
    if "images" in inputs:
        inputs["images"] = inputs["images"] // COLOR_STEP * COLOR_STEP
    if memory is not None:
        prev = {"prev_from_curr": memory.from_curr, "prev_valid": memory.valid, "prev_dt": memory.dt}
        inputs |= {name: tensor[0].numpy() for name, tensor in prev.items()}
        inputs["prev_bev"] = _rounded_middle(memory.bev[0].numpy())
    return inputs


def _rounded_middle(state: np.ndarray) -> np.ndarray:
    """(C, X, Y): multiples of STATE_STEP within STATE_REACH_CELLS of the map's centre, zero elsewhere."""
    kept = np.zeros_like(state)
    x, y = (slice(max(0, n // 2 - STATE_REACH_CELLS), n // 2 + STATE_REACH_CELLS) for n in state.shape[1:])
    kept[:, x, y] = np.round(state[:, x, y] / STATE_STEP) * STATE_STEP
    return kept
