"""How the commands of this package fail: errors that a user can mend as one text, not as a traceback."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

from bev_perception.inference.tensorrt_api import BuildError
from bev_perception.missing import mend

Arguments = ParamSpec("Arguments")
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command, given again, goes on
INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended


class TrainingStopped(RuntimeError):
    """A run ended early; the message says why, what is kept and what to change."""


class Preempted(TrainingStopped):
    """A run was told to end, has saved and would go on; the exit status is PREEMPTED."""


class Interrupted(TrainingStopped):
    """Ctrl-C ended a run; the message says what is kept; the exit status is INTERRUPTED."""


USER_ERRORS = (ValueError, OSError, ImportError, BuildError, TrainingStopped)


def errors_as_text(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorates a command's main: USER_ERRORS are written to stderr and give the exit status 1, Preempted PREEMPTED,
    Interrupted and Ctrl-C anywhere else INTERRUPTED.

    All others are mistakes in the program and pass, as do these with TRACEBACK=1 in the environment. A process of
    several (torchrun) ends at once when its message is out, whatever it still waits for: torchrun then ends the others.
    """

    @functools.wraps(main)
    def told(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except Preempted as stop:
            print(f"stopped: {stop}", file=sys.stderr)
            return PREEMPTED
        except Interrupted as stop:
            return _end_interrupted(str(stop))
        except (KeyboardInterrupt, SystemExit) as stop:
            # Lightning ends the program by itself, with 1, when a KeyboardInterrupt reaches it.
            if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            return _end_interrupted("Ctrl-C")
        except Exception as error:
            world, who = int(os.environ.get("WORLD_SIZE", 1)), ""
            if world > 1:
                who = f" in process {os.environ.get('RANK', 0)} of {world}"
            if not isinstance(error, USER_ERRORS) or os.environ.get("TRACEBACK"):
                if world == 1:
                    raise
                traceback.print_exc()
            print(f"error{who}: {mend(error) or error or type(error).__name__}", file=sys.stderr, flush=True)
            if world > 1:
                sys.stdout.flush()
                os._exit(1)
            return 1

    return told


def _end_interrupted(why: str) -> int:
    print(f"stopped: {why}", file=sys.stderr, flush=True)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        os._exit(INTERRUPTED)
    return INTERRUPTED
