"""The rows of `python -m training.bench.gpu`: what each measures, in a process of its own."""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bev_perception.files import open_atomic
from bev_perception.inference.cuda_driver import DRIVERS
from bev_perception.inference.gpu import Gpu, OwnerThread
from bev_perception.inference.tensorrt_api import import_builder
from training.bench import gpu_buffers
from training.bench.candidate_errors import errors
from training.bench.gpu_network import (
    FRAMES,
    STATE_IN,
    STATE_OUT,
    Network,
    Step,
    Unavailable,
    aot_inductor,
    cuda_graph,
    eager,
    half_precision,
    last_of_frames,
    make_network,
    step_times,
)

REFERENCE_FILE = "reference.npz"


@dataclass(frozen=True)
class Options:
    """size: of SIZES; steps: that are timed after warm_up others; buffer_steps: of the rows of buffers; work: a folder
    that the rows share."""

    size: str
    device: torch.device
    steps: int
    warm_up: int
    buffer_steps: int
    work: Path


@dataclass(frozen=True)
class Row:
    """What a row of the table holds; None where nothing was measured, and then `note` says why.

    median_ms, p95_ms: of a step. memory_mb: that the device has less of afterwards; on a CPU the most that the process
    ever had. scores, boxes, state: largest errors against the reference, as candidate_errors has them.
    """

    name: str
    median_ms: float | None = None
    p95_ms: float | None = None
    memory_mb: float | None = None
    scores: float | None = None
    boxes: float | None = None
    state: float | None = None
    note: str = ""

    def with_times(self, times: list[float]) -> Row:
        return replace(self, median_ms=float(np.median(times)), p95_ms=float(np.percentile(times, 95)))


Way = Callable[[Network, bool, Path], Step]


@dataclass(frozen=True)
class NetworkRow:
    way: Way
    half: bool = False
    channels_last: bool = False

    def measure(self, name: str, options: Options) -> Row:
        before = _memory_mb(options.device)
        network = make_network(options.size, options.device)
        if self.channels_last:
            for module in network.module.modules():  # not the whole: other weights of four or five axes are no images
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad(), ExitStack() as within:
            if self.way is not aot_inductor:
                within.enter_context(half_precision(options.device, self.half))
            step = self.way(network, self.half, options.work)
            found = last_of_frames(step, network)
            times = step_times(step, network, options.steps, options.warm_up)
        used = _memory_mb(options.device) - (before if options.device.type == "cuda" else 0.0)
        row = _with_errors(Row(name, memory_mb=used), found, network, options.work)
        return row.with_times(times)


def _with_errors(row: Row, found: Mapping[str, np.ndarray], network: Network, work: Path) -> Row:
    """The first row, whose answers are the reference, writes them; a later one is compared with them."""
    path = work / REFERENCE_FILE
    if row.name == REFERENCE:
        with open_atomic(path) as file:
            np.savez(file, **found)  # type: ignore[arg-type]
    if not path.is_file():
        return replace(row, note=f"not compared: `{REFERENCE}` gave no answers")
    with np.load(path) as arrays:
        off, _ = errors(found, dict(arrays), network.spec.grid)
    return replace(row, scores=off["scores"].largest, boxes=off["boxes"].largest, state=off["bev"].largest)


def _memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def buffers_in_torch(name: str, options: Options) -> Row:
    thread = OwnerThread("buffers")
    try:
        return _buffers(name, options, thread.run, gpu_buffers.TorchMemory(options.device))
    finally:
        thread.stop()


def buffers_by(driver: str) -> Callable[[str, Options], Row]:
    """The same through what the TensorRT backend uses: a row of DRIVERS."""

    def measure(name: str, options: Options) -> Row:
        try:
            functions = DRIVERS[driver]()
        except Exception as error:  # CUDA's own library that is missing has errors of its own
            raise Unavailable(f"{driver} cannot be used: {error}") from error
        gpu = Gpu(options.device.index or 0, functions)
        memory = gpu.run(lambda: gpu_buffers.DriverMemory(functions))
        try:
            return _buffers(name, options, gpu.run, memory)
        finally:
            gpu.run(memory.end)
            gpu.release()

    return measure


def _buffers(name: str, options: Options, run: Callable[..., object], memory: gpu_buffers.Memory) -> Row:
    gpu_buffers.exercise(run, memory, gpu_buffers.LOOK_BACK_EVERY)  # what is set up once is no leak
    before = _memory_mb(options.device)
    times, buffers = gpu_buffers.exercise(run, memory, options.buffer_steps)
    more = _memory_mb(options.device) - before
    note = f"{options.buffer_steps} steps, each result right; {buffers} buffers"
    return Row(name, memory_mb=more, note=note).with_times(times)


def tensorrt(precision: str) -> Callable[[str, Options], Row]:
    """The student exported, its engine built, proven and run as a vehicle does."""

    def measure(name: str, options: Options) -> Row:
        try:
            import_builder("tensorrt")
        except ImportError as error:
            raise Unavailable(str(error)) from error
        from bev_perception.bundle import load_bundle
        from bev_perception.inference.tensorrt_backend import open_tensorrt
        from training.export import export_bundle

        network = make_network(options.size, torch.device("cpu"))
        bundle = load_bundle(export_bundle(network.module.detector, options.work / "bundle"))  # type: ignore[arg-type]
        before, index = _memory_mb(options.device), options.device.index or 0
        backend = open_tensorrt(bundle, precision=precision, cache=options.work / "engines", device=index)
        try:
            inputs = {t.name: a.numpy() for t, a in zip(network.spec.inputs(), network.inputs)}
            warm_up, times = max(options.warm_up, FRAMES), []
            for i in range(warm_up + options.steps):
                started = time.perf_counter()
                outputs = backend.infer(inputs)
                times += [1e3 * (time.perf_counter() - started)] if i >= warm_up else []
                if i == FRAMES - 1:
                    found = {n: backend.fetch(value) for n, value in outputs.items()}
                inputs = inputs | {STATE_IN: outputs[STATE_OUT]}
            used = _memory_mb(options.device) - before
        finally:
            backend.close()
        row = _with_errors(Row(name, memory_mb=used, note="host to host"), found, network, options.work)
        return row.with_times(times)

    return measure


REFERENCE = "eager, FP32"
ROWS: dict[str, Callable[[str, Options], Row]] = {
    REFERENCE: NetworkRow(eager).measure,
    "eager, FP32, channels last": NetworkRow(eager, channels_last=True).measure,
    "eager, FP16": NetworkRow(eager, half=True).measure,
    "eager, FP16, channels last": NetworkRow(eager, half=True, channels_last=True).measure,
    "CUDA graph, FP32": NetworkRow(cuda_graph).measure,
    "CUDA graph, FP16": NetworkRow(cuda_graph, half=True).measure,
    "CUDA graph, FP16, channels last": NetworkRow(cuda_graph, half=True, channels_last=True).measure,
    "state buffers, PyTorch": buffers_in_torch,
    **{f"state buffers, {driver}": buffers_by(driver) for driver in DRIVERS},
    "TensorRT, FP32": tensorrt("fp32"),
    "TensorRT, FP16": tensorrt("fp16"),
    "AOTInductor, FP32": NetworkRow(aot_inductor).measure,
    "AOTInductor, FP16": NetworkRow(aot_inductor, half=True).measure,
}


def measured(name: str, options: Options) -> Row:
    """The row, whatever happens: what fails is a note."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # FP32 is FP32
    torch.backends.cudnn.benchmark = True  # shapes are fixed: its fastest algorithm for each is found while warming up
    try:
        if options.device.type == "cuda":
            torch.cuda.set_device(options.device)
        return ROWS[name](name, options)
    except Unavailable as reason:
        return Row(name, note=str(reason))
    except Exception as error:
        traceback.print_exc()
        first = next(iter(str(error).strip().splitlines()), "")
        return Row(name, note=f"failed: {type(error).__name__}: {first[:200]}")
