"""A CUDA device through pycuda: the thread that owns its context, and state tensors that stay in its memory.

pycuda ties a context to the thread that made it: it releases it from no other, frees memory in others only while it is
current there, and aborts the process when a thread ends with a context on its stack. Nodes call from several threads
(configure, worker, shutdown). So one thread of our own makes every CUDA call, and leaves in order.
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from bev_perception.model_spec import TensorSpec

Result = TypeVar("Result")


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
                future.set_exception(error)
            del future, function, call  # hold nothing while waiting


class Gpu:
    """A CUDA device whose primary context is current in one thread: `run` brings functions there.

    name: the device's name with its compute capability, like "NVIDIA Orin sm87".
    """

    def __init__(self, index: int = 0) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise ImportError(f"the tensorrt backend needs the package pycuda ({error}): pip install pycuda") from error
        self.cuda = cuda
        self._thread = OwnerThread("tensorrt")
        try:
            self.name: str = self._thread.run(lambda: self._make_current(index))
        except cuda.Error as error:
            self._thread.stop()
            raise RuntimeError(f"CUDA device {index} cannot be used: {error}; does nvidia-smi show it?") from error
        self._released = False
        atexit.register(self.release)

    def _make_current(self, index: int) -> str:
        self.cuda.init()
        device = self.cuda.Device(index)
        self._context = device.retain_primary_context()
        self._context.push()
        return "{} sm{}{}".format(device.name(), *device.compute_capability())

    def run(self, function: Callable[[], Result]) -> Result:
        """function() in the thread where the context is current. Raises RuntimeError after `release`."""
        return self._thread.run(function)

    def release(self) -> None:
        """Give the primary context back and end the thread. Idempotent. Free what lies on the device before."""
        if not self._released:
            self._released = True
            atexit.unregister(self.release)
            self._thread.run(self._leave)
            self._thread.stop()

    def _leave(self) -> None:
        self.cuda.Context.pop()
        self._context.detach()


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
