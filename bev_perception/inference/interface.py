"""What the pipeline needs of an inference engine, and the checks that every engine makes.

Every engine is a pure function from ModelSpec.inputs() to ModelSpec.outputs(). The state output `bev` is opaque to the
caller: an array, or a handle to memory on the device, which `fetch` turns into an array and `prev_bev` takes back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bev_perception.model_spec import BundleError, ModelSpec, TensorSpec


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

    def interrupt(self) -> None:
        """Called from another thread: let an `infer` that does not come back raise, where the engine can be stopped.
        The backend is of no use afterwards."""

    def close(self) -> None:
        """Free the engine. Idempotent; the backend and its handles cannot be used afterwards."""


@runtime_checkable
class TakesRows(Protocol):
    """An engine to which rows of an input go while the others are still being made."""

    def offer(self, name: str, index: int, row: np.ndarray) -> None:
        """Row `index` of the input `name` that the next `infer` will be given; what `infer` is given counts."""


def default_threads() -> int:
    """Of an engine on the processor: at most four of the cores that this process may use; the rest of the vehicle's
    software needs some too."""
    return min(4, len(os.sched_getaffinity(0)))


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
