"""The parts of `make circle`: what spoilt bundles do, what is gone on with; and its node stages."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("onnx", reason="onnx is not installed")

import tiny_bundle
from left_processes import left_processes

from bev_perception.bundle import Bundle
from bev_perception.deployment import journal
from bev_perception.deployment.gate import Gate, parse_gate
from bev_perception.deployment.journal import Line
from bev_perception.inference.backend import open_backend
from bev_perception.stated_scores import SCORES, StatedScores, read_scores
from training.circle import __main__ as circle
from training.circle.gate import judge
from training.circle.gate import main as gate_main
from training.circle.progress import Progress, by_stage, read_progress, write_progress
from training.circle.spoilt import spoil
from training.circle.steps import GATE, LIMITS, Settings, Step, asked_by, fleet_drives, held_out_drives, steps
from training.circle.summary import ending, summary, text


def in_8_bits(path: Path, name: str = "tiny", mean_ap: float = 0.4) -> Bundle:
    """A tiny bundle that says that it is in 8 bits, with scores."""
    spec = dataclasses.replace(tiny_bundle.SPEC, precision="int8", name=name)
    bundle = tiny_bundle.write_bundle(path, spec=spec)
    scores = StatedScores(bundle.spec.onnx_sha256, mean_ap, 0.3, 10, {"car": 5}, {"car": mean_ap})
    (path / SCORES).write_text(scores.to_json())
    return bundle


def outputs(bundle: Bundle, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    engine = open_backend(bundle, "onnxruntime", threads=1)
    try:
        return {name: np.array(engine.fetch(value)) for name, value in engine.infer(inputs).items()}
    finally:
        engine.close()


@pytest.mark.parametrize("way", ["slow", "damaged"])
def test_a_spoilt_bundle_is_whole_and_states_the_scores_of_another(way: str, tmp_path: Path) -> None:
    source = in_8_bits(tmp_path / "source")
    spoilt = spoil(way, source, tmp_path / "spoilt")
    assert spoilt.spec.onnx_sha256 != source.spec.onnx_sha256
    stated = read_scores(spoilt)
    assert stated is not None and stated.mean_ap == 0.4 and stated.onnx_sha256 == spoilt.spec.onnx_sha256
    inputs = tiny_bundle.make_inputs(seed=3)
    one, other = outputs(source, inputs), outputs(spoilt, inputs)
    same = {name: np.array_equal(one[name], other[name]) for name in one}
    assert set(same.values()) == ({True} if way == "slow" else {False})
    with pytest.raises(ValueError, match="expected a bundle of"):
        spoil(way, tiny_bundle.write_bundle(tmp_path / "fp32"), tmp_path / "not")


def test_the_gate_before_the_vehicle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, better = in_8_bits(tmp_path / "old"), in_8_bits(tmp_path / "better", "better", 0.6)
    gate = parse_gate(GATE.read_text())
    assert judge(better, old, gate).figures["map_gain"] == pytest.approx(0.2)
    assert judge(old, better, gate).reason.startswith("worse_scores")
    assert judge(tiny_bundle.write_bundle(tmp_path / "silent"), old, gate).reason.startswith("no_scores_stated")
    other = dataclasses.replace(tiny_bundle.SPEC, radars=("radar_b",))
    assert judge(tiny_bundle.write_bundle(tmp_path / "rig", spec=other), old, Gate()).reason.startswith("other_sensors")
    arguments = [str(tmp_path / "better"), "--in-service", str(tmp_path / "old"), "--out", str(tmp_path / "gate.json")]
    assert gate_main(arguments) == 0 and "map_gain +0.2000" in capsys.readouterr().out
    assert json.loads((tmp_path / "gate.json").read_text())["map_gain"] == pytest.approx(0.2)


def test_steps_are_whole_and_every_one_has_its_own_command() -> None:
    todo = steps(Path("out"), Settings())
    assert len({step.command for step in todo}) == len(todo)
    made = {step.product for step in todo}
    assert {Path("out/before"), Path("out/better"), Path("out/bad"), Path("out/slow")} <= made
    assert [step.stage for step in todo if step.deploys] == ["deploy better", "deploy bad", "deploy slow"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    product = tmp_path / "product"
    step, other = (Step("stage", "why", ("python", "-m", name), product) for name in ("one", "two"))
    progress = Progress().after(step, 3.0, 2.0, done=False).after(other, 1.0, 1.0, done=True)
    assert not progress.is_done(step) and not progress.is_done(other)
    product.write_text("made")
    assert not progress.is_done(step) and progress.is_done(other)
    progress = progress.after(step, 4.0, 1.0, done=True)
    write_progress(tmp_path, progress)
    assert read_progress(tmp_path) == progress and progress.of(step).runs == 2
    assert by_stage(progress.took) == {"stage": (8.0, 4.0)}
    changed = dataclasses.replace(step, command=(*step.command, "--more"))
    assert progress.is_done(step) and not progress.is_done(changed)
    (tmp_path / "circle.json").write_text("[]")
    with pytest.raises(ValueError, match="not what this command writes"):
        read_progress(tmp_path)


def test_what_builds_on_what_was_made_anew_is_done_anew(tmp_path: Path) -> None:
    todo = steps(tmp_path, Settings(fleet=2, held_out=1))
    whole = Progress()
    for step in todo:
        whole = whole.after(step, 1.0, 1.0, done=True)

    def stale(of: str, stage: str = "") -> set[str]:
        (step,) = [step for step in todo if str(step.product.relative_to(tmp_path)) == of and stage in step.stage][:1]
        after, told = whole.begin(step, todo)
        assert {after.of(other).command for other in told} == {row.command for row in after.took if row.stale}
        assert not any(after.is_done(other) for other in (step, *told))
        assert after.begin(step, todo)[1] == [], "what is known is not told again"
        return {str(other.product.relative_to(tmp_path)) for other in told}

    journal = "vehicle/journal.jsonl"
    last = {journal, "published/after.json"}
    assert stale(journal, "deploy slow") == {journal}
    assert stale("better") >= {"better/model.sig", "gate.json", "bad", "slow", "bad/model.sig", *last}
    assert not stale("better") & {"published/before.json", "before", "fleet.key", "student/last.ckpt"}
    assert stale("chosen.json") >= {"student/last.ckpt", "after.json", "after", "better", *last}
    assert not stale("chosen.json") & {"teacher/last.ckpt", "before"}
    assert stale("published/before.json") == last
    of_a_drive = stale("drives/fleet_2001")
    assert of_a_drive >= {"drives/recorded_2001", "data/.drives/recorded_2001", "before", "teacher/last.ckpt", *last}
    assert not of_a_drive & {"drives/recorded_2002", "drives/held_out_2101", "fleet.key"}


def test_a_pace_that_is_changed_is_no_other_step(tmp_path: Path) -> None:
    whole = Progress()
    for step in steps(tmp_path, Settings()):
        step.product.mkdir(parents=True, exist_ok=True)
        whole = whole.after(step, 1.0, 1.0, done=True)
    assert all(whole.is_done(step) for step in steps(tmp_path, Settings(rate=0.5, deploy_rate=0.2, workers=7)))
    undone = [step.stage for step in steps(tmp_path, Settings(steps=7)) if not whole.is_done(step)]
    assert undone == ["fine-tune"]


def test_a_folder_is_of_one_circle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Progress().made_with(Settings(fleet=2))
    assert begun.made_with(Settings()).settings["fleet"] == 8, "nothing was made yet"
    write_progress(tmp_path, begun.after(steps(tmp_path, Settings())[0], 1.0, 1.0, done=True))
    assert circle.main([str(tmp_path), "--fleet", "2", "--steps", "7"]) == 1
    told = capsys.readouterr().err
    assert f"{tmp_path}: it was begun with --steps 160, asked for is --steps 7; name another folder" in told


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--fleet", "0"), ("--fleet", "101"), ("--steps", "-1"), ("--share", "2"), ("--rate", "0"), ("--seconds", "nan")],
)
def test_what_no_circle_can_be_made_of_is_refused_at_once(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert circle.main([str(tmp_path / "out"), flag, value]) == 1
    assert f"error: {flag} is {value}, expected a number within [" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_town_is_learnt_from_and_scored_on() -> None:
    most = Settings(fleet=LIMITS["fleet"][1], held_out=LIMITS["held_out"][1])
    assert not set(fleet_drives(most)) & set(held_out_drives(most))


def line(bundle: str, step: str, verdict: str, reason: str = "why") -> Line:
    return Line("2026-01-01T00:00:00.000Z", "1", asked_by(bundle), step, verdict, reason=reason)


def test_a_deployment_must_end_as_it_is_to_end(tmp_path: Path) -> None:
    path = tmp_path / "vehicle" / "journal.jsonl"
    step = Step("deploy bad", "why", ("python", "-m", "x"), path, "bad", "refused")
    assert "the journal says nothing" in circle.judged(step, 1, tmp_path)
    journal.append(path, line("better", "watching", "done"))
    journal.append(path, line("bad", "deployment", "begun"))
    assert ending(journal.read(path).lines, "bad") is None
    journal.append(path, line("bad", "shadowing", "refused"))
    assert circle.judged(step, 1, tmp_path) == ""
    assert circle.judged(step, 130, tmp_path) == "it ended with status 130"
    assert "was to end done; the journal says refused" in circle.judged(
        dataclasses.replace(step, verdict="done"), 1, tmp_path
    )
    why = dataclasses.replace(step, reasons=("empty_output", "disagrees"))
    told = "was to end refused, empty_output or disagrees; the journal says refused, why"
    assert told in circle.judged(why, 1, tmp_path)
    known = len(journal.read(path).lines)
    assert "the journal says nothing" in circle.judged(step, 1, tmp_path, known), "what it says of an earlier attempt"
    journal.append(path, line("bad", "shadowing", "refused", "disagrees: 0.2 of the boxes"))
    assert circle.judged(why, 1, tmp_path, known) == ""
    again = dataclasses.replace(step, deploys="better", verdict="done")
    journal.append(path, line("better", "checking", "refused", "already_in_service: tiny"))
    assert circle.judged(again, 0, tmp_path) == ""  # of a circle that was stopped when it had just come in


def test_the_summary_says_scores_times_and_verdicts(tmp_path: Path) -> None:
    scores = {"mean_ap": 0.25, "nds": 0.5, "frames": 20}
    for name, held in (
        ("before.json", {"all": scores}), ("after.json", {"all": scores}), (f"better/{SCORES}", scores),
        ("published/before.json", scores), ("published/after.json", scores),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(held))
    journal.append(tmp_path / "vehicle" / "journal.jsonl", line("slow", "watching", "rolled_back"))
    progress = Progress().after(Step("gate", "why", ("x",), tmp_path), 61.0, 2.0, done=True)
    told = summary(tmp_path, progress, Settings())
    assert told["verdicts"] == {"slow": "watching rolled_back: why"}
    said = text(json.loads(json.dumps(told)))
    assert "| gate | 61 | 2 |" in said and said.count("| 20 | 0.250 | 0.500 |") == 5


# Three steps, each of which waits and reads what the one before made. The second has a folder that it goes on in.
THREE = """
import sys
from pathlib import Path
from training.circle import __main__ as circle
from training.circle.steps import Step
out = Path(sys.argv[1])
def step(name, before, seconds="0"):
    return ("python", "-m", "makes", str(out / name), str(out / before), "--rate", seconds)
circle.steps = lambda *_: [
    Step("first", "one", step("one", "none"), out / "one"),
    Step("second", "two", step("two", "one", sys.argv[2]), out / "two", clears=(out / "two", out / "two.log")),
    Step("third", "three", step("three", "two"), out / "three"),
]
circle.summaries.summary = lambda *_: {}
circle.summaries.text = lambda _: "the end"
sys.exit(circle.main([sys.argv[1]]))
"""
MAKES = """
import sys, time
out, before = sys.argv[1:3]
open(out + ".log", "a").write("begun ")
print("at work", flush=True)
time.sleep(float(sys.argv[4]))
open(out, "a").write("made " + (open(before).read() if before[-4:] != "none" else ""))
"""


def test_a_circle_that_was_interrupted_goes_on_and_what_is_deleted_is_made_with_all_that_follows(
    tmp_path: Path,
) -> None:
    (tmp_path / "makes.py").write_text(MAKES)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"}
    command, out = [sys.executable, "-c", THREE, str(tmp_path / "out")], tmp_path / "out"
    with subprocess.Popen(
        [*command, "60"], env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for _ in range(2):
            "".join(iter(process.stdout.readline, "at work\n"))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.stdout.read()
    assert process.returncode == 130 and "the same command goes on with this step" in said, said
    assert [row.done for row in read_progress(out).took] == [True, False]

    def again() -> str:
        ended = subprocess.run([*command, "0"], env=environment, text=True, capture_output=True, check=False)
        assert ended.returncode == 0 and "the end" in ended.stdout, ended.stderr
        return ended.stdout

    def held() -> dict[str, int]:
        return {path.name: len(path.read_text().split()) for path in out.iterdir() if not path.suffix == ".json"}

    assert "done before: one" in again()
    # A word for each attempt: the second step went on where it was.
    assert held() == {"one": 1, "one.log": 1, "two": 2, "two.log": 2, "three": 3, "three.log": 1}
    assert again().count("done before") == 3
    (out / "one").unlink()
    assert "done anew after it, as it builds on it: second, third" in again()
    assert held() == {"one": 1, "one.log": 2, "two": 2, "two.log": 1, "three": 3, "three.log": 2}
    assert again().count("done before") == 3


def test_a_deployment_beside_a_drive_and_a_drive_that_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The node stages, real processes over DDS: another model into the node while a drive is played to it; then the
    drive once more with the folder that says what serves, recorded, and scored by what was published."""
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("bev_perception_msgs.action", reason="needs the built messages")
    import tiny_drive

    from bev_perception.evaluation import live
    from bev_perception.evaluation.bag import read_bag

    tiny_bundle.write_bundle(tmp_path / "first")
    other = tiny_bundle.write_bundle(tmp_path / "other", spec=dataclasses.replace(tiny_bundle.SPEC, name="other"))
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=20)
    least = {f"score_threshold__{name}": 0.1 for name in tiny_bundle.SPEC.classes}
    params = tiny_drive.write_params(tmp_path / "shipped.yaml", **least, qos__reliability="reliable")
    (tmp_path / "gate.yaml").write_text("frames: 1")
    node = [
        str(bag), "--out", str(tmp_path / "live"), "--bundle", str(tmp_path / "first"), "--params", str(params),
        "--set", f"deploy.folder={tmp_path / 'vehicle'}", "--rate", "0.5",
    ]  # fmt: skip
    deploy = ["bev_perception.ros.deploy", str(tmp_path / "other"), "--shadow", "0", "--watch", "1"]
    asked = [*deploy, "--gate", str(tmp_path / "gate.yaml"), "--asked-by", asked_by("better")]
    assert live.main([*node, "--", *asked]) == 0, capfd.readouterr()
    last = ending(journal.read(tmp_path / "vehicle" / "journal.jsonl").lines, "better")
    assert last is not None and (last.verdict, last.in_service) == ("done", other.spec.onnx_sha256)

    recorded, scores = tmp_path / "recorded", tmp_path / "scores.json"
    assert live.main([*node, "--record", str(recorded), "--scores", str(scores)]) == 0, capfd.readouterr()
    assert other.spec.onnx_sha256[:8] in capfd.readouterr().out  # what was deployed serves after a new start
    assert json.loads(scores.read_text())["frames"] > 0
    found = {message.topic for message in read_bag(recorded)}
    assert {"/perception/detections", "/ground_truth/detections", "/camera/cam_a/image_raw"} <= found
    assert not left_processes(tmp_path)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["drive", "--out", "x"], "either --record BAG, or a command"),
        (["drive", "--out", "x", "--record", "y", "--", "z"], "either --record BAG, or a command"),
        (["drive", "--out", "x", "--scores", "y", "--", "z"], "--scores is of what --record records"),
    ],
)
def test_live_says_what_it_cannot_do(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bev_perception.evaluation import live

    with pytest.raises(SystemExit, match="2"):
        live.main(given)
    assert told in capsys.readouterr().err
