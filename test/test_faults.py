"""The table of faults: complete, on the vehicle's page, and some of it put to the node over DDS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")

from page_sections import section

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.faults import main, table
from bev_perception.health import State
from bev_perception.parameters import SHIPPED_BUNDLE
from bev_perception.ros.fault_table import ALL, FAULTS, SOMETIMES
from bev_perception.structures import ODOMETRY

PAGE = Path(__file__).resolve().parent.parent / "docs" / "vehicle.md"
EVERY = [fault for faults in FAULTS.values() for fault in faults]


def test_the_table_is_large_and_consistent() -> None:
    spec = load_bundle(SHIPPED_BUNDLE).spec
    assert len(EVERY) >= 90 and len({fault.name for fault in EVERY}) == len(EVERY)
    sensors = {*spec.cameras, *spec.radars, ODOMETRY, ALL, "cameras", "radars"}
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
    outcome |= {"used": 10, "sensors": 11}
    text = table([outcome, outcome | {"says": {}, "counted": {"CAM/duplicate": 3, "frame/x": 1}, "whole_s": None}])
    assert "| black | 10 of 11 | ERROR | CAM: image_black | 0.4 |" in text
    assert "| black | 10 of 11 | ERROR | `CAM/duplicate` is counted | never |" in text
    assert text.count("**Images**") == 1


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
