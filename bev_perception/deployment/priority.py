"""Threads that an engine makes for itself, at low priority until it serves.

Linux gives a new thread the name, policy and niceness of the one that made it: so the thread that opens the engine
takes a name and low priority meanwhile, and what bears the name afterwards is the engine's. Niceness can be taken back
only by who may (CAP_SYS_NICE, or RLIMIT_NICE: `LimitNICE=0` in the unit of systemd); without, the policy SCHED_BATCH is
all, which anybody may leave again. A process with a policy of its own choice is left alone.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

NICE = 10
CAP_SYS_NICE = 23
TASKS = Path("/proc/self/task")


class EngineThreads:
    """threads: native numbers of those that were made within `opening`."""

    def __init__(self) -> None:
        self.threads: tuple[int, ...] = ()
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._usual = os.sched_getscheduler(0) == os.SCHED_OTHER

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """The calling thread has low priority, and what it makes is the engine's."""
        me = threading.get_native_id()
        mine, before = _name(me), _tasks()
        name = f"bev_engine{me}"[:15]
        try:
            _rename(me, name)
            self._set((me,), low=True)
            yield
        finally:
            self.threads = tuple(t for t in sorted(_tasks() - before - {me}) if _name(t) == name)
            _rename(me, mine)
            self._set((me,), low=False)

    def low(self) -> None:
        self._set(self.threads, low=True)

    def normal(self) -> None:
        """Before the engine serves. Raises OSError where the system does not allow it."""
        self._set(self.threads, low=False)

    def _set(self, threads: tuple[int, ...], low: bool) -> None:
        if not self._usual:
            return
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(thread, os.SCHED_BATCH if low else os.SCHED_OTHER, os.sched_param(0))
                if can_be_taken_back(self._nice):
                    os.setpriority(os.PRIO_PROCESS, thread, max(NICE, self._nice) if low else self._nice)


def can_be_taken_back(nice: int) -> bool:
    """Whether this process may give a thread of a greater niceness this one again."""
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    if limit == resource.RLIM_INFINITY or 20 - limit <= nice:
        return True
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_SYS_NICE & 1)
    return False


def _tasks() -> set[int]:
    return {int(name) for name in os.listdir(TASKS)}


def _name(thread: int) -> str:
    """Empty for a thread that has ended."""
    with contextlib.suppress(OSError):
        return (TASKS / str(thread) / "comm").read_text().strip()
    return ""


def _rename(thread: int, name: str) -> None:
    with contextlib.suppress(OSError):  # only what is told apart by it is lost
        (TASKS / str(thread) / "comm").write_text(name)
