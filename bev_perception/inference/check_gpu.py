"""What a machine with an NVIDIA GPU makes of a bundle, in one table: `ros2 run bev_perception check_gpu BUNDLE`.

Which packages there are, whether CUDA does what the backend asks of it, whether each precision is built, is what it
says and is right over frames with memory, how long a frame takes, and whether memory stays as it was. A row that cannot
be had says what is missing; rows are printed as they come, so that a crash leaves those before it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.inference.backend import open_backend
from bev_perception.inference.gpu import MIB, BufferPool, DeviceState, Gpu
from bev_perception.inference.interface import InferenceBackend
from bev_perception.inference.precisions import PRECISIONS
from bev_perception.inference.proof import TOLERANCES, compare_outputs
from bev_perception.inference.tensorrt_backend import TensorRtBackend, open_tensorrt
from bev_perception.inference.tensorrt_engine import STATE_IN, STATE_OUT
from bev_perception.model_spec import BundleError, TensorSpec

OK, FAILED, MISSING = "ok", "FAILED", "missing"
PACKAGES = ("tensorrt", "tensorrt_rtx", "pycuda.driver", "cuda.bindings.driver", "onnx", "onnxruntime")
FRAMES = 20  # that are compared with ONNX Runtime's, each with the state of the one before
REMEMBERED = 12
STATE = TensorSpec("state", (16384,), "float32")


@dataclass(frozen=True)
class Row:
    """name: what was tried; result: OK, FAILED or MISSING; figures: in words, with units."""

    name: str
    result: str
    figures: str


@dataclass(frozen=True)
class Options:
    """steps: of the buffers; frames: that are timed, and over which memory is watched. open_engine, open_gpu: what else
    than this machine's TensorRT and GPU is checked."""

    precisions: Sequence[str]
    cache: str
    steps: int
    frames: int
    open_engine: Callable[..., TensorRtBackend] = open_tensorrt
    open_gpu: Callable[[], Gpu] = Gpu


def check(bundle: Bundle, options: Options) -> Iterator[Row]:
    """Rows, in their order, each when it is there."""
    yield packages()
    gpu = None
    try:
        gpu = options.open_gpu()
        yield attempt("GPU", _device, gpu)
        yield attempt(f"state buffers, {options.steps} steps", buffers, gpu, options.steps)
    except (ImportError, RuntimeError) as error:
        yield Row("GPU", MISSING, _first_line(error))
    finally:
        if gpu is not None:
            gpu.release()
    for precision in options.precisions:
        yield from engine_rows(bundle, precision, options)


def attempt(name: str, work: Callable[..., str], *arguments: Any) -> Row:
    """The row of what work(*arguments) says, whatever happens."""
    try:
        return Row(name, OK, work(*arguments))
    except ImportError as error:
        return Row(name, MISSING, _first_line(error))
    except Exception as error:  # CUDA, TensorRT and the proof have errors of their own
        return Row(name, FAILED, f"{type(error).__name__}: {_first_line(error)}")


def packages() -> Row:
    """TensorRT in one form and CUDA in one are needed; the rest is told."""
    found, missing = [], []
    for name in PACKAGES:
        try:
            version = getattr(importlib.import_module(name), "__version__", "")
        except Exception as error:  # a library of theirs that does not load has errors of its own
            missing.append(f"{name} ({type(error).__name__})")
        else:
            found.append(f"{name} {version}".strip())
    names = {one.split()[0] for one in found}
    enough = names & {"tensorrt", "tensorrt_rtx"} and names & {"pycuda.driver", "cuda.bindings.driver"}
    told = f"{', '.join(found) or 'none'}; not here: {', '.join(missing) or 'none'}"
    return Row("packages", OK if enough else MISSING, told)


def _device(gpu: Gpu) -> str:
    free, total = gpu.run(gpu.driver.memory)
    device = gpu.device
    graphs = f"no graphs: {gpu.no_graphs}" if gpu.no_graphs else "graphs"
    return (
        f"{device.name} {device.architecture}, CUDA {device.cuda} by {gpu.driver.name}, driver {gpu.kernel_driver}, "
        f"{free / MIB:.0f} of {total / MIB:.0f} MiB free, {graphs}"
    )


def buffers(gpu: Gpu, steps: int) -> str:
    """Each step lends a state, writes what follows from the one before, and reads it back; none may change later.

    Raises RuntimeError at the first wrong word, and where memory is not as before.
    """
    driver, size = gpu.driver, int(np.prod(STATE.shape)) * 4
    before, _ = gpu.run(driver.memory)
    pool, owner = BufferPool(lambda: driver.allocate(size)), Row("", "", "")
    stream = gpu.run(driver.stream)
    words = gpu.run(lambda: driver.pinned(STATE.shape, np.float32))
    remembered: list[tuple[int, DeviceState]] = []

    def step(number: int) -> DeviceState:
        state = DeviceState(pool, STATE, owner)
        words[:] = number
        driver.upload(state.buffer, words, stream)
        driver.wait(stream)
        return state

    def read(number: int, state: DeviceState) -> None:
        words[:] = -1
        driver.download(words, state.buffer, stream)
        driver.wait(stream)
        if not (words == number).all():
            raise RuntimeError(f"the state of step {number} has {(words != number).sum()} wrong words")

    started = time.perf_counter()
    try:
        for number in range(steps):
            remembered = [*remembered, (number, gpu.run(partial(step, number)))][-REMEMBERED:]
            gpu.run(partial(read, *remembered[0]))
        ms = (time.perf_counter() - started) * 1e3 / max(steps, 1)
    finally:
        made = pool.drain()
        for buffer in made:
            gpu.run(partial(driver.free, buffer))
        gpu.run(lambda: driver.free_pinned(words))
        gpu.run(lambda: driver.end_stream(stream))
    if len(made) > REMEMBERED + 1:
        raise RuntimeError(f"{len(made)} buffers were made for {REMEMBERED} states: handles leak")
    lost = before - gpu.run(driver.memory)[0]
    if lost > MIB:
        raise RuntimeError(f"{lost / MIB:.1f} MiB of the device did not come back")
    return f"{ms:.3f} ms a step, {len(made)} buffers, each result right, memory as before"


def engine_rows(bundle: Bundle, precision: str, options: Options) -> Iterator[Row]:
    """Built and proven, right over frames, how long with and without a graph, and memory."""
    for graph in (True, False):
        name = f"{precision}, {'graph' if graph else 'no graph'}"
        opened: list[TensorRtBackend] = []
        row = attempt(f"{name}: built and proven", _open, bundle, precision, graph, options, opened)
        yield row
        if not opened:
            if graph and row.result == MISSING:
                return
            continue
        engine = opened[0]
        try:
            yield attempt(f"{name}: {FRAMES} frames as ONNX Runtime", agreement, engine, bundle, precision)
            for offered in (False, True) if bundle.spec.cameras else (False,):
                what = f"{name}: {options.frames} frames, {'images one by one' if offered else 'all at once'}"
                yield attempt(what, timing, engine, bundle, options, offered)
        finally:
            engine.close()


def _open(bundle: Bundle, precision: str, graph: bool, options: Options, opened: list[TensorRtBackend]) -> str:
    """The engine goes to `opened`."""
    said: list[str] = []
    engine = options.open_engine(bundle, precision=precision, cache=options.cache, graph=graph, log=said.append)
    opened.append(engine)
    told = [f"{key} {engine.details[key]}" for key in ("layers", "graph", "device_mib")]
    return "; ".join([*told, *(line for line in said if line.startswith("golden sample"))])


def agreement(engine: TensorRtBackend, bundle: Bundle, precision: str) -> str:
    """Largest differences. Raises BundleError where one is more than the precision's tolerance."""
    reference: InferenceBackend = open_backend(bundle)
    inputs, _ = bundle.golden()
    theirs, ours, worst = dict(inputs), dict(inputs), dict[str, float]()
    for frame in range(FRAMES):
        expected, found = reference.infer(theirs), engine.infer(ours)
        arrays = {name: engine.fetch(value) for name, value in found.items()}
        off = compare_outputs(arrays, expected, bundle.spec, TOLERANCES[precision], f"frame {frame}")
        worst = {name: max(value, worst.get(name, 0.0)) for name, value in off.items()}
        if STATE_OUT in found:
            theirs, ours = theirs | {STATE_IN: expected[STATE_OUT]}, ours | {STATE_IN: found[STATE_OUT]}
    reference.close()
    return ", ".join(f"{name} {value:.3g}" for name, value in worst.items() if not name.startswith("candidates"))


def timing(engine: TensorRtBackend, bundle: Bundle, options: Options, offered: bool) -> str:
    """Host to host, with the state fed back. Raises RuntimeError where the device has less memory afterwards."""
    inputs: dict[str, Any] = dict(bundle.golden()[0])
    taken, free = [], []
    for frame in range(options.frames + REMEMBERED):
        started = time.perf_counter()
        for index, image in enumerate(inputs["images"] if offered else ()):
            engine.offer("images", index, image)
        found = engine.infer(inputs)
        if frame >= REMEMBERED:  # those before are to warm up
            taken.append((time.perf_counter() - started) * 1e3)
        if STATE_OUT in found:
            inputs[STATE_IN] = found[STATE_OUT]
        if frame in (REMEMBERED, options.frames + REMEMBERED - 1):
            free.append(engine.free_bytes())
    if free[0] - free[-1] > MIB:
        raise RuntimeError(f"the device has {(free[0] - free[-1]) / MIB:.1f} MiB less after {options.frames} frames")
    return f"{np.median(taken):.2f} ms in the median, {np.percentile(taken, 95):.2f} in 95 %; memory as before"


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [("check", "result", "figures"), ("---", "---", "---"), *((r.name, r.result, r.figures) for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")[:300]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0 where every row is ok."""
    parser = argparse.ArgumentParser(prog="check_gpu", description="Check and measure TensorRT on this machine's GPU.")
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        help="default: fp32 and fp16, or int8 of such a bundle",
    )
    parser.add_argument("--cache", default="", help="directory for engines, as of build_engine")
    parser.add_argument("--steps", type=int, default=100_000, help="of the state buffers (%(default)s)")
    parser.add_argument("--frames", type=int, default=200, help="that are timed (%(default)s)")
    asked = parser.parse_args(arguments)
    try:
        if asked.steps < 1 or asked.frames < 1:
            raise ValueError("--steps and --frames must be 1 or more")
        bundle = load_bundle(asked.bundle)
    except (BundleError, OSError, ValueError) as error:
        print(f"check_gpu: {error}", file=sys.stderr)
        return 1
    precisions = asked.precision or (["int8"] if bundle.spec.precision == "int8" else ["fp32", "fp16"])
    rows = []
    for row in check(bundle, Options(precisions, asked.cache, asked.steps, asked.frames)):
        rows.append(row)
        print(f"{row.name}: {row.result}: {row.figures}", flush=True)
    print(f"\n{bundle.spec.name}, {bundle.spec.onnx_sha256[:12]}\n\n{table(rows)}")
    bad = [row.name for row in rows if row.result != OK]
    if bad:
        print(f"\nnot checked or not right: {', '.join(bad)}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
