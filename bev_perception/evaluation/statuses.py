"""What the node said of its sensors while it ran: PerceptionStatus, message by message, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from bev_perception.evaluation.bag import stamp_ns, time_ns
from bev_perception.health import STATE_CONSTANTS, State
from bev_perception.usual.reading import CONTENTS, EXTRINSICS, Reading

CHECKS = (CONTENTS, EXTRINSICS)


@dataclass(frozen=True)
class Status:
    """states: sensor, and odometry -> (state, why it is not ok). readings: check (CONTENTS or EXTRINSICS) -> of each
    sensor that it knows something of, and of the scene."""

    stamp_ns: int
    states: Mapping[str, tuple[State, str]]
    readings: Mapping[str, Sequence[Reading]]


@dataclass(frozen=True)
class Stretch:
    """A sensor in one state, for one reason, from the status that said so first to the one that said otherwise, in
    nanoseconds of the node's clock. The name of the reason alone: its details change from status to status."""

    start_ns: int
    end_ns: int
    state: State
    reason: str


def status_of(message: Any) -> Status:
    """bev_perception_msgs/PerceptionStatus, of rclpy or of a recording."""
    rows = {check: [row for row in message.health if row.check == getattr(row, check.upper())] for check in CHECKS}
    return Status(
        stamp_ns(message.header),
        {sensor.name: (_state(sensor), str(sensor.reason)) for sensor in message.sensors},
        {check: tuple(map(_reading, found)) for check, found in rows.items() if found},
    )


def _state(sensor: Any) -> State:
    return next(state for state, name in STATE_CONSTANTS.items() if sensor.state == getattr(sensor, name))


def _reading(row: Any) -> Reading:
    since_ns = time_ns(row.since) if row.alarm else None
    return Reading(str(row.name), float(row.score), float(row.threshold), since_ns, str(row.text))


def stretches(statuses: Sequence[Status], sensor: str) -> Iterator[Stretch]:
    """Of one sensor, in order of time, without gaps; nothing where no status names it."""
    known = [status for status in statuses if sensor in status.states]

    def said(status: Status) -> tuple[State, str]:
        state, reason = status.states[sensor]
        return state, reason.partition(":")[0]

    runs = [(key, list(run)) for key, run in groupby(known, key=said)]
    ends = [run[0].stamp_ns for _, run in runs[1:]] + [known[-1].stamp_ns] if known else []
    for ((state, reason), run), end_ns in zip(runs, ends):
        yield Stretch(run[0].stamp_ns, end_ns, state, reason)
