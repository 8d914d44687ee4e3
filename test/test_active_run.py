"""One activation without DDS: what is said of silent topics, and that the stages of a frame add up."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
pytest.importorskip("onnx", reason="onnx is not installed")

import tiny_bundle
import tiny_drive
from intake_rig import MAKE, MOUNTS, info
from node_rig import default_values

from bev_perception.deployment.serving import Serving
from bev_perception.mounts import accepted, mount_of
from bev_perception.parameters import make_config
from bev_perception.ros import run
from bev_perception.ros.run import ActiveRun, Model
from bev_perception.ros.silence import TOLD_AFTER_S
from bev_perception.ros.telemetry import STAGES, Telemetry
from bev_perception.structures import Detections, SensorFrame

SPEC = tiny_bundle.SPEC
ELSEWHERE, FOUND = SPEC.cameras[0], SPEC.radars[0]
NOW = 1_700_000_000_000_000_000


class Activation:
    """An ActiveRun on a node that is none; `logged`: its warnings."""

    def __init__(self, folder: Path) -> None:
        self.logged: list[str] = []
        self.telemetry = Telemetry()
        logger = SimpleNamespace(warning=self.logged.append, error=self.logged.append)
        self.publishers = {f"/radar/{FOUND}/points": 1}
        node: Any = SimpleNamespace(
            get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=NOW)),
            get_logger=lambda: logger,
            count_publishers=lambda topic: self.publishers.get(topic, 0),
            context=SimpleNamespace(ok=lambda: True),
        )
        self.config = config = make_config(default_values(folder, SPEC, folder), SPEC)
        model = Model(SimpleNamespace(spec=SPEC, path=Path("none")), SimpleNamespace(name="none"))  # type: ignore[arg-type]
        self.run: Any = ActiveRun(node, config, model, {}, self.telemetry)

    def reason(self, sensor: str) -> str:
        return next(h.reason for h in self.run.sensor_health() if h.name == sensor)


def test_a_silent_sensor_is_named_with_its_topic_and_after_a_while_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = Activation(tmp_path)
    topic = f"/camera/{ELSEWHERE}/image_raw"
    assert active.reason(ELSEWHERE) == f"never_seen: nothing on {topic} (0 publishers)"
    assert active.reason(FOUND) == f"never_seen: nothing on /radar/{FOUND}/points (1 publisher)"
    assert active.logged == [], "drivers may start later"
    began = time.monotonic()
    monkeypatch.setattr(run.time, "monotonic", lambda: began + TOLD_AFTER_S + 1.0)
    for _ in range(3):
        active.run.sensor_health()
    told = [line for line in active.logged if line.startswith(f"{ELSEWHERE}: never_seen: nothing on {topic} (0 pub")]
    assert len(told) == 1 and len(active.logged) == len(set(active.logged)) == len(SPEC.cameras + SPEC.radars) + 1


def test_what_keeps_messages_away_goes_before_who_publishes(tmp_path: Path) -> None:
    active = Activation(tmp_path)
    active.run._intake.warnings[FOUND] = "qos_incompatible: a publisher offers another RELIABILITY"
    assert active.reason(FOUND) == "never_seen: qos_incompatible: a publisher offers another RELIABILITY"


def test_the_model_that_is_in_service_says_how_cameras_may_be_mounted(tmp_path: Path) -> None:
    """Not the one that the node was configured with."""
    active = Activation(tmp_path)
    calibration = active.run._intake.calibration
    calibration.tf_static(MAKE.transforms(NOW, "base_link", MOUNTS))
    calibration.camera_info(active.config.cameras["cam_a"], info())
    assert calibration.of_camera("cam_a") is not None
    found = mount_of(tiny_drive.EGO_FROM_CAM, tiny_drive.K, 32)
    other = dataclasses.replace(SPEC, mounts={"cam_a": accepted([found | {"height_m": 9.0}])})
    first = active.run.serving()
    (said,) = active.run.unlike(other).values()
    assert said.startswith("cam_a stands") and active.run.unlike(SPEC) == {}, "it can be asked before"
    active.run.switch(Serving(SimpleNamespace(spec=other), first.pipeline))  # type: ignore[arg-type]
    assert "the model accepts 8.8 to 9.2" in calibration.gap("cam_a")
    assert active.run.counters()["cam_a/mount_unlike"] == 1 and any("mount_unlike" in line for line in active.logged)
    active.run.switch(first)
    assert calibration.gap("cam_a") == ""


def test_what_fails_beside_the_detections_is_no_failed_step(tmp_path: Path) -> None:
    active = Activation(tmp_path)

    def fails(*some: Any) -> Any:
        raise ValueError("broken")

    frame: Any = SimpleNamespace(stamp_ns=NOW)
    pipeline: Any = SimpleNamespace(step=fails, counters=Counter())
    active.run._watch.add = fails
    active.run._look_at_extrinsics(frame)
    active.run.observe(fails)
    active.run._step = lambda serving, closed: None
    active.run._process(run._Closed(frame, 1.0, 0))
    found = active.telemetry.snapshot()
    assert found.counters == {"extrinsics_watch_failed": 1, "observer_failed": 1} and found.recent_failure == ""
    del active.run._step
    active.run.switch(Serving(active.run.serving().bundle, pipeline))
    active.run._process(run._Closed(frame, 1.0, 0))
    found = active.telemetry.snapshot()
    assert found.counters["step_failed"] == 1 and found.recent_failure == "ValueError: broken"


def test_the_stages_of_a_frame_add_up_to_the_total(tmp_path: Path) -> None:
    """The waits are made long, so that none of them can be forgotten."""
    active = Activation(tmp_path)
    empty = np.zeros((0, 7)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, np.int64)
    detections = Detections(NOW, *empty, missing={})

    def step(frame: SensorFrame) -> Detections:
        time.sleep(0.6)
        return detections

    timings = {"preprocess": 120.0, "inference": 130.0, "decode": 110.0, "health": 240.0, "total": 600.0}
    pipeline: Any = SimpleNamespace(step=step, timings_ms=timings, faults={}, counters=Counter(), spec=SPEC)
    active.run.switch(Serving(active.run.serving().bundle, pipeline))
    found: list[Any] = []
    active.run._publisher = SimpleNamespace(put=found.append)
    frame: Any = SimpleNamespace(stamp_ns=NOW)
    active.run._process(run._Closed(frame, wait_ms=1000.0, closed_at=time.perf_counter_ns() - 500_000_000))
    active.run._publish(found[0])
    times = {row.stage: row.max_ms for row in active.telemetry.snapshot().latencies}
    assert times["wait"] == 1000.0 and times["queue"] == pytest.approx(500.0, abs=100.0)
    assert times["health"] == 240.0
    parts = sum(times[stage] for stage in STAGES if stage not in ("convert", "total"))
    assert times["total"] == pytest.approx(parts, abs=100.0)
