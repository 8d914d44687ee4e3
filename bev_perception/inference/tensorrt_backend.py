"""TensorRT through pycuda: the state tensors stay on the device.

Every CUDA and TensorRT call is made in the owner thread (gpu.py), and close() frees every allocation there: what the
garbage collector frees later, in another thread or without a context, is the classic crash at shutdown.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.inference.builder import (
    DTYPES,
    Log,
    as_spec,
    build_serialized,
    import_builder,
    make_logger,
)
from bev_perception.inference.engine_cache import EngineKey, engine_places, open_cached
from bev_perception.inference.gpu import BufferPool, DeviceState, Gpu
from bev_perception.inference.interface import check_interface, validate_inputs
from bev_perception.inference.proof import self_test
from bev_perception.model_spec import ModelSpec, TensorSpec

STATE_IN, STATE_OUT = "prev_bev", "bev"

NOT_KEPT = "not kept"  # details["engine"] where no place could be written


def open_tensorrt(
    bundle: Bundle,
    *,
    precision: str = "fp32",
    cache: str | Path = "",
    device: int = 0,
    force: bool = False,
    log: Log = print,
    verbose: bool = False,
) -> TensorRtBackend:
    """The engine for this machine from `cache` ("": the default places), or built now; proven on the golden sample.

    Raises ImportError (packages missing), BundleError, builder.BuildError, RuntimeError (no usable GPU).
    """
    trt = import_builder("tensorrt")
    gpu = Gpu(device)
    key = EngineKey(bundle.spec.name, bundle.spec.onnx_sha256, "tensorrt", trt.__version__, gpu.name, precision)

    def build() -> bytes:
        onnx = bundle.model()
        return gpu.run(lambda: build_serialized(trt, onnx, bundle.spec, precision, log=log, verbose=verbose))

    def prove(engine: bytes) -> tuple[TensorRtBackend, dict[str, float]]:
        backend = TensorRtBackend(trt, gpu, engine, bundle.spec, precision, log)
        try:
            figures = self_test(backend, bundle)
        except BaseException:
            backend.close(release_gpu=False)
            raise
        log("golden sample: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
        return backend, figures

    try:
        backend, path = open_cached(engine_places(cache), key, build, prove, force=force, log=log)
    except BaseException:
        gpu.release()
        raise
    backend.details["engine"] = str(path or NOT_KEPT)
    return backend


class TensorRtBackend:
    """Runs an engine. `bev` comes back as a DeviceState; as `prev_bev` it is read where it lies (arrays work too)."""

    name = "tensorrt"

    def __init__(self, trt: Any, gpu: Gpu, engine: bytes, spec: ModelSpec, precision: str, log: Log) -> None:
        self.spec = spec
        self.details = {"version": trt.__version__, "gpu": gpu.name, "precision": precision}
        self._trt, self._gpu, self._cuda = trt, gpu, gpu.cuda
        self._tensors = {t.name: t for t in (*spec.inputs(), *spec.outputs())}
        self._stateful = STATE_OUT in self._tensors
        self._pool = BufferPool(lambda: self._allocate(_size(self._tensors[STATE_OUT])))
        self._host: dict[str, np.ndarray] = {}
        self._device: dict[str, Any] = {}
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._zero_state: Any = None
        self._open = True
        atexit.register(self.close)  # before the context goes, which registered itself earlier
        self._logger = make_logger(trt, log)
        try:
            gpu.run(lambda: self._load(engine))
        except BaseException:
            self.close(release_gpu=False)
            raise

    def _allocate(self, size: int) -> Any:
        return self._cuda.mem_alloc(size)

    def _load(self, data: bytes) -> None:
        trt = self._trt
        self._runtime = trt.Runtime(self._logger)
        self._engine = engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot load the engine: {'; '.join(self._logger.errors)}")
        found: dict[bool, list[TensorSpec]] = {True: [], False: []}
        types = {}
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            types[name] = engine.get_tensor_dtype(name)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found[is_input].append(as_spec(name, engine.get_tensor_shape(name), types[name], self.spec))
        check_interface(found[True], self.spec.inputs(), "engine inputs")
        check_interface(found[False], self.spec.outputs(), "engine outputs")
        self._context = engine.create_execution_context()
        self._stream = self._cuda.Stream()
        # Pinned host memory: asynchronous copies need it. One pair for each tensor but the state output.
        for name, tensor in self._tensors.items():
            if name != STATE_OUT:
                self._host[name] = self._cuda.pagelocked_empty(tensor.shape, np.dtype(DTYPES[types[name].name]))
                self._device[name] = self._allocate(self._host[name].nbytes)
        if self._stateful:
            self._zero_state = self._allocate(_size(self._tensors[STATE_IN]))
            self._cuda.memset_d8(self._zero_state, 0, _size(self._tensors[STATE_IN]))

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See InferenceBackend.infer. Blocks until the outputs are there.

        Raises ValueError for inputs that are not the spec's or a state of another engine, RuntimeError after `close`
        and where CUDA fails.
        """
        validate_inputs(inputs, self.spec)
        for name, value in inputs.items():
            if isinstance(value, DeviceState) and (name != STATE_IN or value.owner() is not self):
                raise ValueError(f"`{name}` is a device state of another engine or tensor; pass the array of fetch()")
        return self._gpu.run(lambda: self._infer(inputs))

    def _infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._require_open()
        addresses = {name: int(buffer) for name, buffer in self._device.items()}
        for name in (t.name for t in self.spec.inputs()):
            value = inputs[name]
            if isinstance(value, DeviceState):
                addresses[name] = int(value.buffer)
            elif name == STATE_IN and not inputs["prev_valid"].any() and not value.any():
                addresses[name] = int(self._zero_state)  # no memory: megabytes of zeros need no copy
            else:
                np.copyto(self._host[name], value)
                self._cuda.memcpy_htod_async(self._device[name], self._host[name], self._stream)
        states: dict[str, Any] = {}
        if self._stateful:
            states[STATE_OUT] = DeviceState(self._pool, self._tensors[STATE_OUT], self)
            addresses[STATE_OUT] = int(states[STATE_OUT].buffer)
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(self._stream.handle):
            raise RuntimeError(f"TensorRT could not run the engine: {'; '.join(self._logger.errors)}")
        arrays = [t for t in self.spec.outputs() if t.name != STATE_OUT]
        for tensor in arrays:
            self._cuda.memcpy_dtoh_async(self._host[tensor.name], self._device[tensor.name], self._stream)
        self._stream.synchronize()
        # A copy, also where the dtype agrees: the pinned buffer is overwritten by the next call.
        return {t.name: self._host[t.name].astype(t.dtype) for t in arrays} | states

    def fetch(self, value: Any) -> np.ndarray:
        """DeviceState -> array on the host; arrays pass through. Raises ValueError for another engine's state."""
        if not isinstance(value, DeviceState):
            return value
        if value.owner() is not self:
            raise ValueError("this device state belongs to another engine")
        return self._gpu.run(lambda: self._fetch(value))

    def _fetch(self, state: DeviceState) -> np.ndarray:
        self._require_open()
        array = np.empty(state.shape, state.dtype)
        self._cuda.memcpy_dtoh(array, state.buffer)
        return array

    def interrupt(self) -> None:
        """TensorRT stops no engine that runs."""

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("the tensorrt backend is closed")

    def close(self, release_gpu: bool = True) -> None:
        """Free everything on the device, then the context. Idempotent; handles still alive become unusable."""
        atexit.unregister(self.close)
        if self._open:
            self._gpu.run(self._free)
        if release_gpu:
            self._gpu.release()

    def _free(self) -> None:
        self._open = False
        self._context = self._engine = self._runtime = self._stream = None  # in the reverse order of their making
        pinned = [array.base for array in self._host.values()]
        for allocation in (*self._pool.drain(), *self._device.values(), self._zero_state, *pinned):
            if allocation is not None:  # the engine did not load
                allocation.free()
        self._host, self._device, self._zero_state = {}, {}, None


def _size(tensor: TensorSpec) -> int:
    """Bytes."""
    return int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize
