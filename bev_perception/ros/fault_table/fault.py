"""One fault: what it does to the messages that a car sends, and what has to be said of it; and the usual changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bev_perception.ros.car import Change, Sending
from bev_perception.structures import ODOMETRY

CAMERA, COMPRESSED, ANCHOR, RADAR = "CAM_FRONT", "CAM_BACK", "CAM_BACK_LEFT", "RADAR_FRONT"
MS = 1_000_000
ALL = "*"  # every sensor of the kind, odometry too; or any state, level or number
SENSORS = "sensors"  # every camera and radar
LATE, SILENT, INVALID, SUSPECT, NEVER_SEEN = "late", "silent", "invalid", "suspect", "never_seen"
SOMETIMES = "sometimes"  # ok, or for the reason that is named: frames are lost now and then
NO_OUTPUT = "NO_OUTPUT"


@dataclass(frozen=True)
class Fault:
    """name: what is wrong, in words. change: what it does to messages; made anew for each run, it may remember.

    expect: sensor (or "cameras", "radars", SENSORS, ALL) -> (state, how its reason begins, several with | between)
    while the fault lasts; a sensor that is not named must be OK. level: of the status, "" for what follows from the
    states; used: how many sensors the last detections used, None for what follows.
    counter: a reason that must have been counted. may: patterns of others that may be, of those that nothing may count
    unless it is named (FORBIDDEN of try_faults). once: the fault is a moment, and nothing may be left of it.
    lasting: it holds until the node is started anew with other parameters, and from the start.
    """

    name: str
    change: Callable[[], Change]
    expect: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    counter: str = ""
    once: bool = False
    seconds: float = 2.0
    level: str = ""
    used: int | None = None
    may: tuple[str, ...] = ()
    lasting: bool = False


def unchanged() -> Change:
    return lambda s: (s,)


def of(sensor: str, *kinds: str) -> Callable[[Sending], bool]:
    return lambda s: s.kind in kinds and sensor in (ALL, s.sensor)


def edited(which: Callable[[Sending], bool], edit: Callable[[Any], None]) -> Callable[[], Change]:
    """`edit` changes a copy of the message."""

    def change(s: Sending) -> Iterable[Sending]:
        if not which(s):
            return (s,)
        message = copy.deepcopy(s.message)
        edit(message)
        return (Sending(s.kind, s.sensor, message, s.stamp_ns),)

    return lambda: change


def lost(which: Callable[[Sending], bool], share: float = 1.0) -> Callable[[], Change]:
    def make() -> Change:
        rng = np.random.default_rng(0)
        return lambda s: () if which(s) and rng.random() < share else (s,)

    return make


def shifted(which: Callable[[Sending], bool], shift_ms: float, every: int = 1, first: int = 0) -> Callable[[], Change]:
    """Stamps moved; every: of so many messages one. every=0: one message in all."""

    def make() -> Change:
        count = [0]

        def change(s: Sending) -> Iterable[Sending]:
            if which(s):
                count[0] += 1
                wanted = count[0] == 1 + first if every == 0 else count[0] % every == 0
                if wanted:
                    return (Sending(s.kind, s.sensor, s.message, s.stamp_ns + round(shift_ms * MS)),)
            return (s,)

        return change

    return make


def repeated(which: Callable[[Sending], bool], times: int = 2, step_ms: float = 0.0) -> Callable[[], Change]:
    def change(s: Sending) -> Iterable[Sending]:
        if not which(s):
            return (s,)
        return [Sending(s.kind, s.sensor, s.message, s.stamp_ns + round(k * step_ms * MS)) for k in range(times)]

    return lambda: change


def held(which: Callable[[Sending], bool], messages: int) -> Callable[[], Change]:
    """Each message is sent so many messages of its sensor later: late by as many periods."""

    def make() -> Change:
        waiting: dict[tuple[str, str], list[Sending]] = {}

        def change(s: Sending) -> Iterable[Sending]:
            if not which(s):
                return (s,)
            queue = waiting.setdefault((s.kind, s.sensor), [])
            queue.append(Sending(s.kind, s.sensor, copy.deepcopy(s.message), s.stamp_ns))
            return (queue.pop(0),) if len(queue) > messages else ()

        return change

    return make


def setting(**values: Any) -> Callable[[Any], None]:
    """Dotted names with __ for the dot."""

    def edit(message: Any) -> None:
        for name, value in values.items():
            *path, last = name.split("__")
            owner = message
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, last, value)

    return edit


def unstamped(which: Callable[[Sending], bool]) -> Change:
    return lambda s: (Sending(s.kind, s.sensor, s.message, 0),) if which(s) else (s,)


def shorter(message: Any) -> None:
    message.data = message.data[: len(message.data) // 2]


def doubled(message: Any) -> None:
    message.data = message.data + message.data


IMAGE, INFO = of(CAMERA, "image"), of(CAMERA, "info")
JPEG, CLOUD, POSE = of(COMPRESSED, "image"), of(RADAR, "radar"), of(ALL, ODOMETRY)
EVERY_IMAGE, EVERY_CLOUD = of(ALL, "image"), of(ALL, "radar")
EVERYTHING = of(ALL, "image", "info", "radar", ODOMETRY)


def camera(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {CAMERA: (state, reason)}


def jpeg(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {COMPRESSED: (state, reason)}


def radar(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {RADAR: (state, reason)}


def odometry(state: str, reason: str) -> dict[str, tuple[str, str]]:
    return {ODOMETRY: (state, reason)}


def without_motion(name: str, change: Callable[[], Change], state: str, reason: str, counter: str = "") -> Fault:
    """A fault that takes the ego motion away: no frame can be made, and no other sensor is to blame for that."""
    expect = {SENSORS: (SOMETIMES, "no_pose|pose_jump"), **odometry(state, reason)}
    return Fault(name, change, expect, counter, seconds=3.5, level=NO_OUTPUT, used=0)
