"""`evaluate`: drives side by side, resumed, compared with an earlier result, and held against a gate."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
import tiny_drive  # noqa: E402

from bev_perception.evaluation.bag import read_detection_arrays  # noqa: E402
from bev_perception.evaluation.baseline import worst_differences  # noqa: E402
from bev_perception.evaluation.drive import DRIVE, FRAMES, Job, evaluate_drive, read_drive  # noqa: E402
from bev_perception.evaluation.evaluate import drive_names, main  # noqa: E402
from bev_perception.evaluation.look import read_look  # noqa: E402
from bev_perception.evaluation.report import REPORT  # noqa: E402
from bev_perception.evaluation.report import main as report_main  # noqa: E402
from bev_perception.evaluation.result_folder import DETECTIONS, TALLY  # noqa: E402
from bev_perception.evaluation.summary import DRIVES, RESULT  # noqa: E402
from bev_perception.replay import main as replay_main  # noqa: E402

TIMES = ("latency_ms.", "realtime")  # figures that differ from run to run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, parameters, two drives with ground truth and a recording that is none."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_bundle.write_bundle(folder / "bundle")
    tiny_drive.write_params(folder / "params.yaml")
    tiny_drive.write_drive(folder / "first", frames=8, seed=3)
    tiny_drive.write_drive(folder / "second", frames=6, seed=4)
    (folder / "broken").mkdir()
    (folder / "broken" / "broken.mcap").write_bytes(b"no recording")
    return folder


def run(folder: Path, out: Path, *bags: str, more: tuple[str, ...] = (), workers: int = 1) -> int:
    return main(
        [*(str(folder / bag) for bag in bags), "--bundle", str(folder / "bundle"), "--params",
         str(folder / "params.yaml"), "--out", str(out), "--workers", str(workers), *more]
    )  # fmt: skip


def figures(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / RESULT).read_text())["figures"]
    return found


@pytest.fixture(scope="module")
def evaluated(folder: Path) -> Path:
    assert run(folder, folder / "out", "first", "second") == 0
    return folder / "out"


def test_frames_and_scores_are_those_of_a_replay(folder: Path, evaluated: Path, tmp_path: Path) -> None:
    arguments = [str(folder / "first"), "--bundle", str(folder / "bundle"), "--params", str(folder / "params.yaml")]
    assert replay_main([*arguments, "--out", str(tmp_path / "replay"), "--score-floor", "0.03"]) == 0
    published = read_detection_arrays(tmp_path / "replay" / DETECTIONS)
    with open(evaluated / DRIVES / "first" / FRAMES, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["stamp_ns"]) for row in rows] == tiny_drive.anchor_stamps(8) == list(published)
    assert [int(row["boxes"]) for row in rows] == [len(m.detections) for m in published.values()]
    assert all(int(row["true"]) + int(row["missed"]) == 1 for row in rows), "each frame has one car"
    assert run(folder, tmp_path / "one", "first") == 0
    theirs = json.loads((tmp_path / "replay" / "scores.json").read_text())
    ours = json.loads((tmp_path / "one" / RESULT).read_text())["scores"]
    assert ours == theirs


def test_any_number_of_workers_gives_the_same(folder: Path, evaluated: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, "first", "second", workers=2) == 0
    one, two = ({k: v for k, v in figures(out).items() if not k.startswith(TIMES)} for out in (evaluated, tmp_path))
    assert one == two and one["frames"] == 14
    for name in ("first", "second"):
        assert read_drive(evaluated / DRIVES / name).sha256 == read_drive(tmp_path / DRIVES / name).sha256
        tallies = [(out / DRIVES / name / TALLY).read_bytes() for out in (evaluated, tmp_path)]
        assert tallies[0] == tallies[1]


def test_what_is_finished_is_not_done_again_and_what_changed_is(folder: Path, tmp_path: Path) -> None:
    first = tmp_path / DRIVES / "first" / DRIVE
    assert run(folder, tmp_path, "first") == 0
    before = first.stat().st_mtime_ns
    assert run(folder, tmp_path, "first", "second") == 0
    assert first.stat().st_mtime_ns == before and (tmp_path / DRIVES / "second" / DRIVE).exists()
    assert run(folder, tmp_path, "first", "second", more=("--score-floor", "0.1")) == 0
    assert first.stat().st_mtime_ns != before


def test_a_recording_that_cannot_be_read_costs_that_drive_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path, "first", "broken") == 1
    told = capsys.readouterr()
    assert "broken could not be evaluated: BagError" in told.out and "[2/2]" in told.err
    data = json.loads((tmp_path / RESULT).read_text())
    assert data["drives"] == ["first"] and list(data["failed"]) == ["broken"] and data["figures"]["frames"] == 8
    assert run(folder, tmp_path, "nowhere") == 1
    assert "there is no such recording" in capsys.readouterr().out


def test_the_gate_decides(folder: Path, evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text("frames: {min: 14, max: 14}\nscored: {min: 14}\n")
    assert run(folder, evaluated, "first", "second", more=("--gate", str(gate))) == 0
    assert capsys.readouterr().out.endswith("gate: held\n")
    gate.write_text("scores.mean_ap: {min: 0.99}\n")
    assert run(folder, evaluated, "first", "second", more=("--gate", str(gate))) == 1
    assert "gate: scores.mean_ap is" in capsys.readouterr().out
    gate.write_text("scores.map: {min: 0.99}\n")
    assert run(folder, evaluated, "first", "second", more=("--gate", str(gate))) == 1
    assert "there is no figure ['scores.map']; there are annotated, boxes_per_frame" in capsys.readouterr().err


def test_against_an_earlier_result(
    folder: Path, evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--baseline", str(evaluated))
    assert run(folder, tmp_path / "same", "first", "second", more=more) == 0
    found = figures(tmp_path / "same")
    assert found["gain.mean_ap"] == 0 and found["gain.nds"] == 0
    drifts = [value for name, value in found.items() if name.startswith("drift.") and value is not None]
    assert drifts and not any(drifts)
    assert "no difference that these drives could tell" in capsys.readouterr().out
    assert run(folder, tmp_path / "other", "first", more=more) == 0, "what both have is compared"
    assert "on one drive, which tells no spread" in capsys.readouterr().out
    assert run(folder, tmp_path / "none", "first", more=("--baseline", str(tmp_path / "nothing"))) == 1
    assert "has none of these recordings" in capsys.readouterr().err


def test_frames_in_which_two_results_differ_most(evaluated: Path, tmp_path: Path) -> None:
    before = evaluated / DRIVES / "first"
    shutil.copytree(before, tmp_path / "first")
    lines = (before / FRAMES).read_text().splitlines()
    columns = lines[0].split(",")
    row = lines[3].split(",")
    row[columns.index("false")] = str(int(row[columns.index("false")]) + 7)
    lines[3] = ",".join(row)
    (tmp_path / "first" / FRAMES).write_text("\n".join(lines) + "\n")
    stamp = tiny_drive.anchor_stamps(8)[2] / 1e9
    told = worst_differences({"first": before}, {"first": tmp_path / "first"}, 5)
    assert told == [f"  first, stamp {stamp:.3f} s: 7 misses and false alarms more"]


def test_sensors_can_be_left_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, tmp_path / "a", "first", more=("--without", "cameras")) == 0
    result = read_drive(tmp_path / "a" / DRIVES / "first")
    assert result.frames == result.scored == 8 and set(result.used) == {"radar_a"}
    with open(tmp_path / "a" / DRIVES / "first" / FRAMES, newline="") as file:
        assert {row["missing"] for row in csv.DictReader(file)} == {"cam_a:masked;cam_b:masked"}
    assert run(folder, tmp_path / "a", "first", more=("--without", "radar_a")) == 0, "which is another evaluation"
    assert set(read_drive(tmp_path / "a" / DRIVES / "first").used) == {"cam_a", "cam_b"}
    for wrong, told in ((("lidar",), "expected cameras, radars, or of cam_a"), (("cameras", "radars"), "no sensor")):
        assert run(folder, tmp_path / "b", "first", more=("--without", *wrong)) == 1
        assert told in capsys.readouterr().err


def test_the_report_shows_the_result(
    folder: Path, evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (evaluated / REPORT).read_text()
    assert f"{json.loads((evaluated / RESULT).read_text())['scores']['nds']:.3f}" in said
    for name in ("first", "second"):
        look = read_look(evaluated / DRIVES / name)
        with open(evaluated / DRIVES / name / FRAMES, newline="") as file:
            rows = {int(row["stamp_ns"]): int(row["false"]) + int(row["missed"]) for row in csv.DictReader(file)}
        assert look.scenes[0].errors() == max(rows.values()) == rows[look.scenes[0].stamp_ns]
        assert look.followed is not None and look.followed.name == "car" and len(look.followed.moments) == len(rows)
    arguments = [str(evaluated), "--baseline", str(evaluated), "--beside", f"cameras alone={evaluated}"]
    assert report_main([*arguments, "--out", str(tmp_path / "more.html")]) == 0
    more = (tmp_path / "more.html").read_text()
    assert "cameras alone" in more and "Against a baseline" in more and len(more) < 8_000_000
    for wrong, told in (
        ([str(tmp_path)], "has no result.json"),
        ([str(evaluated), "--beside", "nothing"], "expected NAME=RESULT"),
        ([str(evaluated), "--beside", f"x={tmp_path}"], "has no scores of first, second"),
    ):
        assert report_main(wrong) == 1
        assert told in capsys.readouterr().err


def test_recordings_of_one_name_are_refused() -> None:
    assert drive_names([Path("a/drive"), Path("other.mcap"), Path("a/drive.2")]) == ["drive", "other", "drive.2"]
    with pytest.raises(ValueError, match=r"same name \['drive'\]"):
        drive_names([Path("a/drive"), Path("b/drive")])


def test_a_result_of_another_version_is_made_anew(folder: Path, tmp_path: Path) -> None:
    job = Job(folder / "first", folder / "bundle", folder / "params.yaml", tmp_path / "first")
    result = evaluate_drive(job)
    data = json.loads((tmp_path / "first" / DRIVE).read_text())
    (tmp_path / "first" / DRIVE).write_text(json.dumps(data | {"format": 0}))
    with pytest.raises(ValueError, match="is of format 0"):
        read_drive(tmp_path / "first")
    again = evaluate_drive(job)
    assert dataclasses.replace(again, wall_s=0, latency_ms={}) == dataclasses.replace(result, wall_s=0, latency_ms={})


def test_it_is_a_command(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bev_perception.evaluation.evaluate", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--baseline RESULT" in told and "--gate YAML" in told
