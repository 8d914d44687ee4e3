"""`make train-small` with less of everything: each command that it prints runs, and its end says how good they are."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
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
    ("given", "told"),
    [
        (["--set", "optim.stps=2"], "optim.stps: there is no `stps`"),
        (["--set", "optim.steps"], "optim.steps"),
        (["--scenes", "1"], "two drives at least"),
    ],
)
def test_what_cannot_be_is_told_before_any_drive_is_made(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "out"), *given])
    shown = capsys.readouterr()
    assert told in shown.err and shown.out == "" and not (tmp_path / "out").exists()


# A step that needs a second to save what it has.
SAVES = """
import signal, sys, time
def save(number, frame):
    time.sleep(1)
    sys.exit(f"saved after {signal.Signals(number).name}")
for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(sign, save)
print("at work", flush=True)
time.sleep(60)
"""
ALONE = """
import sys
from training import train_small
train_small.steps = lambda *_: [train_small.Step("one", ("saves",)), train_small.Step("two", ("saves",))]
sys.exit(train_small.main([sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("sign", "all_of_them"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)]
)
def test_a_step_that_is_told_to_end_may_save_and_is_the_last(
    sign: signal.Signals, all_of_them: bool, tmp_path: Path
) -> None:
    """A terminal tells all processes, `kill` and schedulers this one."""
    (tmp_path / "saves.py").write_text(SAVES)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"}
    command = subprocess.Popen(
        [sys.executable, "-c", ALONE, tmp_path / "out"], env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert command.stdout is not None
    before = "".join(iter(command.stdout.readline, "at work\n"))
    (os.killpg if all_of_them else os.kill)(command.pid, sign)
    said, _ = command.communicate(timeout=60)
    assert command.returncode == 1 and f"saved after {sign.name}" in said, before + said
    assert "two" not in said


# The signal is taken by a second thread: then it interrupts no wait of the main one, in which Python's handlers run.
DEAF = """
import signal, sys, threading, time
from bev_perception.evaluation.process import run_in_front
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
sys.exit(run_in_front(["saves"]))
"""


def test_a_signal_that_interrupts_no_wait_is_passed_on(tmp_path: Path) -> None:
    hearing = "import signal\nsignal.pthread_sigmask(signal.SIG_SETMASK, [])\n"  # a child begins as deaf as its parent
    (tmp_path / "saves.py").write_text(hearing + SAVES)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"}
    command = subprocess.Popen(
        [sys.executable, "-c", DEAF], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert command.stdout is not None and command.stdout.readline() == "at work\n"
    command.terminate()
    said, _ = command.communicate(timeout=20)
    assert command.returncode == 1 and "saved after SIGTERM" in said


@pytest.mark.parametrize(
    ("scenes", "every", "validates"),
    [(1, 6, []), (2, 6, [1]), (4, 6, [3]), (6, 6, [5]), (13, 6, [5, 11]), (4, 2, [1, 3]), (3, 1, [1])],
)
def test_few_drives_have_a_validation_split_too(scenes: int, every: int, validates: list[int]) -> None:
    splits = splits_of(scenes, every)
    assert splits["val"] == [f"scene-{i:04d}" for i in validates]
    assert sorted(splits["train"] + splits["val"]) == [f"scene-{i:04d}" for i in range(scenes)]
