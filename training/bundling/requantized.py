"""A bundle with another network of the same interface in it: what the sensors gave stays, what must come out is new."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from bev_perception.bundle import GOLDEN, GOLDEN_FRAME, MODEL, SPEC, Bundle, load_bundle, with_facts
from bev_perception.frame_proof import record_golden_frame
from bev_perception.golden_frame import read_golden_frame
from bev_perception.inference.backend import open_backend


def bare_bundle(source: Bundle, model: bytes, folder: Path) -> Bundle:
    """The spec of `source` and an 8-bit graph, in a folder that is there: enough for an engine, not for a vehicle."""
    spec = dataclasses.replace(source.spec, precision="int8", weights_sha256={})
    data = with_facts(model, spec)
    spec = dataclasses.replace(spec, onnx_sha256=hashlib.sha256(data).hexdigest())
    (folder / MODEL).write_bytes(data)
    (folder / SPEC).write_text(spec.to_json())
    return Bundle(folder, spec)


def requantized_bundle(source: Bundle, model: bytes, folder: Path) -> Bundle:
    """`bare_bundle` with the golden sample and frame of `source`, answered by ONNX Runtime with the new graph.

    Raises BundleError, and ValueError where the network finds nothing in the golden frame.
    """
    bundle = bare_bundle(source, model, folder)
    inputs, _ = source.golden()
    engine = open_backend(bundle)
    try:
        found = engine.infer(inputs)
        arrays = {f"in.{name}": array for name, array in inputs.items()}
        # As in every bundle, the state is proven by the boxes that a golden prev_bev leads to.
        arrays |= {f"out.{name}": engine.fetch(array) for name, array in found.items() if name != "bev"}
        np.savez_compressed(folder / GOLDEN, **arrays)  # type: ignore[arg-type]
        (folder / GOLDEN_FRAME).write_bytes(record_golden_frame(engine, read_golden_frame(source)[0]))
    finally:
        engine.close()
    return load_bundle(folder)
