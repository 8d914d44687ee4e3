"""What stops a training run, in words that say how to go on."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from training.command_line import Interrupted, TrainingStopped
from training.processes import rank_and_world
from training.run import Run
from training.trainer.callbacks import Resumption
from training.trainer.resuming import newest_whole
from training.trainer.termination import AtOnce

KERNEL_COUNTS = Path("/proc/vmstat")

# What gloo and NCCL say where a process that they wait for is gone.
LOST = "Connection (closed|reset) by peer|Broken pipe|[Cc]onnection was likely closed|remote process exited|NCCL.*abort"


@contextmanager
def explained(run: Run, out: Path) -> Iterator[None]:
    """Within: running out of memory, loader processes that die, losses that are not finite, full disks, files that
    cannot be read and whatever a loader process reports become TrainingStopped. Everything else passes.

    out: the run's folder, for what is kept. Errors of the data set read alike whether the loader has processes of its
    own or not: what they say comes first.
    """
    before = killed_for_memory()
    try:
        yield
    except Exception as error:
        reason = _reason(error, run, killed_for_memory() - before)
        if reason is None:
            raise
        raise TrainingStopped(f"{reason}\n{_kept(out)}") from error


@contextmanager
def interruptible(out: Path) -> Iterator[None]:
    """Within: Ctrl-C where it ends the run at once is an Interrupted that says what is kept in `out`."""
    try:
        yield
    except (KeyboardInterrupt, AtOnce):
        raise Interrupted(f"Ctrl-C. {_kept(out)}") from None


@contextmanager
def restoring(path: Path | None, resumption: Resumption) -> Iterator[None]:
    """Within: what goes wrong before the first step of a run that goes on from `path` is a ValueError that names it."""
    try:
        yield
    except TrainingStopped:
        raise
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        if path is None or resumption.begun:
            raise
        raise ValueError(f"{path}: cannot be gone on from ({error!r}); move it away to begin anew") from error


def killed_for_memory() -> int:
    """How many processes the kernel has killed since its start because memory ran out; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in KERNEL_COUNTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def _reason(error: Exception, run: Run, killed: int) -> str | None:
    text = _message(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text:
        return (
            f"out of memory: {text.splitlines()[0] if text else type(error).__name__}\n"
            f"Halve batch_size (now {run.batch_size}) and double optim.accumulate (now {run.optim.accumulate}): the "
            "steps stay the same; or spread the run over more GPUs with torchrun."
        )
    if isinstance(error, FloatingPointError):
        return text
    if isinstance(error, RuntimeError) and re.search("exited unexpectedly|killed by signal", text):
        cause = f"The kernel killed {killed} process{'es' * (killed > 1)} meanwhile because memory ran out"
        return (
            f"a loader process died: {text.splitlines()[0]}\n"
            f"{cause if killed else 'Most often memory ran out'}: use fewer --workers or a smaller data.cache_mb; "
            "`dmesg` names what was killed."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {text}"
    if rank_and_world()[1] > 1 and isinstance(error, RuntimeError) and re.search(LOST, text):
        return "the connection to another process of this run is lost: that has ended, and what it said is the reason"
    if isinstance(error, ValueError | OSError) or text != str(error):
        return text
    return None


def _message(error: Exception) -> str:
    """What the error says; of one that a loader process passed on, what it said there, without the traceback."""
    passed_on = re.match(r"(?s)Caught (\w+) in DataLoader worker .*\n(?:[\w.]+\.)?\1:? ?(.*)", str(error))
    return (passed_on[2].strip() or passed_on[1]) if passed_on else str(error)


def _kept(out: Path) -> str:
    kept = newest_whole(out)
    if kept is None:
        return "There was no checkpoint yet."
    return f"Kept: {kept[0]} of step {kept[1]}. The same command goes on from there; another run needs another --out."
