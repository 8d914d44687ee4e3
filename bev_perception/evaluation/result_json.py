"""Detections as JSON that is readable without ROS and line by line: one frame a line, written as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bev_perception.files import open_atomic
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import Detections

BEGINNING = '{"header": {"model": '


class DetectionJson:
    """The file while it is written: add() the frames, finish() with the counters, by reason."""

    def __init__(self, file: BinaryIO, spec: ModelSpec, frame_id: str) -> None:
        self._file, self._classes = file, spec.classes
        self._separator = "\n"
        head = {"model": spec.name, "sha256": spec.onnx_sha256, "frame_id": frame_id}
        self._write(f'{{"header": {json.dumps(head)},\n"frames": [')

    def add(self, record_ns: int, detections: Detections) -> None:
        self._write(self._separator + json.dumps(_frame(record_ns, detections, self._classes)))
        self._separator = ",\n"

    def finish(self, counters: Mapping[str, int]) -> None:
        self._write(f'\n],\n"counters": {json.dumps(dict(sorted(counters.items())))}}}\n')

    def _write(self, text: str) -> None:
        self._file.write(text.encode())


@contextmanager
def open_detection_json(path: Path, spec: ModelSpec, frame_id: str) -> Iterator[DetectionJson]:
    """Takes its name when the block ends; nothing of it stays when the block raises."""
    with open_atomic(path) as file:
        yield DetectionJson(file, spec, frame_id)


def is_detection_json(path: Path) -> bool:
    """Whether a file was written here, now or by an earlier version."""
    with open(path, "rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING.encode()


def _frame(record_ns: int, d: Detections, classes: tuple[str, ...]) -> dict[str, object]:
    return {
        "stamp_ns": d.stamp_ns,
        "record_ns": record_ns,
        "sensors_used": list(d.sensors_used),
        "missing": d.missing,
        "temporal_used": d.temporal_used,
        "memory_reset": d.memory_reset,
        "names": [classes[i] for i in d.labels],
        "scores": d.scores.tolist(),
        "boxes_xyzlwh_yaw": d.boxes.tolist(),
        "velocity": d.velocity.tolist(),
    }
