"""ONNX -> serialised TensorRT engine. Precision is written into the graph and never left to the builder.

FP16 comes from half.py, INT8 from the Q/DQ nodes that the quantiser put into the ONNX; what TensorRT's versions need to
obey either is in tensorrt_api.py.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception.files import read_bytes, sha256_of, write_atomic
from bev_perception.inference import tensorrt_api as api
from bev_perception.inference.half import halve
from bev_perception.inference.interface import check_interface
from bev_perception.inference.precisions import wanted
from bev_perception.inference.tensorrt_api import BuildError, Log
from bev_perception.model_spec import ModelSpec, TensorSpec

LARGEST_TIMINGS = 256 * 2**20  # bytes of a timing cache that are read
LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """workspace_mib: device memory that the builder's layers may use beside their inputs and outputs. level: how long
    it tries, 0 to 5. timings: file of measured kernels, read and renewed; none where empty. plugins: libraries to load
    first, which may have layers of their own. verbose: tell everything."""

    workspace_mib: int = 2048
    level: int = 3
    timings: str = ""
    plugins: tuple[str, ...] = ()
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.workspace_mib < 1:
            raise ValueError(f"workspace of {self.workspace_mib} MiB: at least 1 is needed")
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level}: choose one of {LEVELS[0]} to {LEVELS[-1]}")

    def of_the_engine(self) -> str:
        """What of it changes the engine: for the cache's key. What is measured anew, or told, does not."""
        return f"workspace {self.workspace_mib} MiB, level {self.level}"

    def plugin_hashes(self) -> tuple[str, ...]:
        """Raises OSError where a library cannot be read."""
        return tuple(f"{Path(library).name} {sha256_of(library)}" for library in self.plugins)


@dataclass(frozen=True)
class Built:
    """engine: serialised. share: of the network's convolutions that are in the precision asked for."""

    engine: bytes
    share: float


def as_spec(name: str, shape: Any, dtype: Any, spec: ModelSpec) -> TensorSpec:
    """What TensorRT says of a tensor. Where it has no INT64 it gives int32 where the spec wants int64: accepted."""
    found = api.DTYPES.get(dtype.name, dtype.name)
    if found == "int32" and any(t.name == name and t.dtype == "int64" for t in spec.outputs()):
        found = "int64"
    return TensorSpec(name, tuple(shape), found)


def in_precision(onnx: bytes, precision: str, log: Log, verbose: bool = False) -> bytes:
    """The graph with that precision in it; fp16 logs why nodes stay in FP32, by reason, with verbose node by node."""
    if precision != "fp16":
        return onnx
    halved = halve(onnx)
    for line in halved.summary():
        log(line)
    for kept in halved.kept if verbose else ():
        log(f"  fp32: {kept.node} ({kept.op}) {kept.reason}")
    return halved.onnx


def build_serialized(
    trt: Any,
    onnx: bytes,
    spec: ModelSpec,
    precision: str = "bundle",
    options: BuildOptions = BuildOptions(),
    log: Log = print,
) -> Built:
    """Parse, check the interface against the spec, build. fp32 is FP32: TF32 is switched off.

    Raises BuildError (TensorRT's reasons), BundleError (another interface), ValueError (a precision that is unknown or
    not the graph's), OSError (a plugin that cannot be loaded).
    """
    precision = wanted(precision, spec)
    load_plugins(options.plugins)
    logger = api.make_logger(trt, log, options.verbose)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the engine does not tell its layers' types
    config.clear_flag(trt.BuilderFlag.TF32)
    onnx = in_precision(onnx, precision, log, options.verbose)

    start = time.monotonic()
    network = parsed(trt, builder, onnx, logger)
    check_network(network, spec)
    told = 0 if api.strongly_typed(trt) else api.constrain_types(trt, network, config, _types(onnx))
    if told:
        log(f"{told} layers were told their types, which the builder must obey")
    convolutions = convolution_precisions(network)
    share = convolutions[precision] / max(convolutions.total(), 1)
    counted = ", ".join(f"{name} {count}" for name, count in convolutions.most_common())
    log(f"parsed {network.num_layers} layers in {time.monotonic() - start:.1f} s; convolutions: {counted or 'none'}")

    _take_timings(trt, config, options.timings, log)
    start = time.monotonic()
    log(f"building {precision} with {options.of_the_engine()}; this can take minutes")
    progress = api.make_progress(trt, config, log)
    with ended_by_ctrl_c():
        engine = builder.build_serialized_network(network, config)
    del progress  # it had to outlive the build
    if engine is None:
        errors = logger.errors or ["no reason given, try again with --verbose"]
        raise BuildError(f"{trt.__name__} {trt.__version__} cannot build the engine:\n  " + "\n  ".join(errors))
    data = bytes(engine)
    log(f"built {len(data) / 2**20:.1f} MiB in {time.monotonic() - start:.1f} s")
    _keep_timings(trt, config, options.timings, log)
    return Built(data, share)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends the process at once, which the engine cache survives at every step, unless the program has chosen
    something else. Python would raise it in one of TensorRT's calls back to us, where it is swallowed, and the build
    would go on to its end."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def parsed(trt: Any, builder: Any, onnx: bytes, logger: Any) -> Any:
    """The network that ONNX describes. Raises BuildError with the parser's reasons."""
    network = api.create_network(trt, builder)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [api.parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError(f"{trt.__name__} {trt.__version__} cannot parse the model:\n  " + "\n  ".join(errors))
    return network


def check_network(network: Any, spec: ModelSpec) -> None:
    """Raise BundleError unless its inputs and outputs are the spec's."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    check_interface([as_spec(t.name, t.shape, t.dtype, spec) for t in inputs], spec.inputs(), "network inputs")
    check_interface([as_spec(t.name, t.shape, t.dtype, spec) for t in outputs], spec.outputs(), "network outputs")


def convolution_precisions(network: Any) -> Counter[str]:
    """Precision -> convolutions of a network that are to compute in it: 8 bits where their input is dequantised."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dequantised = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name in ("CONVOLUTION", "DECONVOLUTION"):
            given = layer.get_input(0)
            half = given.dtype.name == "HALF"
            counts["int8" if given.name in dequantised else "fp16" if half else "fp32"] += 1
    return counts


def load_plugins(libraries: Sequence[str]) -> None:
    """They register their layers with TensorRT; before parsing, and before an engine is read. Raises OSError."""
    for library in libraries:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


def _types(onnx: bytes) -> dict[str, int]:
    from bev_perception.inference.half import tensor_types

    try:
        from onnx import load_model_from_string
    except ImportError as error:
        raise ImportError("this TensorRT is told the types of layers by the package onnx: pip install onnx") from error
    return tensor_types(load_model_from_string(onnx))


def _take_timings(trt: Any, config: Any, file: str, log: Log) -> None:
    if not file:
        return
    if not api.keeps_timings(trt):
        log(f"{trt.__name__} times no kernels while it builds: {file} is not used")
        return
    try:
        kept = read_bytes(file, LARGEST_TIMINGS) if Path(file).exists() else b""
    except (OSError, ValueError) as error:
        log(f"timings begin anew: {file} {error}")
        kept = b""
    if kept and api.take_timings(config, kept):
        log(f"timings of earlier builds are taken from {file} ({len(kept)} bytes)")
    elif kept:
        log(f"timings begin anew: those in {file} are of another TensorRT or GPU")
    else:
        api.take_timings(config, b"")


def _keep_timings(trt: Any, config: Any, file: str, log: Log) -> None:
    """What cannot be written costs the next build time and nothing else."""
    if not file or not api.keeps_timings(trt):
        return
    try:
        write_atomic(file, api.timings(config))
        log(f"timings for the next build are in {file}")
    except OSError as error:
        log(f"timings are not kept: {file} cannot be written ({error.strerror or error})")
