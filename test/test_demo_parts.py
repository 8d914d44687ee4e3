"""The demo's parts that need no ROS: child processes, parameters, the drive's stamp, results, clear failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh")
import tiny_bundle
import tiny_drive
from left_processes import left_processes
from replays import replay, write_detections

from bev_perception.bundle import load_bundle
from bev_perception.calibration import CalibrationError, load_extrinsics
from bev_perception.evaluation import bench, demo, faults, live, soak
from bev_perception.evaluation.bag import BagError, composition_of, read_detection_arrays
from bev_perception.evaluation.compare import compare_runs
from bev_perception.evaluation.live import write_parameters
from bev_perception.evaluation.process import (
    DDS_PROFILE,
    TIED_TO_PARENT,
    Child,
    StageError,
    ends_with_its_children,
    ros_environment,
)
from bev_perception.evaluation.report_page.data import Latency
from bev_perception.evaluation.results import read_live_run, report_data, summarize
from bev_perception.model_spec import CLASSES
from bev_perception.parameters import ParameterError, load_config
from bev_perception.replay import main as replay_main
from training.world.bag_writer import BagSettings
from training.world.kept_bag import drive_stamp, keep_bag

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""

# A command with a child, which prints the number of its process.
COMMAND = """
import sys
from pathlib import Path
from bev_perception.evaluation.process import Child, ends_with_its_children, ros_environment

@ends_with_its_children
def main(argv=None):
    with Child("waiter", ["waiter"], Path(sys.argv[1]), ros_environment(1)) as child:
        child.wait(60)

sys.exit(main())
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules Child can run."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_leaving_the_block_ends_a_stubborn_child_and_its_children(modules: Path):
    (modules / "stubborn.py").write_text(STUBBORN)
    with Child("stubborn", ["stubborn"], modules / "log" / "s.log", ros_environment(1)) as child:
        wait_for(lambda: child.tail().isdigit())
        grandchild = int(child.tail())
        assert child.running and alive(grandchild)
        child.stop(timeout_s=0.2)
    assert not child.running
    wait_for(lambda: not alive(grandchild))


def test_a_child_that_ends_early_is_named_with_its_last_words(modules: Path):
    (modules / "broken.py").write_text("import sys\nprint('first')\nsys.exit('no camera')")
    (modules / "patient.py").write_text("import time\ntime.sleep(60)")
    environment = ros_environment(1)
    with Child("node", ["broken"], modules / "b.log", environment) as broken:
        with pytest.raises(StageError, match="the node failed with status 1: no camera") as error:
            broken.wait(10)
        assert error.value.log == modules / "b.log"
        with Child("player", ["patient"], modules / "p.log", environment) as patient:
            with pytest.raises(StageError, match="the node ended with status 1"):
                patient.wait(10, others=(broken,))
            with pytest.raises(StageError, match="the player did not end within 0 s"):
                patient.wait(0.1)


@pytest.mark.parametrize(
    ("sign", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_command_that_is_told_to_end_leaves_no_child(modules: Path, sign: signal.Signals, status: int):
    (modules / "waiter.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    (modules / "command.py").write_text(COMMAND)
    log = modules / "w.log"
    environment = ros_environment(1)
    command = subprocess.Popen([sys.executable, modules / "command.py", log], env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: log.is_file() and log.read_text().strip().isdigit())
    command.send_signal(sign)
    _, said = command.communicate(timeout=10)
    assert command.returncode == status
    assert sign == signal.SIGKILL or f"ended by {sign.name}; its processes are stopped" in said.decode()
    wait_for(lambda: not alive(int(log.read_text().split()[0])))


def test_a_child_of_a_parent_that_is_gone_does_not_begin(modules: Path):
    """As where the parent is killed before the child has asked to be told."""
    begun = [sys.executable, "-c", TIED_TO_PARENT, str(os.getppid()), sys.executable, "-c", "print('begun')"]
    assert subprocess.run(begun, capture_output=True, text=True).stdout == ""
    begun[3] = str(os.getpid())
    assert subprocess.run(begun, capture_output=True, text=True).stdout == "begun\n"


@pytest.mark.parametrize(
    ("command", "work", "arguments"),
    [(demo, "run", ["drive"]), (bench, "check_sections", []), (faults, "try_all", []), (soak, "soak", [])],
)
def test_every_command_with_children_minds_the_signals(command, work, arguments, monkeypatch: pytest.MonkeyPatch):
    before = [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(command, work, lambda *_: signal.raise_signal(signal.SIGTERM))
    assert command.main(arguments) == 143
    assert [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_that_is_ignored_stays_so_and_a_second_one_cuts_nothing_short():
    held = []

    @ends_with_its_children
    def main(argv=None):
        signal.raise_signal(signal.SIGHUP)
        held.append("ignored")
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            held.append("ended")
        return 0

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main([]) == 143 and held == ["ignored", "ended"]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_environment_names_the_profile_or_none():
    with_profile, without = ros_environment(33), ros_environment(33, dds_profile=None)
    assert DDS_PROFILE.is_file()
    assert with_profile["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(DDS_PROFILE)
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in without and "FASTDDS_DEFAULT_PROFILES_FILE" not in without
    assert without["ROS_DOMAIN_ID"] == "33"


def test_drive_is_kept_while_nothing_changes(tmp_path: Path):
    out, settings = tmp_path / "drive", BagSettings(900, 1.0, 0.02)
    assert keep_bag(out, settings, 1)
    (file,) = out.glob("*.mcap")
    made = file.stat().st_mtime_ns
    assert keep_bag(out, settings, 1) == {} and file.stat().st_mtime_ns == made
    assert keep_bag(out, BagSettings(900, 1.0, 0.03), 1) and file.stat().st_mtime_ns > made
    (tmp_path / "drive.stamp").write_text("of other sources")
    assert keep_bag(out, BagSettings(900, 1.0, 0.03), 1)
    others = (BagSettings(901), BagSettings(duration_s=5.0), BagSettings(scale=0.5), BagSettings())
    assert len({drive_stamp(s) for s in others}) == 4


def test_frames_have_the_names_of_the_parameters_and_what_is_absent_has_none(tmp_path: Path):
    """A rig of one's own: other frames than the sensors' names, and not all sensors of the model."""
    tiny_bundle.write_bundle(tmp_path / "bundle")
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=1)
    frames = {"cameras__cam_a__frame_id": "radar_a", "absent": ["radar_a"]}
    own = tiny_drive.write_params(tmp_path / "own.yaml", **frames)
    write_parameters(tmp_path, bag, tmp_path / "bundle", tiny_bundle.SPEC, base=own)
    sensors = [name for name in (*tiny_bundle.SPEC.cameras, *tiny_bundle.SPEC.radars) if name != "radar_a"]
    found = load_extrinsics(tmp_path / "extrinsics.yaml", "base_link", sensors)
    assert abs(found["cam_a"] - tiny_drive.EGO_FROM_RADAR).max() < 1e-6, "of the frame that the parameters name"
    with pytest.raises(CalibrationError, match="radar_a"):
        load_extrinsics(tmp_path / "extrinsics.yaml", "base_link", ["radar_a"])
    by_hand = {"extrinsics__source": "file", "extrinsics__file": str(tmp_path / "extrinsics.yaml")}
    other = tiny_drive.write_params(tmp_path / "other.yaml", **frames, **by_hand)
    (tmp_path / "again").mkdir()
    _, config = write_parameters(tmp_path / "again", bag, tmp_path / "bundle", tiny_bundle.SPEC, base=other)
    assert config.extrinsics_file == tmp_path / "extrinsics.yaml", "a calibration of one's own stays"
    nowhere = tiny_drive.write_params(tmp_path / "nowhere.yaml", cameras__cam_a__frame_id="mars")
    with pytest.raises(CalibrationError, match="'mars'"):
        write_parameters(tmp_path, bag, tmp_path / "bundle", tiny_bundle.SPEC, base=nowhere)


def test_parameters_follow_the_drive(tmp_path: Path):
    """Extrinsics written from /tf_static are those of the drive; the YAML is one that node and replay accept."""
    tiny_bundle.write_bundle(tmp_path / "bundle")
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=1)
    shipped = tiny_drive.write_params(tmp_path / "shipped.yaml")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(live, "SHIPPED_PARAMETERS", shipped)
        path, config = write_parameters(tmp_path, bag, tmp_path / "bundle", tiny_bundle.SPEC, ["onnxruntime.threads=3"])
        for wrong, message in (
            ("backend", "expected NAME=VALUE"),
            ("onnxruntime.thread=1", "no such parameter"),
            ("onnxruntime.threads=010", "means different things"),
            ("backend=" + "[" * 20_000, "levels below each other"),
        ):
            with pytest.raises(ParameterError, match=message):
                write_parameters(tmp_path, bag, tmp_path / "bundle", tiny_bundle.SPEC, [wrong])
    assert config.backend_options["threads"] == 3
    found = load_extrinsics(tmp_path / "extrinsics.yaml", "base_link", ["cam_a", "radar_a"])
    assert abs(found["cam_a"] - tiny_drive.EGO_FROM_CAM).max() < 1e-6
    assert config.extrinsics_file == tmp_path / "extrinsics.yaml"
    assert yaml.safe_load(path.read_text())["/**"]["ros__parameters"]["extrinsics.source"] == "file"


def test_a_live_run_is_scored_compared_and_reported(tmp_path: Path):
    """A result bag as the node leaves it (here written by the replay) becomes report.html and summary.json."""
    least = {f"score_threshold__{name}": 0.635 for name in CLASSES}
    tiny_bundle.write_bundle(tmp_path / "bundle")
    spec = load_bundle(tmp_path / "bundle").spec
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=5)
    config = load_config(tmp_path / "bundle", tiny_drive.write_params(tmp_path / "params.yaml", **least))
    result = replay(bag, tmp_path / "bundle", config)
    write_detections(tmp_path / "result", result.detections, spec)
    run = read_live_run(bag, tmp_path / "result", spec)
    assert run.frames == run.scores.frames == 5
    assert list(run.ages_ms) == sorted(run.messages)
    assert all(age == pytest.approx(8, abs=60) for age in run.ages_ms.values())
    arguments = [str(bag), "--bundle", str(tmp_path / "bundle"), "--params", str(tmp_path / "params.yaml")]
    assert replay_main([*arguments, "--out", str(tmp_path / "offline"), "--score-floor", "0.01"]) == 0
    data = report_data(run, run.draw(bag, spec, config), tmp_path / "offline", {"machine": "this one"}, bag)
    counts = [sum(c.predictions for c in s.classes.values()) for s in (data.scores, data.published)]
    assert counts[0] > counts[1] > 0
    assert data.agreement == ("identical: all 5 frames, bit for bit", True)
    drive = data.drives[0]
    assert drive.used == {"cam_a": 5, "cam_b": 5, "radar_a": 5} and drive.recording == bag
    assert [row.stamp_ns for row in drive.frames] == tiny_drive.anchor_stamps(5)
    assert [row.memory for row in drive.frames] == [m.temporal_used for m in run.messages.values()]
    rows = [row.wrong for row in drive.frames if row.wrong]
    assert sum(hits + missed for hits, _, missed in rows) == 5, "each frame has one car"
    worst = max(false + missed for _, false, missed in rows)
    assert drive.scenes[0].errors() == worst and drive.scenes[0].stamp_ns in run.messages
    assert {c.ap_at[2.0] for c in data.scores.classes.values()} >= {data.curves["car"].ap()[2]}
    assert data.score_reliability is not None and sum(data.score_reliability.count) == counts[0]
    summary = summarize(data, run, tmp_path, 83.3)
    assert summary["live_offline"]["identical"] and "5 frames processed" in summary["text"]
    assert "stamp to publication unknown; of that the engine (unknown engine) unknown" in summary["text"]
    timed = replace(data, latencies=[Latency("infer", 40.2, 51, 52, 53, 5), Latency("total", 99.6, 120, 121, 122, 5)])
    assert "times too slow" not in summarize(timed, run, tmp_path, 83.3)["text"]
    text = summarize(timed, run, tmp_path, 20.0)["text"]
    assert "the engine takes 40 ms and frames come every 20 ms: 2.0 times too slow" in text
    assert "publication 100 ms median, 120 ms p95; of that the engine (unknown engine) 40 ms median, 51 ms p95" in text
    assert (tmp_path / "summary.json").is_file() and (tmp_path / "report.html").stat().st_size > 10_000

    write_detections(tmp_path / "empty", [], spec)
    with pytest.raises(BagError, match="published nothing"):
        read_live_run(bag, tmp_path / "empty", spec)


def test_live_over_dds_and_offline_agree_bit_for_bit(tmp_path: Path):
    """The live part of the demo on the tiny drive, with real processes, and the replay of its frames."""
    pytest.importorskip("rclpy", reason="needs ROS 2")
    pytest.importorskip("bev_perception_msgs", reason="needs the built messages")
    tiny_bundle.write_bundle(tmp_path / "bundle")
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=12)
    # Nothing may be lost on a busy machine: both are to see the same messages.
    sure = {"qos__reliability": "reliable", "qos__depth": 100}
    shipped = tiny_drive.write_params(tmp_path / "shipped.yaml", **sure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "SHIPPED_PARAMETERS", shipped)
        params, config = write_parameters(tmp_path, bag, tmp_path / "bundle", tiny_bundle.SPEC)
    result = tmp_path / "result"
    demo.drive_live(bag, params, config, result, tmp_path / "log", rate=0.15)
    found = read_detection_arrays(result)
    assert set(found) <= set(tiny_drive.anchor_stamps(12)) and len(found) >= 3
    offline = replay(
        bag, tmp_path / "bundle", config, only={stamp: composition_of(message) for stamp, message in found.items()}
    )
    write_detections(tmp_path / "offline", offline.detections, load_bundle(tmp_path / "bundle").spec)
    agreement = compare_runs(found, read_detection_arrays(tmp_path / "offline"))
    assert agreement.agrees, f"{agreement.sentence()}\n{(tmp_path / 'log' / 'node.log').read_text()}"
    assert not left_processes(tmp_path)


def test_failures_end_with_status_1_and_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert (
        demo.main([str(tmp_path / "drive"), "--out", str(tmp_path / "out"), "--bundle", str(tmp_path / "nowhere")]) == 1
    )
    assert "model.onnx is missing" in capsys.readouterr().err
