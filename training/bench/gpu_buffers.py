"""Our owner thread and state buffers (bev_perception/inference/gpu.py) over many steps: every result, and no leak.

A step is what the TensorRT backend does with the state of a frame, without the engine: in the owner's thread it lends a
buffer, writes a state that follows from the one before, and reads it back; handles die in the caller's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from bev_perception.inference.cuda_driver import CudaDriver
from bev_perception.inference.gpu import BufferPool, DeviceState
from bev_perception.model_spec import TensorSpec

TENSOR = TensorSpec("bev", (64, 16, 16), "float32")  # 64 KiB
BYTES = int(np.prod(TENSOR.shape)) * np.dtype(TENSOR.dtype).itemsize
REMEMBERED = 12  # states that a node may keep
LOOK_BACK_EVERY = 100  # steps: the oldest remembered state is read again


class Memory(Protocol):
    """Device memory, in the owner's thread. Buffers hold BYTES bytes, seen as float32 words."""

    def allocate(self) -> Any: ...
    def copy(self, target: Any, source: Any) -> None: ...
    def write(self, target: Any, word: int, value: float) -> None: ...
    def zero(self, target: Any) -> None: ...
    def read(self, source: Any) -> np.ndarray: ...
    def free(self, buffer: Any) -> None: ...


class DriverMemory:
    """As the TensorRT backend allocates and copies: on one stream, by pinned memory."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._stream = driver.stream()
        self._word = driver.pinned((1,), np.float32)
        self._words = driver.pinned((BYTES // 4,), np.float32)

    def allocate(self) -> int:
        return self._driver.allocate(BYTES)

    def copy(self, target: int, source: int) -> None:
        self._driver.copy(target, source, BYTES, self._stream)

    def write(self, target: int, word: int, value: float) -> None:
        self._driver.wait(self._stream)  # the word may be on its way still
        self._word[0] = value
        self._driver.upload(target + 4 * word, self._word, self._stream)

    def zero(self, target: int) -> None:
        self._driver.zero(target, BYTES, self._stream)

    def read(self, source: int) -> np.ndarray:
        self._driver.download(self._words, source, self._stream)
        self._driver.wait(self._stream)
        return self._words.copy()

    def free(self, buffer: int) -> None:
        self._driver.free(buffer)

    def end(self) -> None:
        """After the last buffer was freed."""
        self._driver.free_pinned(self._word)
        self._driver.free_pinned(self._words)
        self._driver.end_stream(self._stream)


class TorchMemory:
    """The same buffers in PyTorch's memory, where there is no pycuda."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def allocate(self) -> torch.Tensor:
        return torch.empty(BYTES // 4, device=self._device)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def write(self, target: torch.Tensor, word: int, value: float) -> None:
        target[word] = value

    def zero(self, target: torch.Tensor) -> None:
        target.zero_()

    def read(self, source: torch.Tensor) -> np.ndarray:
        return source.cpu().numpy().copy()

    def free(self, buffer: torch.Tensor) -> None:
        """PyTorch frees a tensor with its last reference."""


class Owner:
    """Something that can be referred to weakly, as the engine whose states these are."""


def exercise(run: Callable[[Callable[[], Any]], Any], memory: Memory, steps: int) -> tuple[list[float], int]:
    """(milliseconds of each step, how many buffers there were at the end, all freed). run: calls in the owner's thread.

    Raises RuntimeError at the first wrong result, and where more buffers were made than there ever were states.
    """
    pool, owner = BufferPool(memory.allocate), Owner()
    remembered: deque[tuple[DeviceState, np.ndarray]] = deque(maxlen=REMEMBERED)
    expected = np.zeros(BYTES // 4, np.float32)
    times = []

    def one(i: int, before: DeviceState | None) -> tuple[DeviceState, np.ndarray]:
        state = DeviceState(pool, TENSOR, owner)
        if before is None:
            memory.zero(state.buffer)
        else:
            memory.copy(state.buffer, before.buffer)
        memory.write(state.buffer, i % len(expected), float(i))
        return state, memory.read(state.buffer)

    try:
        before: DeviceState | None = None
        for i in range(steps):
            started = time.perf_counter()
            state, found = run(partial(one, i, before))
            times.append(1e3 * (time.perf_counter() - started))
            expected[i % len(expected)] = i
            _require_equal(found, expected, f"step {i}")
            remembered.append((state, expected.copy()))
            before = state
            if i % LOOK_BACK_EVERY == 0:
                old, then = remembered[0]
                _require_equal(run(partial(memory.read, old.buffer)), then, f"step {i}, an earlier state")
    finally:
        buffers = pool.drain()
        for buffer in buffers:
            run(partial(memory.free, buffer))
    if len(buffers) > REMEMBERED + 2:
        raise RuntimeError(f"{len(buffers)} buffers were made for {REMEMBERED} states and two in work: handles leak")
    return times, len(buffers)


def _require_equal(found: np.ndarray, expected: np.ndarray, where: str) -> None:
    if not np.array_equal(found, expected):
        wrong = int((found != expected).sum())
        raise RuntimeError(f"{where}: {wrong} of {len(expected)} words are not what was written")
