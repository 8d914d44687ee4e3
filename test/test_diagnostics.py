"""/diagnostics: who speaks, of what, on which machine; and the shipped aggregator puts every status in one place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
pytest.importorskip("diagnostic_msgs", reason="ROS 2 is not sourced")

from diagnostic_msgs.msg import DiagnosticStatus

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.statuses import status_of
from bev_perception.health import SensorHealth
from bev_perception.parameters import NODE_NAME, SHIPPED_BUNDLE
from bev_perception.ros.diagnostics import NodeReport, diagnostics_message, status_message
from bev_perception.ros.shared_memory import Problem
from bev_perception.ros.telemetry import Telemetry
from bev_perception.structures import ODOMETRY
from bev_perception.usual.reading import CONTENTS, EXTRINSICS, Reading
from bev_perception.usual.statistics import SCENE
from bev_perception_msgs.msg import HealthState, PerceptionStatus

CONFIG = Path(__file__).resolve().parent.parent / "bev_perception" / "config" / "diagnostics_aggregator.yaml"


def statuses(name: str, problems: tuple[Problem, ...] = ()) -> dict[str, DiagnosticStatus]:
    """What an active node with the shipped model's sensors says: name of the status -> status."""
    spec = load_bundle(SHIPPED_BUNDLE).spec
    kinds = dict.fromkeys(spec.cameras, "camera") | dict.fromkeys(spec.radars, "radar") | {ODOMETRY: "odometry"}
    sensors = tuple(SensorHealth(sensor, kind, "ok", 0.1, 0.01, 10.0, "") for sensor, kind in kinds.items())
    snapshot = Telemetry().snapshot()
    report = NodeReport(1, "base_link", "active", snapshot, sensors, hardware_id="car 7", problems=problems)
    found = diagnostics_message(report, name).status
    assert len({status.name for status in found}) == len(found) == len(sensors) + 5
    return {status.name: status for status in found}


def analyzers_of(name: str) -> list[str]:
    """The analyzers that take a status of this name, by the rules of diagnostic_aggregator's GenericAnalyzer."""
    groups = {
        k: v for k, v in yaml.safe_load(CONFIG.read_text())["analyzers"]["ros__parameters"].items() if type(v) is dict
    }
    assert {group["type"] for group in groups.values()} == {"diagnostic_aggregator/GenericAnalyzer"}
    return [
        key
        for key, group in groups.items()
        if any(name.startswith(text) for text in group.get("startswith", ()))
        or any(text in name for text in group.get("contains", ()))
    ]


@pytest.mark.parametrize("node", [f"/{NODE_NAME}", f"/fleet/car_7/{NODE_NAME}"])
def test_every_status_falls_under_one_analyzer(node: str) -> None:
    taken = {name: analyzers_of(name) for name in statuses(node)}
    assert {name: keys for name, keys in taken.items() if len(keys) != 1} == {}
    assert taken[f"{node}: camera CAM_FRONT"] == ["cameras"]
    assert taken[f"{node}: radar RADAR_FRONT"] == ["radars"]
    assert taken[f"{node}: odometry"] == ["odometry"]
    assert taken[f"{node}: pipeline"] == taken[f"{node}: middleware"] == ["pipeline"]


def test_a_status_of_somebody_else_falls_under_none() -> None:
    assert [analyzers_of(n) for n in ("usb_cam: camera CAM_FRONT", "radar_driver: radar RADAR_FRONT", "odometry")] == [
        []
    ] * 3


def test_the_machine_is_named_and_what_is_wrong_below_the_node() -> None:
    fine = statuses("/a/b")
    assert {status.hardware_id for status in fine.values()} == {"car 7"}
    assert fine["/a/b: middleware"].level == DiagnosticStatus.OK
    wrong = statuses("/a/b", (Problem("shm_full", "no room; make some"), Problem("node_name_taken", "two")))
    status = wrong["/a/b: middleware"]
    assert (status.level, status.message) == (DiagnosticStatus.WARN, "shm_full; node_name_taken")
    assert {v.key: v.value for v in status.values} == {"shm_full": "no room; make some", "node_name_taken": "two"}


@pytest.mark.parametrize(
    ("worst", "level", "diagnostic"),
    [
        ("ok", PerceptionStatus.OK, DiagnosticStatus.OK),
        ("degraded", PerceptionStatus.DEGRADED, DiagnosticStatus.WARN),
        ("error", PerceptionStatus.ERROR, DiagnosticStatus.ERROR),
    ],
)
def test_the_level_is_that_of_the_worst_mode(worst: str, level: int, diagnostic: bytes) -> None:
    """While detections go on; an old one is no excuse for calling an error less."""
    telemetry = Telemetry()
    telemetry.output(0.1, "", False)
    for oldest_ms, least in ((1000.0, PerceptionStatus.OK), (50.0, PerceptionStatus.DEGRADED)):
        report = NodeReport(
            1, "base_link", "active", telemetry.snapshot(), modes=("front_cameras_lost",), worst_mode=worst,
            max_age_ms=oldest_ms,
        )  # fmt: skip
        status = status_message(report)
        assert status.level == max(level, least) and list(status.modes) == ["front_cameras_lost"]
        assert status.summary.startswith("front_cameras_lost")
    (pipeline,) = (s for s in diagnostics_message(report, "/n").status if s.name == "/n: pipeline")
    assert pipeline.level == max(diagnostic, DiagnosticStatus.WARN)


def test_what_is_not_known_of_health_is_said_with_its_reason() -> None:
    telemetry = Telemetry()
    telemetry.output(0.1, "", False)
    failed = [Reading(name, math.nan, math.nan, text="failed: ValueError: x") for name in ("CAM_FRONT", SCENE)]
    health = {CONTENTS: (*failed, Reading("CAM_BACK", math.nan, math.nan)), EXTRINSICS: ()}
    report = NodeReport(1, "base_link", "active", telemetry.snapshot(), health=health)
    status = status_message(report)
    assert status.summary == "health is not known: failed: ValueError: x" and status.level == PerceptionStatus.OK
    assert all(math.isnan(row.score) and row.text == "" and not row.alarm for row in status.health)
    (told,) = (s for s in diagnostics_message(report, "/n").status if s.name == "/n: health")
    assert (told.level, told.message) == (DiagnosticStatus.WARN, status.summary)
    assert {v.key: v.value for v in told.values}["CAM_FRONT contents"] == "nan of nan: failed: ValueError: x"


def test_alarms_of_health_are_told_and_those_of_the_scene_stand_in_the_summary() -> None:
    telemetry = Telemetry()
    telemetry.output(0.1, "", False)
    dirty = Reading("CAM_FRONT", 9.0, 6.0, 3_500_000_000, "detail, lower left: 0.3 of the usual")
    scene, drift = Reading(SCENE, 8.0, 7.0, 4_000_000_000, "doubt"), Reading("CAM_BACK", 0.25, 0.75)
    health = {CONTENTS: (dirty, scene), EXTRINSICS: (drift,)}
    report = NodeReport(1, "base_link", "active", telemetry.snapshot(), health=health)
    status = status_message(report)
    rows = [(h.name, h.check, h.alarm, h.since.sec, h.since.nanosec) for h in status.health]
    assert rows == [
        ("CAM_FRONT", HealthState.CONTENTS, True, 3, 500_000_000),
        (SCENE, HealthState.CONTENTS, True, 4, 0),
        ("CAM_BACK", HealthState.EXTRINSICS, False, 0, 0),
    ]
    assert status.health[0].text == dirty.text and status.health[2].threshold == 0.75
    assert status_of(status).readings == {check: tuple(rows) for check, rows in health.items()}
    assert status.level == PerceptionStatus.OK and "scene doubt" in status.summary
    (told,) = (s for s in diagnostics_message(report, "/n").status if s.name == "/n: health")
    assert told.level == DiagnosticStatus.WARN and "CAM_FRONT contents: detail, lower left" in told.message
    assert {v.key: v.value for v in told.values}["CAM_BACK extrinsics"] == "0.25 of 0.75"
