"""Which bundle a vehicle runs, and the rules by which that changes: pure functions over one small record.

A trial is a bundle that was switched to and is not proven yet. A start is begun before the bundle is opened and ended
when it stands; one that was begun and not ended took the process with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

FORMAT = 1
STARTS = 2  # begun and not ended: a bundle that took the process with it so often is not tried again


@dataclass(frozen=True)
class Stored:
    """A bundle in the vehicle's folder. path: relative to it. sha256: of its ONNX file, in which all its facts are.
    since: when it came into service, UTC."""

    path: str
    name: str
    sha256: str
    since: str


@dataclass(frozen=True)
class Record:
    """serving: the last good bundle. before: the good one before it. trial: the one on trial. starts: how many of
    `serving` were begun and not ended. barred: SHA-256 of bundles that are not started again -> why."""

    serving: Stored | None = None
    before: Stored | None = None
    trial: Stored | None = None
    starts: int = 0
    barred: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Start:
    """The record to write before the start, and what happened that the journal and the log must say."""

    record: Record
    told: tuple[str, ...] = ()


def begin_start(record: Record) -> Start:
    """Before the process opens `record.serving` of the result; None there: no good bundle is known."""
    told = []
    if record.trial is not None:
        told.append(f"ended_on_trial: the node ended while {record.trial.name} was on trial; the one before serves")
        record = replace(record, trial=None)
    while record.serving is not None and (record.starts >= STARTS or record.serving.sha256 in record.barred):
        gone = record.serving
        why = record.barred.get(gone.sha256) or f"took the process with it in {record.starts} starts"
        then = f"{record.before.name} is tried" if record.before else "no other good bundle is known"
        told.append(f"crashed_at_start: {gone.name} {why} and is not tried again; {then}")
        record = replace(
            record, serving=record.before, before=None, starts=0, barred={**record.barred, gone.sha256: why}
        )
    return Start(replace(record, starts=record.starts + 1 if record.serving else 0), tuple(told))


def end_start(record: Record) -> Record:
    """The process stands with `serving`, or ended in order."""
    return replace(record, starts=0)


def adopt(record: Record, first: Stored) -> Record:
    """Where no good bundle is known: the one of the parameters, which has just been begun to start. Raises ValueError
    where it is barred."""
    if first.sha256 in record.barred:
        raise ValueError(f"{first.name} {record.barred[first.sha256]} and is not tried again; name another `bundle`")
    return replace(record, serving=first, before=None, starts=1)


def fall_back(record: Record) -> Record:
    """`serving` cannot be opened, for a reason that was said: the one before is begun to start."""
    return replace(record, serving=record.before, before=None, starts=1 if record.before else 0)


def begin_trial(record: Record, candidate: Stored) -> Record:
    """Before the switch. A bundle that people try again is barred no longer."""
    barred = {sha: why for sha, why in record.barred.items() if sha != candidate.sha256}
    return replace(record, trial=candidate, barred=barred)


def end_trial(record: Record) -> Record:
    """After the switch back."""
    return replace(record, trial=None)


def accept(record: Record) -> Record:
    """The trial was watched and is good."""
    if record.trial is None:
        raise ValueError("there is no trial to accept")
    before = record.before if record.serving and record.trial.sha256 == record.serving.sha256 else record.serving
    return replace(record, serving=record.trial, before=before, trial=None, starts=0)


def step_back(record: Record) -> Record:
    """The one before serves again; what served until now is no way back from it."""
    if record.before is None:
        raise ValueError("no bundle before this one is known")
    return replace(record, serving=record.before, before=None, trial=None, starts=0)
