"""How well is each sensor? From what the newest frame did with it, and the cause before the consequence. No ROS.

Node and replay ask here, so that they say the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bev_perception.fault import Fault
from bev_perception.measurements import Measurements
from bev_perception.modes import Situation
from bev_perception.sensors.intake import SensorIntake
from bev_perception.structures import ODOMETRY, Detections
from bev_perception.sync_config import ABSENT, NS, SyncConfig

State = Literal["ok", "suspect", "late", "silent", "never_seen", "invalid", "absent"]
Kind = Literal["camera", "radar", "odometry"]
# Their names in bev_perception_msgs/SensorState.
STATE_CONSTANTS: dict[State, str] = {
    "ok": "OK", "suspect": "SUSPECT", "late": "STALE", "silent": "MISSING", "never_seen": "NEVER_SEEN",
    "invalid": "INVALID", "absent": "ABSENT",
}  # fmt: skip
# Reasons that say that nothing came in time; any other one says that what came could not be used.
NOT_IN_TIME = ("late", "too_late", "out_of_tolerance", "no_scan", "overloaded")
# Reasons for which a sensor's measurement has no place in a frame, though nothing is wrong with it: odometry's fault.
OF_ODOMETRY = {
    "no_pose": "odometry has no pose at its stamp",
    "pose_jump": "odometry jumped between its stamp and the frame's",
}
# Stamps that do not fit this computer's clock; where those of every sensor do not, it is the clock that is wrong.
OF_CLOCK = ("stale", "future_stamp", "too_old", "too_late", "late")
FEW = 5  # messages of each sensor
AHEAD_S = 0.02  # no message comes before it was sent: clocks that agree leave less than this


@dataclass(frozen=True)
class SensorHealth:
    """One sensor. age_s: since the newest measurement taken; delay_s: SensorIntake.delay_s; None: none came yet.

    reason: why the state is not ok, with what was found, or "".
    """

    name: str
    kind: Kind
    state: State
    age_s: float | None
    delay_s: float | None
    rate_hz: float
    reason: str


@dataclass(frozen=True)
class FrameOutcome:
    """What became of the newest frame: sensor -> reason where one was masked, and what the step found, also of those
    that were used. made: there is a frame."""

    missing: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    made: bool = True


def newest_outcome(taken: Measurements, detections: Detections | None, faults: Mapping[str, Fault]) -> FrameOutcome:
    """Of the newest frame that was processed; where a newer one could not even be made, what kept it from that.

    faults: BevPipeline.faults.
    """
    if not taken.made or detections is None:
        return FrameOutcome(taken.missing, faults, made=detections is not None)
    return FrameOutcome(detections.missing, faults)


def sensor_health(
    intake: SensorIntake,
    taken: Measurements,
    outcome: FrameOutcome,
    now_ns: int,
    warnings: Mapping[str, str] | None = None,
) -> list[SensorHealth]:
    """Of every sensor of the model, and of odometry.

    now_ns: the clock of the stamps. warnings: sensor -> what may keep its messages from coming.
    """
    warnings = intake.warnings if warnings is None else warnings
    kinds: dict[str, Kind] = {name: "camera" for name in taken.config.cameras}
    kinds |= {name: "radar" for name in taken.config.radars}
    kinds[ODOMETRY] = "odometry"
    clock = "" if taken.held_up else _clock_fault(kinds, intake, taken.config)
    found = []
    for name, kind in kinds.items():
        if name in taken.config.absent:
            found.append(SensorHealth(name, kind, "absent", None, None, 0.0, ABSENT))
            continue
        (newest_ns, rate_hz), delay_s = taken.newest(name), intake.delay_s(name)
        age_s = None if newest_ns is None else (now_ns - newest_ns) / 1e9
        silent = newest_ns is not None and now_ns - newest_ns > taken.config.silence_ns
        state, reason = _state(name, intake, outcome, newest_ns is None, silent, now_ns, warnings)
        if taken.held_up and reason.partition(":")[0] in ("too_old", "too_late"):  # it waited in our own queue
            state, reason = "late", "overloaded"
        if clock and reason.partition(":")[0] in OF_CLOCK:
            state, reason = "late", _text(reason.partition(":")[0], clock)
        if state == "ok" and name in intake.doubts:
            state, reason = "suspect", intake.doubts[name]
        if state == "ok" and delay_s is not None and delay_s < -AHEAD_S:
            state, reason = "suspect", _text("clock_ahead", f"clock of {name} is {-delay_s:.3f} s ahead")
        found.append(SensorHealth(name, kind, state, age_s, delay_s, rate_hz, reason))
    return found


def _clock_fault(names: Iterable[str], intake: SensorIntake, config: SyncConfig) -> str:
    """ "", or that all newest messages are stamped at times that cannot be now: then one clock is wrong, not each
    sensor's."""
    delays = [delay for name in names if (delay := intake.delay_s(name, FEW)) is not None]
    if len(delays) < 2:
        return ""
    if min(delays) * NS > config.silence_ns:
        off = f"at least {min(delays):.3f} s behind"
    elif max(delays) * NS < -config.max_future_ns:
        off = f"at least {-max(delays):.3f} s ahead of"
    else:
        return ""
    return f"the stamps of all sensors are {off} this computer's clock: synchronise it (PTP), or play with /clock"


def _state(
    name: str,
    intake: SensorIntake,
    outcome: FrameOutcome,
    never_taken: bool,
    silent: bool,
    now_ns: int,
    warnings: Mapping[str, str],
) -> tuple[State, str]:
    fault = intake.fault(name, now_ns)
    if fault is not None:
        used = outcome.made and name not in outcome.missing and not (never_taken or silent)
        if used:  # some of its messages are good
            return "suspect", _text(*fault)
        return ("late" if fault[0] in NOT_IN_TIME else "invalid"), _text(*fault)
    if never_taken and not intake.was_heard(name):
        return "never_seen", _text("never_seen", warnings.get(name, ""))
    if silent or never_taken:
        return "silent", "stale"
    gap = intake.calibration.gap(name) if name != ODOMETRY else ""
    if gap:
        unheard = warnings.get(f"{name} camera_info", "")
        return "invalid", _text("no_calibration", "; ".join(filter(None, [gap, unheard])))
    reason, found = outcome.missing.get(name, ""), outcome.faults.get(name)
    if name == ODOMETRY and not reason:
        return _unplaced(outcome)
    if not reason:
        return ("suspect", _text(found.reason, found.detail)) if found is not None else ("ok", "")
    if reason in OF_ODOMETRY and name != ODOMETRY:
        return "late", _text(reason, OF_ODOMETRY[reason])
    text = _text(reason, found.detail if found is not None else "")
    if reason in ("stale", "never_seen"):  # it has come back since
        return "late", text
    return ("late" if reason in NOT_IN_TIME else "invalid"), text


def _unplaced(outcome: FrameOutcome) -> tuple[State, str]:
    """Of odometry, by the sensors whose measurements it gave no place."""
    lost = {name: reason for name, reason in outcome.missing.items() if reason in OF_ODOMETRY}
    if not lost:
        return "ok", ""
    worst = max(lost.values(), key=list(OF_ODOMETRY).index)
    return ("suspect" if outcome.made else "invalid"), _text(worst, f"no place for {', '.join(lost)}")


def _text(reason: str, detail: str) -> str:
    return f"{reason}: {detail}" if detail else reason


def situation(health: Iterable[SensorHealth], front: Collection[str], without_memory_s: float) -> Situation:
    """What the modes ask about. Lost is what is neither `ok` nor `suspect`; what the vehicle does not have counts as
    neither present nor lost. front: names of the front cameras."""
    present = [h for h in health if h.state != "absent"]
    return Situation(
        cameras=[h.name for h in present if h.kind == "camera"],
        radars=[h.name for h in present if h.kind == "radar"],
        front=front,
        lost=[h.name for h in present if h.state not in ("ok", "suspect")],
        suspect=[h.name for h in present if h.state == "suspect"],
        without_memory_s=without_memory_s,
    )


class Failures:
    """Sensors that have worked and do not any more: what starts up, or never came, is no event of the drive."""

    def __init__(self) -> None:
        self._worked: set[str] = set()

    def look(self, health: Sequence[SensorHealth]) -> dict[str, str]:
        """Sensor -> reason. One that is late now may be in time for the next frame."""
        self._worked.update(h.name for h in health if h.state in ("ok", "suspect"))
        return {h.name: h.reason for h in health if h.name in self._worked and h.state in ("silent", "invalid")}
