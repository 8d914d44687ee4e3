"""The few functions of CUDA that the TensorRT backend needs, from pycuda or, where that is absent, from cuda-core.

Device memory and streams are plain addresses. A driver is used in the one thread that opened it (gpu.py). CUDA graphs
are in neither's plain interface (pycuda has none), so that both take them from the driver's own library, capture.py.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class CudaError(RuntimeError):
    """A call of CUDA failed; the message is CUDA's."""


@dataclass(frozen=True)
class Device:
    """A GPU. architecture: like "sm87". cuda: newest version that its driver can run, like "12.6"."""

    name: str
    architecture: str
    cuda: str


class CudaDriver(Protocol):
    """Everything but `name` in one thread. Sizes in bytes. What fails raises CudaError, or pycuda's own error."""

    name: str

    def open(self, index: int) -> Device:
        """Make the primary context of the GPU current in this thread."""

    def close(self) -> None:
        """Give the context back. Everything must have been freed."""

    def memory(self) -> tuple[int, int]:
        """Device memory: (free, all)."""

    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None: ...

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array in host memory that does not move: asynchronous copies need it."""

    def free_pinned(self, array: np.ndarray) -> None:
        """Nobody may look at the array, or a view of it, any more."""

    def stream(self) -> int: ...
    def end_stream(self, stream: int) -> None: ...
    def wait(self, stream: int) -> None: ...

    def upload(self, to: int, array: np.ndarray, stream: int) -> None:
        """Asynchronous from pinned memory, which must not change until the stream has been waited for."""

    def download(self, array: np.ndarray, address: int, stream: int) -> None: ...
    def copy(self, to: int, address: int, size: int, stream: int) -> None: ...
    def zero(self, address: int, size: int, stream: int) -> None: ...


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class Pycuda:
    """By pycuda.driver, whose objects are kept here by their addresses: it frees what nobody holds."""

    name = "pycuda"

    def __init__(self, cuda: Any = None) -> None:
        self._cuda = cuda or importlib.import_module("pycuda.driver")
        self._allocations: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def open(self, index: int) -> Device:
        cuda = self._cuda
        try:
            cuda.init()
            device = cuda.Device(index)
            self._context = device.retain_primary_context()
            self._context.push()
        except cuda.Error as error:
            raise CudaError(str(error)) from error
        architecture = "sm{}{}".format(*device.compute_capability())
        return Device(device.name(), architecture, _version(cuda.get_driver_version()))

    def close(self) -> None:
        self._cuda.Context.pop()
        self._context.detach()

    def memory(self) -> tuple[int, int]:
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        allocation = self._cuda.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
        self._pinned[array.ctypes.data] = array.base
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        self._pinned.pop(array.ctypes.data).free()

    def stream(self) -> int:
        stream = self._cuda.Stream()
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def end_stream(self, stream: int) -> None:
        del self._streams[stream]  # its last reference: pycuda ends it here, in this thread

    def wait(self, stream: int) -> None:
        self._streams[stream].synchronize()

    def upload(self, to: int, array: np.ndarray, stream: int) -> None:
        self._cuda.memcpy_htod_async(to, array, self._streams[stream])

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        self._cuda.memcpy_dtoh_async(array, address, self._streams[stream])

    def copy(self, to: int, address: int, size: int, stream: int) -> None:
        self._cuda.memcpy_dtod_async(to, address, size, self._streams[stream])

    def zero(self, address: int, size: int, stream: int) -> None:
        self._cuda.memset_d8_async(address, 0, size, self._streams[stream])


class CudaCore:
    """By cuda.bindings.driver, NVIDIA's own, which the package cuda-core stands on and brings along."""

    name = "cuda-core"

    def __init__(self, cuda: Any = None) -> None:
        self._cuda = cuda or importlib.import_module("cuda.bindings.driver")

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        error, *results = function(*arguments)
        if int(error) != 0:
            _, text = self._cuda.cuGetErrorString(error)
            words = text.decode() if isinstance(text, bytes) else text
            raise CudaError(f"{getattr(function, '__name__', 'CUDA')}: {words}")
        return results[0] if results else None

    def open(self, index: int) -> Device:
        cuda, attribute = self._cuda, self._cuda.CUdevice_attribute
        self._call(cuda.cuInit, 0)
        self._device = self._call(cuda.cuDeviceGet, index)
        context = self._call(cuda.cuDevicePrimaryCtxRetain, self._device)
        self._call(cuda.cuCtxPushCurrent, context)
        name = self._call(cuda.cuDeviceGetName, 256, self._device)
        major, minor = (
            self._call(cuda.cuDeviceGetAttribute, which, self._device)
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        words = name.split(b"\0")[0].decode()
        return Device(words, f"sm{major}{minor}", _version(self._call(cuda.cuDriverGetVersion)))

    def close(self) -> None:
        self._call(self._cuda.cuCtxPopCurrent)
        self._call(self._cuda.cuDevicePrimaryCtxRelease, self._device)

    def memory(self) -> tuple[int, int]:
        error, free, total = self._cuda.cuMemGetInfo()
        self._call(lambda: (error,))
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call(self._cuda.cuMemAlloc, size))

    def free(self, address: int) -> None:
        self._call(self._cuda.cuMemFree, address)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call(self._cuda.cuMemHostAlloc, size, 0))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return memory.view(dtype).reshape(shape)

    def free_pinned(self, array: np.ndarray) -> None:
        self._call(self._cuda.cuMemFreeHost, array.ctypes.data)

    def stream(self) -> int:
        return int(self._call(self._cuda.cuStreamCreate, 0))

    def end_stream(self, stream: int) -> None:
        self._call(self._cuda.cuStreamDestroy, stream)

    def wait(self, stream: int) -> None:
        self._call(self._cuda.cuStreamSynchronize, stream)

    def upload(self, to: int, array: np.ndarray, stream: int) -> None:
        self._call(self._cuda.cuMemcpyHtoDAsync, to, array.ctypes.data, array.nbytes, stream)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        self._call(self._cuda.cuMemcpyDtoHAsync, array.ctypes.data, address, array.nbytes, stream)

    def copy(self, to: int, address: int, size: int, stream: int) -> None:
        self._call(self._cuda.cuMemcpyDtoDAsync, to, address, size, stream)

    def zero(self, address: int, size: int, stream: int) -> None:
        self._call(self._cuda.cuMemsetD8Async, address, 0, size, stream)


# In this order: the first that is installed is taken.
DRIVERS: dict[str, Callable[[], CudaDriver]] = {"pycuda": Pycuda, "cuda-core": CudaCore}


def find_driver() -> CudaDriver:
    """Raises ImportError naming what to install where there is none."""
    missing = []
    for name, make in DRIVERS.items():
        try:
            return make()
        except Exception as error:  # a library of the driver that is absent has errors of its own
            missing.append(f"{name} ({error})")
    raise ImportError(f"the tensorrt backend needs pycuda or cuda-core: {', '.join(missing)}; pip install pycuda")
