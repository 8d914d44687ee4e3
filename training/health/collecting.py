"""Statistics of every frame of a scene, clean and spoilt, by the vehicle's own step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.fault import Fault
from bev_perception.inference.interface import InferenceBackend
from bev_perception.model_spec import ModelSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.preprocess.contents import OFF, ImageChecks
from bev_perception.structures import SensorFrame
from bev_perception.usual.reading import Reading
from bev_perception.usual.statistics import Glimpse, statistics_of
from training.data.nuscenes import Keyframe
from training.data.sensor_frame import sensor_frame
from training.robustness.conditions import Cell
from training.robustness.moment import Moment, track_of

Found = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Drive:
    """One scene under one cell. stamps_ns (F,); found: part -> (F, S, D); affected: sensors whose data were changed."""

    scene: str
    stamps_ns: np.ndarray
    found: Found
    affected: frozenset[str] = frozenset()


class NoNetwork:
    """An engine that finds nothing, for parts that do not ask the network."""

    name = "none"

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.details = spec, dict[str, str]()

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {t.name: np.zeros(t.shape, t.dtype) for t in self.spec.outputs()}

    def fetch(self, value: Any) -> np.ndarray:
        return np.asarray(value)

    def interrupt(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is held."""


class Recorder:
    """A monitor of BevPipeline that finds nothing and keeps all."""

    def __init__(self, spec: ModelSpec, parts: Sequence[str]) -> None:
        self._spec, self._parts = spec, parts
        self.rows: list[dict[str, np.ndarray]] = []

    def look(self, glimpse: Glimpse) -> dict[str, Fault]:
        self.rows.append(statistics_of(glimpse, self._spec))
        return {}

    def readings(self) -> tuple[Reading, ...]:
        return ()

    def forget(self, why: str) -> None:
        pass

    def finish(self) -> Found:
        return {part: np.stack([row[part] for row in self.rows]) for part in self._parts}


def collect(
    engine: InferenceBackend,
    keyframes: Sequence[Keyframe],
    cells: Sequence[Cell],
    parts: Sequence[str],
    seed: int = 0,
) -> dict[Cell, Drive]:
    """Of one scene; each frame is read once. Sensors are not masked for what their images hold: that they would be is
    another finding (images.*)."""
    spec, track = engine.spec, track_of(keyframes)
    recorders = {cell: Recorder(spec, parts) for cell in cells}
    checks = ImageChecks(OFF, OFF, OFF, OFF)
    pipelines = {
        cell: BevPipeline(spec, engine, image_checks=checks, monitor=recorder) for cell, recorder in recorders.items()
    }
    affected: dict[Cell, set[str]] = {cell: set() for cell in cells}
    scene = keyframes[0].scene
    for index, keyframe in enumerate(keyframes):
        frame = sensor_frame(keyframe, spec)
        for cell, pipeline in pipelines.items():
            spoilt = cell.spoil(frame, Moment(spec, scene, index, track, cell.condition, seed))
            affected[cell] |= changed(frame, spoilt, spec)
            pipeline.step(spoilt)
            if pipeline.counters["health/failed"]:
                raise ValueError(f"statistics of {scene} under {cell.name} could not be made in frame {index}")
    stamps = np.array([keyframe.stamp_ns for keyframe in keyframes], dtype=np.int64)
    return {
        cell: Drive(scene, stamps, recorder.finish(), frozenset(affected[cell])) for cell, recorder in recorders.items()
    }


def changed(frame: SensorFrame, spoilt: SensorFrame, spec: ModelSpec) -> set[str]:
    """Sensors of which `spoilt` has something else."""
    cameras = {n for n, a, b in zip(spec.cameras, frame.cameras, spoilt.cameras) if a is not b}
    radars = {
        name
        for name, before, after in zip(spec.radars, frame.radars, spoilt.radars)
        if len(before) != len(after) or any(a is not b for a, b in zip(before, after))
    }
    return cameras | radars
