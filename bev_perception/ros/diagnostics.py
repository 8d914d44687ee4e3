"""Telemetry and the sensors' health -> PerceptionStatus and /diagnostics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from bev_perception.health import STATE_CONSTANTS, Kind, SensorHealth, State
from bev_perception.messages import to_time
from bev_perception.ros.shared_memory import Problem
from bev_perception.ros.telemetry import Snapshot
from bev_perception.sync_config import NS
from bev_perception.usual.reading import CONTENTS, EXTRINSICS, Reading
from bev_perception.usual.statistics import SCENE
from bev_perception_msgs.msg import Counter, Deployment, HealthState, LatencyStat, PerceptionStatus, SensorState

ACTIVE = "active"
# States of bev_perception.health as SensorState has them, and what /diagnostics calls them.
STATES: dict[State, int] = {state: getattr(SensorState, name) for state, name in STATE_CONSTANTS.items()}
SENSOR_LEVELS: dict[State, bytes] = {
    "ok": DiagnosticStatus.OK, "suspect": DiagnosticStatus.WARN, "late": DiagnosticStatus.WARN,
    "silent": DiagnosticStatus.ERROR, "never_seen": DiagnosticStatus.ERROR, "invalid": DiagnosticStatus.ERROR,
    "absent": DiagnosticStatus.OK,
}  # fmt: skip
KINDS: dict[Kind, int] = {
    "camera": SensorState.CAMERA, "radar": SensorState.RADAR, "odometry": SensorState.ODOMETRY,
}  # fmt: skip
DIAGNOSTIC_LEVELS = {
    PerceptionStatus.OK: DiagnosticStatus.OK,
    PerceptionStatus.DEGRADED: DiagnosticStatus.WARN,
    PerceptionStatus.NO_OUTPUT: DiagnosticStatus.ERROR,
    PerceptionStatus.ERROR: DiagnosticStatus.ERROR,
    PerceptionStatus.INACTIVE: DiagnosticStatus.STALE,
}
CHECKS = {CONTENTS: HealthState.CONTENTS, EXTRINSICS: HealthState.EXTRINSICS}
# A mode's severity -> level of the status.
MODE_LEVELS = {"ok": PerceptionStatus.OK, "degraded": PerceptionStatus.DEGRADED, "error": PerceptionStatus.ERROR}
# Kind of a sensor -> how the names of /diagnostics begin, which config/diagnostics_aggregator.yaml goes by.
SENSOR_TASKS: dict[Kind, str] = {"camera": "camera ", "radar": "radar ", "odometry": ""}


@dataclass(frozen=True)
class NodeReport:
    """Everything a status says, gathered at one moment.

    modes: those that hold, worst_mode: the worst severity. problems: of what is below the node, DDS and shared memory.
    health: check (a key of CHECKS) -> readings of sensors, and of the scene.
    """

    stamp_ns: int
    frame_id: str
    lifecycle_state: str
    snapshot: Snapshot
    sensors: Sequence[SensorHealth] = ()
    modes: Sequence[str] = ()
    worst_mode: str = "ok"
    model_name: str = ""
    model_sha256: str = ""
    backend: str = ""
    backend_details: Mapping[str, str] = field(default_factory=dict)
    configuration_error: str = ""
    max_age_ms: float = math.inf
    output_timeout_ms: float = math.inf
    hardware_id: str = ""
    problems: tuple[Problem, ...] = ()
    health: Mapping[str, Sequence[Reading]] = field(default_factory=dict)
    deployment: Deployment = field(default_factory=Deployment)


def level_and_summary(report: NodeReport) -> tuple[int, str]:
    """PerceptionStatus level and one sentence that says why."""
    if report.lifecycle_state != ACTIVE:
        text = report.configuration_error or "not active"
        return PerceptionStatus.INACTIVE, f"{report.lifecycle_state}: {text}"
    snapshot = report.snapshot
    troubled = "; ".join(f"{s.name} {s.reason}" for s in report.sensors if s.state not in ("ok", "absent"))
    because = troubled or "waiting for sensor data"
    if snapshot.recent_failure:
        return PerceptionStatus.NO_OUTPUT, f"the last step failed: {snapshot.recent_failure}"
    if snapshot.frames_processed == 0:
        return PerceptionStatus.NO_OUTPUT, f"no detections since activation: {because}"
    if snapshot.seconds_since_output * 1e3 > report.output_timeout_ms:
        return PerceptionStatus.NO_OUTPUT, f"no detections for {snapshot.seconds_since_output:.1f} s: {because}"
    level, texts = MODE_LEVELS[report.worst_mode], [", ".join(report.modes)] if report.modes else []
    if troubled:
        texts.append(troubled)
    texts += [f"{SCENE} {r.text}" for r in report.health.get(CONTENTS, ()) if r.name == SCENE and r.alarm]
    texts += _unknown(report)
    if snapshot.age_at_publication_s * 1e3 > report.max_age_ms:
        level = max(level, PerceptionStatus.DEGRADED)
        age_ms = snapshot.age_at_publication_s * 1e3
        texts.append(f"detections are {age_ms:.0f} ms old, allowed are {report.max_age_ms:.0f}")
    return level, ": ".join(texts) or "all sensors contribute"


def status_message(report: NodeReport) -> PerceptionStatus:
    """bev_perception_msgs/PerceptionStatus; see its definition."""
    snapshot = report.snapshot
    level, summary = level_and_summary(report)
    return PerceptionStatus(
        header=Header(stamp=to_time(report.stamp_ns), frame_id=report.frame_id),
        level=level,
        summary=summary,
        lifecycle_state=report.lifecycle_state,
        model_name=report.model_name,
        model_sha256=report.model_sha256,
        backend=report.backend,
        deployment=report.deployment,
        modes=list(report.modes),
        sensors=[
            SensorState(
                name=s.name,
                kind=KINDS[s.kind],
                state=STATES[s.state],
                age=_or_nan(s.age_s),
                delay=_or_nan(s.delay_s),
                rate_hz=float(s.rate_hz),
                reason=s.reason,
            )
            for s in report.sensors
        ],
        health=[
            HealthState(
                name=r.name,
                check=CHECKS[check],
                alarm=r.alarm,
                score=r.score,
                threshold=r.threshold,
                since=to_time(r.since_ns or 0),
                text="" if r.unknown else r.text,  # as the message says; the summary says why
            )
            for check, readings in report.health.items()
            for r in readings
        ],
        counters=[Counter(name=name, value=value) for name, value in sorted(snapshot.counters.items())],
        latencies=[
            LatencyStat(
                stage=x.stage, p50_ms=x.p50_ms, p95_ms=x.p95_ms, p99_ms=x.p99_ms, max_ms=x.max_ms, count=x.count
            )
            for x in snapshot.latencies
        ],
        age_at_publication_s=snapshot.age_at_publication_s,
        memory_resets=snapshot.memory_resets,
        last_memory_reset_reason=snapshot.last_memory_reset_reason,
        frames_processed=snapshot.frames_processed,
        frames_dropped=snapshot.frames_dropped,
    )


def diagnostics_message(report: NodeReport, node_name: str) -> DiagnosticArray:
    """diagnostic_msgs/DiagnosticArray: the node, each sensor, the counters with their last details, the latencies, and
    what is below the node. node_name: with its namespace, so that several instances can be told apart."""
    snapshot = report.snapshot
    level, summary = level_and_summary(report)

    def status(task: str, status_level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=status_level,
            name=f"{node_name}: {task}",
            message=message,
            hardware_id=report.hardware_id,
            values=[KeyValue(key=str(key), value=str(value)) for key, value in values.items()],
        )

    pipeline = {
        "lifecycle_state": report.lifecycle_state,
        "configuration_error": report.configuration_error,
        "model": f"{report.model_name} {report.model_sha256[:12]}",
        "backend": report.backend,
        **report.backend_details,
        "frames_processed": snapshot.frames_processed,
        "frames_dropped": snapshot.frames_dropped,
        "age_at_publication_ms": f"{snapshot.age_at_publication_s * 1e3:.1f}",
        "memory_resets": snapshot.memory_resets,
        "last_memory_reset_reason": snapshot.last_memory_reset_reason,
        "modes": ", ".join(report.modes),
        "deployment": report.deployment.event or "none since the start",
    }
    pipeline_level = DiagnosticStatus.ERROR if report.configuration_error else DIAGNOSTIC_LEVELS[level]
    statuses = [status("pipeline", pipeline_level, summary, pipeline)]
    for s in report.sensors:
        age_s, delay_s = _or_nan(s.age_s), _or_nan(s.delay_s)
        values = {"age_s": f"{age_s:.3f}", "delay_s": f"{delay_s:.3f}", "rate_hz": f"{s.rate_hz:.1f}"}
        statuses.append(status(f"{SENSOR_TASKS[s.kind]}{s.name}", SENSOR_LEVELS[s.state], s.reason or "ok", values))
    read = {f"{r.name} {check}": r for check, readings in report.health.items() for r in readings}
    alarms = [f"{name}: {r.text}" for name, r in read.items() if r.alarm] + _unknown(report)
    statuses.append(
        status(
            "health",
            DiagnosticStatus.WARN if alarms else DiagnosticStatus.OK,
            "; ".join(alarms) or ("as usual" if read else "nothing is known: see docs/health.md"),
            {name: _reading_text(r) for name, r in read.items()},
        )
    )
    counted = {
        name: f"{value} ({snapshot.details[name]})" if snapshot.details.get(name) else value
        for name, value in sorted(snapshot.counters.items())
    }
    statuses.append(
        status("counters", DiagnosticStatus.OK, f"{len(counted)} reasons counted since activation", counted)
    )
    latencies = {
        f"{x.stage}_ms": f"p50 {x.p50_ms:.2f}  p95 {x.p95_ms:.2f}  p99 {x.p99_ms:.2f}  max {x.max_ms:.2f}  of {x.count}"
        for x in snapshot.latencies
    }
    statuses.append(status("latency", DiagnosticStatus.OK, "percentiles over the newest frames", latencies))
    problems = {problem.reason: problem.detail for problem in report.problems}
    problem_level = DiagnosticStatus.WARN if problems else DiagnosticStatus.OK
    statuses.append(status("middleware", problem_level, "; ".join(problems) or "nothing stands in the way", problems))
    return DiagnosticArray(header=Header(stamp=to_time(report.stamp_ns)), status=statuses)


def _unknown(report: NodeReport) -> list[str]:
    """Why of sensors that are looked at nothing is known, each reason once."""
    reasons = dict.fromkeys(r.unknown for readings in report.health.values() for r in readings if r.unknown)
    return [f"health is not known: {reason}" for reason in reasons]


def _reading_text(reading: Reading) -> str:
    text = f"{reading.score:.2f} of {reading.threshold:.2f}"
    since = f" since {reading.since_ns / NS:.3f}" if reading.since_ns is not None else ""
    return f"{text}{since}{': ' if reading.text else ''}{reading.text}"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
