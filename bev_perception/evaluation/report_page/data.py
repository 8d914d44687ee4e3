"""All that a report shows. Two commands fill it: the demo for one live drive, `evaluate` for many recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bev_perception.evaluation.benchmark import Curve
from bev_perception.evaluation.followed_object import FollowedObject
from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.outage import Outage
from bev_perception.evaluation.reliability import Reliability
from bev_perception.evaluation.statuses import Status
from bev_perception.evaluation.worst_frames import Scene
from bev_perception.evaluation.worth import Worth


@dataclass(frozen=True)
class Latency:
    """Percentiles of a stage in milliseconds."""

    stage: str
    p50: float
    p95: float
    p99: float
    max: float
    count: int


@dataclass(frozen=True)
class FrameRow:
    """A processed frame. missing: sensor -> reason. memory: whether that of earlier frames was used; reset: why it was
    emptied before this frame, "" if it was not. latency_ms: None where it was not measured. wrong: (hits, false alarms,
    misses), None without ground truth."""

    stamp_ns: int
    missing: Mapping[str, str]
    memory: bool
    reset: str = ""
    latency_ms: float | None = None
    wrong: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Drive:
    """recording: the bag; start_ns: its first message, 0 if unknown. used: sensor -> frames that used it. frames: in
    their order. scores: of this drive alone."""

    name: str
    recording: Path | None
    start_ns: int
    used: Mapping[str, int]
    frames: Sequence[FrameRow]
    scores: Scores | None = None
    scenes: Sequence[Scene] = ()
    followed: FollowedObject | None = None


@dataclass(frozen=True)
class Comparison:
    """With an earlier result. rows: (what, before, now, +1 where more is better, -1 where less is); told: sentences."""

    name: str
    rows: Sequence[tuple[str, float, float, int]]
    told: Sequence[str] = ()


@dataclass(frozen=True)
class Pace:
    """rate_hz: frames processed in a second of the drive. dropped: frames that were left out, of `due`. note: of what
    clock that is."""

    rate_hz: float
    dropped: int
    due: int
    note: str = ""


@dataclass(frozen=True)
class Health:
    """statuses: of the node, from the first frame on. contents: whether the bundle says what sensors usually send
    (health.json); extrinsics: whether the node watched where they look."""

    statuses: Sequence[Status]
    contents: bool
    extrinsics: bool


@dataclass(frozen=True)
class ReportData:
    """facts: name -> value rows about drive, model and machine, in order.

    latency_note: what the latencies are of. counters: what was dropped, masked or refused -> times. agreement: a
    sentence, and whether live and offline agree. scores: of the whole score curve; published: of what was
    published, with the bundle's thresholds. curves: by class, of the same boxes as scores; score_reliability and worth,
    too, the latter None where the bundle says nothing of its detections' worth. health: what the node said of its
    sensors; outage: the same drive with cameras that fall silent; None where no node ran. beside: name -> scores
    of other runs over the same frames, such as cameras alone. gate: what it did not hold, empty where it held, None
    without one. result: the bag of what was published.
    """

    title: str
    facts: Mapping[str, str]
    scores: Scores | None = None
    published: Scores | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    score_reliability: Reliability | None = None
    worth: Worth | None = None
    pace: Pace | None = None
    latencies: Sequence[Latency] = ()
    latency_note: str = ""
    counters: Mapping[str, int] = field(default_factory=dict)
    drives: Sequence[Drive] = ()
    agreement: tuple[str, bool] | None = None
    gate: Sequence[str] | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, Scores] = field(default_factory=dict)
    comparison: Comparison | None = None
    health: Health | None = None
    outage: Outage | None = None
    animation: Sequence[Scene] = ()
    result: Path | None = None
    command: str = ""
    remark: str = ""
