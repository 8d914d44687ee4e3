"""What a bundle's golden sample and golden frame are made of: what must be answered correctly before a drive."""

from __future__ import annotations

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.structures import SensorFrame
from training.data.clips import ClipDataset, collate
from training.data.config import DataConfig
from training.data.nuscenes import Keyframes
from training.data.sensor_frame import sensor_frame
from training.data.source import Source
from training.models.detector import Detector
from training.trainer.loading import open_keyframes
from training.trainer.network import recall

# The file must stay small: colours and the earlier state are rounded. That changes the question, not its worth.
COLOR_STEP = 16
STATE_STEP = 0.25
STATE_REACH_CELLS = 24  # around the ego vehicle; the earlier state is zero beyond
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
