"""What the quantiser sees: a data set's keyframes as the vehicle's own step gives them to the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from bev_perception.inference.interface import InferenceBackend
from bev_perception.pipeline import BevPipeline
from training.data.nuscenes import Keyframe
from training.data.sensor_frame import sensor_frame
from training.scoring import floor_thresholds

IN_A_ROW = 4  # keyframes of one drive: one without memory, three with


class _Noting:
    """An engine that keeps what it was given last."""

    def __init__(self, engine: InferenceBackend) -> None:
        self.engine, self.name, self.spec, self.details = engine, engine.name, engine.spec, engine.details
        self.given: dict[str, np.ndarray] = {}

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.given = {name: self.engine.fetch(value) for name, value in inputs.items()}
        return self.engine.infer(inputs)

    def fetch(self, value: Any) -> np.ndarray:
        return self.engine.fetch(value)

    def interrupt(self) -> None:
        self.engine.interrupt()

    def close(self) -> None:
        self.engine.close()


def calibration_rows(scenes: Sequence[str], frames: int) -> list[list[int]]:
    """Rows of `frames` keyframes, or of all where there are fewer: the first IN_A_ROW of scenes that lie evenly over
    the data set. A list for each scene.

    scenes: of each keyframe, those of one scene one after the other. Raises ValueError for frames < 1.
    """
    if frames < 1:
        raise ValueError(f"calibration needs keyframes, found --frames {frames}; take 32")
    starts = [list(rows)[:IN_A_ROW] for _, rows in groupby(range(len(scenes)), key=lambda row: scenes[row])]
    wanted = min(len(starts), -(-frames // IN_A_ROW))
    chosen = [starts[i * len(starts) // wanted] for i in range(wanted)]
    left = frames
    for rows in chosen:
        del rows[left:]
        left -= len(rows)
    return [rows for rows in chosen if rows]


def network_inputs(
    engine: InferenceBackend, keyframes: Sequence[Keyframe], scenes: Sequence[Sequence[int]]
) -> Iterator[dict[str, np.ndarray]]:
    """What the network is given at each of these rows, its own memory of the rows before included.

    Raises what `sensor_frame` raises.
    """
    noting = _Noting(engine)
    for rows in scenes:
        pipeline = BevPipeline(engine.spec, noting, floor_thresholds(engine.spec))
        for row in rows:
            pipeline.step(sensor_frame(keyframes[row], engine.spec))
            yield noting.given
