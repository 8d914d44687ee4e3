"""ONNX Runtime: the default engine, the same numbers on every run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.inference.interface import check_interface, default_threads, validate_inputs
from bev_perception.model_spec import BundleError, TensorSpec

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool",
}  # fmt: skip


class OnnxRuntimeBackend:
    """Runs the bundle's ONNX with ONNX Runtime. State stays in host arrays.

    threads: threads inside an operator, 0 for `default_threads()`.
    provider: "cpu" or "cuda". What is asked for is what runs: there is no fallback to another one.
    spin: let waiting threads burn their core: saves microseconds, takes cores from the vehicle's other processes.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, *, threads: int = 0, provider: str = "cpu", spin: bool = False) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "the onnxruntime backend needs the package onnxruntime: pip install onnxruntime"
            ) from error
        if threads < 0:
            raise ValueError(f"threads must be 0 (choose) or more, found {threads}")
        available = onnxruntime.get_available_providers()
        wanted = PROVIDERS.get(provider, "")
        if wanted not in available:
            raise ValueError(
                f"provider {provider!r} is not available; this onnxruntime has "
                f"{[name for name, full in PROVIDERS.items() if full in available]}"
                + (" (for cuda install onnxruntime-gpu instead of onnxruntime)" if provider == "cuda" else "")
            )
        options = session_options(threads or default_threads(), spin)
        providers: list[Any] = ["CPUExecutionProvider"]
        if provider == "cuda":
            providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
        model = bundle.model()
        try:
            session = onnxruntime.InferenceSession(model, sess_options=options, providers=providers)
        except Exception as error:  # onnxruntime has a dozen exception classes and no common one
            raise BundleError(
                f"{bundle.onnx_path}: ONNX Runtime {onnxruntime.__version__} refuses it: {error}"
            ) from error
        if session.get_providers()[0] != wanted:
            raise RuntimeError(
                f"provider {provider!r} could not be started (its libraries do not load, see onnxruntime's log); "
                f"running are {session.get_providers()}"
            )
        self.spec = bundle.spec
        self._session = session
        self._run_options = onnxruntime.RunOptions()
        self._output_names = [t.name for t in self.spec.outputs()]
        check_interface(_tensors(session.get_inputs()), self.spec.inputs(), f"{bundle.onnx_path}: inputs")
        check_interface(_tensors(session.get_outputs()), self.spec.outputs(), f"{bundle.onnx_path}: outputs")
        self.details = {
            "version": onnxruntime.__version__,
            "provider": provider,
            "precision": self.spec.precision,
            "threads": str(options.intra_op_num_threads),
            "spinning": options.get_session_config_entry("session.intra_op.allow_spinning"),
        }

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """See InferenceBackend.infer; all outputs are fresh arrays. Raises RuntimeError after `close`."""
        if self._session is None:
            raise RuntimeError("the onnxruntime backend is closed")
        validate_inputs(inputs, self.spec)
        outputs = self._session.run(self._output_names, dict(inputs), self._run_options)
        return dict(zip(self._output_names, outputs))

    def fetch(self, value: np.ndarray) -> np.ndarray:
        """Arrays are already on the host."""
        return value

    def interrupt(self) -> None:
        """See InferenceBackend.interrupt: ONNX Runtime looks before every operator and every turn of a loop."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Free the session."""
        self._session = None


def session_options(threads: int, spin: bool = False) -> Any:
    """onnxruntime.SessionOptions of a session with so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return options


def _tensors(arguments: list[Any]) -> list[TensorSpec]:
    """What a session reports; dimensions that are not fixed stay names and so differ from every spec."""
    return [TensorSpec(a.name, tuple(a.shape), DTYPES.get(a.type, a.type)) for a in arguments]
