"""A TensorRT engine on the device: loaded, looked at, and run over and over from the same places in memory.

Each input and output has its place; what is asynchronous reads and writes pinned host memory. As no address changes,
the whole network is one CUDA graph, captured when the engine is loaded. All of this is for the GPU's own thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from bev_perception.inference import tensorrt_api as api
from bev_perception.inference.builder import as_spec
from bev_perception.inference.cuda_driver import CudaError
from bev_perception.inference.gpu import Gpu
from bev_perception.inference.interface import check_interface
from bev_perception.inference.precisions import Counts, count_precisions, require
from bev_perception.model_spec import ModelSpec, TensorSpec

STATE_IN, STATE_OUT = "prev_bev", "bev"


class LoadedEngine:
    """host: name -> pinned array of each tensor but the state that it makes; address: name -> device memory of each.

    layers: by precision. device_bytes: what all of it takes. why_no_graph: "" where the network is replayed as a graph.
    The constructor frees what it had made where it raises; `free` gives everything back, in the reverse order.
    """

    def __init__(
        self, trt: Any, gpu: Gpu, data: bytes, spec: ModelSpec, precision: str, share: float, graph: bool, log: api.Log
    ) -> None:
        self._trt, self._gpu, self._driver = trt, gpu, gpu.driver
        self._logger = api.make_logger(trt, log)
        self._made = ExitStack()
        self.host: dict[str, np.ndarray] = {}
        self.address: dict[str, int] = {}
        self.why_no_graph = "" if graph else "asked not to"
        self._graph: int | None = None
        self._stream: int | None = None
        with ExitStack() as whole:
            whole.callback(self.free)
            gpu.require({"the engine": len(data)})
            types = self._deserialise(data, spec)
            self.layers: Counts = count_precisions(api.layers(trt, self._engine))
            require(self.layers, precision, share)
            sizes = {t.name: size_of(t, types[t.name]) for t in (*spec.inputs(), *spec.outputs())}
            context, states = api.context_bytes(self._engine), most_states(spec) * sizes.get(STATE_OUT, 0)
            gpu.require({"working memory": context, "inputs and outputs": sum(sizes.values()), "states": states})
            self.device_bytes = len(data) + context + sum(sizes.values()) + states
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise RuntimeError(f"TensorRT cannot prepare the engine: {self._said()}")
            self.stream = self._stream = self._driver.stream()
            self._made.callback(self._driver.end_stream, self.stream)
            for tensor in (*spec.inputs(), *spec.outputs()):
                self._place(tensor, types[tensor.name], sizes[tensor.name])
            self._warm_up()
            whole.pop_all()  # all is well: nothing is freed

    def _said(self) -> str:
        return "; ".join(self._logger.errors) or "no reason given"

    def _deserialise(self, data: bytes, spec: ModelSpec) -> dict[str, np.dtype]:
        """-> each tensor's type as the engine has it. Raises BundleError for another interface."""
        trt = self._trt
        self._runtime = trt.Runtime(self._logger)
        self._engine = engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot load the engine: {self._said()}")
        found: dict[bool, list[TensorSpec]] = {True: [], False: []}
        types = {}
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            dtype = engine.get_tensor_dtype(name)
            types[name] = np.dtype(api.DTYPES.get(dtype.name, "uint8"))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found[is_input].append(as_spec(name, engine.get_tensor_shape(name), dtype, spec))
        check_interface(found[True], spec.inputs(), "engine inputs")
        check_interface(found[False], spec.outputs(), "engine outputs")
        return types

    def _place(self, tensor: TensorSpec, dtype: np.dtype, size: int) -> None:
        self.address[tensor.name] = self._driver.allocate(size)
        self._made.callback(self._driver.free, self.address[tensor.name])
        if not self._context.set_tensor_address(tensor.name, self.address[tensor.name]):
            raise RuntimeError(f"TensorRT does not take memory for `{tensor.name}`: {self._said()}")
        if tensor.name != STATE_OUT:
            self.host[tensor.name] = self._driver.pinned(tensor.shape, dtype)
            self._made.callback(self._driver.free_pinned, self.host[tensor.name])

    def _warm_up(self) -> None:
        """Once on zeros, as TensorRT sets up things with the first run that no graph can have in it; then capture."""
        for name, array in self.host.items():
            array[...] = 0
            self._driver.zero(self.address[name], array.nbytes, self.stream)
        self._enqueue()
        self._driver.wait(self.stream)
        if self.why_no_graph:
            return
        if self._gpu.graphs is None:
            self.why_no_graph = self._gpu.no_graphs
            return
        try:
            self._graph = self._gpu.graphs.capture(self.stream, self._enqueue)
        except (CudaError, RuntimeError) as error:
            self.why_no_graph = str(error)
        else:
            self._made.callback(self._gpu.graphs.end, self._graph)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self.stream):
            raise RuntimeError(f"TensorRT could not run the engine: {self._said()}")

    def run(self) -> None:
        """Put the network on the stream. Raises RuntimeError."""
        if self._graph is None or self._gpu.graphs is None:
            self._enqueue()
        else:
            self._gpu.graphs.launch(self._graph, self.stream)

    def free(self) -> None:
        """All of it, whatever fails in between; the first failure is raised when the rest is done."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(Exception):  # for work that is under way; freeing goes on whatever it says
                self._driver.wait(stream)
        try:
            self._made.close()
        finally:
            self.host, self.address, self._graph = {}, {}, None
            # In the reverse order of their making, in this thread.
            for name in ("_context", "_engine", "_runtime"):
                setattr(self, name, None)


def size_of(tensor: TensorSpec, dtype: Any = None) -> int:
    """Bytes."""
    return int(np.prod(tensor.shape)) * np.dtype(dtype or tensor.dtype).itemsize


def most_states(spec: ModelSpec) -> int:
    """How many states the memory may hold (temporal.py), and one in work; 0 for a network without."""
    temporal = spec.temporal
    return math.ceil(8 * temporal.max_age_s / temporal.interval_s) + 2 if temporal.state_channels else 0


def as_wanted(found: Mapping[str, np.ndarray], spec: ModelSpec) -> dict[str, np.ndarray]:
    """Copies, with the spec's types: pinned memory is overwritten by the next frame."""
    return {t.name: found[t.name].astype(t.dtype) for t in spec.outputs() if t.name in found}
