"""The journal of deployments: one line of JSON for each step, appended, synced, and never altered.

A power cut may tear the last line. It stays as it is: the next line begins on a line of its own, and who reads is told.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bev_perception.files import naming_the_full_disk, sync
from bev_perception.plain import from_plain, parse_json, to_plain

READ_LIMIT = 4 * 2**20  # bytes from the end; a deployment writes 3 KiB
TEXT_LIMIT, NAME_LIMIT = 2000, 200  # characters of a reason, and of who asked
TOLD_LINES = 5  # of those that cannot be read


@dataclass(frozen=True)
class Line:
    """One step of one deployment.

    time: UTC, ISO 8601. deployment: the time at which it began, the same in all its lines. candidate, in_service:
    SHA-256 of the models' ONNX files, "" where not known. verdict: `begun`, `passed`, `done`, `refused`, `rolled_back`
    or `told`. reason: named first, then in words. figures: what the verdict goes by, and other numbers of the step.
    """

    time: str
    deployment: str
    asked_by: str
    step: str
    verdict: str
    candidate: str = ""
    in_service: str = ""
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """For a person."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        why = f": {self.reason}" if self.reason else ""
        return f"{self.step} {self.verdict}{why}" + f" ({figures})" * bool(figures)


@dataclass(frozen=True)
class Journal:
    """What could be read: the lines, oldest first, and what could not, in words."""

    lines: tuple[Line, ...] = ()
    problems: tuple[str, ...] = ()


def now() -> str:
    """UTC with milliseconds, as ISO 8601."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns // 10**6 % 1000:03d}Z"


def append(path: Path, line: Line) -> None:
    """Add a line, on the disk when this returns. Raises OSError."""
    finite = {name: value for name, value in line.figures.items() if math.isfinite(value)}
    plain = to_plain(
        replace(line, asked_by=line.asked_by[:NAME_LIMIT], reason=line.reason[:TEXT_LIMIT], figures=finite)
    )
    data = json.dumps(plain, separators=(",", ":")).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            data = b"\n" + data  # what was torn keeps a line of its own
        with naming_the_full_disk(path):
            written = os.write(file, data)
            os.fsync(file)
    finally:
        os.close(file)
    if written != len(data):
        raise OSError(f"{path}: {written} of {len(data)} bytes of a line were written; is the disk full?")
    if not size:
        sync(path.parent)


def read(path: Path, limit: int = READ_LIMIT) -> Journal:
    """The newest lines, of at most `limit` bytes; a file that is not there is an empty journal. Raises OSError."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            data = file.read(limit)
    except FileNotFoundError:
        return Journal()
    problems, unread = [], []
    texts = data.removesuffix(b"\n").split(b"\n")
    if size > limit:
        texts = texts[1:]  # it may begin in the middle
        problems.append(f"{path} has {size} bytes: the lines before the last {limit} are left out")
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            lines.append(_parsed(text))
        except ValueError as error:
            where = "the last line" if number == len(texts) else f"line {number} of the last {len(texts)}"
            unread.append(f"{path}: {where} was torn or altered and is skipped ({error}): {text[:60]!r}")
    problems += unread[:TOLD_LINES]
    if len(unread) > TOLD_LINES:
        problems.append(f"{path}: and so are {len(unread) - TOLD_LINES} further lines")
    return Journal(tuple(lines), tuple(problems))


def _parsed(text: bytes) -> Line:
    line: Line = from_plain(Line, parse_json(text.decode()), "line")
    return line


def table(lines: Sequence[Line]) -> str:
    """A row for each line, for a terminal."""
    head = ("time", "asked by", "step", "verdict", "candidate", "in service", "reason and figures")
    rows = [head, *(_row(line) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[-1]]).rstrip() for row in rows)


def _row(line: Line) -> tuple[str, ...]:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in line.figures.items())
    why = "; ".join(filter(None, [line.reason, figures]))
    short = (line.candidate[:8] or "-", line.in_service[:8] or "-")
    return (line.time, line.asked_by, line.step, line.verdict, *short, why)


def unfinished(lines: Sequence[Line], ends: Sequence[str]) -> Line | None:
    """The newest line of the newest deployment, where it has no end: the process ended in it."""
    newest: Any = lines[-1] if lines else None
    return None if newest is None or newest.verdict in ends else newest
