"""Child processes of a demo or a measurement: their output in a log, and none of them left behind."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

Arguments = ParamSpec("Arguments")
# What a child is before it becomes its program: prctl(2), PR_SET_PDEATHSIG, outlasts exec. A parent that ended even
# before that is noticed.
TIED_TO_PARENT = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGTERM))
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""
WAKE_S = 0.5  # how long a signal may be unheard
DDS_PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds_shm.xml"


class StageError(RuntimeError):
    """A stage failed; `log` is where to read on."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


def ends_with_its_children(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorates the main of a command that has children: SIGTERM and SIGHUP leave its `with` blocks as Ctrl-C does,
    and the exit status is 128 and the number of the signal, as in a shell.

    A signal that is ignored, as SIGHUP under nohup, stays so.
    """

    @functools.wraps(main)
    def minding(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        told = signal.SIGINT
        before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)}

        def leave(number: int, _: Any) -> None:
            nonlocal told
            told = signal.Signals(number)
            for sign in before:  # a second one does not cut short what the first began
                signal.signal(sign, signal.SIG_IGN)
            raise KeyboardInterrupt

        for sign, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(sign, leave)
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            print(f"ended by {told.name}; its processes are stopped", file=sys.stderr)
            return 128 + told
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    return minding


def run_in_front(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """`python -m MODULE ...` at this terminal, to its end -> its exit status, 128 and the number of a signal.

    environment: None for that of this process.

    SIGTERM and SIGHUP are passed on, Ctrl-C the terminal gives to both: what is done about it is the child's business,
    and takes the time that it takes. Where this process ends at once the child gets SIGTERM, as a `Child` does.
    """
    told = 0
    child = subprocess.Popen(_tied(arguments), env=None if environment is None else dict(environment))

    def pass_on(number: int, _: Any) -> None:
        nonlocal told
        told = 128 + number
        if number != signal.SIGINT:
            child.send_signal(number)

    before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for sign, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(sign, pass_on)
    try:
        status = None
        # A signal that comes just before a wait, or to another thread, interrupts it not: nobody would hear it.
        while status is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = child.wait(WAKE_S)
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    return (status if status >= 0 else 128 - status) or told  # one that ended well all the same is the last


def _tied(arguments: Sequence[str]) -> list[str]:
    """The command for `python -m MODULE ...` that gets SIGTERM when the thread that began it ends."""
    python = sys.executable
    return [python, "-I", "-S", "-c", TIED_TO_PARENT, str(os.getpid()), python, "-m", *arguments]


def own_domain(offset: int = 0) -> int:
    """A ROS domain for the children of this process, which another process hardly has."""
    return 20 + (os.getpid() + offset) % 80


def ros_environment(domain: int, dds_profile: Path | None = DDS_PROFILE) -> dict[str, str]:
    """The environment of ROS processes that talk to each other on this machine only, in a domain of their own.

    dds_profile None: the defaults of Fast DDS.
    """
    environment = dict(os.environ)
    # what is run is this source tree or installation, wherever the caller stands
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH")) if p)
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment["ROS_DOMAIN_ID"] = str(domain)
    environment["PYTHONUNBUFFERED"] = "1"
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        environment.pop(name, None)
        if dds_profile is not None:
            environment[name] = str(dds_profile)
    return environment


class Child:
    """`python -m MODULE ...` in a process group of its own, output in `log`. Leaving its `with` ends the group.

    The child, not what it began itself, gets SIGTERM when the thread that made it ends, by SIGKILL too: make it in the
    main thread.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log = name, log
        self._group_ended = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                _tied(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Raise StageError when the process has ended although it should run."""
        if not self.running:
            raise StageError(f"the {self.name} ended with status {self._process.returncode}: {self.tail()}", self.log)

    def wait(self, timeout_s: float, others: Sequence[Child] = ()) -> None:
        """Wait for its end with status 0, while `others` must go on running. Raises StageError."""
        deadline = time.monotonic() + timeout_s
        while self.running:
            for other in others:
                other.check()
            if time.monotonic() > deadline:
                self.stop()
                raise StageError(f"the {self.name} did not end within {timeout_s:.0f} s: {self.tail()}", self.log)
            time.sleep(0.05)
        self.stop()
        if self._process.returncode:
            raise StageError(f"the {self.name} failed with status {self._process.returncode}: {self.tail()}", self.log)

    def stop(self, timeout_s: float = 8.0) -> int:
        """Interrupt it and wait; terminate, then kill its whole group if it does not end. Returns its status."""
        for sign, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
            if not self.running:
                break
            self._send(sign)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        if not self._group_ended:  # once only: later the number of the group may belong to somebody else
            self._group_ended = True
            self._send(signal.SIGKILL)  # children that it may have left
        return int(self._process.wait())

    def _send(self, sign: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, sign)
        except ProcessLookupError:
            pass

    def tail(self) -> str:
        """The last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
        return lines[-1] if lines else "no output"
