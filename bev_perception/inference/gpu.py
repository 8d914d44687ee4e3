"""A CUDA device: the thread that owns its context, what memory it has, and state tensors that stay there.

A context is current in threads, one by one; pycuda releases it in no other than made it, frees memory in others only
while it is current there, and aborts the process when a thread ends with a context on its stack. Nodes call from
several threads (configure, worker, shutdown). So one thread of our own makes every CUDA call, and leaves in order.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import re
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bev_perception.inference.capture import Graphs
from bev_perception.inference.cuda_driver import CudaDriver, CudaError, Device, find_driver
from bev_perception.inference.engine_cache import NotNow
from bev_perception.model_spec import TensorSpec

Result = TypeVar("Result")

MIB = 2**20
MARGIN = 64 * MIB  # stays free: CUDA's modules and other processes take some whenever they like
KERNEL_DRIVERS = {
    "/proc/driver/nvidia/version": r"Kernel Module.*?\s(\d+(?:\.\d+)+)",
    "/etc/nv_tegra_release": r"R(\d+) \(release\), REVISION: ([\d.]+)",
}


class GpuMemoryError(NotNow):
    """The device has no room now; building again would not mend it."""


class OwnerThread:
    """Runs functions one after the other in a thread of its own. Call it from any thread."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._stopped = False
        self._lock = threading.Lock()  # orders calls before the stop: none is queued behind it
        # Daemon, so that a process that forgot close() ends; atexit handlers run while it still serves.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], Result]) -> Result:
        """The result of function(), or what it raised. Raises RuntimeError after `stop`."""
        future: Future[Result] = Future()
        with self._lock:
            if self._stopped:
                raise RuntimeError("the tensorrt backend is closed")
            self._calls.put((future, function))
        return future.result()

    def stop(self) -> None:
        """Let the calls that wait finish, then end the thread. Idempotent."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._calls.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            try:
                future.set_result(function())
            except BaseException as error:  # the caller's to handle; this thread must live on
                _let_go(error)
                future.set_exception(error)
            del future, function, call  # hold nothing while waiting


def _let_go(error: BaseException | None) -> None:
    """What the frames of a failed call hold dies now, in this thread, and not when the caller drops the error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Gpu:
    """A CUDA device whose primary context is current in one thread: `run` brings functions there.

    driver: CUDA's functions; graphs: its graphs, None where they cannot be had, and `no_graphs` says why. Both are used
    within `run` only. device: the GPU; kernel_driver: version of the driver of the system.
    """

    def __init__(self, index: int = 0, driver: CudaDriver | None = None, graphs: Graphs | None = None) -> None:
        self.driver = driver or find_driver()
        self.graphs, self.no_graphs = graphs, ""
        self.kernel_driver = kernel_driver()
        self._thread = OwnerThread("tensorrt")
        try:
            self.device: Device = self._thread.run(lambda: self.driver.open(index))
            if self.graphs is None:
                try:
                    self.graphs = self._thread.run(Graphs)
                except CudaError as error:
                    self.no_graphs = str(error)
        except Exception as error:  # each driver has errors of its own
            self._thread.stop()
            raise RuntimeError(f"CUDA device {index} cannot be used: {error}; does nvidia-smi show it?") from error
        self._released = False
        atexit.register(self.release)

    def run(self, function: Callable[[], Result]) -> Result:
        """function() in the thread where the context is current. Raises RuntimeError after `release`."""
        return self._thread.run(function)

    def require(self, needed: Mapping[str, int]) -> None:
        """Within `run`: raise GpuMemoryError unless the device has room for all of `needed` (bytes) and MARGIN."""
        free, total = self.driver.memory()
        if sum(needed.values()) + MARGIN > free:
            parts = ", ".join(f"{what} {size / MIB:.0f}" for what, size in needed.items())
            raise GpuMemoryError(
                f"{self.device.name} has {free / MIB:.0f} of {total / MIB:.0f} MiB free, needed are "
                f"{sum(needed.values()) / MIB:.0f} ({parts}) and {MARGIN / MIB:.0f} that stay free; end what else "
                "uses it, or take a smaller network or workspace"
            )

    def release(self) -> None:
        """Give the primary context back and end the thread. Idempotent. Free what lies on the device before."""
        if not self._released:
            self._released = True
            atexit.unregister(self.release)
            try:
                self._thread.run(self.driver.close)
            finally:
                self._thread.stop()


def kernel_driver() -> str:
    """Version of NVIDIA's driver in this system, or of Jetson's; "unknown" where neither says."""
    for file, pattern in KERNEL_DRIVERS.items():
        with contextlib.suppress(OSError):
            found = re.search(pattern, Path(file).read_text()[:1000])
            if found:
                return ".".join(found.groups())
    return "unknown"


class BufferPool:
    """Device buffers of one size. `lend` reuses a returned one before it allocates; `drain` gives all, lent or not."""

    def __init__(self, allocate: Callable[[], Any]) -> None:
        self._allocate = allocate
        self._free: list[Any] = []
        self._all: list[Any] = []

    def lend(self) -> Any:
        """A free buffer, or a new one; on the GPU's thread. Its borrower hands it to `give_back`."""
        try:
            return self._free.pop()
        except IndexError:
            self._all.append(self._allocate())
            return self._all[-1]

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
