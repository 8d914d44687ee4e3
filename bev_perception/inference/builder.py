"""ONNX -> serialised TensorRT engine, with the Python API of TensorRT 8.6 to 11 or of TensorRT for RTX.

TensorRT for RTX and TensorRT from 10 on have strongly typed networks: FP16 is written into the ONNX beforehand
(half.py).
"""

from __future__ import annotations

import importlib
import time
from types import ModuleType
from typing import Any

from bev_perception.inference.engine_cache import Log
from bev_perception.inference.half import halve
from bev_perception.inference.interface import check_interface
from bev_perception.model_spec import ModelSpec, TensorSpec

BUILDERS = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
PRECISIONS = ("fp32", "fp16")
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool",
}  # fmt: skip


class BuildError(RuntimeError):
    """TensorRT refuses the network; the message holds its own errors with the names of the nodes."""


def import_builder(name: str = "tensorrt") -> ModuleType:
    """The module with TensorRT's API. Raises ImportError saying what to install."""
    for module in BUILDERS[name]:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            raise ImportError(f"{module} is installed but its libraries do not load: {error}") from error
    hint = "it comes with JetPack, with NVIDIA's apt packages (python3-libnvinfer), or: pip install tensorrt"
    if name == "tensorrt_rtx":
        hint = "pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs"
    raise ImportError(f"the Python package {BUILDERS[name][0]} is missing; {hint}")


def make_logger(trt: Any, log: Log, verbose: bool = False) -> Any:
    """A TensorRT logger that passes warnings (with verbose, everything) to `log` and keeps errors in `.errors`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            if verbose or severity == trt.ILogger.WARNING:
                log(f"{trt.__name__}: {message}")

    return Logger()


def as_spec(name: str, shape: Any, dtype: Any, spec: ModelSpec) -> TensorSpec:
    """What TensorRT says of a tensor. TensorRT 8 has no INT64 and gives int32 where the spec wants int64: accepted."""
    found = DTYPES.get(dtype.name, dtype.name)
    if found == "int32" and any(t.name == name and t.dtype == "int64" for t in spec.outputs()):
        found = "int64"
    return TensorSpec(name, tuple(shape), found)


def build_serialized(
    trt: Any,
    onnx: bytes,
    spec: ModelSpec,
    precision: str = "fp32",
    *,
    workspace_mib: int = 2048,
    log: Log = print,
    verbose: bool = False,
) -> bytes:
    """Parse, check the interface against the spec, build; returns the serialised engine.

    fp32 is FP32: TF32 is switched off. fp16 logs why nodes stay in FP32, by reason; with verbose node by node, besides
    all that TensorRT says. Raises BuildError (TensorRT's reasons), BundleError (another interface),
    ValueError (unknown precision).
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: choose one of {PRECISIONS}")
    logger = make_logger(trt, log, verbose)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    flags = trt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED"):
        network = builder.create_network(1 << int(flags.STRONGLY_TYPED))
        if precision == "fp16":
            halved = halve(onnx)
            onnx = halved.onnx
            for line in halved.summary():
                log(line)
            for kept in halved.kept if verbose else ():
                log(f"  fp32: {kept.node} ({kept.op}) {kept.reason}")
    else:  # TensorRT 8: types are the builder's choice, within what its flags allow
        network = builder.create_network(1 << int(flags.EXPLICIT_BATCH))
        if precision == "fp16":
            config.set_flag(trt.BuilderFlag.FP16)
            log("fp16 wherever this TensorRT finds it faster")

    start = time.monotonic()
    parse_onnx(trt, onnx, network, logger)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    check_interface([as_spec(t.name, t.shape, t.dtype, spec) for t in inputs], spec.inputs(), "network inputs")
    check_interface([as_spec(t.name, t.shape, t.dtype, spec) for t in outputs], spec.outputs(), "network outputs")
    log(f"parsed {network.num_layers} layers in {time.monotonic() - start:.1f} s; building, this can take minutes")

    start = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        errors = logger.errors or ["no reason given, try again with --verbose"]
        raise BuildError(f"{trt.__name__} {trt.__version__} cannot build the engine:\n  " + "\n  ".join(errors))
    data = bytes(engine)
    log(f"built {len(data) / 2**20:.1f} MiB in {time.monotonic() - start:.1f} s")
    return data


def parse_onnx(trt: Any, onnx: bytes, network: Any, logger: Any) -> None:
    """Fill `network` from ONNX. Raises BuildError with the parser's reasons."""
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError(f"{trt.__name__} {trt.__version__} cannot parse the model:\n  " + "\n  ".join(errors))


def _parser_error(error: Any) -> str:
    """One line; the node's name and operator exist from TensorRT 8.6 and 10 on."""
    node = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"node {node or error.node()!s} {f'({operator})' if operator else ''}: {error.desc()}"
