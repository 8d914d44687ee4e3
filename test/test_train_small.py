"""`make train-small` with less of everything: each command that it prints runs, and its end says how good they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("rosbags", reason="needs rosbags")

from bev_perception.bundle import load_bundle
from training.train_small import main, steps
from training.world.nuscenes_writer import splits_of

LESS = ["--scenes", "2", "--seconds", "1", "--set", "optim.steps=2"]


def test_from_nothing_to_a_replayed_student(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "with a space"
    assert main([str(out), *LESS]) == 0
    said = capfd.readouterr().out
    for step in steps(out, 2, 1.0, ("optim.steps=2",), 1):
        assert f"python -m {step.arguments[0]} " in said
    end = said[said.rindex("done") :]
    rows = dict(re.findall(r"^\| ([a-z, ]+) \| ([\d.]+) \|", end, re.MULTILINE))
    student = json.loads((out / "student.json").read_text())["all"]
    assert list(rows) == ["teacher", "student", "bundle, replayed"] and rows["student"] == f"{student['mean_ap']:.3f}"
    assert float(rows["teacher"]) > 0.3  # on one drive of one second; a network that has learned nothing has 0
    assert load_bundle(out / "bundle").spec.name == "camera_radar_near"


def test_the_first_command_that_fails_ends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").write_text("a file in the place of the folder")
    assert main([str(tmp_path), *LESS]) == 1
    assert capfd.readouterr().out.count("python -m ") == 1


@pytest.mark.parametrize(
    ("scenes", "every", "validates"),
    [(1, 6, []), (2, 6, [1]), (4, 6, [3]), (6, 6, [5]), (13, 6, [5, 11]), (4, 2, [1, 3]), (3, 1, [1])],
)
def test_few_drives_have_a_validation_split_too(scenes: int, every: int, validates: list[int]) -> None:
    splits = splits_of(scenes, every)
    assert splits["val"] == [f"scene-{i:04d}" for i in validates]
    assert sorted(splits["train"] + splits["val"]) == [f"scene-{i:04d}" for i in range(scenes)]
