"""One scene, driven once for every cell: each frame is read once and spoilt in each cell's way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.metrics import RANGES, Tally, add_tallies
from bev_perception.evaluation.objects import Objects, objects_from_detections
from bev_perception.evaluation.tally_file import tally_bytes
from bev_perception.evaluation.worth import Worth, add_worths, worth, worth_json
from bev_perception.files import write_atomic
from bev_perception.inference.interface import InferenceBackend
from bev_perception.pipeline import BevPipeline
from bev_perception.uncertainty import Estimator, UncertaintyTable, read_uncertainty
from training.bundling.engines import open_model
from training.data.config import PLAIN
from training.data.nuscenes import Keyframe, Keyframes, open_nuscenes
from training.data.sensor_frame import sensor_frame
from training.data.source import Source
from training.robustness.conditions import Cell
from training.robustness.coverage import seen_by
from training.robustness.lost import Loss, lost_sensors
from training.robustness.moment import Moment, Track, track_of
from training.robustness.reaction import interruptions, matched_share
from training.scoring import floor_thresholds, ground_truth, tally_found

SEEN, SEEN_CLEAN, REACTION = "seen", "seen_clean", "reaction"


@dataclass(frozen=True)
class Job:
    """A scene of a model, in these cells; what it gives is written into `out`, a folder of its own."""

    model: Path
    backend: str
    source: Source
    scene: str
    cells: tuple[Cell, ...]
    seed: int
    out: Path


def tally_path(folder: Path, cell: Cell, part: str = "") -> Path:
    """Of a scene's folder. part: SEEN or SEEN_CLEAN for what working sensors see, with and without the loss."""
    return folder / f"{cell.name}{part and '.'}{part}.npz"


def worth_path(folder: Path, cell: Cell) -> Path:
    """What the cell's detections are worth, of a bundle that says it."""
    return folder / f"{cell.name}.worth.json"


def table_of(model: Path) -> UncertaintyTable | None:
    """Of a bundle that has one."""
    return read_uncertainty(load_bundle(model)) if model.is_dir() else None


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether all that a cell gives is there: it is written last."""
    return tally_path(folder, cell).is_file()


def drive(job: Job) -> int:
    """Drives the scene and writes what is found; returns the number of frames."""
    cv2.setNumThreads(1)
    engine = _engine(job.model, job.backend)
    keyframes = open_nuscenes(job.source, [job.scene], engine.spec, PLAIN)
    run = _Run(engine, keyframes, job)
    for index, keyframe in enumerate(keyframes):
        run.step(index, keyframe)
    run.write(job.out)
    return len(keyframes)


_engine = cache(open_model)  # once in a process


class _Run:
    def __init__(self, engine: InferenceBackend, keyframes: Keyframes, job: Job) -> None:
        self.engine, self.job = engine, job
        self.table = table_of(job.model)
        self.track: Track = track_of(keyframes)
        self.cells = (Cell(), *(cell for cell in job.cells if cell != Cell()))
        self.losses = {cell: cell.loss for cell in self.cells if cell.loss is not None}
        self.pipelines = {cell: self._pipeline() for cell in self.cells}
        self.tallies: dict[tuple[Cell, str], list[Tally]] = {}
        self.worths: dict[Cell, list[Worth]] = {}
        planned = interruptions(len(keyframes), list(self.losses.values()))
        self.interruptions = [(interruption, self._pipeline()) for interruption in planned]
        self.shares: list[dict[str, object]] = []

    def _pipeline(self) -> BevPipeline:
        estimator = None if self.table is None else Estimator(self.table, self.engine.spec.classes)
        return BevPipeline(self.engine.spec, self.engine, floor_thresholds(self.engine.spec), estimator=estimator)

    def step(self, index: int, keyframe: Keyframe) -> None:
        spec, frame = self.engine.spec, sensor_frame(keyframe, self.engine.spec)
        found: dict[Cell, Objects] = {}
        for cell, pipeline in self.pipelines.items():
            spoilt = cell.spoil(frame, self._moment(cell.condition, index))
            detections = pipeline.step(spoilt)
            if self.table is not None:
                of_frame = worth(ground_truth(keyframe, spec), detections, spec.classes, self.table.intervals)
                self.worths.setdefault(cell, []).append(of_frame)
            found[cell] = objects_from_detections(detections, spec.classes)
            self._add(cell, "", tally_found(keyframe, spec, found[cell], ranges=RANGES))
        for cell, loss in self.losses.items():
            seen = seen_by(frame, working(loss, self._moment(cell.condition, index)))
            self._add(cell, SEEN, tally_found(keyframe, spec, found[cell], seen, RANGES))
            self._add(cell, SEEN_CLEAN, tally_found(keyframe, spec, found[Cell()], seen, RANGES))
        for interruption, pipeline in self.interruptions:
            cell = next(cell for cell, loss in self.losses.items() if loss == interruption.loss)
            lost = interruption.lost(index)
            spoilt = cell.spoil(frame, self._moment(cell.condition, index)) if lost else frame
            objects = objects_from_detections(pipeline.step(spoilt), spec.classes)
            reference = found[cell] if lost else found[Cell()]
            share = matched_share(ground_truth(keyframe, spec), objects, reference, spec)
            self.shares.append(
                {"loss": str(interruption.loss), "index": index, "stamp_ns": keyframe.stamp_ns, "lost": lost,
                 "share": share}
            )  # fmt: skip

    def _moment(self, condition: str, index: int) -> Moment:
        return Moment(self.engine.spec, self.job.scene, index, self.track, condition, self.job.seed)

    def _add(self, cell: Cell, part: str, tally: Tally) -> None:
        self.tallies.setdefault((cell, part), []).append(tally)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.interruptions:
            write_atomic(folder / f"{REACTION}.json", json.dumps(self.shares))
        for cell, worths in self.worths.items():
            write_atomic(worth_path(folder, cell), worth_json(add_worths(worths)))
        for (cell, part), tallies in sorted(self.tallies.items(), key=lambda item: item[0][1], reverse=True):
            write_atomic(tally_path(folder, cell, part), tally_bytes(add_tallies(tallies)))


def working(loss: Loss, moment: Moment) -> frozenset[str]:
    """The sensors that go on, of the kinds of which some are lost."""
    lost = lost_sensors(loss, moment)
    kinds = [
        names for names, count in ((moment.spec.cameras, loss.cameras), (moment.spec.radars, loss.radars)) if count
    ]
    return frozenset(name for names in kinds for name in names) - lost
