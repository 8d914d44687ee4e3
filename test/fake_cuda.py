"""A GPU made of Python: it checks what a real one leaves undefined, under the names of pycuda and of cuda.bindings.

Whatever is asynchronous happens when its stream is waited for, no sooner. Until then a copy's source must not change,
what it fills holds rubbish, and nothing that it touches may be freed. Each breach is raised and kept in `breaches`, as
an error may be swallowed on its way. Everything has to happen in the thread in which the context is current.
"""

from __future__ import annotations

import bisect
import threading
import types
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

RUBBISH = 0xCD
FIRST = 1 << 20


class Breach(AssertionError):
    """What a real device would answer with rubbish or a crash."""


class FakeError(Exception):
    """What a call fails with that was told to."""


class FakeGpu:
    """memory_mib: free at first. fail: name of a call -> in how many calls from now it fails, once."""

    def __init__(self, memory_mib: int = 4096) -> None:
        self.free_bytes = self.total = memory_mib << 20
        self.breaches: list[str] = []
        self.calls: list[str] = []
        self.count = 0
        self.keep_calls = True
        self.fail: dict[str, int] = {}
        self.owner: int | None = None
        self.lost: dict[str, int] = {}  # what was there when the context was given back
        self.contexts = 0
        self._next = FIRST
        self._device: dict[int, np.ndarray] = {}
        self._pinned: dict[int, np.ndarray] = {}
        self._freed: list[np.ndarray] = []
        self._queues: dict[int, list[tuple[str, tuple[int, ...], Callable[[], None]]]] = {}
        self._capturing: dict[int, list[Any]] = {}
        self._graphs: dict[int, list[Any]] = {}
        self._executables: dict[int, list[Any]] = {}
        self._starts: list[int] = []

    def breach(self, what: str) -> None:
        self.breaches.append(what)
        raise Breach(what)

    def call(self, name: str) -> None:
        """Every call begins here."""
        self.count += 1
        if self.keep_calls:
            self.calls.append(name)
        if self.owner is not None and threading.get_ident() != self.owner:
            self.breach(f"{name} in thread {threading.current_thread().name}, where no context is current")
        if name in self.fail:
            self.fail[name] -= 1
            if self.fail[name] == 0:
                del self.fail[name]
                raise FakeError(f"{name} was told to fail")

    def left(self) -> dict[str, int]:
        """What was not given back; {} when all was."""
        kept = {
            "device": len(self._device),
            "pinned": len(self._pinned),
            "streams": len(self._queues),
            "graphs": len(self._graphs),
            "executables": len(self._executables),
            "contexts": self.contexts,
        }
        return {what: count for what, count in kept.items() if count}

    # ---- contexts, memory

    def enter(self) -> None:
        self.owner = threading.get_ident()
        self.contexts += 1

    def leave(self) -> None:
        left = self.lost = self.left()
        for kept in (self._graphs, self._executables, self._queues):
            kept.clear()  # goes with its context
        if left != {"contexts": 1}:
            self.breach(f"the context is given back before {left}")
        self.contexts -= 1
        self.owner = None

    def allocate(self, size: int) -> int:
        if size <= 0:
            self.breach(f"allocation of {size} bytes")
        if size > self.free_bytes:
            raise FakeError("out of memory")
        address, self._next = self._next, self._next + size + 256
        self._device[address] = np.full(size, RUBBISH, np.uint8)
        self._starts.append(address)  # addresses only grow
        self.free_bytes -= size
        return address

    def free(self, address: int) -> None:
        if address not in self._device:
            self.breach(f"free of {address}, which is not allocated: freed twice?")
        self._require_idle(address, len(self._device[address]), "free")
        self.free_bytes += len(self._device.pop(address))
        self._starts.remove(address)

    def at(self, address: int, size: int, what: str) -> np.ndarray:
        """Bytes of device memory."""
        place = bisect.bisect_right(self._starts, address) - 1
        start = self._starts[place] if place >= 0 else -1
        memory = self._device.get(start)
        if memory is None or address - start + size > len(memory):
            self.breach(f"{what} at {address}, {size} bytes: not allocated, or freed")
        return memory[address - start : address - start + size]

    def pin(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size, RUBBISH, np.uint8)
        self._pinned[memory.ctypes.data] = memory
        return memory

    def unpin(self, address: int) -> None:
        if address not in self._pinned:
            self.breach("free of pinned memory that is none: freed twice?")
        self._require_idle(address, len(self._pinned[address]), "free of pinned memory")
        memory = self._pinned.pop(address)
        memory[:] = RUBBISH
        self._freed.append(memory)  # or who still looks at it would see anything

    def _require_idle(self, address: int, size: int, what: str) -> None:
        for queue in self._queues.values():
            for name, touched, _ in queue:
                if any(address <= place < address + size for place in touched):
                    self.breach(f"{what} at {address} before {name} was done")

    # ---- streams

    def new_stream(self) -> int:
        stream, self._next = self._next, self._next + 256
        self._queues[stream] = []
        return stream

    def end_stream(self, stream: int) -> None:
        if stream not in self._queues:
            self.breach("a stream is ended twice")
        if self._queues[stream]:
            self.breach("a stream is ended with work on it")
        del self._queues[stream]

    def put(self, stream: int, name: str, touched: tuple[int, ...], work: Callable[[], None]) -> None:
        if stream not in self._queues:
            self.breach(f"{name} on a stream that is none")
        if stream in self._capturing:
            self._capturing[stream].append((name, touched, work))
        else:
            self._queues[stream].append((name, touched, work))

    def wait(self, stream: int) -> None:
        if stream in self._capturing:
            self.breach("waiting within a capture")
        if stream not in self._queues:
            self.breach("waiting for a stream that is none")
        queue, self._queues[stream] = self._queues[stream], []
        for _, _, work in queue:
            work()

    def upload(self, to: int, array: np.ndarray, stream: int) -> None:
        source = self._require_pinned(array, "upload")
        self.at(to, len(source), "upload")
        before = zlib.adler32(source)

        def work() -> None:
            if zlib.adler32(source) != before:
                self.breach("what is uploaded was changed before it was copied")
            self.at(to, len(source), "upload")[:] = source

        self.put(stream, "upload", (to, array.ctypes.data), work)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        target = self._require_pinned(array, "download")
        self.at(address, len(target), "download")
        target[:] = RUBBISH  # for those who do not wait

        def work() -> None:
            target[:] = self.at(address, len(target), "download")

        self.put(stream, "download", (address, array.ctypes.data), work)

    def copy(self, to: int, address: int, size: int, stream: int) -> None:
        self.at(to, size, "copy"), self.at(address, size, "copy")

        def work() -> None:
            self.at(to, size, "copy")[:] = self.at(address, size, "copy")

        self.put(stream, "copy", (to, address), work)

    def fill(self, address: int, value: int, size: int, stream: int) -> None:
        self.at(address, size, "fill")

        def work() -> None:
            self.at(address, size, "fill")[:] = value

        self.put(stream, "fill", (address,), work)

    def _require_pinned(self, array: np.ndarray, what: str) -> np.ndarray:
        """The bytes behind an array."""
        address = array.ctypes.data
        for start, memory in self._pinned.items():
            if start <= address < start + len(memory):
                if not array.flags.c_contiguous:
                    self.breach(f"{what} of memory in pieces")
                return memory[address - start : address - start + array.nbytes]
        self.breach(f"{what}: {array.dtype} {array.shape} is not pinned")
        raise AssertionError

    # ---- the four faces

    def pycuda(self) -> Any:
        """What pycuda.driver has."""
        return _pycuda(self)

    def bindings(self) -> Any:
        """What cuda.bindings.driver has."""
        return _bindings(self)

    def library(self) -> Any:
        """What libcuda has for graphs, by ctypes."""
        return _library(self)


def _pycuda(gpu: FakeGpu) -> Any:
    class Allocation:
        def __init__(self, address: int) -> None:
            self.address = address

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            gpu.call("mem_free")
            gpu.free(self.address)

    class HostAllocation:
        """What the base of a pinned array is."""

        def __init__(self, shape: Any, dtype: Any) -> None:
            self.address = gpu.pin(shape, dtype).ctypes.data
            kind = {"shape": tuple(shape), "typestr": np.dtype(dtype).str, "data": (self.address, False), "version": 3}
            self.__array_interface__ = kind

        def free(self) -> None:
            gpu.call("host_free")
            gpu.unpin(self.address)

    class Stream:
        def __init__(self) -> None:
            gpu.call("stream_create")
            self.handle = gpu.new_stream()

        def synchronize(self) -> None:
            gpu.call("stream_synchronize")
            gpu.wait(self.handle)

        def __del__(self) -> None:
            if hasattr(self, "handle"):
                gpu.call("stream_destroy")
                gpu.end_stream(self.handle)

    class Context:
        def push(self) -> None:
            gpu.call("ctx_push")
            gpu.enter()

        def detach(self) -> None:
            gpu.leave()

        @staticmethod
        def pop() -> None:
            gpu.call("ctx_pop")

    class Device:
        def __init__(self, index: int) -> None:
            gpu.call("device_get")
            if index != 0:
                raise FakeError("invalid device ordinal")

        def retain_primary_context(self) -> Context:
            gpu.call("primary_context")
            return Context()

        def name(self) -> str:
            return "Fake GPU"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

    def pagelocked_empty(shape: Any, dtype: Any) -> np.ndarray:
        gpu.call("host_alloc")
        array = np.asarray(HostAllocation(shape, dtype))
        assert isinstance(array.base, HostAllocation)
        return array

    def asynchronous(name: str, work: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: Any) -> None:
            gpu.call(name)
            *rest, stream = arguments
            work(*rest, stream.handle)

        return called

    def told(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            gpu.call(name)
            return work(*arguments)

        return called

    return types.SimpleNamespace(
        Error=FakeError, Device=Device, Context=Context, Stream=Stream, pagelocked_empty=pagelocked_empty,
        init=told("init", lambda: None),
        get_driver_version=told("driver_version", lambda: 12060),
        mem_get_info=told("mem_get_info", lambda: (gpu.free_bytes, gpu.total)),
        mem_alloc=told("mem_alloc", lambda size: Allocation(gpu.allocate(size))),
        memcpy_htod_async=asynchronous("memcpy_htod_async", gpu.upload),
        memcpy_dtoh_async=asynchronous("memcpy_dtoh_async", gpu.download),
        memcpy_dtod_async=asynchronous("memcpy_dtod_async", gpu.copy),
        memset_d8_async=asynchronous("memset_d8_async", gpu.fill),
    )  # fmt: skip


def _bindings(gpu: FakeGpu) -> Any:
    def answering(name: str, work: Callable[..., Any], results: int = 1) -> Callable[..., tuple[Any, ...]]:
        def called(*arguments: Any) -> tuple[Any, ...]:
            try:
                gpu.call(name)
                found = work(*arguments)
            except FakeError:
                return (2, *[0] * results)
            return (0, *found) if results > 1 else (0, found) if results else (0,)

        called.__name__ = name
        return called

    def array(address: int, size: int) -> np.ndarray:
        for start, memory in gpu._pinned.items():
            if start <= address < start + len(memory):
                return memory[address - start : address - start + size]
        gpu.breach(f"{address} is not pinned")
        raise AssertionError

    def device_get(index: int) -> int:
        if index != 0:
            raise FakeError
        return index

    work: dict[str, tuple[Callable[..., Any], int]] = {
        "cuInit": (lambda flags: None, 0),
        "cuDeviceGet": (device_get, 1),
        "cuDevicePrimaryCtxRetain": (lambda device: "context", 1),
        "cuCtxPushCurrent": (lambda context: gpu.enter(), 0),
        "cuDeviceGetName": (lambda length, device: b"Fake GPU".ljust(length, b"\0"), 1),
        "cuDeviceGetAttribute": (lambda which, device: which, 1),
        "cuDriverGetVersion": (lambda: 12060, 1),
        "cuCtxPopCurrent": (lambda: "context", 1),
        "cuDevicePrimaryCtxRelease": (lambda device: gpu.leave(), 0),
        "cuMemGetInfo": (lambda: (gpu.free_bytes, gpu.total), 2),
        "cuMemAlloc": (gpu.allocate, 1),
        "cuMemFree": (gpu.free, 0),
        "cuMemHostAlloc": (lambda size, flags: gpu.pin((size,), np.uint8).ctypes.data, 1),
        "cuMemFreeHost": (gpu.unpin, 0),
        "cuStreamCreate": (lambda flags: gpu.new_stream(), 1),
        "cuStreamDestroy": (gpu.end_stream, 0),
        "cuStreamSynchronize": (gpu.wait, 0),
        "cuMemcpyHtoDAsync": (lambda to, host, size, stream: gpu.upload(to, array(host, size), stream), 0),
        "cuMemcpyDtoHAsync": (lambda host, source, size, stream: gpu.download(array(host, size), source, stream), 0),
        "cuMemcpyDtoDAsync": (gpu.copy, 0),
        "cuMemsetD8Async": (gpu.fill, 0),
    }
    attributes = types.SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=8, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=7
    )
    return types.SimpleNamespace(
        CUdevice_attribute=attributes,
        cuGetErrorString=lambda error: (0, b"out of memory"),
        **{name: answering(name, does, results) for name, (does, results) in work.items()},
    )


def _library(gpu: FakeGpu) -> Any:
    def status(name: str, work: Callable[..., None]) -> Callable[..., int]:
        def called(*arguments: Any) -> int:
            try:
                gpu.call(name)
            except FakeError:
                if name == "cuStreamEndCapture":  # over it is, whatever the answer
                    gpu._capturing.pop(arguments[0].value, None)
                return 900
            work(*arguments)
            return 0

        return called

    def begin(stream: Any, mode: Any) -> None:
        if gpu._queues[stream.value]:
            gpu.breach("a capture begins on a stream with work on it")
        gpu._capturing[stream.value] = []

    def end(stream: Any, graph: Any) -> None:
        graph._obj.value, gpu._next = gpu._next, gpu._next + 256
        gpu._graphs[graph._obj.value] = gpu._capturing.pop(stream.value)

    def instantiate(executable: Any, graph: Any, flags: Any) -> None:
        executable._obj.value, gpu._next = gpu._next, gpu._next + 256
        gpu._executables[executable._obj.value] = gpu._graphs[graph.value]

    def launch(executable: Any, stream: Any) -> None:
        if executable.value not in gpu._executables:
            gpu.breach("launch of a graph that was ended")
        for name, touched, work in gpu._executables[executable.value]:
            gpu.put(stream.value, name, touched, work)

    def remove(kept: dict[int, list[Any]]) -> Callable[[Any], None]:
        def called(handle: Any) -> None:
            if handle.value not in kept:
                gpu.breach("a graph is ended twice")
            del kept[handle.value]

        return called

    return types.SimpleNamespace(
        cuStreamBeginCapture_v2=status("cuStreamBeginCapture_v2", begin),
        cuStreamEndCapture=status("cuStreamEndCapture", end),
        cuGraphInstantiateWithFlags=status("cuGraphInstantiateWithFlags", instantiate),
        cuGraphLaunch=status("cuGraphLaunch", launch),
        cuGraphExecDestroy=status("cuGraphExecDestroy", remove(gpu._executables)),
        cuGraphDestroy=status("cuGraphDestroy", remove(gpu._graphs)),
    )
