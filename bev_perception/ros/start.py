"""How the programs of this package enter ROS."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from bev_perception.places import cache_places, in_first

# How long a loop may wait at once: rclpy can miss a signal while it waits without limit, as it wakes the wait before it
# shuts the context down.
WAKE_PERIOD_S = 0.5
LOOK_S = 0.05
LOG_VARIABLE = "ROS_LOG_DIR"


def make_executor() -> Executor:
    """One thread. Where rclpy has it, messages come by events, each of which wakes one callback: the other executor
    builds and searches its list of everything to wait for anew for each message, which costs more than the message."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:  # Humble, and Jazzy before its end of 2024
        return SingleThreadedExecutor()
    return EventsExecutor()


def spins(executor: Executor) -> bool:
    """Wait for something to call, WAKE_PERIOD_S at most, and call it -> whether ROS is up still.

    Where a signal ends the context after somebody has looked at `rclpy.ok()` and before the wait, rclpy raises an error
    that has no class of its own: that is the end, too. Raises what a callback raises.
    """
    try:
        executor.spin_once(timeout_sec=WAKE_PERIOD_S)
    except ExternalShutdownException:
        return False
    except Exception:
        if rclpy.ok():
            raise
    return bool(rclpy.ok())


class EndedEarly(RuntimeError):
    """A signal ended ROS before the program was done."""


@contextmanager
def asking(name: str, use_sim_time: bool = False) -> Iterator[Node]:
    """A node of a program that asks others and ends; ROS begins and ends with it. use_sim_time: its clock is /clock.

    Raises EndedEarly for what rclpy raises, wherever the program stands, where a signal has ended the context.
    """
    init_ros([])
    node: Node | None = None
    try:
        node = rclpy.create_node(name, parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)])
        yield node
    except Exception as error:
        if rclpy.ok() or not type(error).__module__.startswith("rclpy"):
            raise
        raise EndedEarly("ended by a signal") from None
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def answered(node: Node, future: Future, seconds: float) -> Any:
    """The result of a future; None where the time is over. Raises EndedEarly, in `asking`."""
    end = time.monotonic() + seconds
    while not future.done() and (left := end - time.monotonic()) > 0:
        _require_ros()
        rclpy.spin_until_future_complete(node, future, timeout_sec=min(left, WAKE_PERIOD_S))
    return future.result() if future.done() else None


def comes(ready: Callable[[], bool], seconds: float) -> bool:
    """Whether `ready`, of a client of rclpy, becomes true in that time. Raises EndedEarly, in `asking`."""
    end = time.monotonic() + seconds
    while not (there := ready()) and time.monotonic() < end:
        _require_ros()
        time.sleep(LOOK_S)
    return there


def _require_ros() -> None:
    if not rclpy.ok():
        raise EndedEarly("ended by a signal")


def init_ros(args: Sequence[str] | None = None) -> None:
    """rclpy.init for a program that lasts: Ctrl-C ends the ROS context, as SIGTERM does, and raises nothing.

    rclpy's handlers end the context and wake the executor. Before that, Python's own handler of SIGINT would raise
    KeyboardInterrupt wherever the program stands: with a lock just taken, or a message half written. So it is switched
    off, for the whole process; call this in the main thread. Loops watch `rclpy.ok()`.

    Raises OSError where there is no place for log files, rclpy's own errors for arguments that are none.
    """
    place_logs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(args=None if args is None else list(args))


def place_logs() -> None:
    """ROS ends a program whose log files have no place, such as a service without a home: they get the next best one.

    Raises OSError where there is none.
    """
    home = os.environ.get("HOME", "")
    base = os.environ.get("ROS_HOME") or (os.path.join(home, ".ros") if home else "")
    own = os.environ.get(LOG_VARIABLE) or (os.path.join(base, "log") if base else "")
    places = [Path(own).expanduser()] if own else []
    places += cache_places("ros_log")
    mend = f"set {LOG_VARIABLE} to a folder that can be written"
    place = in_first(places, "log files of ROS", lambda text: print(text, file=sys.stderr), lambda path: path, mend)
    if not own or place != places[0]:
        os.environ[LOG_VARIABLE] = str(place)
