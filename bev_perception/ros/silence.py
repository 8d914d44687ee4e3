"""What is said of a sensor from which nothing has come: its topic, and who publishes there."""

from __future__ import annotations

TOLD_AFTER_S = 5.0  # drivers may start after the node; from here on it is worth a line in the log


def nothing_on(topic: str, publishers: int) -> str:
    """The detail of `never_seen`. publishers: of the topic, as Node.count_publishers counts them."""
    return f"nothing on {topic} ({publishers} publisher{'' if publishers == 1 else 's'})"


def never_seen_warning(sensor: str, topic: str, publishers: int, seconds: float) -> str:
    """The line for the log, `seconds` after activation: what to look at."""
    if publishers:
        mend = "a driver that runs without sending, or a DDS profile that only one side has: `ros2 topic hz`, `info -v`"
    else:
        mend = "the topic's name in the parameters, the driver, its namespace and ROS_DOMAIN_ID: `ros2 topic list`"
    return f"{sensor}: never_seen: {nothing_on(topic, publishers)} for {seconds:.0f} s; look at {mend}"
