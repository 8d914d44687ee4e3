"""8 bits with a gate: ever more layers stay in 32 bits, until the network scores as the bundle does that it came of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.inference.backend import open_backend
from training.bundling.evaluation import detect_by_bundle
from training.bundling.int8 import Arrays, Quantizer
from training.bundling.requantized import requantized_bundle
from training.bundling.sensitivity import rank_convolutions
from training.data.nuscenes import Keyframe
from training.scoring import score_found

TIMED_RUNS = 9
HEAD = (
    "| network | convolutions in 32 bits | mAP | NDS | larger loss, points | CPU, ms per frame | ONNX, MiB |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Reached:
    """What one network reaches. in_float: its convolutions in 32 bits; cpu_s: of one frame, all threads together; size:
    of its ONNX, bytes; scores: Scores.to_dict()."""

    what: str
    in_float: int
    mean_ap: float
    nds: float
    cpu_s: float
    size: int
    scores: Mapping[str, Any] = field(default_factory=dict)

    def loss(self, before: Reached) -> float:
        """The larger one of mAP and NDS, in points (hundredths)."""
        return 100 * max(before.mean_ap - self.mean_ap, before.nds - self.nds)

    def row(self, before: Reached) -> str:
        """Of HEAD's table."""
        lost = "-" if self is before else f"{self.loss(before):+.2f}"
        scores, cost = f"{self.mean_ap:.4f} | {self.nds:.4f}", f"{1e3 * self.cpu_s:.0f} | {self.size / 2**20:.1f}"
        return f"| {self.what} | {self.in_float} | {scores} | {lost} | {cost} |"


@dataclass(frozen=True)
class Passed:
    """The bundle that met the gate; the layers of it in 32 bits with the error that each alone makes in 8, the worst
    first; what each try reached, that of the bundle before first."""

    bundle: Bundle
    in_float: tuple[tuple[str, float], ...]
    steps: tuple[Reached, ...]


def pass_gate(
    source: Bundle,
    quantizer: Quantizer,
    frames: Sequence[Arrays],
    score: Callable[[Bundle, str, int], Reached],
    gate: float,
    backend: str,
    folder: Path,
) -> Passed:
    """The first of the networks of `counts` that loses at most `gate` points; a row is printed for each.

    frames: inputs of the network, to rank layers by, which is done when it is needed; score: bundle, what to call it,
    its convolutions in 32 bits -> what it reaches; folder: an empty one for the bundles. Raises ValueError where none
    meets the gate.
    """
    layers = quantizer.convolutions
    steps = [score(source, source.spec.precision, len(layers))]
    print(f"{HEAD}\n{steps[0].row(steps[0])}", flush=True)
    ranked: list[tuple[str, float]] = []
    for kept in counts(len(layers)):
        if kept and not ranked:
            ranked = rank_convolutions(source, quantizer, frames, backend)
        in_float = {name for name, _ in ranked[:kept]}
        place = folder / f"kept_{kept}"
        place.mkdir()
        bundle = requantized_bundle(source, quantizer.quantized([n for n in layers if n not in in_float]), place)
        steps.append(score(bundle, bundle.spec.precision, kept))
        print(steps[-1].row(steps[0]), flush=True)
        if steps[-1].loss(steps[0]) <= gate:
            return Passed(bundle, tuple(ranked[:kept]), tuple(steps))
    raise ValueError(
        f"the gate of {gate:g} points cannot be met: with {steps[-1].in_float} of {len(layers)} convolutions in 32 "
        f"bits still {steps[-1].loss(steps[0]):.2f} are lost. Take more --frames to calibrate on, or a wider --gate"
    )


def counts(layers: int) -> Iterator[int]:
    """How many layers stay in 32 bits, one try after the other: 0, 1, 2, 4, ..., never all."""
    yield 0
    kept = 1
    while kept < layers:
        yield kept
        kept *= 2


def scores_on(keyframes: Sequence[Keyframe], backend: str) -> Callable[[Bundle, str, int], Reached]:
    """`score` of `pass_gate`: a bundle proven in the engine, scored on the keyframes, timed on its golden sample."""

    def score(bundle: Bundle, what: str, in_float: int) -> Reached:
        found = detect_by_bundle(bundle, keyframes, ["all"], backend)["all"]
        scores = score_found(keyframes, bundle.spec, found, range(len(keyframes)))
        size = bundle.onnx_path.stat().st_size
        return Reached(what, in_float, scores.mean_ap, scores.nds, cpu_seconds(bundle, backend), size, scores.to_dict())

    return score


def cpu_seconds(bundle: Bundle, backend: str) -> float:
    """Median CPU time of the network on its golden sample, s, of all threads of this process together."""
    inputs, _ = bundle.golden()
    engine = open_backend(bundle, backend)
    times = []
    try:
        for _ in range(TIMED_RUNS):
            begun = time.process_time()
            engine.infer(inputs)
            times.append(time.process_time() - begun)
    finally:
        engine.close()
    return float(np.median(times))
