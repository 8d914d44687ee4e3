"""One function over many items: on the cores of this machine, or on a Ray cluster by the same call.

Items and results are pickled on the way, so the function is one of a module. Where it is run changes neither its result
nor what happens to the others when one fails: a caller that keeps each result as it comes can stop at any time and go
on later with what is left.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

RAY_HERE = "local"  # the address of a Ray that is begun on this machine, and ended after


@dataclass(frozen=True)
class Done(Generic[Result]):
    """An item that is done. index: its place among the items. result: what the function gave, or None where it raised
    `error`. count: how many are done by now; left_s: about how many seconds the others take."""

    index: int
    result: Result | None
    error: Exception | None
    count: int
    left_s: float


def spread(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, ray: str = "", cores: int = 1
) -> Iterator[Done[Result]]:
    """function(item) for every item -> what came of each, in the order in which they end.

    workers: at most so many at once, in processes of this machine or of Ray's. ray: "" for no Ray, RAY_HERE, or the
    address of a cluster (`HOST:6379`, `ray://HOST:10001`, `auto`), whose machines have this package at this version
    and see this folder and the files of the items under the same paths. cores: of an item, by which Ray places it.

    An item that fails, and one whose process dies, costs itself alone with Ray; without, the death of a process fails
    what has not ended. Leaving the iteration early, by Ctrl-C too, begins no further item and waits for none.

    Raises ValueError for less than one worker, ImportError where Ray is asked for and is not installed, ConnectionError
    where it cannot be reached.
    """
    if workers < 1:
        raise ValueError(f"expected at least one worker, found {workers}")
    begun = time.monotonic()
    ended = _by_ray(function, items, workers, ray, cores) if ray else _by_processes(function, items, workers)
    with closing(ended):
        for count, (index, result, error) in enumerate(ended, start=1):
            passed = time.monotonic() - begun
            yield Done(index, result, error, count, passed / count * (len(items) - count))


Ended = Iterator[tuple[int, Any, Exception | None]]


def _by_processes(function: Callable[[Item], Any], items: Sequence[Item], workers: int) -> Any:
    """(index, result, error) of each as it ends. spawn: a forked child would inherit threads in an unknown state."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max(1, min(workers, len(items))), context, _begin_worker)
    try:
        futures: dict[Future[Any], int] = {pool.submit(function, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield futures[future], None if error else future.result(), error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _by_ray(function: Callable[[Item], Any], items: Sequence[Item], workers: int, address: str, cores: int) -> Any:
    """As _by_processes. Never more than `workers` are handed over at once: a cluster may have room for more."""
    ray = _begin_ray(address, workers * cores)
    try:
        remote = ray.remote(num_cpus=cores)(_from_here)
        left = list(enumerate(items))[::-1]
        running: dict[Any, int] = {}
        while left or running:
            while left and len(running) < workers:
                index, item = left.pop()
                running[remote.remote(os.getcwd(), function, item)] = index
            (reference, *_), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(reference)
            try:
                yield index, ray.get(reference), None
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)  # what the function raised; else Ray's own, as of a dead worker
                yield index, None, cause if isinstance(cause, Exception) else error
    finally:
        ray.shutdown()  # what still runs ends with the connection


def _from_here(folder: str, function: Callable[[Item], Any], item: Item) -> Any:
    """In a process of Ray: relative paths mean what they mean where the call was made."""
    os.chdir(folder)
    return function(item)


def _begin_ray(address: str, cores: int) -> Any:
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            f'Ray is not installed ({error}): `pip install "ray>=2.9"`, on every machine of the cluster', name="ray"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is begun here reports to nobody
    options = {"num_cpus": cores, "include_dashboard": False} if address == RAY_HERE else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **options)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConnectionError(f"Ray at {address!r} could not be reached: {error}") from error
    return ray


def _begin_worker() -> None:
    """Ctrl-C, which a terminal sends to all, is the main process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Initializer of a pool: the worker ends when its parent has. A parent that is killed cannot tell its workers to
    stop, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
