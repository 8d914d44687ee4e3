"""The proof that an engine gives the right answers: a bundle's golden sample, and how far from it one may be."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bev_perception.bundle import GOLDEN, Bundle
from bev_perception.inference.interface import InferenceBackend, validate_inputs
from bev_perception.model_spec import CAMERA_FEATURES, MAP_FEATURES, BundleError, ModelSpec


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from the golden sample. Scores absolute; boxes |a - b| <= box * max(1, |b|);
    bev and features |a - b| <= state * max |golden|. unmatched: share of the candidates that may move to another cell;
    differing: of those that stay, the share that may be farther in score or box."""

    score: float
    box: float
    state: float
    unmatched: float
    differing: float = 0.0


# FP16 rounds activations to 3 digits: two neighbouring cells of almost equal score may change places. In 8 bits a value
# near the middle of two steps goes to one in one engine and to the other in another, layer after layer;
# docs/inference.md, "8 bits", says what was seen.
TOLERANCES = {
    "fp32": Tolerance(5e-4, 5e-3, 5e-3, 0.0),
    "fp16": Tolerance(2e-2, 1e-1, 5e-2, 0.05),
    "int8": Tolerance(1e-1, 5e-1, 1e-1, 0.05, 0.05),
}


def rounding(backend: InferenceBackend) -> str:
    """How coarsely an engine rounds, a key of the tolerances: as its graph where that is in 8 bits, else as it does."""
    precision = backend.spec.precision
    return backend.details.get("precision", precision) if precision == "fp32" else precision


# A network that takes a tenth of this is of no use in a vehicle; the rest is for busy machines and first runs.
TIME_LIMIT_S = 60.0


def self_test(
    backend: InferenceBackend, bundle: Bundle, tolerance: Tolerance | None = None, limit_s: float = TIME_LIMIT_S
) -> dict[str, float]:
    """Run the golden inputs and compare with the golden outputs; the figures (largest differences) are returned.

    The default tolerance is that of `rounding`. Raises BundleError, also where the engine fails or does not answer
    within limit_s seconds.
    """
    if tolerance is None:
        tolerance = TOLERANCES[rounding(backend)]
    inputs, golden = bundle.golden()
    try:
        validate_inputs(inputs, bundle.spec)
    except ValueError as error:
        raise BundleError(f"{bundle.path / GOLDEN}: {error}; copy the whole bundle again") from error
    where = f"self-test of {backend.name} on {bundle.spec.name!r}"
    with time_limit(backend, limit_s, where):
        found = {name: backend.fetch(value) for name, value in backend.infer(inputs).items()}
    return compare_outputs(found, golden, bundle.spec, tolerance, where)


@contextlib.contextmanager
def time_limit(backend: InferenceBackend, limit_s: float, where: str) -> Iterator[None]:
    """Whatever the engine raises within becomes a BundleError; one that does not come back is interrupted."""
    late = threading.Event()

    def interrupt() -> None:
        late.set()
        backend.interrupt()

    timer = threading.Timer(limit_s, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except BundleError:
        raise
    except Exception as error:  # engines have exceptions of their own
        if late.is_set():
            raise BundleError(
                f"{where}: the network did not answer within {limit_s:g} s; it loops without end, or this machine is "
                "too slow for it: export a smaller student"
            ) from error
        raise BundleError(f"{where}: the engine failed: {error}") from error
    finally:
        timer.cancel()


def largest_kept(differences: np.ndarray, differing: float) -> float:
    """The largest of (N,) differences once that share of them, the largest, is left out; 0 for none."""
    kept = len(differences) - int(differing * len(differences))
    return float(np.sort(differences)[:kept].max(initial=0.0))


def compare_outputs(
    found: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], spec: ModelSpec, tolerance: Tolerance, where: str
) -> dict[str, float]:
    """Largest differences between two sets of outputs; raises BundleError when one is not allowed.

    Rows are compared by what they are, (label, cell), not by rank: candidates of equal score may swap, and those that
    tie with the last row may give way to others of the same score that top-K had cut. The golden set may lack `bev`.
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
    figures["candidates"], figures["candidates_lost"] = float(required.sum()), float(len(lost))
    if len(lost) > tolerance.unmatched * required.sum():
        row = int(lost[0])
        raise BundleError(
            f"{where}: `labels` and `cells`: {len(lost)} of {int(required.sum())} candidates are not found, allowed "
            f"{tolerance.unmatched:.0%}; the first is row {row}: label {golden['labels'][row]}, "
            f"cell {golden['cells'][row]}, score {golden['scores'][row]:.4f}"
        )
    moved = np.abs(found["scores"][found_rows] - golden["scores"][golden_rows])
    require("scores", largest_kept(moved, tolerance.differing), tolerance.score)

    boxes = golden["boxes"][golden_rows]
    relative = np.abs(found["boxes"][found_rows] - boxes) / np.maximum(1.0, np.abs(boxes))
    figures["boxes"] = largest_kept(relative.max(axis=1), tolerance.differing)
    require("boxes", figures["boxes"], tolerance.box)
    if spec.spread:
        spread = golden["log_std"][golden_rows]
        relative = np.abs(found["log_std"][found_rows] - spread) / np.maximum(1.0, np.abs(spread))
        figures["log_std"] = largest_kept(relative.max(axis=(1, 2)), tolerance.differing)
        require("log_std", figures["log_std"], tolerance.box)
    if "bev" in golden:
        figures["bev"] = _off(found["bev"], golden["bev"])
        require("bev", figures["bev"], tolerance.state)
    for name in (CAMERA_FEATURES, MAP_FEATURES):
        if name in golden:
            figures[name] = _off(found[name], golden[name])
            require(name, figures[name], tolerance.state)
    return figures


def _off(found: np.ndarray, golden: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(found - golden).max() / max(1e-6, np.abs(golden).max()))
