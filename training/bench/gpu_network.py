"""The camera + radar + memory student on a device, and the ways to run it: eagerly, as a CUDA graph, by AOTInductor.

Imports no more than the network itself: a machine with a GPU may have PyTorch, OpenCV and SciPy and nothing else.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bev_perception.model_spec import ModelSpec
from training.bundling.pattern import pattern_inputs
from training.experiments import crn
from training.models.exported import ExportedDetector
from training.run import Run, build_detector

SIZES: dict[str, Callable[[], Run]] = {"paper": crn.r50, "small": crn.small, "tiny": crn.tiny}
STATE_IN, STATE_OUT = "prev_bev", "bev"
FRAMES = 4  # whose memory the answer of the last has in it
CAPTURE_WARM_UP = 3

# A frame's inputs -> its outputs, both in the spec's order. What it returns may be overwritten by its next call.
Step = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Unavailable(RuntimeError):
    """What is to be measured does not exist here; the message says what is missing."""


@dataclass(frozen=True)
class Network:
    """module: an ExportedDetector in evaluation; inputs: one frame's, in the spec's order, on `device`."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    spec: ModelSpec
    device: torch.device

    def with_state(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
        """The next frame's inputs: the same, with the state that came out as memory, in the precision and the order in
        memory of the input, which compiled code takes for granted."""
        place = [t.name for t in self.spec.inputs()].index(STATE_IN)
        state = outputs[[t.name for t in self.spec.outputs()].index(STATE_OUT)]
        return [*inputs[:place], state.to(inputs[place].dtype).contiguous(), *inputs[place + 1 :]]


@torch.no_grad()
def make_network(size: str, device: torch.device) -> Network:
    """Fresh weights, the same for every call: neither time nor rounding asks for trained ones."""
    run = SIZES[size]()
    torch.manual_seed(0)
    module = ExportedDetector(build_detector(run)).to(device)
    inputs = tuple(torch.from_numpy(array).to(device) for array in pattern_inputs(run.spec).values())
    settle_norms(module, inputs)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of what training's forward took
    return Network(module.eval(), inputs, run.spec, device)


def settle_norms(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Batch norms get the statistics of these inputs. With those that they begin with, values would double from block
    to block of a fresh ResNet, and FP16 would meet sizes that a trained network has nowhere."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    module.train()
    module(*inputs)
    module.eval()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


# ---- ways to run it -------------------------------------------------------------------------------------------------


def half_precision(device: torch.device, half: bool) -> AbstractContextManager[Any]:
    """Within: FP16 where autocast has it. Kept open over all steps, weights are converted once."""
    return torch.autocast(device.type, torch.float16) if half else nullcontext()


def eager(network: Network, half: bool, work: Path) -> Step:
    return lambda inputs: network.module(*inputs)


class Constants(TorchFunctionMode):
    """Small tensors that a forward makes of Python numbers are kept from the first forward: each is a copy from the
    host, which cannot be captured. The forward must make the same ones, in the same order, each time."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] = []
        self._next: int | None = None  # None: they are being collected

    def replay(self) -> None:
        """From here on the kept ones are given, beginning with the first."""
        self._next = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.tensor, torch.Tensor.new_tensor):
            return func(*args, **(kwargs or {}))
        if self._next is None:
            self._kept.append(func(*args, **(kwargs or {})))
            return self._kept[-1]
        self._next += 1
        return self._kept[self._next - 1]


def cuda_graph(network: Network, half: bool, work: Path) -> Step:
    """One launch a frame. A step copies the inputs to where the graph reads them."""
    if network.device.type != "cuda":
        raise Unavailable("a CUDA graph needs a CUDA device")
    fixed = [tensor.clone() for tensor in network.inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what libraries set up at their first calls is not captured
        for _ in range(CAPTURE_WARM_UP):
            network.module(*fixed)
        with Constants() as constants:
            network.module(*fixed)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), constants:
        constants.replay()
        outputs = network.module(*fixed)

    def step(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        for target, source in zip(fixed, inputs):
            target.copy_(source)
        graph.replay()
        return outputs

    return step


class InHalf(nn.Module):
    """Autocast inside the module, for exporters, which do not see what is around it."""

    def __init__(self, module: nn.Module, device_type: str) -> None:
        super().__init__()
        self.module = module
        self.device_type = device_type

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self.device_type, torch.float16):
            return self.module(*tensors)


def aot_inductor(network: Network, half: bool, work: Path) -> Step:
    """torch.export, compiled ahead of time into a shared library, as a program without Python would load it."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise Unavailable(f"no C++ compiler: {compiler} is not there; install one or name it in CXX")
    module = InHalf(network.module, network.device.type) if half else network.module
    program = torch.export.export(module, tuple(network.inputs))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(work / "network.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    return lambda inputs: loaded(*inputs)


# ---- what is measured -----------------------------------------------------------------------------------------------


def last_of_frames(step: Step, network: Network) -> dict[str, np.ndarray]:
    """The outputs of the last of FRAMES frames, each with the state of the one before as memory."""
    inputs, outputs = list(network.inputs), list[Tensor]()
    for i in range(FRAMES):
        if i:
            inputs = network.with_state(inputs, outputs)
        outputs = [tensor.clone() for tensor in step(inputs)]
    return {t.name: value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
            for t, value in zip(network.spec.outputs(), outputs)}  # fmt: skip


def step_times(step: Step, network: Network, steps: int, warm_up: int) -> list[float]:
    """Milliseconds of each of `steps` steps after `warm_up` others, state fed back, inputs on the device already.

    On a GPU between two CUDA events, one frame at a time: the host waits for each before it begins the next.
    """
    inputs, times = list(network.inputs), []
    on_gpu = network.device.type == "cuda"
    for i in range(warm_up + steps):
        if on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            outputs = step(inputs)
            end.record()
            end.synchronize()
            took = begin.elapsed_time(end)
        else:
            started = time.perf_counter()
            outputs = step(inputs)
            took = 1e3 * (time.perf_counter() - started)
        inputs = network.with_state(inputs, outputs)
        times += [took] if i >= warm_up else []
    return times
