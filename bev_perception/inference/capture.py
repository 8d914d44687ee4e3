"""CUDA graphs, by the driver's library: work that was put on a stream once is sent again by one call.

pycuda has no functions for them, and a stream's handle is all that they need. CUDA 11.4 and later.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import byref, c_int, c_ulonglong, c_void_p
from typing import Any

from bev_perception.inference.cuda_driver import CudaError

# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads of the process do with CUDA meanwhile is not looked at.
THREAD_LOCAL = 1


class Graphs:
    """library: libcuda, or what stands for it. In the thread where the context is current."""

    def __init__(self, library: Any = None) -> None:
        self._cuda = library if library is not None else _libcuda()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status:
            raise CudaError(f"{name} failed with CUDA's error {status}")

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """What `work` puts on the stream is not done but kept. -> an executable graph for `launch` and `end`.

        Raises CudaError where something in it cannot be captured, or what `work` raises; the stream is as before.
        """
        graph, executable = c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", c_void_p(stream), c_int(THREAD_LOCAL))
        try:
            work()
        except BaseException:
            self._cuda.cuStreamEndCapture(c_void_p(stream), byref(graph))  # whatever it says: the capture is over
            if graph.value:
                self._call("cuGraphDestroy", graph)
            raise
        self._call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        with ExitStack() as unless_done:
            try:
                self._call("cuGraphInstantiateWithFlags", byref(executable), graph, c_ulonglong(0))
                unless_done.callback(self.end, executable.value)
            finally:
                self._call("cuGraphDestroy", graph)
            unless_done.pop_all()
        return int(executable.value or 0)

    def launch(self, executable: int, stream: int) -> None:
        self._call("cuGraphLaunch", c_void_p(executable), c_void_p(stream))

    def end(self, executable: int | None) -> None:
        self._call("cuGraphExecDestroy", c_void_p(executable))


def _libcuda() -> Any:
    """Raises CudaError where the driver is not installed."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CudaError(f"CUDA's driver is not installed: {error}") from error
