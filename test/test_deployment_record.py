"""Which bundle comes up after whatever happened: every transition of the record, and the journal around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bev_perception.deployment import journal, rollout
from bev_perception.deployment import record as rules
from bev_perception.deployment.folder import JOURNAL, RECORD, DeployError, VehicleFolder
from bev_perception.deployment.journal import Line
from bev_perception.deployment.record import Record, Start, Stored


def stored(letter: str) -> Stored:
    return Stored(f"/bundles/{letter}", letter, letter * 64, "2026-01-01T00:00:00.000Z")


A, B, C = map(stored, "abc")
BARRED = {"a" * 64: "took the process with it in 2 starts"}
# What happens -> (record before, record after, reasons that are told).
STARTS = {
    "nothing is known": (Record(), Record(), []),
    "as ever": (Record(A, B), Record(A, B, starts=1), []),
    "one start did not end": (Record(A, B, starts=1), Record(A, B, starts=2), []),
    "two starts did not end": (Record(A, B, starts=2), Record(B, starts=1, barred=BARRED), ["crashed_at_start"]),
    "two starts, nothing before": (Record(A, starts=2), Record(barred=BARRED), ["crashed_at_start"]),
    "ended on trial": (Record(A, B, C), Record(A, B, starts=1), ["ended_on_trial"]),
    "on trial after two starts": (
        Record(A, B, C, starts=2), Record(B, starts=1, barred=BARRED), ["ended_on_trial", "crashed_at_start"],
    ),
    "what serves is barred": (Record(A, B, barred=BARRED), Record(B, starts=1, barred=BARRED), ["crashed_at_start"]),
    "all are barred": (
        Record(A, A, barred=BARRED), Record(barred=BARRED), ["crashed_at_start", "crashed_at_start"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_a_start(name: str) -> None:
    before, after, told = STARTS[name]
    found = rules.begin_start(before)
    assert found == Start(after, found.told) and [text.split(":")[0] for text in found.told] == told


CHANGES = {
    "end_start": (rules.end_start, Record(A, B, starts=2), Record(A, B)),
    "adopt": (lambda r: rules.adopt(r, C), Record(), Record(C, starts=1)),
    "fall_back": (rules.fall_back, Record(A, B, starts=1), Record(B, starts=1)),
    "fall_back to nothing": (rules.fall_back, Record(A, starts=1), Record()),
    "begin_trial": (lambda r: rules.begin_trial(r, C), Record(A, B), Record(A, B, C)),
    "begin_trial of a barred one": (lambda r: rules.begin_trial(r, A), Record(B, barred=BARRED), Record(B, None, A)),
    "end_trial": (rules.end_trial, Record(A, B, C), Record(A, B)),
    "accept": (rules.accept, Record(A, B, C), Record(C, A)),
    "accept the first": (rules.accept, Record(trial=C), Record(C)),
    "accept the same again": (rules.accept, Record(A, B, A), Record(A, B)),
    "step_back": (rules.step_back, Record(A, B), Record(B)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change(name: str) -> None:
    rule, before, after = CHANGES[name]
    assert rule(before) == after


@pytest.mark.parametrize(
    ("rule", "record"),
    [(rules.accept, Record(A)), (rules.step_back, Record(A)), (lambda r: rules.adopt(r, A), Record(barred=BARRED))],
)
def test_changes_that_cannot_be(rule: object, record: Record) -> None:
    with pytest.raises(ValueError, match=r"\bnot?\b"):
        rule(record)  # type: ignore[operator]


def test_a_bundle_never_comes_up_a_third_time_however_it_ends() -> None:
    record, came_up = Record(A, B), []
    for _ in range(6):  # every start takes the process with it
        record = rules.begin_start(record).record
        came_up.append(record.serving.name if record.serving else "")
    assert came_up == ["a", "a", "b", "b", "", ""]


def test_the_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = VehicleFolder(tmp_path)
    assert folder.record() == Record()
    record = Record(A, B, C, 1, BARRED)
    folder.write(record)
    assert folder.record() == record
    assert folder.change(rules.end_trial) == folder.record() == replace(record, trial=None)
    for wrong in ("", "[]", '{"format": 2}', (tmp_path / RECORD).read_text().replace('"starts": 1', '"starts": "1"')):
        (tmp_path / RECORD).write_text(wrong)
        with pytest.raises(DeployError, match="move it away"):
            folder.record()


def test_a_folder_belongs_to_one_node(tmp_path: Path) -> None:
    first, second = VehicleFolder(tmp_path), VehicleFolder(tmp_path)
    first.open()
    with pytest.raises(DeployError, match="another node"):
        second.open()
    first.close()
    second.open()
    second.close()
    second.close()


# ---- the journal


def line(step: str = "checking", **more: object) -> Line:
    return replace(Line("t", "d", "somebody", step, "passed"), **more)  # type: ignore[arg-type]


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "folder" / JOURNAL
    lines = [line(reason="a; b\nc", figures={"x": 1.5}), line("opening", candidate="a" * 64)]
    for one in lines:
        journal.append(path, one)
    assert journal.read(path) == journal.Journal(tuple(lines))
    assert path.read_bytes().count(b"\n") == 2
    rows = journal.table(lines).splitlines()
    assert len(rows) == 4 and "x 1.5" in journal.table(lines) and "aaaaaaaa " in rows[-1]


def test_figures_that_are_no_numbers_stay_out(tmp_path: Path) -> None:
    journal.append(tmp_path / JOURNAL, line(figures={"nan": float("nan"), "inf": float("inf"), "one": 1.0}))
    (found,) = journal.read(tmp_path / JOURNAL).lines
    assert found.figures == {"one": 1.0}


@pytest.mark.parametrize("left", [1, 20, -2])
def test_a_torn_line_is_told_and_skipped_and_stays(left: int, tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    journal.append(path, line("checking"))
    whole = path.read_bytes()
    journal.append(path, line("opening"))
    torn = path.read_bytes()[len(whole) :][:left]
    path.write_bytes(whole + torn)  # the power went
    found = journal.read(path)
    assert [one.step for one in found.lines] == ["checking"]
    assert len(found.problems) == 1 and "the last line was torn" in found.problems[0]
    journal.append(path, line("shadowing"))
    found = journal.read(path)
    assert [one.step for one in found.lines] == ["checking", "shadowing"] and len(found.problems) == 1
    assert path.read_bytes().startswith(whole + torn + b"\n")


def test_of_a_file_that_is_no_journal_only_the_beginning_is_told(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    path.write_bytes(b"what\n" * 1000)
    journal.append(path, line("checking"))
    found = journal.read(path)
    assert [one.step for one in found.lines] == ["checking"]
    assert len(found.problems) == journal.TOLD_LINES + 1
    assert "line 1 of the last 1001" in found.problems[0]
    assert f"{1000 - journal.TOLD_LINES} further lines" in found.problems[-1]


def test_a_line_without_its_end_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    journal.append(path, line("checking"))
    path.write_bytes(path.read_bytes()[:-1])
    assert [one.step for one in journal.read(path).lines] == ["checking"]
    journal.append(path, line("opening"))
    assert [one.step for one in journal.read(path).lines] == ["checking", "opening"]


def test_no_more_is_read_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    for number in range(100):
        journal.append(path, line(reason=f"{number}"))
    found = journal.read(path, limit=1000)
    assert 0 < len(found.lines) < 10 and found.lines[-1].reason == "99" and "left out" in found.problems[0]


def test_lines_of_two_processes_are_whole(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bev_perception.deployment import journal\n"
        "for n in range(40): journal.append(Path(sys.argv[1]), journal.Line('t', 'd', sys.argv[2] * 500, 's', 'told'))"
    )
    path = tmp_path / JOURNAL
    command = [sys.executable, "-c", code, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    for process in [subprocess.Popen([*command, who], env=environment) for who in "ab"]:
        assert process.wait() == 0
    found = journal.read(path)
    assert not found.problems and sorted(one.asked_by[0] for one in found.lines) == ["a"] * 40 + ["b"] * 40


def test_the_newest_deployment_without_an_end_is_found() -> None:
    begun, ended = line("idle", verdict="begun"), line("watching", verdict="done")
    assert journal.unfinished([], rollout.ENDS) is None
    assert journal.unfinished([begun, ended], rollout.ENDS) is None
    assert journal.unfinished([begun, ended, begun], rollout.ENDS) == begun


# ---- the steps


def test_the_steps_in_order_and_where_each_leads_when_it_fails() -> None:
    at, first = rollout.begin("me", "old", "/bundle")
    assert (first.verdict, first.step, at.step) == (rollout.BEGUN, rollout.DEPLOYMENT, rollout.CHECKING)
    order, ends = [], {}
    while not at.ended:
        order.append(at.step)
        failed, failed_line = rollout.failed(at, "why", {"n": 1.0})
        ends[at.step] = failed.step
        assert failed.in_service == "old" and failed.reason == "why"
        assert (failed_line.verdict, failed_line.step, failed_line.figures) == (failed.step, at.step, {"n": 1.0})
        at, _ = rollout.passed(replace(at, candidate="new"))
    assert order == ["checking", "opening", "shadowing", "switching", "watching"]
    assert list(ends.values()) == ["refused"] * 3 + ["rolled_back"] * 2
    assert (at.step, at.in_service) == ("done", "new")
    for step in (lambda: rollout.passed(at), lambda: rollout.failed(at, "late")):
        with pytest.raises(ValueError, match="ended"):
            step()


def test_lines_are_json_that_others_read(tmp_path: Path) -> None:
    _, one = rollout.begin("me", "old", "/bundle")
    journal.append(tmp_path / JOURNAL, one)
    assert json.loads((tmp_path / JOURNAL).read_text())["reason"] == "/bundle"
