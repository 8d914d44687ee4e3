"""What a step of training takes alone, and beside a second program that trains on the same cores."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

# How long a thread of OpenMP turns before it sleeps, by words for the table. The first is what libgomp does unasked.
WAITS: dict[str, dict[str, str]] = {
    "300,000 turns, as libgomp does unasked": {"GOMP_SPINCOUNT": "300000"},
    "10,000 turns, as our commands ask": {},
    "none (`OMP_WAIT_POLICY=PASSIVE`)": {"OMP_WAIT_POLICY": "PASSIVE"},
}
SECONDS = 8.0
# Convolutions of the study's size; each is over in a fraction of a millisecond, and its threads then wait.
STEPS = """
import os, statistics, sys, time
import training  # what it asks of libgomp is part of what is measured
import torch
from torch import nn

torch.set_num_threads(len(os.sched_getaffinity(0)))
layer = lambda: nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
network = nn.Sequential(*(layer() for _ in range(6)))
images = torch.randn(24, 32, 16, 48)
took, end = [], time.perf_counter() + float(sys.argv[1])
while time.perf_counter() < end or len(took) < 5:
    begun = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
    found.float().square().mean().backward()
    took.append(1e3 * (time.perf_counter() - begun))
print(statistics.median(took[2:]))
"""


@dataclass(frozen=True)
class Waiting:
    """Median ms of a step."""

    name: str
    alone: float
    beside: float


def measure(seconds: float = SECONDS) -> list[Waiting]:
    """Each of WAITS, alone and by two at once."""
    return [Waiting(name, _steps(1, asked, seconds), _steps(2, asked, seconds)) for name, asked in WAITS.items()]


def _steps(programs: int, asked: Mapping[str, str], seconds: float) -> float:
    """Median ms of `programs` at once; the mean of theirs."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", STEPS, str(seconds)]
    running = [subprocess.Popen(command, env={**given, **asked}, stdout=subprocess.PIPE) for _ in range(programs)]
    said = [one.communicate()[0] for one in running]
    if any(one.returncode for one in running):
        raise RuntimeError("a program that was to be timed failed; what it said stands above")
    return statistics.mean(float(text) for text in said)
