"""How the programs of this package enter ROS."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import rclpy

# How long a loop may wait at once: rclpy can miss a signal while it waits without limit, as it wakes the wait before it
# shuts the context down.
WAKE_PERIOD_S = 0.5


def init_ros(args: Sequence[str] | None = None) -> None:
    """rclpy.init for a program that lasts: Ctrl-C ends the ROS context, as SIGTERM does, and raises nothing.

    rclpy's handlers end the context and wake the executor. Before that, Python's own handler of SIGINT would raise
    KeyboardInterrupt wherever the program stands: with a lock just taken, or a message half written. So it is switched
    off, for the whole process; call this in the main thread. Loops watch `rclpy.ok()`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(args=None if args is None else list(args))
