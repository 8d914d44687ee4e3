"""TensorRT through pycuda: the state tensors stay on the device.

CUDA's rules shape this file. Whoever calls, one thread at a time makes the device's primary context current for the
length of the call and gives it back; every allocation is freed by close(), with the context current, never by the
garbage collector: that is what crashes at shutdown otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.inference.backend import TOLERANCES, check_interface, read_onnx, self_test, validate_inputs
from bev_perception.inference.build_engine import Log, as_spec, build_serialized, import_builder, make_logger
from bev_perception.inference.engine_cache import EngineKey, default_cache, open_cached
from bev_perception.model_spec import Bundle, ModelSpec, TensorSpec

STATE_IN, STATE_OUT = "prev_bev", "bev"


class BufferPool:
    """Device buffers of one size. `lend` reuses a returned one before it allocates; `drain` gives all, lent or not."""

    def __init__(self, allocate: Callable[[], Any]) -> None:
        self._allocate = allocate
        self._free: list[Any] = []
        self._all: list[Any] = []

    def lend(self) -> Any:
        if not self._free:
            self._all.append(self._allocate())
            return self._all[-1]
        return self._free.pop()

    def give_back(self, buffer: Any) -> None:
        """Called when a handle dies, in whatever thread that is: no CUDA call happens here."""
        if self._all:  # else drained
            self._free.append(buffer)

    def drain(self) -> list[Any]:
        """Every buffer, for the owner to free; the pool is empty afterwards."""
        buffers, self._all, self._free = self._all, [], []
        return buffers


class DeviceState:
    """A state tensor on the device. The buffer goes back to the pool when the last reference to the handle is gone."""

    def __init__(self, pool: BufferPool, tensor: TensorSpec, owner: object) -> None:
        self.shape = tensor.shape
        self.dtype = np.dtype(tensor.dtype)
        self.buffer = pool.lend()
        self.owner = weakref.ref(owner)
        weakref.finalize(self, pool.give_back, self.buffer).atexit = False


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
    """The engine for this machine from the cache ("" for the default place), or built now; proven on the golden sample.

    Raises ImportError (packages missing), BundleError, build_engine.BuildError, RuntimeError (no usable GPU).
    """
    trt = import_builder("tensorrt")
    gpu = Gpu(device)
    key = EngineKey(bundle.spec.name, bundle.spec.onnx_sha256, "tensorrt", trt.__version__, gpu.name, precision)

    def build() -> bytes:
        with gpu.current():
            return build_serialized(trt, read_onnx(bundle), bundle.spec, precision, log=log, verbose=verbose)

    def prove(engine: bytes) -> tuple[TensorRtBackend, dict[str, float]]:
        backend = TensorRtBackend(trt, gpu, engine, bundle.spec, precision, log)
        try:
            figures = self_test(backend, bundle, TOLERANCES[precision])
        except BaseException:
            backend.close(release_gpu=False)
            raise
        log("golden sample: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
        return backend, figures

    try:
        backend, path = open_cached(Path(cache) if cache else default_cache(), key, build, prove, force=force, log=log)
    except BaseException:
        gpu.release()
        raise
    backend.details["engine"] = str(path)
    return backend


class Gpu:
    """A CUDA device's primary context, made current only inside `current()`."""

    def __init__(self, index: int = 0) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise ImportError(f"the tensorrt backend needs the package pycuda ({error}): pip install pycuda") from error
        self.cuda = cuda
        try:
            cuda.init()
            device = cuda.Device(index)
            self.name = "{} sm{}{}".format(device.name(), *device.compute_capability())
            self._context = device.retain_primary_context()
        except cuda.Error as error:
            raise RuntimeError(f"CUDA device {index} cannot be used: {error}; does nvidia-smi show it?") from error
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def current(self) -> Iterator[Any]:
        """pycuda.driver with this context current in the calling thread; other threads wait."""
        with self._lock:
            if self._context is None:
                raise RuntimeError("the tensorrt backend is closed")
            self._context.push()
            try:
                yield self.cuda
            finally:
                self.cuda.Context.pop()

    def release(self) -> None:
        """Give the primary context back. Idempotent."""
        with self._lock:
            if self._context is not None:
                self._context.detach()
                self._context = None


class TensorRtBackend:
    """Runs an engine. `bev` comes back as a DeviceState; as `prev_bev` it is read where it lies (arrays work too)."""

    name = "tensorrt"

    def __init__(self, trt: Any, gpu: Gpu, engine: bytes, spec: ModelSpec, precision: str, log: Log) -> None:
        self.spec = spec
        self.details = {"version": trt.__version__, "gpu": gpu.name, "precision": precision}
        self._gpu = gpu
        self._tensors = {t.name: t for t in (*spec.inputs(), *spec.outputs())}
        self._allocations: list[Any] = []
        self._pool = BufferPool(lambda: gpu.cuda.mem_alloc(_bytes(self._tensors[STATE_OUT])))
        self._open = True
        atexit.register(self.close)
        try:
            with gpu.current() as cuda:
                self._load(trt, cuda, engine, make_logger(trt, log))
        except BaseException:
            self.close(release_gpu=False)
            raise

    def _load(self, trt: Any, cuda: Any, engine: bytes, logger: Any) -> None:
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot load the engine: {'; '.join(logger.errors)}")
        found: dict[bool, list[TensorSpec]] = {True: [], False: []}
        self._engine_dtypes = {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            shape, dtype = self._engine.get_tensor_shape(name), self._engine.get_tensor_dtype(name)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found[is_input].append(as_spec(name, shape, dtype, self.spec))
            self._engine_dtypes[name] = np.dtype(_numpy_name(dtype))
        check_interface(found[True], self.spec.inputs(), "engine inputs")
        check_interface(found[False], self.spec.outputs(), "engine outputs")
        self._context = self._engine.create_execution_context()
        self._stream = cuda.Stream()
        # Pinned host memory: copies overlap and need no staging. One pair for each tensor but the state output.
        self._host, self._device = {}, {}
        for name, tensor in self._tensors.items():
            if name == STATE_OUT:
                continue
            self._host[name] = cuda.pagelocked_empty(tensor.shape, self._engine_dtypes[name])
            self._device[name] = cuda.mem_alloc(self._host[name].nbytes)
            self._allocations += [self._device[name], self._host[name].base]
        self._zero_state = cuda.mem_alloc(_bytes(self._tensors[STATE_IN]))
        self._allocations.append(self._zero_state)
        cuda.memset_d8(self._zero_state, 0, _bytes(self._tensors[STATE_IN]))

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See InferenceBackend.infer. Blocks until the outputs are there."""
        validate_inputs(inputs, self.spec)
        with self._gpu.current() as cuda:
            self._require_open()
            addresses = {name: int(buffer) for name, buffer in self._device.items()}
            for name in (t.name for t in self.spec.inputs()):
                value = inputs[name]
                if isinstance(value, DeviceState):
                    if name != STATE_IN or value.owner() is not self:
                        raise ValueError(
                            f"`{name}` is a device state of another engine; pass the array that fetch() gives"
                        )
                    addresses[name] = int(value.buffer)
                elif name == STATE_IN and not inputs["prev_valid"].any() and not np.any(value):
                    addresses[name] = int(self._zero_state)  # no memory: megabytes of zeros need no copy
                else:
                    np.copyto(self._host[name], value)
                    cuda.memcpy_htod_async(self._device[name], self._host[name], self._stream)
            state = DeviceState(self._pool, self._tensors[STATE_OUT], self)
            addresses[STATE_OUT] = int(state.buffer)
            for name, address in addresses.items():
                self._context.set_tensor_address(name, address)
            if not self._context.execute_async_v3(self._stream.handle):
                raise RuntimeError("TensorRT could not run the engine, see its log")
            arrays = [t for t in self.spec.outputs() if t.name != STATE_OUT]
            for tensor in arrays:
                cuda.memcpy_dtoh_async(self._host[tensor.name], self._device[tensor.name], self._stream)
            self._stream.synchronize()
            # A copy, also where the dtype agrees: the pinned buffer is overwritten by the next call.
            return {t.name: self._host[t.name].astype(t.dtype) for t in arrays} | {STATE_OUT: state}

    def fetch(self, value: Any) -> np.ndarray:
        """DeviceState -> array on the host; arrays pass through."""
        if not isinstance(value, DeviceState):
            return value
        with self._gpu.current() as cuda:
            self._require_open()
            if value.owner() is not self:
                raise ValueError("this device state belongs to another engine")
            array = np.empty(value.shape, value.dtype)
            cuda.memcpy_dtoh(array, value.buffer)
            return array

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("the tensorrt backend is closed")

    def close(self, release_gpu: bool = True) -> None:
        """Free everything on the device, then the context. Idempotent; handles still alive become unusable."""
        atexit.unregister(self.close)
        if self._open:
            self._open = False
            with self._gpu.current():
                # TensorRT's objects first, in the reverse order of their making.
                self._context = self._engine = self._runtime = self._stream = None
                for buffer in self._pool.drain() + self._allocations:
                    buffer.free()
                self._host, self._device, self._allocations = {}, {}, []
        if release_gpu:
            self._gpu.release()


def _bytes(tensor: TensorSpec) -> int:
    return int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize


def _numpy_name(dtype: Any) -> str:
    from bev_perception.inference.build_engine import DTYPES

    if dtype.name not in DTYPES:
        raise RuntimeError(f"the engine has a tensor of type {dtype.name}, which numpy does not know")
    return DTYPES[dtype.name]
