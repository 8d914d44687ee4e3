"""What differs between TensorRT 8.6, 10, 11 and TensorRT for RTX: all of it is here, and nothing of it elsewhere.

| | 8.6 | 10 | 11 | for RTX |
|---|---|---|---|---|
| module | tensorrt | tensorrt | tensorrt | tensorrt_rtx(_bindings) |
| flag of the network | EXPLICIT_BATCH | STRONGLY_TYPED | the same, or none | STRONGLY_TYPED |
| types come from | us: `constrain_types` | the ONNX | the ONNX | the ONNX |
| builder's FP16, INT8, OBEY_... flags | set for what the ONNX has | not set | gone | gone |
| int64 tensors | are int32 | int64 | int64 | int64 |
| IProgressMonitor | not in all | yes | yes | yes |
| timing cache | yes | yes | yes | does nothing |
| parser's error has node_name() | no, node() | yes | yes | yes |
| memory of a context | device_memory_size | that, or as 11 | device_memory_size_v2 | as 11 |
| a tensor's type in the inspector's JSON | Format/Datatype | Format/Datatype | a field of its own | as 11 |
| builds without a GPU | no | no | no | yes |

What is tried is whether a name is there, not a version: releases between these have some of the names. Names are
those of NVIDIA's Python API reference (8.6.1, 10.1, 10.8, 11.0) and of its page "Migrating from TensorRT 10.x to 11.x".
"""

from __future__ import annotations

import importlib
import json
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Log = Callable[[str], None]

BUILDERS = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool",
}  # fmt: skip
# ONNX's number of a type -> TensorRT's name of it: those that a layer can be told to compute in.
COMPUTED_IN = {1: "FLOAT", 10: "HALF"}
# Layers whose types TensorRT 8.6 takes from elsewhere: telling them again is an error or means nothing.
HAVE_THEIR_OWN = ("QUANTIZE", "DEQUANTIZE", "CONSTANT", "SHAPE", "CAST")
TELL_S = 10.0  # how often a phase of the build that takes long is told


class BuildError(RuntimeError):
    """TensorRT refuses the network, or what it made is not what was asked for; the message has the reasons."""


def import_builder(name: str = "tensorrt") -> Any:
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


# ---- types ----------------------------------------------------------------------------------------------------------


def strongly_typed(trt: Any) -> bool:
    """Whether networks take every type from the ONNX; elsewhere `constrain_types` has to say it."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(trt.BuilderFlag, "FP16")


def create_network(trt: Any, builder: Any) -> Any:
    flags = trt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED"):
        return builder.create_network(1 << int(flags.STRONGLY_TYPED))
    return builder.create_network(0 if strongly_typed(trt) else 1 << int(flags.EXPLICIT_BATCH))


def constrain_types(trt: Any, network: Any, config: Any, types: Mapping[str, int]) -> int:
    """What a strongly typed network is by itself: each layer computes and answers in the ONNX's types, which the
    builder must obey. Returns how many layers were told so: 0 for a strongly typed network, where nothing is done.

    types: tensor -> ONNX's number of its type (half.tensor_types). A layer without a tensor of the ONNX is one that
    the parser put in, and takes the type of what it makes.
    """
    if strongly_typed(trt):
        return 0
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    told = 0
    quantised = False
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        quantised |= layer.type.name in ("QUANTIZE", "DEQUANTIZE")
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        names = [COMPUTED_IN.get(types[t.name], "") if t.name in types else t.dtype.name for t in outputs]
        computed = {i: name for i, name in enumerate(names) if name in COMPUTED_IN.values()}
        if layer.type.name in HAVE_THEIR_OWN or not computed:
            continue
        for i, name in computed.items():
            layer.set_output_type(i, getattr(trt.DataType, name))
        layer.precision = getattr(trt.DataType, next(iter(computed.values())))
        told += 1
    if 10 in types.values():
        config.set_flag(trt.BuilderFlag.FP16)
    if quantised:
        config.set_flag(trt.BuilderFlag.INT8)
    return told


# ---- the parser -----------------------------------------------------------------------------------------------------


def parser_error(error: Any) -> str:
    """One line that names the node."""
    node = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"node {node or error.node()!s} {f'({operator})' if operator else ''}: {error.desc()}"


# ---- the build ------------------------------------------------------------------------------------------------------


def make_progress(trt: Any, config: Any, log: Log) -> Any:
    """Tells the build's outer phases, and where one takes long how far it is. The caller keeps what is returned until
    the build is over; None where this TensorRT tells nothing."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        """Called from several threads of the builder."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.steps: dict[str, int] = {}
            self.outer: set[str] = set()
            self.told_at = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                self.steps[phase_name] = num_steps
                if parent_phase is None:
                    self.outer.add(phase_name)
                elif parent_phase not in self.outer:
                    return
            log(f"  {phase_name}")

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                now = time.monotonic()
                due = now - self.told_at >= TELL_S
                self.told_at = now if due else self.told_at
                steps = self.steps.get(phase_name, 0)
            if due:
                log(f"  {phase_name}: {step + 1} of {steps}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    progress = Progress()
    config.progress_monitor = progress
    return progress


def keeps_timings(trt: Any) -> bool:
    """TensorRT for RTX chooses its kernels where it runs, and times none while it builds."""
    return trt.__name__ not in BUILDERS["tensorrt_rtx"]


def take_timings(config: Any, kept: bytes) -> bool:
    """kept: of an earlier build, or b"". False where this TensorRT or GPU does not take them and begins anew."""
    if kept:
        cache = config.create_timing_cache(kept)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return not kept


def timings(config: Any) -> bytes:
    """For the next build."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = config.get_timing_cache()
    return bytes(cache.serialize()) if cache is not None else b""


# ---- the engine -----------------------------------------------------------------------------------------------------


def context_bytes(engine: Any) -> int:
    """Device memory that an execution context of it takes."""
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)


def layers(trt: Any, engine: Any) -> list[Mapping[str, Any]]:
    """The layers as the engine itself tells them, for precisions.count_precisions. Raises BuildError where it says
    nothing of their types, which it was not built to."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        found = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{trt.__name__} does not tell the engine's layers: {str(text)[:200]!r}") from error
    if not found or not all(isinstance(layer, dict) for layer in found):
        raise BuildError("the engine does not tell the types of its layers; build it again with --force")
    return found


def type_words(tensor: Mapping[str, Any]) -> str:
    """What one tensor of a layer says of its type, in words."""
    for field in ("Datatype", "DataType", "Format/Datatype", "Format"):
        if tensor.get(field):
            return str(tensor[field])
    return ""
