"""The table of faults: complete, on their page, and some of it put to the node over DDS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")

from page_sections import section

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.faults import MACHINE, STOPPED, main, table
from bev_perception.health import State
from bev_perception.parameters import SHIPPED_BUNDLE, SHIPPED_PARAMETERS, NodeConfig, load_config
from bev_perception.ros import try_faults
from bev_perception.ros.fault_table import CARS
from bev_perception.ros.fault_table.fault import ALL, SENSORS, SOMETIMES
from bev_perception.ros.try_faults import Outcome, wrong
from bev_perception.structures import ODOMETRY

JITTER = "K jitters by 0.001 pixels; nothing happens"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
EVERY = [fault for car in CARS.values() for faults in car.faults.values() for fault in faults]
EVERY += try_faults.STOPPED.values()


def test_the_table_is_large_and_consistent() -> None:
    spec = load_bundle(SHIPPED_BUNDLE).spec
    assert len(EVERY) >= 110 and len({fault.name for fault in EVERY}) == len(EVERY)
    sensors = {*spec.cameras, *spec.radars, ODOMETRY, ALL, SENSORS, "cameras", "radars"}
    quiet = [f.name for f in EVERY if not (f.expect or f.counter) and "used" not in f.name and "hold" not in f.name]
    assert quiet == ["nothing", "images are stamped 0.06 s late", "scans come 0.3 s late", JITTER]
    assert [f.name for f in EVERY if f.name.startswith(STOPPED)] == [f.name for f in try_faults.STOPPED.values()]
    groups = [group for car in CARS.values() for group in car.faults]
    assert MACHINE in CARS and sorted(set(groups)) == sorted(dict.fromkeys(groups))
    for fault in EVERY:
        assert set(fault.expect) <= sensors, fault.name
        assert {state for state, _ in fault.expect.values()} <= {*State.__args__, SOMETIMES, "*"}, fault.name


def test_every_fault_is_on_the_page() -> None:
    rows = section(PAGE, "faults")
    assert [fault.name for fault in EVERY if f"| {fault.name} |" not in rows] == []
    assert "| never |" not in rows


def test_outcomes_become_rows() -> None:
    says = {"CAM": ["invalid", "image_black"]}
    outcome = {"group": "Images", "name": "black", "level": "ERROR", "says": says, "counted": {}, "whole_s": 0.44}
    outcome |= {"used": 10, "sensors": 11, "lasting": False}
    quiet = outcome | {"says": {}, "counted": {"CAM/duplicate": 3, "frame/x": 1}, "whole_s": None}
    text = table([outcome, quiet, outcome | {"whole_s": None, "lasting": True}])
    assert "| black | 10 of 11 | ERROR | CAM: image_black | 0.4 |" in text
    assert "| black | 10 of 11 | ERROR | `CAM/duplicate` is counted | never |" in text
    assert "| black | 10 of 11 | ERROR | CAM: image_black | started anew |" in text
    assert text.count("**Images**") == 1


@pytest.fixture(scope="module")
def config() -> NodeConfig:
    return load_config(SHIPPED_BUNDLE, SHIPPED_PARAMETERS)


def judged(name: str, config: NodeConfig, **found: Any) -> str:
    """What is wrong with an outcome of the fault; what is not given is as it would be without any."""
    (fault,) = (fault for fault in EVERY if fault.name == name)
    fine: dict[str, Any] = {
        "level": "OK", "summary": "", "says": {}, "used": 11, "sensors": 11, "detections": 9, "counted": {},
        "whole_s": 0.4, "lasting": False, "car_late_ms": 1.0,
    }  # fmt: skip
    return wrong(fault, Outcome("", name, wrong="", **{**fine, **found}), config)


FRONT_LOST: dict[str, Any] = {
    "level": "ERROR", "says": {"CAM_FRONT": ("invalid", "image_black: ...")}, "used": 10,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("nothing", {}, ""),
        ("black images", FRONT_LOST, ""),
        ("black images", {**FRONT_LOST, "level": "DEGRADED"}, "the level is DEGRADED, expected ERROR"),
        ("black images", {**FRONT_LOST, "used": 11}, "11 sensors are used, expected 10"),
        ("black images", {**FRONT_LOST, "used": 4}, "4 sensors are used, expected 10"),
        ("black images", {}, "CAM_FRONT is ok (), expected invalid (image_black)"),
        ("black images", {**FRONT_LOST, "whole_s": None}, "not whole again"),
        ("black images", {**FRONT_LOST, "counted": {"CAM_FRONT/late": 9}}, ""),
        ("black images", {**FRONT_LOST, "counted": {"CAM_BACK/late": 3}}, ""),
        ("black images", {**FRONT_LOST, "counted": {"CAM_BACK/late": 9}}, "CAM_BACK/late was counted (9)"),
        (
            "100,000 returns",
            {
                "level": "DEGRADED", "used": 10,
                "says": {"RADAR_FRONT": ("invalid", "too_many_returns"), ODOMETRY: ("invalid", "no_pose")},
            },
            "odometry is invalid (no_pose), expected ok",
        ),
        (
            "images of 30 MB, three a second",
            {
                "level": "ERROR", "used": 10,
                "says": {"CAM_FRONT": ("invalid", "message_too_large"), "CAM_BACK": ("silent", "stale")},
            },
            "CAM_BACK is silent (stale), expected ok",
        ),
        (
            "the node is stopped for 0.3 s",
            {"counted": {"CAM_BACK/late": 9, "CAM_BACK_LEFT/overloaded": 4, "reset/time_jump_back": 1}},
            "reset/time_jump_back was counted (1)",
        ),
        ("the node is stopped for 0.3 s", {"says": {"CAM_BACK": ("late", "overloaded")}}, ""),
        ("the node is stopped for 0.3 s", {"says": {"CAM_BACK": ("late", "late")}}, "CAM_BACK is late (late)"),
        (
            "one image is from 1.5 s ago",
            {"counted": {"CAM_FRONT/stepped_back": 1, "reset/time_jump_back": 9}},
            "reset/time_jump_back was counted (9)",
        ),
        (
            "one image is from 1.5 s ago",
            {"counted": {"CAM_FRONT/stepped_back": 1}, "says": {"CAM_BACK": ("late", "late")}},
            "CAM_BACK is late (late), expected ok ()",
        ),
        ("one image is from 1.5 s ago", {}, "CAM_FRONT/stepped_back was not counted"),
        ("odometry sends nothing", {"level": "NO_OUTPUT", "says": {ODOMETRY: ("silent", "stale")}, "used": 0}, ""),
        (
            "odometry sends nothing",
            {"level": "NO_OUTPUT", "says": {ODOMETRY: ("silent", "stale"), "CAM_BACK": ("late", "late")}, "used": 0},
            "CAM_BACK is late (late), expected sometimes (no_pose|pose_jump)",
        ),
    ],
)  # fmt: skip
def test_what_is_not_as_the_table_says_is_told(
    name: str, found: dict[str, Any], words: str, config: NodeConfig
) -> None:
    told = judged(name, config, **found)
    assert words in told and bool(words) == bool(told)


def test_some_of_them_over_dds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["one image is from", "plumb_bob with 3", "black images", "100,000 returns", "stopped for 0.3"]
    code = main(["--out", str(tmp_path), "--only", *chosen])
    outcomes = {o["name"]: o for o in json.loads((tmp_path / "faults.json").read_text())}
    assert code == 0, {name: o["wrong"] for name, o in outcomes.items()}
    assert "5 faults, 0 not as expected" in capsys.readouterr().out
    stray = outcomes["one image is from 1.5 s ago"]["counted"]
    assert stray["CAM_FRONT/stepped_back"] == 1 and not any(name.startswith("reset/") for name in stray)
    said = outcomes["plumb_bob with 3 coefficients"]["says"]["CAM_FRONT"][1]
    assert "camera_info_distortion: plumb_bob with 3 coefficients; 4 or 5 expected" in said
    assert outcomes["100,000 returns"]["used"] == 10
