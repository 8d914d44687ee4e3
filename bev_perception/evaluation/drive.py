"""One recorded drive evaluated: the replay's very frames, scored where the recording has ground truth, held against
themselves and the radars everywhere. Everything goes into one folder, which takes its name when it is whole:

drive.json    what it was made of (`fingerprint`) and all sums
frames.csv    a row for each frame
tally.npz     matched detections, where there is ground truth: what scores of any choice of drives are made from
look.json     with pictures in look/: the worst frames and one object over time, where there is ground truth
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bev_perception.bags.recording import warn
from bev_perception.bags.storage import BagError
from bev_perception.bundle import load_bundle
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.evaluation.consistency import Consistency
from bev_perception.evaluation.ground_truth import GroundTruth
from bev_perception.evaluation.look import Looking, write_look
from bev_perception.evaluation.metrics import Tally, TallySum, tally
from bev_perception.evaluation.objects import Objects, objects_from_detections
from bev_perception.evaluation.result_folder import TALLY
from bev_perception.evaluation.tally_file import tally_bytes
from bev_perception.evaluation.worth import Worth, add_worths, worth
from bev_perception.files import naming, read_text, replace_folder, work_folder, write_atomic
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import load_config
from bev_perception.plain import from_plain, parse_json, to_plain
from bev_perception.preprocess.radar import accumulate
from bev_perception.replay import Found, Replay
from bev_perception.uncertainty import UncertaintyTable, read_uncertainty

FORMAT = 3
DRIVE, FRAMES = "drive.json", "frames.csv"
LIMIT = 2**26  # bytes of drive.json
SCORE_BINS = 20  # of the histogram of each class's scores
STAGES = ("preprocess", "inference", "decode", "total")
PERCENTILES = (50, 95, 99)
COLUMNS = (
    "stamp_ns", "record_ns", "boxes", "sensors_used", "missing", "closed_by", "memory", "memory_reset",
    *(f"{stage}_ms" for stage in STAGES), "true", "false", "missed",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What to evaluate, and how. score_floor: where the scores' curve begins. threads: of the engine, where it has such
    an option; with one, results are the same however many drives run beside each other. without: sensors left out."""

    bag: Path
    bundle: Path
    params: Path
    out: Path
    ground_truth: str = GROUND_TRUTH_TOPIC
    backend: str = ""
    score_floor: float = 0.03
    threads: int = 1
    without: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256 of all that the result depends on but the machine; of the recording its files' sizes and times count.
        Raises BagError where there is none, BundleError for a bundle that is none."""
        files = sorted(self.bag.iterdir()) if self.bag.is_dir() else [self.bag]
        if not files or not files[0].exists():
            raise BagError(f"{self.bag}: there is no such recording")
        sizes = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        bundle = load_bundle(self.bundle)
        facts = [FORMAT, bundle.spec.onnx_sha256, self.params.read_text(), sizes, self.ground_truth]
        facts += [to_plain(read_uncertainty(bundle)), self.backend, self.score_floor, self.threads, self.without]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class DriveResult:
    """Sums of one drive.

    seconds: of the recording; wall_s: that the evaluation took. frames, boxes: published. annotated: frames with ground
    truth, scored: those that were processed. latency_ms: stage -> `p50`, `p95`, `p99`, `max`. used: sensor -> frames.
    counters and details: as a replay prints them. consistency: see there. score_bins: class -> boxes in each of 20 bins
    of the score. sha256: of all that was published, for whoever repeats it. worth: whether probabilities and intervals
    hold, None where the bundle says none or nothing was scored.
    """

    format: int
    fingerprint: str
    bag: str
    model: str
    model_sha256: str
    seconds: float
    wall_s: float
    frames: int
    boxes: int
    annotated: int
    scored: int
    latency_ms: dict[str, dict[str, float]]
    used: dict[str, int]
    counters: dict[str, int]
    details: dict[str, str]
    consistency: dict[str, float | None]
    score_bins: dict[str, tuple[int, ...]]
    sha256: str
    worth: Worth | None


class _Sums:
    """What is added up while a drive is read; the rows of the frames go into a file at once."""

    def __init__(self, spec: ModelSpec, table: UncertaintyTable | None, frames: TextIO) -> None:
        self._spec, self._table = spec, table
        self._worths: list[Worth] = []
        self._rows = csv.DictWriter(frames, COLUMNS, restval="", lineterminator="\n")
        self._rows.writeheader()
        self._digest = hashlib.sha256()
        self._tally = TallySum()
        self.consistency = Consistency(spec.classes)
        self.looking = Looking(spec)
        self.latency_ms = {stage: array("d") for stage in STAGES}
        self.bins = {name: np.zeros(SCORE_BINS, dtype=np.int64) for name in spec.classes}
        self.first_ns = self.last_ns = 0

    def add(self, one: Found, wanted: Objects | None) -> None:
        d = one.published
        self.consistency.add(d, one.frame.ego, accumulate(one.frame, self._spec))
        for stage in STAGES:
            self.latency_ms[stage].append(one.timings_ms[stage])
        row = _row(one)
        if wanted is not None:
            self._tally.add(tally(wanted, objects_from_detections(one.candidates, self._spec.classes)))
            if self._table is not None:
                self._worths.append(worth(wanted, one.candidates, self._spec.classes, self._table.intervals))
            totals = self.looking.add(one.frame, wanted, objects_from_detections(d, self._spec.classes))
            row |= dict(zip(("true", "false", "missed"), totals))
        self._rows.writerow(row)
        self.first_ns, self.last_ns = self.first_ns or one.record_ns, one.record_ns
        for values in (np.array([d.stamp_ns]), d.boxes, d.velocity, d.scores, d.labels):
            self._digest.update(np.ascontiguousarray(values).tobytes())
        for index, name in enumerate(self._spec.classes):
            self.bins[name] += np.histogram(d.scores[d.labels == index], bins=SCORE_BINS, range=(0.0, 1.0))[0]

    def tally(self) -> Tally:
        return self._tally.whole()

    def worth(self) -> Worth | None:
        return add_worths(self._worths) if self._worths else None

    def sha256(self) -> str:
        return self._digest.hexdigest()


def evaluate_drive(job: Job, watch: Callable[[float], None] = lambda share: None) -> DriveResult:
    """Into `job.out`, or read from there where the same was evaluated before. Raises what a Replay raises, and BagError
    for ground truth of another type."""
    fingerprint = job.fingerprint()
    found = _finished(job.out, fingerprint)
    if found is not None:
        return found
    begun = time.monotonic()
    bundle = load_bundle(job.bundle)
    spec = bundle.spec
    config = load_config(job.bundle, job.params, job.backend or None)
    if "threads" in config.backend_options:
        config = replace(config, backend_options=config.backend_options | {"threads": job.threads})
    truth = GroundTruth(job.bag, job.ground_truth)
    run = Replay(job.bag, job.bundle, config, None, job.score_floor, warn, watch, job.without)
    with work_folder(job.out) as work:
        with open(work / FRAMES, "w", newline="") as frames:
            sums = _Sums(spec, read_uncertainty(bundle), frames)
            for one in run:
                sums.add(one, truth.at(one.published.stamp_ns))
        whole = sums.tally()
        figures = sums.consistency.figures()
        result = DriveResult(
            format=FORMAT,
            fingerprint=fingerprint,
            bag=str(job.bag),
            model=spec.name,
            model_sha256=spec.onnx_sha256,
            seconds=(sums.last_ns - sums.first_ns) / 1e9,
            wall_s=round(time.monotonic() - begun, 3),
            frames=run.frames,
            boxes=run.boxes,
            annotated=truth.count,
            scored=whole.frames,
            latency_ms={stage: _percentiles(values) for stage, values in sums.latency_ms.items() if len(values)},
            used=dict(run.used),
            counters=dict(run.counters),
            details=run.details,
            consistency={name: None if np.isnan(value) else value for name, value in figures.items()},
            score_bins={name: tuple(bins.tolist()) for name, bins in sums.bins.items()},
            sha256=sums.sha256(),
            worth=sums.worth(),
        )
        if whole.frames:
            write_atomic(work / TALLY, tally_bytes(whole))
            write_look(work, sums.looking.look())
        write_atomic(work / DRIVE, json.dumps(asdict(result), indent=1, allow_nan=False) + "\n")
        replace_folder(work, job.out)
    return result


def read_drive(folder: Path) -> DriveResult:
    """Raises ValueError for what is no result of this version, OSError where it cannot be read."""
    with naming(folder / DRIVE):
        result: DriveResult = from_plain(DriveResult, parse_json(read_text(folder / DRIVE, LIMIT)), "result")
    if result.format != FORMAT:
        raise ValueError(f"{folder / DRIVE} is of format {result.format}, this version reads {FORMAT}; evaluate again")
    return result


def _finished(folder: Path, fingerprint: str) -> DriveResult | None:
    try:
        result = read_drive(folder)
    except (OSError, ValueError):
        return None
    return result if result.fingerprint == fingerprint else None


def _row(one: Found) -> dict[str, Any]:
    d = one.published
    return {
        "stamp_ns": d.stamp_ns,
        "record_ns": one.record_ns,
        "boxes": len(d),
        "sensors_used": len(d.sensors_used),
        "missing": ";".join(f"{name}:{reason}" for name, reason in sorted(d.missing.items())),
        "closed_by": d.composition.closed_by,
        "memory": int(d.temporal_used),
        "memory_reset": d.memory_reset,
        **{f"{stage}_ms": round(one.timings_ms[stage], 3) for stage in STAGES},
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {f"p{p}": round(float(v), 3) for p, v in zip(PERCENTILES, found)} | {"max": round(float(max(values)), 3)}
