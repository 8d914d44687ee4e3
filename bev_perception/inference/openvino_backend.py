"""OpenVINO: the same numbers on every run, on x86 and ARM processors; fastest where a network holds 8-bit layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.inference.interface import check_interface, default_threads, validate_inputs
from bev_perception.model_spec import BundleError, TensorSpec

# Element types of OpenVINO that numpy calls otherwise.
DTYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "u8": "uint8", "i8": "int8", "i32": "int32",
          "i64": "int64", "boolean": "bool"}  # fmt: skip
BODIES = {"Loop", "TensorIterator", "If"}  # operators with graphs of their own


class OpenVinoBackend:
    """Runs the bundle's ONNX on the processor with OpenVINO. State stays in host arrays.

    threads: threads inside an operator, 0 for `default_threads()`. What the graph holds in 32 bits is computed in 32
    bits, also where the processor has bfloat16, which OpenVINO would take by itself.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ImportError("the openvino backend needs the package openvino: pip install openvino") from error
        if threads < 0:
            raise ValueError(f"threads must be 0 (choose) or more, found {threads}")
        core = openvino.Core()
        try:
            model = core.read_model(bundle.model())
            if within := BODIES & {operator.get_type_name() for operator in model.get_ops()}:
                raise BundleError(
                    f"{bundle.onnx_path}: it holds {' and '.join(sorted(within))}, in which OpenVINO cannot be stopped "
                    "when it does not come back; take the backend onnxruntime"
                )
            compiled = core.compile_model(model, "CPU", settings(threads or default_threads()))
        except RuntimeError as error:
            raise BundleError(f"{bundle.onnx_path}: OpenVINO {openvino.__version__} refuses it: {error}") from error
        self.spec = bundle.spec
        check_interface(_tensors(model.inputs), self.spec.inputs(), f"{bundle.onnx_path}: inputs")
        check_interface(_tensors(model.outputs), self.spec.outputs(), f"{bundle.onnx_path}: outputs")
        self._tensor = openvino.Tensor
        self._request: Any = compiled.create_infer_request()
        self._interrupted = False
        self.details = {
            "version": openvino.__version__.split("-")[0],
            "precision": self.spec.precision,
            "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")),
        }

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """See InferenceBackend.infer; outputs are fresh arrays. Raises RuntimeError after `close` or `interrupt`."""
        if self._request is None or self._interrupted:
            raise RuntimeError(f"the openvino backend {'is closed' if self._request is None else 'was interrupted'}")
        validate_inputs(inputs, self.spec)
        outputs = {t.name: np.empty(t.shape, t.dtype) for t in self.spec.outputs()}
        for name, array in outputs.items():
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        contiguous = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        self._request.start_async(contiguous, share_inputs=True)
        self._request.wait()
        return outputs

    def fetch(self, value: np.ndarray) -> np.ndarray:
        """Arrays are already on the host."""
        return value

    def interrupt(self) -> None:
        """See InferenceBackend.interrupt: OpenVINO looks between operators, of which each ends (BODIES are refused)."""
        self._interrupted = True
        if self._request is not None:
            self._request.cancel()

    def close(self) -> None:
        """Free the engine."""
        self._request = None


def settings(threads: int) -> dict[str, Any]:
    """Of a compiled model with so many threads."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        # Cores that are taken for good would be taken from the vehicle's other processes.
        "ENABLE_CPU_PINNING": False,
    }


def _tensors(ports: list[Any]) -> list[TensorSpec]:
    """What a model has; dimensions that are not fixed are None and so differ from every spec."""
    return [
        TensorSpec(port.get_any_name(), _shape(port.get_partial_shape()), _dtype(port.get_element_type()))
        for port in ports
    ]


def _shape(partial: Any) -> tuple[Any, ...]:
    return tuple(d.get_length() if d.is_static else None for d in partial)


def _dtype(kind: Any) -> str:
    return DTYPES.get(kind.get_type_name(), kind.get_type_name())
