"""Which bundle a node comes up with, whatever ended it: the last good one, and none that is known to crash.

The record says that a start is begun before anything of the bundle is opened, and that it ended when the node stands.
A disk that takes no writes keeps no good bundle from coming up: what cannot be written is said, and the start goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.deployment import record as records
from bev_perception.deployment import rollout as steps
from bev_perception.deployment.folder import RECORD, DeployError, VehicleFolder
from bev_perception.deployment.journal import Line, now, unfinished
from bev_perception.deployment.procedure import nowhere
from bev_perception.deployment.record import Record, Stored
from bev_perception.model_spec import BundleError

Opened = TypeVar("Opened")
START = "start"  # a step of the journal, which no deployment has
ITSELF = "the node"  # who asked


class Log(Protocol):
    """Where a start says what it finds; ROS's loggers and Python's are such."""

    def info(self, message: str) -> object: ...

    def error(self, message: str) -> object: ...


def start(folder: VehicleFolder, wanted: Path, open_: Callable[[Bundle], Opened], log: Log) -> Opened:
    """What `open_` gives of the bundle that is to serve. wanted: that of the parameters, for a folder that knows none.

    Where `open_` or the bundle's files raise BundleError, the bundle before is tried, and both are said. Raises what
    `open_` raises, BundleError where no bundle is left, DeployError for a folder that cannot be used; the start has
    ended in order then.
    """
    _end_what_was_begun(folder, log)
    try:
        return _first_that_opens(folder, wanted, open_, log)
    except Exception:
        stands(folder)
        raise


def stands(folder: VehicleFolder) -> None:
    """The start is over: the node works, or ended in order."""
    if folder.record().starts:
        folder.change(records.end_start)


def _end_what_was_begun(folder: VehicleFolder, log: Log) -> None:
    """A deployment in which the process ended gets its end in the journal; the record knows which."""
    found = folder.history()
    for problem in found.problems:
        log.info(problem)
    last = unfinished([line for line in found.lines if line.step != START], steps.ENDS)
    if last is None:
        return
    record = folder.record()
    came_in = record.serving is not None and bool(last.candidate) and record.serving.sha256 == last.candidate
    switched = record.trial is not None or last.step == steps.SWITCHING
    verdict = steps.DONE if came_in else steps.ROLLED_BACK if switched else steps.REFUSED
    serving = record.serving.sha256 if record.serving else ""
    why = f"node_ended: the node's process ended after `{last.step} {last.verdict}`"
    _note(folder, Line(now(), last.deployment, last.asked_by, last.step, verdict, last.candidate, serving, why), log)
    log.info(f"the last deployment was {verdict.replace('_', ' ')}: {why}")


def _first_that_opens(folder: VehicleFolder, wanted: Path, open_: Callable[[Bundle], Opened], log: Log) -> Opened:
    begun = records.begin_start(folder.record())
    record = begun.record
    _write(folder, record, log)
    for text in begun.told:
        _tell(folder, record.serving, text, log)
    if record.serving is None:
        record = _adopt(folder, wanted, log)
    else:
        log.info(f"in service by {folder.path}: {_named(record.serving)}, since {record.serving.since}")
    while record.serving is not None:
        serving = record.serving
        try:
            return open_(_of_record(folder, serving))
        except BundleError as error:
            record = records.fall_back(record)
            _write(folder, record, log)
            then = f"{_named(record.serving)} is tried" if record.serving else "no other good bundle is known"
            _tell(folder, serving, f"cannot_open: {_named(serving)}: {error}; {then}", log)
    raise BundleError(f"no bundle of {folder.path} can be opened; the journal there says why. Name another `bundle`")


def _adopt(folder: VehicleFolder, wanted: Path, log: Log) -> Record:
    bundle = folder.take(wanted, nowhere)
    first = folder.stored(bundle, now())
    try:
        record = folder.change(lambda record: records.adopt(record, first))
    except ValueError as error:
        raise DeployError(str(error)) from error
    _tell(folder, first, f"adopted: {_named(first)} of the parameter `bundle`, as no good bundle is known", log)
    return record


def _of_record(folder: VehicleFolder, serving: Stored) -> Bundle:
    bundle = load_bundle(folder.path_of(serving))
    if bundle.spec.onnx_sha256 != serving.sha256:
        raise BundleError(f"{bundle.path} holds another model than the record says, {bundle.spec.onnx_sha256[:12]}...")
    return bundle


def _tell(folder: VehicleFolder, serving: Stored | None, text: str, log: Log) -> None:
    log.info(text)
    time = now()
    sha256 = serving.sha256 if serving else ""
    _note(folder, Line(time, time, ITSELF, START, steps.TOLD, in_service=sha256, reason=text), log)


def _write(folder: VehicleFolder, record: Record, log: Log) -> None:
    try:
        folder.write(record)
    except OSError as error:
        log.error(
            f"{folder.path / RECORD} could not be written ({error}): this start is not counted, and no deployment can "
            "begin; make room, or make it writable"
        )


def _note(folder: VehicleFolder, line: Line, log: Log) -> None:
    try:
        folder.note(line)
    except OSError as error:
        log.error(f"the journal could not be written ({error}); the line is: {line.text()}")


def _named(bundle: Stored | None) -> str:
    return f"{bundle.name!r} ({bundle.sha256[:12]}, {bundle.path})" if bundle else "none"
