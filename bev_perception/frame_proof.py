"""The proof of a whole bundle: its golden frame, driven through the vehicle's step, gives the recorded detections.

Whoever is to detect anything with a bundle (node, replay, evaluation) opens it here, by `open_proven`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.decode import Thresholds
from bev_perception.golden_frame import Expected, golden_frame_bytes, pack_frames, read_golden_frame, unpack_frames
from bev_perception.inference.backend import open_backend
from bev_perception.inference.interface import InferenceBackend
from bev_perception.inference.proof import TIME_LIMIT_S, largest_kept, rounding, self_test, time_limit
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.structures import Detections, SensorFrame
from bev_perception.uncertainty import read_uncertainty

KEPT = 100  # of the strongest detections, published or not: a network that finds little is proved as well
MATCH_M = 0.5


@dataclass(frozen=True)
class FrameTolerance:
    """How far a vehicle may be from a golden frame: decoders of JPEG and engines round differently.

    score: absolute. box: of size and velocity |a - b| <= box * max(1, |b|), of yaw in radians; a centre is within
    MATCH_M besides. unmatched: share of the detections that may have given way to others; differing: of those that are
    found, the share that may be farther in score or box (the yaw of what looks alike from both ends turns round).
    """

    score: float
    box: float
    unmatched: float
    differing: float = 0.0


FRAME_TOLERANCES = {
    "fp32": FrameTolerance(0.02, 0.1, 0.1),
    "fp16": FrameTolerance(0.05, 0.25, 0.2),
    "int8": FrameTolerance(0.06, 0.5, 0.25, 0.2),
}


def open_proven(bundle: Bundle, backend: str, **options: Any) -> tuple[InferenceBackend, dict[str, float]]:
    """An engine that passed the golden input and the golden frame, and the largest differences that it showed.

    Raises what `open_backend` raises, and BundleError where a proof fails; the engine is closed then. So it does where
    the bundle says what its detections are worth, and that cannot be read.
    """
    read_uncertainty(bundle)
    engine = open_backend(bundle, backend, **options)
    try:
        return engine, self_test(engine, bundle) | prove_frame(engine, bundle)
    except BaseException:
        engine.close()
        raise


def prove_frame(backend: InferenceBackend, bundle: Bundle, limit_s: float = TIME_LIMIT_S) -> dict[str, float]:
    """Drive the golden frame and compare; the figures (largest differences) are returned. Raises BundleError."""
    where = f"golden frame of {bundle.spec.name!r} with {backend.name}"
    frames, expected = read_golden_frame(bundle)
    with time_limit(backend, limit_s, where):
        found = _drive(backend, frames, bundle.spec)
    tolerance = FRAME_TOLERANCES[rounding(backend)]
    return compare_detections(_expected_of(found, bundle.spec), expected, bundle.spec, tolerance, where)


def record_golden_frame(backend: InferenceBackend, frames: tuple[SensorFrame, SensorFrame]) -> bytes:
    """The file GOLDEN_FRAME of a bundle: these frames, with what the engine makes of them.

    frames: consecutive ones with all sensors, `interval_s` apart where the model has a memory. Raises ValueError for
    others.
    """
    spec = backend.spec
    packed = pack_frames(frames, spec)
    found = _drive(backend, unpack_frames(packed, spec), spec)
    if found.missing:
        raise ValueError(f"a golden frame needs every sensor: {found.missing}")
    if not len(found):
        raise ValueError("the network finds nothing in these frames, however weak; take others")
    if spec.temporal.state_channels and not found.temporal_used:
        raise ValueError(
            f"the memory is not used between frames at {frames[0].stamp_ns} and {frames[1].stamp_ns} ns; take two that "
            f"are {spec.temporal.min_age_s:g} to {spec.temporal.max_age_s:g} s apart"
        )
    return golden_frame_bytes(packed, _expected_of(found, spec))


def compare_detections(
    found: Expected, golden: Expected, spec: ModelSpec, tolerance: FrameTolerance, where: str
) -> dict[str, float]:
    """Largest differences between matched detections; raises BundleError when one is not allowed.

    A detection matches the nearest one of its class within MATCH_M. The weakest of both sides may lack
    a partner: what ranks behind them was cut.
    """
    if found.temporal_used != golden.temporal_used:
        raise BundleError(f"{where}: the memory was {'' if found.temporal_used else 'not '}used, recorded is otherwise")
    unknown = sorted(set(golden.classes.tolist()) - set(spec.classes))
    if unknown:
        raise BundleError(f"{where}: classes {unknown} were recorded, the spec has {spec.classes}")
    passes = golden.scores >= np.array([spec.score_threshold[name] for name in golden.classes.tolist()])
    if (passes != golden.published).any():
        row = int(np.argmax(passes != golden.published))
        name = golden.classes[row]
        raise BundleError(
            f"{where}: a {name} of score {golden.scores[row]:.3f} was {'' if golden.published[row] else 'not '}"
            f"published, with the threshold {spec.score_threshold[name]} it is otherwise"
        )
    pairs = _matches(found, golden)
    least = max((scores[-1] if len(scores) == KEPT else 0.0) for scores in (found.scores, golden.scores))
    required = least + 2 * tolerance.score
    lost = np.setdiff1d(np.flatnonzero(golden.scores > required), pairs[:, 1])
    new = np.setdiff1d(np.flatnonzero(found.scores > required), pairs[:, 0])
    allowed = tolerance.unmatched * max(len(golden.scores), len(found.scores))
    if max(len(lost), len(new)) > allowed:
        side, row = (golden, lost[0]) if len(lost) >= len(new) else (found, new[0])
        x, y = side.boxes[row, :2]
        raise BundleError(
            f"{where}: {len(lost)} of {len(golden.scores)} recorded detections are not found, {len(new)} are new, at "
            f"most {allowed:.0f} may be; the first is a {side.classes[row]} of score {side.scores[row]:.3f} at "
            f"({x:.1f}, {y:.1f}) m. Preprocessing, thresholds, engine or the spec differ from those of the export"
        )
    if not len(pairs):
        raise BundleError(f"{where}: not one recorded detection is found")
    ours, theirs = pairs.T
    boxes = np.hstack([found.boxes, found.velocity])[ours]
    recorded = np.hstack([golden.boxes, golden.velocity])[theirs]
    difference = np.abs(boxes - recorded) / np.maximum(1.0, np.abs(recorded))
    difference[:, 6] = np.abs((boxes[:, 6] - recorded[:, 6] + np.pi) % (2 * np.pi) - np.pi)
    figures = {
        "frame_scores": largest_kept(np.abs(found.scores[ours] - golden.scores[theirs]), tolerance.differing),
        "frame_boxes": largest_kept(difference.max(axis=1), tolerance.differing),
    }
    for name, limit in (("frame_scores", tolerance.score), ("frame_boxes", tolerance.box)):
        if figures[name] > limit:
            raise BundleError(f"{where}: {name} differ by {figures[name]:.3g}, allowed {limit:g}")
    return figures | {"frame_detections": len(pairs), "frame_published": int(golden.published.sum())}


def _drive(backend: InferenceBackend, frames: tuple[SensorFrame, SensorFrame], spec: ModelSpec) -> Detections:
    """What the later frame gives, however weak, by the vehicle's own step."""
    pipeline = BevPipeline(spec, backend, Thresholds(dict.fromkeys(spec.classes, 0.0), spec.nms_radius))
    earlier, later = frames
    pipeline.step(earlier)
    return pipeline.step(later)


def _expected_of(found: Detections, spec: ModelSpec) -> Expected:
    """The strongest ones; they are sorted by score."""
    names = np.array([spec.classes[label] for label in found.labels[:KEPT]], dtype=str)
    scores = found.scores[:KEPT]
    published = scores >= np.array([spec.score_threshold[name] for name in names.tolist()])
    return Expected(names, scores, found.boxes[:KEPT], found.velocity[:KEPT], published, found.temporal_used)


def _matches(found: Expected, golden: Expected) -> np.ndarray:
    """(M, 2) rows of `found` and `golden`, each at most once: the nearest of the same class within MATCH_M."""
    distance = np.linalg.norm(found.boxes[:, None, :2] - golden.boxes[None, :, :2], axis=2)
    distance[(found.classes[:, None] != golden.classes[None]) | (distance > MATCH_M)] = np.inf
    pairs = []
    for row in range(len(golden.classes)):  # the strongest chooses first
        nearest = int(np.argmin(distance[:, row]))
        if np.isfinite(distance[nearest, row]):
            pairs.append((nearest, row))
            distance[nearest] = np.inf
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
