"""Threads that an engine makes for itself: found, low until it serves, and as they were afterwards."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from bev_perception.deployment import priority  # noqa: E402
from bev_perception.deployment.priority import NICE, EngineThreads, can_be_taken_back  # noqa: E402
from bev_perception.inference.backend import open_backend  # noqa: E402


def state(thread: int) -> tuple[int, int]:
    """(niceness, policy)."""
    return os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread)


def in_thread(work) -> None:
    """What Deployment.run has: a thread of its own. Raises what `work` raised."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("allowed", [True, False], ids=["niceness", "policy alone"])
def test_an_engines_threads_are_low_until_it_serves(tmp_path: Path, monkeypatch, backend, allowed) -> None:
    pytest.importorskip(backend)
    nice, usual = os.getpriority(os.PRIO_PROCESS, 0), os.SCHED_OTHER
    if allowed and not can_be_taken_back(nice):
        pytest.skip("this user may not take niceness back")
    monkeypatch.setattr(priority, "can_be_taken_back", lambda nice: allowed)
    bundle = tiny_bundle.write_bundle(tmp_path)
    low = (max(NICE, nice) if allowed else nice, os.SCHED_BATCH)

    def work() -> None:
        bystander = threading.Thread(target=stop.wait)  # made outside, and none of the engine's
        threads = EngineThreads()
        me = threading.get_native_id()
        name = Path(f"/proc/self/task/{me}/comm").read_text()
        with threads.opening():
            assert state(me) == low
            engine = open_backend(bundle, backend, threads=3)
            engine.infer(tiny_bundle.make_inputs())
        bystander.start()
        assert state(me) == (nice, usual) and Path(f"/proc/self/task/{me}/comm").read_text() == name
        assert len(threads.threads) >= 2 and {state(thread) for thread in threads.threads} == {low}
        threads.normal()
        assert {state(thread) for thread in threads.threads} == {(nice, usual)}
        threads.low()
        assert {state(thread) for thread in threads.threads} == {low}
        assert state(bystander.native_id or 0) == (nice, usual) and bystander.native_id not in threads.threads
        engine.close()
        threads.normal()  # of those that have ended, too

    stop = threading.Event()
    try:
        in_thread(work)
    finally:
        stop.set()


def test_an_engine_that_cannot_be_opened_leaves_the_thread_as_it_was() -> None:
    def work() -> None:
        before = state(threading.get_native_id())
        with pytest.raises(ZeroDivisionError), EngineThreads().opening():
            raise ZeroDivisionError
        assert state(threading.get_native_id()) == before

    in_thread(work)


def test_a_process_with_a_policy_of_its_own_is_left_alone() -> None:
    def work() -> None:
        me = threading.get_native_id()
        os.sched_setscheduler(me, os.SCHED_BATCH, os.sched_param(0))
        before = state(me)
        with EngineThreads().opening():
            assert state(me) == before
        assert state(me) == before

    in_thread(work)


def test_who_may_take_niceness_back(monkeypatch, tmp_path: Path) -> None:
    limit = 0
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    real = Path.read_text
    for capabilities, expected in (("000001fffeffffff", True), ("0000000000000000", False)):
        text = f"Name:\tx\nCapEff:\t{capabilities}\n"
        monkeypatch.setattr(
            Path, "read_text", lambda p, *a, text=text, **k: text if str(p) == "/proc/self/status" else real(p, *a, **k)
        )
        assert can_be_taken_back(0) is expected
    for limits, nice, expected in ((20, 0, True), (15, 5, True), (15, 0, False), (resource.RLIM_INFINITY, -20, True)):
        limit = limits
        assert can_be_taken_back(nice) is expected
