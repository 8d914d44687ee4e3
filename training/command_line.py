"""How the commands of this package fail: errors that a user can mend as one text, not as a traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from bev_perception.inference.builder import BuildError

Arguments = ParamSpec("Arguments")
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command, given again, goes on


class TrainingStopped(RuntimeError):
    """A run ended early; the message says why, what is kept and what to change."""


class Preempted(TrainingStopped):
    """A run was told to end, has saved and would go on; the exit status is PREEMPTED."""


USER_ERRORS = (ValueError, OSError, ImportError, BuildError, TrainingStopped)


def errors_as_text(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorates a command's main: USER_ERRORS are written to stderr and give the exit status 1, Preempted PREEMPTED.

    All others are mistakes in the program and pass, as do these with TRACEBACK=1 in the environment.
    """

    @functools.wraps(main)
    def told(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except Preempted as stop:
            print(f"stopped: {stop}", file=sys.stderr)
            return PREEMPTED
        except USER_ERRORS as error:
            if os.environ.get("TRACEBACK"):
                raise
            print(f"error: {error or type(error).__name__}", file=sys.stderr)
            return 1

    return told
