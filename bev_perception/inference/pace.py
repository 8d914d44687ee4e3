"""How long an engine takes on this machine, and whether frames come faster than that."""

from __future__ import annotations

import time
from statistics import median

from bev_perception.bundle import Bundle
from bev_perception.inference.interface import InferenceBackend

RUNS = 5


def engine_ms(backend: InferenceBackend, bundle: Bundle) -> float:
    """Median of RUNS answers to the golden inputs, on the host, in ms; what the proof before them has warmed up."""
    inputs, _ = bundle.golden()
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        for value in backend.infer(inputs).values():
            backend.fetch(value)
        taken.append((time.perf_counter() - started) * 1e3)
    return median(taken)


def too_slow(engine_ms: float, period_ms: float) -> str:
    """What to say where the engine alone takes longer than from one frame to the next; "" where it keeps up."""
    if engine_ms <= period_ms:
        return ""
    return (
        f"the engine takes {engine_ms:.0f} ms and frames come every {period_ms:.0f} ms: {engine_ms / period_ms:.1f} "
        "times too slow, so some of the frames give way to newer ones; take a faster engine or machine, or a lower rate"
    )
