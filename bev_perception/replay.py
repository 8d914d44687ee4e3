"""A recorded drive through the algorithm of the vehicle, straight from the bag: no DDS, no wall clock, no drops.

    python -m bev_perception.replay BAG --bundle DIR [--params YAML] [--stamps-from RESULT_BAG] [--out DIR]

Messages take the way they take in the node: SensorIntake, FrameSynchronizer, BevPipeline.step; what cannot be used is
refused for the same reasons. Time is the recording's, so two runs give the same bytes. With --stamps-from only the
frames that another run (a live one) processed are processed, each made of the measurements that it was made of there,
and compared bit for bit. With --score-floor the score is that of the whole score curve, as benchmarks want it; what is
written stays what the node publishes at its thresholds.

Results are written as they come and take their names at the end; Ctrl-C ends the run there and keeps what was found.
The exit status is 1 where no frame came out, none with a usable camera, or a difference to the other run has no cause.
"""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bev_perception.bags.recording import open_bag, warn
from bev_perception.bags.storage import BagError, Note
from bev_perception.bundle import Bundle, load_bundle
from bev_perception.calibration import CalibrationError
from bev_perception.decode import Thresholds
from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC, bag_topics, composition_of, read_detection_arrays
from bev_perception.evaluation.compare import compare_runs
from bev_perception.evaluation.frames import absent_topics, frames_of
from bev_perception.evaluation.ground_truth import GroundTruth
from bev_perception.evaluation.metrics import Tally, TallySum, score_tally, tally
from bev_perception.evaluation.objects import objects_from_detections
from bev_perception.evaluation.result_bag import open_detection_bag
from bev_perception.evaluation.result_folder import DETECTIONS, SCORES, TALLY, WORTH, claim, sha256
from bev_perception.evaluation.result_json import open_detection_json
from bev_perception.evaluation.tally_file import tally_bytes
from bev_perception.evaluation.telling import Progress, WarnOnce, main_reason, reason_lines
from bev_perception.evaluation.worth import add_worths, worth, worth_json
from bev_perception.files import write_atomic
from bev_perception.frame_proof import open_proven
from bev_perception.measurements import Measurements
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.parameters import SHIPPED_PARAMETERS, NodeConfig, ParameterError, load_config
from bev_perception.pipeline import BevPipeline
from bev_perception.sensors.intake import SensorIntake
from bev_perception.structures import DEADLINE, ODOMETRY, Composition, Detections, SensorFrame
from bev_perception.sync import FrameSynchronizer
from bev_perception.uncertainty import estimator_of, read_uncertainty
from bev_perception.usual.monitor import monitor_of


@dataclass(frozen=True)
class Found:
    """A frame with the time of the recording at which it came, and its detections: those the node publishes, and all
    down to the score floor (without a floor the same). timings_ms: of its step, by stage."""

    record_ns: int
    frame: SensorFrame
    published: Detections
    candidates: Detections
    timings_ms: Mapping[str, float]


class Replay:
    """One run over a recording: iterate over it once. Frames are given as they come and none is kept.

    only: stamps of the frames of another run, with what each was made of: these alone, made of that again. score_floor:
    of the candidates. without: sensors that are left out, as if they had sent nothing. note(text) is told what is wrong
    with the recording, and of every reason its first detail; watch(share) how far the run is, after every message.

    counters, as in the node's status, and details, the last one of each reason that has one; timings_ms by stage;
    frames; boxes, those published; skipped, frames left out because of `only`; used, how many frames used each sensor:
    complete when the iteration is. topics: topic -> type of the recording, once it has begun.
    """

    def __init__(
        self,
        bag: str | Path,
        bundle_path: str | Path,
        config: NodeConfig,
        only: Mapping[int, Composition | None] | None = None,
        score_floor: float | None = None,
        note: Note = warn,
        watch: Callable[[float], None] = lambda share: None,
        without: Collection[str] = (),
    ) -> None:
        self._bag, self._bundle, self._config = Path(bag), load_bundle(bundle_path), config
        self._only, self._floor = only, score_floor
        self._note, self._watch, self._without = note, watch, without
        self.counters: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.timings_ms: dict[str, array[float]] = {}  # flat enough: 1.5 MB for an hour at 12 Hz
        self.frames = self.boxes = self.skipped = 0
        self.used: Counter[str] = Counter()
        self.topics: dict[str, str] = {}

    def __iter__(self) -> Iterator[Found]:
        """Raises BagError, CalibrationError, and what `open_proven` raises."""
        config, spec = self._config, self._bundle.spec
        taken = Measurements(config.sync_config(spec))
        intake = SensorIntake(config, taken, self._report)
        again = {stamp: made_of for stamp, made_of in (self._only or {}).items() if made_of is not None}
        with open_bag(self._bag, self._note) as recording, ExitStack() as stack:
            self.topics = {c.topic: c.msgtype for c in recording.connections}
            frames = frames_of(recording, config, intake, FrameSynchronizer(taken, again), self._watch)
            for sensor, text in absent_topics(recording, intake.sources).items():
                self._note(text)
                self.details["frame/no_pose" if sensor == ODOMETRY else f"{sensor}/never_seen"] = text
            backend, _ = open_proven(self._bundle, config.backend, **config.backend_options)
            stack.callback(backend.close)
            floor = {c: t if self._floor is None else min(self._floor, t) for c, t in config.score_threshold.items()}
            thresholds = Thresholds(floor, spec.nms_radius)
            pipeline = BevPipeline(
                spec,
                backend,
                thresholds,
                config.sync["max_speed_mps"],
                config.image_checks,
                estimator_of(self._bundle),
                monitor_of(self._bundle),
            )
            try:
                for record_ns, frame in frames:
                    if self._only is not None and frame.stamp_ns not in self._only:
                        self.skipped += 1
                    elif (detections := self._step(pipeline, frame)) is not None:
                        yield self._found(record_ns, frame, detections, dict(pipeline.timings_ms))
            finally:
                self.counters += taken.counters + pipeline.counters
                for sensor in (*config.cameras, *config.radars):
                    if gap := intake.calibration.gap(sensor):
                        self.details[f"{sensor}/no_calibration"] = gap

    def _step(self, pipeline: BevPipeline, frame: SensorFrame) -> Detections | None:
        """As in the node, a failure costs this frame and the memory, not the run."""
        if frame.composition.closed_by == DEADLINE:
            self._report("frame", "closed_by_deadline", f"without {frame.lacks()}")
        if self._without:
            frame = frame.without(self._without, self._bundle.spec.cameras, self._bundle.spec.radars)
        try:
            detections = pipeline.step(frame)
        except Exception as error:
            self.counters["step_failed"] += 1
            self._report("", "step_failed", f"{type(error).__name__}: {error}")
            return None
        for stage, value in pipeline.timings_ms.items():
            self.timings_ms.setdefault(stage, array("d")).append(value)
        for sensor, fault in pipeline.faults.items():
            self._report(sensor, fault.reason, fault.detail)
        return detections

    def _found(
        self, record_ns: int, frame: SensorFrame, detections: Detections, timings_ms: Mapping[str, float]
    ) -> Found:
        published = strong_only(detections, self._config.score_threshold, self._bundle.spec)
        self.frames += 1
        self.boxes += len(published)
        self.used.update(detections.sensors_used)
        return Found(record_ns, frame, published, detections, timings_ms)

    def _report(self, sensor: str, reason: str, detail: str) -> None:
        name = f"{sensor}/{reason}" if sensor else reason
        if name not in self.details:
            self._note(f"{name}: {detail} (counted from here on)")
        self.details[name] = detail


def strong_only(detections: Detections, least: Mapping[str, float], spec: ModelSpec) -> Detections:
    """The detections of at least their class's score.

    The same as decoding with these thresholds: in NMS only a stronger box removes another.
    """
    keep = detections.scores >= np.array([least[name] for name in spec.classes])[detections.labels]
    arrays = {name: getattr(detections, name)[keep] for name in ("boxes", "velocity", "scores", "labels", "variances")}
    uncertainty = detections.uncertainty and detections.uncertainty.select(keep)
    return replace(detections, **arrays, uncertainty=uncertainty)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bev_perception.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--params", type=Path, default=SHIPPED_PARAMETERS, help="the node's parameter YAML (default: the shipped one)"
    )
    parser.add_argument("--stamps-from", type=Path, metavar="RESULT_BAG", help="only the frames of that result bag")
    parser.add_argument("--backend", help="overrides the parameter `backend`")
    parser.add_argument("--score-floor", type=float, help="score all boxes down to this, e.g. 0.03")
    parser.add_argument("--out", type=Path, default=Path("out/replay"))
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except (BagError, BundleError, ParameterError, CalibrationError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.bundle, args.params, args.backend)
    spec = load_bundle(args.bundle).spec
    live = read_detection_arrays(args.stamps_from) if args.stamps_from else None
    only = None if live is None else {stamp: composition_of(message) for stamp, message in live.items()}
    progress = Progress()
    run = Replay(args.bag, args.bundle, config, only, args.score_floor, WarnOnce(), progress)
    truth = _ground_truth(args.bag)
    whole, interrupted = _write(run, args.out, load_bundle(args.bundle), config.base_frame, truth)

    print(f"{run.frames} frames, {run.boxes} boxes in {progress.seconds():.1f} s; {run.skipped} frames left out")
    for stage, values in run.timings_ms.items():
        print(f"  {stage:<12} median {np.median(values):7.1f} ms   p95 {np.percentile(values, 95):7.1f} ms")
    if truth is not None:
        _score(args.out, whole)
    explained = True
    if live is not None:
        agreement = compare_runs(live, read_detection_arrays(args.out / DETECTIONS))
        explained = agreement.explained
        print(f"compared with {args.stamps_from}: {agreement.sentence('there', 'here')}")
    for path in (args.out / DETECTIONS / f"{DETECTIONS}.mcap", args.out / f"{DETECTIONS}.json"):
        print(f"sha256 {sha256(path)}  {path}")
    for line in reason_lines(run.counters, run.details):
        print(line)
    if interrupted:
        print("interrupted: the recording was not read to its end", file=sys.stderr)
        return 130
    if fault := _fault(run, spec):
        print(f"error: {args.bag}: {fault}", file=sys.stderr)
        return 1
    if not explained:
        print("error: the runs differ without a cause; the replay must give what the node gave", file=sys.stderr)
    return 0 if explained else 1


def _ground_truth(bag: Path) -> GroundTruth | None:
    """None where the recording has none, or none that can be read; the latter is said."""
    if GROUND_TRUTH_TOPIC not in bag_topics(bag, lambda text: None):
        return None
    try:
        return GroundTruth(bag)
    except BagError as error:
        print(f"  not scored: {error}")
        return None


def _write(run: Replay, out: Path, bundle: Bundle, frame_id: str, truth: GroundTruth | None) -> tuple[Tally, bool]:
    """Everything that is found into `out`, as it comes -> (what was matched with the ground truth; whether the run was
    interrupted)."""
    claim(out)
    spec, table = bundle.spec, read_uncertainty(bundle)
    matched, worths = TallySum(), []
    interrupted = False
    with ExitStack() as stack:
        bag = stack.enter_context(open_detection_bag(out / DETECTIONS, spec, frame_id))
        text = stack.enter_context(open_detection_json(out / f"{DETECTIONS}.json", spec, frame_id))
        try:
            for found in run:
                bag.add(found.record_ns, found.published)
                bag.add_lines(found.record_ns, found.frame, found.published)
                text.add(found.record_ns, found.published)
                wanted = truth.at(found.published.stamp_ns) if truth is not None else None
                if wanted is not None:
                    matched.add(tally(wanted, objects_from_detections(found.candidates, spec.classes)))
                    if table is not None:
                        worths.append(worth(wanted, found.candidates, spec.classes, table.intervals))
        except KeyboardInterrupt:
            interrupted = True
        text.finish(run.counters)
    for name in (SCORES, TALLY, WORTH):
        (out / name).unlink(missing_ok=True)  # of an earlier run
    if worths:
        write_atomic(out / WORTH, worth_json(add_worths(worths)))
    return matched.whole(), interrupted


def _fault(run: Replay, spec: ModelSpec) -> str:
    """Why a run is none, or ""."""
    if not run.frames and run.skipped:
        return f"none of its {run.skipped} frames is one of those asked for"
    if not run.frames:
        return f"no frame came out of it; most often: {main_reason(run.counters, run.details) or 'nothing was counted'}"
    if spec.cameras and not any(run.used[camera] for camera in spec.cameras):
        most = main_reason(run.counters, run.details, spec.cameras)
        return f"no camera was used in any of its {run.frames} frames; most often: {most}"
    return ""


def _score(out: Path, whole: Tally) -> None:
    if not whole.frames:
        print("  not scored: no frame has ground truth")
        return
    scores = score_tally(whole)
    write_atomic(out / TALLY, tally_bytes(whole))
    write_atomic(out / SCORES, json.dumps(scores.to_dict(), indent=1) + "\n")
    e = scores.errors
    print(
        f"  {scores.frames} frames scored: mAP {scores.mean_ap:.3f} NDS {scores.nds:.3f} mATE {e.ate:.3f} m "
        f"mASE {e.ase:.3f} mAOE {e.aoe:.3f} rad mAVE {e.ave:.3f} m/s mAAE {e.aae:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
