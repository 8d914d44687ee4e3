"""Which layers cost accuracy in 8 bits: the error that each alone makes in what the network answers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.inference.backend import open_backend
from bev_perception.inference.interface import InferenceBackend
from training.bundling.int8 import Quantizer
from training.bundling.requantized import bare_bundle

Arrays = Mapping[str, np.ndarray]


def answer_error(found: Arrays, expected: Arrays, cells: int) -> float:
    """How far candidates are from those expected, as a share of the expected scores' sum.

    A candidate, a pair of class and cell, of score s gives |difference of scores| + s * mean over the channels of its
    box of min(1, |difference| / max(1, |value|)); one that is not there any more gives s. cells: of the grid.
    """
    found_keys, expected_keys = (arrays["labels"] * cells + arrays["cells"] for arrays in (found, expected))
    _, ours, theirs = np.intersect1d(found_keys, expected_keys, return_indices=True)
    scores = expected["scores"].astype(np.float64)
    errors = scores.copy()
    boxes = expected["boxes"][theirs]
    relative = np.abs(found["boxes"][ours] - boxes) / np.maximum(1.0, np.abs(boxes))
    errors[theirs] = np.abs(found["scores"][ours] - scores[theirs])
    errors[theirs] += scores[theirs] * np.minimum(1.0, relative).mean(axis=1)
    return float(errors.sum() / max(scores.sum(), 1e-9))


def rank_convolutions(
    bundle: Bundle, quantizer: Quantizer, frames: Sequence[Arrays], backend: str
) -> list[tuple[str, float]]:
    """(convolution, `answer_error` over the frames with it alone in 8 bits), the worst first.

    frames: inputs of the network. Raises what `open_backend` raises.
    """
    cells = int(np.prod(bundle.spec.grid.shape))
    engine = open_backend(bundle, backend)
    expected = _answers(engine, frames)
    errors = {}
    for name in quantizer.convolutions:
        with tempfile.TemporaryDirectory() as folder:
            engine = open_backend(bare_bundle(bundle, quantizer.quantized([name]), Path(folder)), backend)
        found = _answers(engine, frames)
        errors[name] = float(np.mean([answer_error(*pair, cells) for pair in zip(found, expected, strict=True)]))
    return sorted(errors.items(), key=lambda item: -item[1])


def _answers(engine: InferenceBackend, frames: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    try:
        outputs = [engine.infer(inputs) for inputs in frames]
        return [{name: engine.fetch(array) for name, array in of.items() if name != "bev"} for of in outputs]
    finally:
        engine.close()
