"""How the programs of this package enter ROS."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor

# How long a loop may wait at once: rclpy can miss a signal while it waits without limit, as it wakes the wait before it
# shuts the context down.
WAKE_PERIOD_S = 0.5


def make_executor() -> Executor:
    """One thread. Where rclpy has it, messages come by events, each of which wakes one callback: the other executor
    builds and searches its list of everything to wait for anew for each message, which costs more than the message."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:  # Humble, and Jazzy before its end of 2024
        return SingleThreadedExecutor()
    return EventsExecutor()


def init_ros(args: Sequence[str] | None = None) -> None:
    """rclpy.init for a program that lasts: Ctrl-C ends the ROS context, as SIGTERM does, and raises nothing.

    rclpy's handlers end the context and wake the executor. Before that, Python's own handler of SIGINT would raise
    KeyboardInterrupt wherever the program stands: with a lock just taken, or a message half written. So it is switched
    off, for the whole process; call this in the main thread. Loops watch `rclpy.ok()`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(args=None if args is None else list(args))
