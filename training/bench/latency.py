"""Every student as the vehicle runs it: exported, checked against PyTorch, asked of TensorRT, timed in ONNX Runtime."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.inference.backend import open_backend
from bev_perception.inference.builder import build_serialized
from bev_perception.inference.tensorrt_api import import_builder
from training.export import export_bundle
from training.models.exported import parameters_exported
from training.run import Run, build_detector


@dataclass(frozen=True)
class Latency:
    """parameters: in the graph. onnx_mib: of the file. build_s: TensorRT for RTX, fp32, None where it is not installed.
    milliseconds: median of ONNX Runtime's `infer`, host to host."""

    parameters: int
    onnx_mib: float
    build_s: float | None
    milliseconds: float


def measure(run: Run, threads: int, repeats: int, log: Callable[[str], None] = print) -> Latency:
    """Export with fresh weights: time does not depend on them. Raises what `export_bundle` and the builder raise."""
    torch.manual_seed(0)
    detector = build_detector(run)
    with tempfile.TemporaryDirectory() as folder:
        bundle = load_bundle(export_bundle(detector, Path(folder) / "bundle"))
        inputs, _ = bundle.golden()
        size = (bundle.path / "model.onnx").stat().st_size / 2**20
        seconds = _build_seconds(bundle, log)
        backend = open_backend(bundle, threads=threads)
        times = []
        for _ in range(repeats + 3):
            started = time.perf_counter()
            backend.infer(inputs)
            times.append(time.perf_counter() - started)
        backend.close()
    return Latency(parameters_exported(detector), size, seconds, 1e3 * statistics.median(times[3:]))


def _build_seconds(bundle: Bundle, log: Callable[[str], None]) -> float | None:
    try:
        trt = import_builder("tensorrt_rtx")
    except ImportError as error:
        log(f"TensorRT's builder was not asked: {error}")
        return None
    started = time.perf_counter()
    build_serialized(trt, bundle.model(), bundle.spec, log=log)
    return time.perf_counter() - started
