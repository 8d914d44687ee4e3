"""Which steps of the circle are done, and what they took: OUT/circle.json, written anew after each."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bev_perception.files import read_text, write_atomic
from bev_perception.plain import from_plain, parse_json, to_plain
from training.circle.steps import Step

FILE, LIMIT = "circle.json", 2**22


@dataclass(frozen=True)
class Took:
    """A step. seconds: by the wall clock, cpu_s: of all its processes, both over all attempts; runs: attempts; done:
    whether the last of them was its end."""

    stage: str
    command: tuple[str, ...]
    seconds: float = 0.0
    cpu_s: float = 0.0
    runs: int = 0
    done: bool = False


@dataclass(frozen=True)
class Progress:
    """In the order in which steps were first begun."""

    took: tuple[Took, ...] = field(default=())

    def of(self, step: Step) -> Took:
        found = [row for row in self.took if row.command == step.command]
        return found[0] if found else Took(step.stage, step.command)

    def is_done(self, step: Step) -> bool:
        """Done with the very same command, and what it made is still there."""
        return self.of(step).done and step.product.exists()

    def after(self, step: Step, seconds: float, cpu_s: float, done: bool) -> Progress:
        before = self.of(step)
        row = replace(
            before,
            seconds=before.seconds + seconds,
            cpu_s=before.cpu_s + cpu_s,
            runs=before.runs + 1,
            done=done,
        )
        rows = [row if other.command == step.command else other for other in self.took]
        return Progress(tuple(rows if before.runs else [*rows, row]))


def read_progress(out: Path) -> Progress:
    """Raises ValueError for a file that is none of ours."""
    path = out / FILE
    if not path.exists():
        return Progress()
    try:
        found: Progress = from_plain(Progress, parse_json(read_text(path, LIMIT)), f"{path}:")
    except ValueError as error:
        raise ValueError(f"{error}; it is not what this command writes: name another folder, or delete it") from error
    return found


def write_progress(out: Path, progress: Progress) -> None:
    write_atomic(out / FILE, json.dumps(to_plain(progress), indent=1) + "\n")


def timed(run: Callable[[Step], int], step: Step) -> tuple[int, float, float]:
    """What `run` returns, the seconds it took, and the CPU time of the processes that ended meanwhile."""
    begun, used = time.monotonic(), _cpu_s()
    status = run(step)
    return status, time.monotonic() - begun, _cpu_s() - used


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def by_stage(rows: Sequence[Took]) -> dict[str, tuple[float, float]]:
    """Stage -> seconds, CPU seconds; in order."""
    sums: dict[str, tuple[float, float]] = {}
    for row in rows:
        seconds, cpu_s = sums.get(row.stage, (0.0, 0.0))
        sums[row.stage] = (seconds + row.seconds, cpu_s + row.cpu_s)
    return sums
