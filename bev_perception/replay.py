"""A recorded drive through the algorithm of the vehicle, straight from the bag: no DDS, no wall clock, no drops.

    python -m bev_perception.replay BAG --bundle DIR [--params YAML] [--stamps-from RESULT_BAG] [--out DIR]

Messages take the way they take in the node: SensorIntake, FrameSynchronizer, BevPipeline.step. Time is the recording's,
so two runs give the same bytes. With --stamps-from only the frames that another run (a live one) processed are
processed, each made of the measurements that it was made of there, and compared bit for bit. With --score-floor the
score is that of the whole score curve, as benchmarks want it; what is written stays what the node publishes at its
thresholds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bev_perception.bundle import load_bundle
from bev_perception.calibration import CalibrationError
from bev_perception.decode import Thresholds
from bev_perception.evaluation.bag import (
    GROUND_TRUTH_TOPIC,
    BagError,
    bag_topics,
    composition_of,
    read_detection_arrays,
    read_ground_truth,
)
from bev_perception.evaluation.compare import compare_runs
from bev_perception.evaluation.frames import read_frames
from bev_perception.evaluation.objects import objects_from_detections
from bev_perception.evaluation.result_bag import write_detections
from bev_perception.files import write_atomic
from bev_perception.inference.backend import open_backend
from bev_perception.measurements import Measurements
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.parameters import SHIPPED_PARAMETERS, NodeConfig, ParameterError, load_config
from bev_perception.pipeline import BevPipeline
from bev_perception.structures import Composition, Detections


@dataclass(frozen=True)
class ReplayResult:
    """Detections with the time of the recording at which they came; counters as in the node's status.

    candidates: the same frames with all boxes down to the score floor; without a floor the same as `detections`.
    """

    detections: list[tuple[int, Detections]]
    candidates: list[tuple[int, Detections]]
    counters: Counter[str]
    timings_ms: dict[str, list[float]]
    skipped: int  # frames left out because of `only`


def replay(
    bag: str | Path,
    bundle_path: str | Path,
    config: NodeConfig,
    only: Mapping[int, Composition | None] | None = None,
    score_floor: float | None = None,
) -> ReplayResult:
    """Every frame of a recording -> detections.

    only: stamps of the frames of another run, with what each was made of: these alone, made of that again.
    """
    bundle = load_bundle(bundle_path)
    spec = bundle.spec
    taken = Measurements(config.sync_config(spec))
    again = {stamp: made_of for stamp, made_of in (only or {}).items() if made_of is not None}
    backend = open_backend(bundle, config.backend, **config.backend_options)
    try:
        floor = {c: t if score_floor is None else min(score_floor, t) for c, t in config.score_threshold.items()}
        thresholds = Thresholds(floor, spec.nms_radius)
        pipeline = BevPipeline(spec, backend, thresholds, config.sync["max_speed_mps"])
        found: list[tuple[int, Detections]] = []
        timings: dict[str, list[float]] = {}
        skipped = 0
        for now_ns, frame in read_frames(bag, spec, config, taken, again):
            if only is not None and frame.stamp_ns not in only:
                skipped += 1
                continue
            found.append((now_ns, pipeline.step(frame)))
            for stage, value in pipeline.timings_ms.items():
                timings.setdefault(stage, []).append(value)
    finally:
        backend.close()
    published = [(now_ns, strong_only(d, config.score_threshold, spec)) for now_ns, d in found]
    counters = taken.counters + pipeline.counters
    return ReplayResult(published, found, counters, timings, skipped)


def strong_only(detections: Detections, least: Mapping[str, float], spec: ModelSpec) -> Detections:
    """The detections of at least their class's score.

    The same as decoding with these thresholds: in NMS only a stronger box removes another.
    """
    keep = detections.scores >= np.array([least[name] for name in spec.classes])[detections.labels]
    arrays = {name: getattr(detections, name)[keep] for name in ("boxes", "velocity", "scores", "labels")}
    return replace(detections, **arrays)


def to_json(result: ReplayResult, spec: ModelSpec, frame_id: str) -> str:
    """Everything that was found, readable without ROS: one frame a line."""
    lines = []
    for record_ns, d in result.detections:
        frame = {
            "stamp_ns": d.stamp_ns,
            "record_ns": record_ns,
            "sensors_used": list(d.sensors_used),
            "missing": d.missing,
            "temporal_used": d.temporal_used,
            "memory_reset": d.memory_reset,
            "names": [spec.classes[i] for i in d.labels],
            "scores": d.scores.tolist(),
            "boxes_xyzlwh_yaw": d.boxes.tolist(),
            "velocity": d.velocity.tolist(),
        }
        lines.append(json.dumps(frame))
    head = json.dumps({"model": spec.name, "sha256": spec.onnx_sha256, "frame_id": frame_id})
    return f'{{"header": {head},\n"frames": [\n' + ",\n".join(lines) + "\n]}\n"


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
    started = time.perf_counter()
    only = None if live is None else {stamp: composition_of(message) for stamp, message in live.items()}
    result = replay(args.bag, args.bundle, config, only, args.score_floor)
    seconds = time.perf_counter() - started
    args.out.mkdir(parents=True, exist_ok=True)
    mcap = write_detections(args.out / "detections", result.detections, spec, config.base_frame)
    write_atomic(args.out / "detections.json", to_json(result, spec, config.base_frame))

    count = sum(len(d) for _, d in result.detections)
    print(f"{len(result.detections)} frames, {count} boxes in {seconds:.1f} s; {result.skipped} frames left out")
    for stage, values in result.timings_ms.items():
        print(f"  {stage:<12} median {np.median(values):7.1f} ms   p95 {np.percentile(values, 95):7.1f} ms")
    for reason, times in sorted(result.counters.items()):
        print(f"  {times:5d} x {reason}")
    if GROUND_TRUTH_TOPIC in bag_topics(args.bag):
        _score(args, result, spec)
    explained = True
    if live is not None:
        agreement = compare_runs(live, read_detection_arrays(args.out / "detections"))
        explained = agreement.explained
        print(f"compared with {args.stamps_from}: {agreement.sentence('there', 'here')}")
    for path in (mcap, args.out / "detections.json"):
        print(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")
    if not explained:
        print("error: the runs differ without a cause; the replay must give what the node gave", file=sys.stderr)
    return 0 if explained else 1


def _score(args: argparse.Namespace, result: ReplayResult, spec: ModelSpec) -> None:
    # The metric needs nuscenes-devkit, which a vehicle does not have: only asked for when there is ground truth.
    try:
        from bev_perception.evaluation.metrics import in_common, score
    except ImportError as error:
        print(f"  not scored: {error}; install the `evaluation` extra")
        return
    found = {d.stamp_ns: objects_from_detections(d, spec.classes) for _, d in result.candidates}
    wanted, found = in_common(read_ground_truth(args.bag), found)
    if not wanted:
        print("  not scored: no frame has ground truth")
        return
    scores = score(wanted, found)
    write_atomic(args.out / "scores.json", json.dumps(scores.to_dict(), indent=1) + "\n")
    e = scores.errors
    print(
        f"  {scores.frames} frames scored: mAP {scores.mean_ap:.3f} NDS {scores.nds:.3f} mATE {e.ate:.3f} m "
        f"mASE {e.ase:.3f} mAOE {e.aoe:.3f} rad mAVE {e.ave:.3f} m/s mAAE {e.aae:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
