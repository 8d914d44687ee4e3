"""Which steps of the circle are done, and what they took: OUT/circle.json, written anew after each."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bev_perception.files import read_text, write_atomic
from bev_perception.plain import AddedLater, from_plain, parse_json, to_plain
from training.circle.steps import Settings, Step

FILE, LIMIT = "circle.json", 2**22
MADE_WITH = ("fleet", "held_out", "seconds", "teacher_steps", "steps", "share")  # settings by which all is what it is
PACE = ("--workers", "--rate", "--shadow", "--watch")  # what a command has for the machine that it runs on


@dataclass(frozen=True)
class Took:
    """A step. seconds: by the wall clock, cpu_s: of all its processes, both over all attempts; runs: attempts; done:
    whether the last of them was its end; stale: whether what it builds on was made anew since."""

    stage: str
    command: tuple[str, ...]
    seconds: float = 0.0
    cpu_s: float = 0.0
    runs: int = 0
    done: bool = False
    stale: bool = False


@dataclass(frozen=True)
class Progress:
    """took: in the order in which steps were first begun. settings: of MADE_WITH, by which all of it was made."""

    took: tuple[Took, ...] = ()
    settings: dict[str, float] = field(default_factory=dict)

    def made_with(self, settings: Settings) -> Progress:
        """The same, which goes on with these. Raises ValueError where something was made with others: what is there and
        what comes would not belong together."""
        asked = {name: float(getattr(settings, name)) for name in MADE_WITH}
        other = {name: value for name, value in self.settings.items() if value != asked.get(name)}
        if self.took and other:
            flags = {name: f"--{name.replace('_', '-')}" for name in other}
            begun = " ".join(f"{flags[name]} {value:g}" for name, value in other.items())
            now = " ".join(f"{flags[name]} {asked[name]:g}" for name in other if name in asked)
            raise ValueError(f"it was begun with {begun}, asked for is {now}; name another folder, or delete this one")
        return replace(self, settings=asked)

    def of(self, step: Step) -> Took:
        found = [row for row in self.took if _same(row, step)]
        return found[0] if found else Took(step.stage, step.command)

    def is_done(self, step: Step) -> bool:
        """Done by the same command, at whatever pace, of what is there now; and what it made is still there."""
        return self.of(step).done and step.product.exists()

    def begins_anew(self, step: Step) -> bool:
        """Whether what an earlier attempt left is no beginning for this one: it was done, and what it made is gone, or
        is made of what is there no more."""
        return self.of(step).done or self.of(step).stale

    def begin(self, step: Step, todo: Sequence[Step]) -> tuple[Progress, list[Step]]:
        """Before a step is done, for the first time or not: what builds on it is stale -> what was not so before."""
        changed = [step]
        for later in todo[todo.index(step) + 1 :]:
            if any(later.builds_on(other) for other in changed):
                changed.append(later)
        stale = [later for later in changed[1:] if self.of(later).runs and not self.of(later).stale]

        def now(row: Took) -> Took:
            if _same(row, step):
                return replace(row, done=False, stale=False)
            return replace(row, done=False, stale=True) if any(_same(row, later) for later in stale) else row

        return replace(self, took=tuple(map(now, self.took))), stale

    def after(self, step: Step, seconds: float, cpu_s: float, done: bool) -> Progress:
        before = self.of(step)
        row = replace(
            before,
            command=step.command,
            seconds=before.seconds + seconds,
            cpu_s=before.cpu_s + cpu_s,
            runs=before.runs + 1,
            done=done,
            stale=False,
        )
        rows = [row if _same(other, step) else other for other in self.took]
        return replace(self, took=tuple(rows if before.runs else [*rows, row]))


def _same(row: Took, step: Step) -> bool:
    return _without_pace(row.command) == _without_pace(step.command)


def _without_pace(command: Sequence[str]) -> list[str]:
    return [word for flag, word in zip(("", *command), command) if flag not in PACE]


ADDED_LATER: AddedLater = {Progress: {"settings": {}}, Took: {"stale": False}}


def read_progress(out: Path) -> Progress:
    """Raises ValueError for a file that is none of ours."""
    path = out / FILE
    if not path.exists():
        return Progress()
    try:
        found: Progress = from_plain(Progress, parse_json(read_text(path, LIMIT)), f"{path}:", ADDED_LATER)
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
