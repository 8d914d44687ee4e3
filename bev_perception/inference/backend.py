"""What the pipeline needs of an inference engine, how one is opened, and the proof that it gives the right answers.

Every engine is a pure function from ModelSpec.inputs() to ModelSpec.outputs(). The state output `bev` is opaque to the
caller: an array, or a handle to memory on the device, which `fetch` turns into an array and `prev_bev` takes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bev_perception.model_spec import Bundle, BundleError, ModelSpec, TensorSpec


class InferenceBackend(Protocol):
    """An opened engine. Not thread-safe: one thread at a time calls it."""

    name: str
    spec: ModelSpec
    details: dict[str, str]  # engine version, device, precision, threads ...: for the log and the diagnostics

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays named as in spec.inputs() -> arrays named as in spec.outputs(); `bev` may be a handle.

        Raises ValueError for inputs that differ from the spec in name, shape or dtype.
        """

    def fetch(self, value: Any) -> np.ndarray:
        """The array behind what `infer` returned; arrays pass through."""

    def close(self) -> None:
        """Free the engine. Idempotent; the backend and its handles cannot be used afterwards."""


def _open_onnxruntime(bundle: Bundle, **options: Any) -> InferenceBackend:
    from bev_perception.inference.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, **options)


def _open_tensorrt(bundle: Bundle, **options: Any) -> InferenceBackend:
    from bev_perception.inference.tensorrt_backend import open_tensorrt

    return open_tensorrt(bundle, **options)


# The imports stand inside, so that an engine must be installed only where it is used.
BACKENDS: dict[str, Callable[..., InferenceBackend]] = {"onnxruntime": _open_onnxruntime, "tensorrt": _open_tensorrt}


def open_backend(bundle: Bundle, name: str = "onnxruntime", **options: Any) -> InferenceBackend:
    """Open the engine called `name`; options are those of its constructor.

    Raises ValueError for an unknown name or option, ImportError naming the package to install, BundleError when the
    ONNX file is not what the spec promises.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown inference backend {name!r}; choose one of {sorted(BACKENDS)}")
    return BACKENDS[name](bundle, **options)


def read_onnx(bundle: Bundle) -> bytes:
    """The bundle's ONNX, verified again, so that what runs is exactly what was verified."""
    data = bundle.onnx_path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != bundle.spec.onnx_sha256:
        raise BundleError(
            f"{bundle.onnx_path}: sha256 {found[:12]}..., the spec expects {bundle.spec.onnx_sha256[:12]}...; "
            "the file changed since the bundle was loaded, load it again"
        )
    return data


def check_interface(found: Sequence[TensorSpec], expected: Sequence[TensorSpec], where: str) -> None:
    """Raise BundleError listing every difference in name, shape or dtype. The order does not matter."""
    by_name = {t.name: t for t in found}
    problems = [f"unexpected `{name}`" for name in by_name if name not in {t.name for t in expected}]
    for want in expected:
        have = by_name.get(want.name)
        if have is None:
            problems.append(f"`{want.name}` is missing")
        elif (have.shape, have.dtype) != (want.shape, want.dtype):
            problems.append(
                f"`{want.name}` is {have.dtype} {list(have.shape)}, the spec says {want.dtype} {list(want.shape)}"
            )
    if problems:
        raise BundleError(f"{where}: {'; '.join(problems)}; export the bundle again with this version")


def validate_inputs(inputs: Mapping[str, Any], spec: ModelSpec) -> None:
    """Raise ValueError listing every input whose name, shape or dtype is not the spec's. Handles count like arrays."""
    expected = spec.inputs()
    problems = [f"unexpected `{name}`" for name in inputs if name not in {t.name for t in expected}]
    for want in expected:
        if want.name not in inputs:
            problems.append(f"`{want.name}` is missing")
            continue
        value = inputs[want.name]
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape is None or dtype is None:
            problems.append(f"`{want.name}` is a {type(value).__name__}, expected an array")
        elif tuple(shape) != want.shape or np.dtype(dtype) != np.dtype(want.dtype):
            problems.append(f"`{want.name}` is {dtype} {list(shape)}, expected {want.dtype} {list(want.shape)}")
    if problems:
        raise ValueError(f"inputs of model {spec.name!r}: {'; '.join(problems)}")


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from the golden sample. Scores absolute; boxes |a - b| <= box * max(1, |b|);
    bev |a - b| <= state * max |golden bev|; unmatched: share of the peaks that may move to another cell."""

    score: float
    box: float
    state: float
    unmatched: float


# FP16 rounds activations to 3 digits: two neighbouring cells of almost equal score may change places as the peak.
TOLERANCES = {"fp32": Tolerance(5e-4, 5e-3, 5e-3, 0.0), "fp16": Tolerance(2e-2, 1e-1, 5e-2, 0.05)}


def self_test(backend: InferenceBackend, bundle: Bundle, tolerance: Tolerance | None = None) -> dict[str, float]:
    """Run the golden inputs and compare with the golden outputs; the figures (largest differences) are returned.

    The default tolerance is that of the backend's precision (`details["precision"]`). Raises BundleError.
    """
    if tolerance is None:
        tolerance = TOLERANCES[backend.details.get("precision", "fp32")]
    try:
        inputs, golden = bundle.golden()
        validate_inputs(inputs, bundle.spec)
    except (KeyError, ValueError, OSError) as error:
        raise BundleError(f"{bundle.path / 'golden.npz'}: {error}; copy the whole bundle again") from error
    outputs = backend.infer(inputs)
    found = {name: backend.fetch(value) for name, value in outputs.items()}
    return compare_outputs(
        found, golden, bundle.spec, tolerance, f"self-test of {backend.name} on {bundle.spec.name!r}"
    )


def compare_outputs(
    found: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], spec: ModelSpec, tolerance: Tolerance, where: str
) -> dict[str, float]:
    """Largest differences between two sets of outputs; raises BundleError when one is not allowed.

    Rows are compared by what they are, (label, cell), not by rank: peaks of equal score may swap, and those that tie
    with the last row may give way to others of the same score that top-K had cut. The golden set may lack `bev`.
    """
    for tensor in spec.outputs():
        if tensor.name not in golden:
            if tensor.name == "bev":
                continue
            raise BundleError(f"{where}: the golden sample lacks `out.{tensor.name}`; export the bundle again")
        for source, arrays in (("the engine's", found), ("the golden", golden)):
            array = arrays[tensor.name]
            if array.shape != tensor.shape or array.dtype != np.dtype(tensor.dtype):
                raise BundleError(
                    f"{where}: {source} `{tensor.name}` is {array.dtype} {list(array.shape)}, "
                    f"the spec says {tensor.dtype} {list(tensor.shape)}"
                )
            if not np.all(np.isfinite(array)):
                raise BundleError(f"{where}: {source} `{tensor.name}` holds NaN or infinity")

    def require(name: str, difference: float, allowed: float) -> None:
        if difference > allowed:
            raise BundleError(
                f"{where}: `{name}` differs from the golden sample by {difference:.3g}, allowed {allowed:.3g}"
            )

    figures = {"scores": float(np.abs(found["scores"] - golden["scores"]).max())}
    require("scores", figures["scores"], tolerance.score)

    cells_per_class = spec.grid.shape[0] * spec.grid.shape[1]
    found_keys = found["labels"] * cells_per_class + found["cells"]
    golden_keys = golden["labels"] * cells_per_class + golden["cells"]
    _, golden_rows, found_rows = np.intersect1d(golden_keys, found_keys, return_indices=True)

    required = golden["scores"] > golden["scores"][-1] + 2 * tolerance.score
    lost = np.setdiff1d(np.flatnonzero(required), golden_rows)
    figures["peaks"], figures["peaks_lost"] = float(required.sum()), float(len(lost))
    if len(lost) > tolerance.unmatched * required.sum():
        row = int(lost[0])
        raise BundleError(
            f"{where}: `labels` and `cells`: {len(lost)} of {int(required.sum())} peaks are not found, allowed "
            f"{tolerance.unmatched:.0%}; the first is row {row}: label {golden['labels'][row]}, "
            f"cell {golden['cells'][row]}, score {golden['scores'][row]:.4f}"
        )
    moved = np.abs(found["scores"][found_rows] - golden["scores"][golden_rows]).max(initial=0.0)
    require("scores", float(moved), tolerance.score)

    boxes = golden["boxes"][golden_rows]
    relative = np.abs(found["boxes"][found_rows] - boxes) / np.maximum(1.0, np.abs(boxes))
    figures["boxes"] = float(relative.max(initial=0.0))
    require("boxes", figures["boxes"], tolerance.box)
    if "bev" in golden:
        figures["bev"] = float(np.abs(found["bev"] - golden["bev"]).max() / max(1e-6, np.abs(golden["bev"]).max()))
        require("bev", figures["bev"], tolerance.state)
    return figures
