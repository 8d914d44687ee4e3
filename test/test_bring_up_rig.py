"""From a recording of a rig that nobody has described to parameters with which the doctor finds nothing wrong."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import rig_drive
from rig_drive import MOUNTS, MS, NS, START, Row, stamped, then

from bev_perception import bring_up_rig
from bev_perception.bundle import load_bundle
from bev_perception.calibration import StaticTree, load_extrinsics
from bev_perception.geometry import invert, make_transform, rotation_from_yaw
from bev_perception.parameters import SHIPPED_BUNDLE, load_config
from bev_perception.rig.assign import assign, model_poses
from bev_perception.rig.found import find_odometry, radar_fields
from bev_perception.rig.from_bag import survey_bag
from bev_perception.rig.proposal import OPTICAL_IN_FORWARD, Proposal, propose
from bev_perception.rig.survey import INFO, ODOMETRY, POSE, TRANSFORMS, TWIST, Survey, TopicSeen
from bev_perception.rig.times import Times
from bev_perception.rig.timing import measure_timing
from bev_perception.sensors.intake import COMPRESSED, PACKET
from bev_perception.sensors.plausible import FORWARD, OPTICAL

TOPICS = {
    "/camera/cam_a/image_raw": "/sensing/eye0/image_color",
    "/camera/cam_a/camera_info": "/sensing/eye0/camera_info",
    "/camera/cam_b/image_raw": "/sensing/eye1/image_color",
    "/camera/cam_b/camera_info": "/sensing/eye1/camera_info",
    "/radar/radar_a/points": "/sensing/waves0",
    "/radar/radar_b/points": "/sensing/waves1",
    "/odometry": "/wheels",
}
SPEC = load_bundle(SHIPPED_BUNDLE).spec


def renamed(row: Row) -> Iterator[Row]:
    yield dataclasses.replace(row, topic=TOPICS.get(row.topic, row.topic))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig_drive.write_drive(tmp_path_factory.mktemp("rig") / "bag", renamed)


@pytest.fixture(scope="module")
def model() -> dict[str, np.ndarray]:
    return model_poses(load_bundle(SHIPPED_BUNDLE))


def proposed(bag: Path, model: dict[str, np.ndarray], given: dict[str, np.ndarray] | None = None) -> Proposal:
    return propose(survey_bag(bag, 30.0), SPEC, model, given or {})


def test_the_whole_way(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my_rig"
    assert bring_up_rig.main(["--bag", str(bag), "--out", str(out), "--no-machine"]) == 0
    said = capsys.readouterr().out
    assert "CAM_FRONT: /sensing/eye0/image_color: looks to +0 degrees" in said and "0 errors" in said
    assert said.count("mount_unlike, 1 of ") == said.count("\nwarning ") == 2, "other lenses than the model learnt from"
    config = load_config(SHIPPED_BUNDLE, out / "rig.param.yaml")
    assert {name: camera.topic for name, camera in config.cameras.items()} == {
        "CAM_FRONT": "/sensing/eye0/image_color",
        "CAM_BACK": "/sensing/eye1/image_color",
    }
    assert {name: radar.topic for name, radar in config.radars.items()} == {
        "RADAR_FRONT": "/sensing/waves0",
        "RADAR_FRONT_LEFT": "/sensing/waves1",
    }
    assert (config.anchor, config.odometry.topic, config.odometry.frame) == ("CAM_BACK", "/wheels", "odom")
    assert config.sync["period_ns"] == 100 * MS and config.cameras["CAM_FRONT"].offset_ns == -10 * MS
    assert len(config.absent) == len(SPEC.cameras) + len(SPEC.radars) - 4
    assert {(r.fields.velocity, r.fields.vx) for r in config.radars.values()} == {("compensated", "vx_comp")}
    poses = load_extrinsics(out / "rig.calibration.yaml", "base_link", ["CAM_BACK", "RADAR_FRONT_LEFT"])
    np.testing.assert_allclose(poses["CAM_BACK"], MOUNTS["cam_b"], atol=1e-6)
    np.testing.assert_allclose(poses["RADAR_FRONT_LEFT"], MOUNTS["radar_b"], atol=1e-6)

    before = (out / "rig.param.yaml").read_text()
    assert bring_up_rig.main(["--bag", str(bag), "--out", str(out), "--no-machine"]) == 1
    assert "--overwrite" in capsys.readouterr().err and (out / "rig.param.yaml").read_text() == before


def test_a_place_that_no_transform_says_is_asked_and_may_be_given(
    tmp_path: Path, model: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    def without(row: Row) -> list[Row]:
        if row.topic != "/tf_static":
            return [row]
        left = [t for t in row.message.transforms if t.child_frame_id in ("cam_b", "radar_b")]
        return [rig_drive.altered(row, transforms=left)]

    bag = rig_drive.write_drive(tmp_path / "bag", then(renamed, without))
    asked = proposed(bag, model).asked
    assert len(asked) == 2 and all("--pose" in text for text in asked)
    assert set(proposed(bag, model).mounts) == {"CAM_BACK", "RADAR_FRONT_LEFT"}

    poses = ["--pose", "cam_a=1.5,0,1.5,0", "--pose", "radar_a=3.4,0,0.5,0"]
    out = tmp_path / "rig"
    assert bring_up_rig.main(["--bag", str(bag), "--out", str(out), "--no-machine", *poses]) == 0
    config = load_config(SHIPPED_BUNDLE, out / "rig.param.yaml")
    assert config.extrinsics_file == (out / "rig.calibration.yaml").resolve()
    found = load_extrinsics(out / "rig.calibration.yaml", "base_link", ["CAM_FRONT", "RADAR_FRONT"])
    np.testing.assert_allclose(found["CAM_FRONT"], MOUNTS["cam_a"], atol=1e-6)
    assert "given with --pose" in (out / "rig.calibration.yaml").read_text()
    assert bring_up_rig.main(["--bag", str(bag), "--out", str(out), "--overwrite", "--pose", "cam_a=1,2"]) == 1
    assert "FRAME=x,y,z,yaw" in capsys.readouterr().err


def test_a_frame_that_is_not_optical_is_turned_and_called_a_guess(tmp_path: Path, model: dict[str, np.ndarray]) -> None:
    def body_frames(row: Row) -> list[Row]:
        if row.topic != "/tf_static":
            return [row]
        make = rig_drive.Messages(rig_drive.make_typestore())
        back = invert(OPTICAL_IN_FORWARD)
        poses = {name: pose @ back if name.startswith("cam") else pose for name, pose in MOUNTS.items()}
        return [dataclasses.replace(row, message=make.transforms(START, "base_link", poses))]

    found = proposed(rig_drive.write_drive(tmp_path / "bag", then(renamed, body_frames)), model)
    assert found.from_file and not found.asked
    for sensor, name in {"CAM_FRONT": "cam_a", "CAM_BACK": "cam_b"}.items():
        np.testing.assert_allclose(found.mounts[sensor].ego_from_sensor, MOUNTS[name], atol=1e-6)
        assert found.mounts[sensor].guess and "optical" in found.mounts[sensor].origin
    assert not found.mounts["RADAR_FRONT"].guess


def test_odometry_is_the_continuous_one(tmp_path: Path, model: dict[str, np.ndarray]) -> None:
    def also_in_the_map(row: Row) -> list[Row]:
        if row.topic != "/odometry":
            return [row]
        in_map = dataclasses.replace(stamped(row, frame_id="map"), topic="/localization")
        return [row, in_map, dataclasses.replace(in_map, record_ns=row.record_ns + MS)]

    found = proposed(rig_drive.write_drive(tmp_path / "bag", also_in_the_map), model)
    assert found.values["odometry.topic"] == "/odometry" and "not /localization" in found.remarks["odometry.source"]
    none = proposed(rig_drive.write_drive(tmp_path / "none", lambda row: [row] * (row.topic != "/odometry")), model)
    assert "odometry.topic" not in none.values and any(text.startswith("odometry:") for text in none.asked)


def test_other_clouds_and_pictures_are_left(bag: Path, tmp_path: Path, model: dict[str, np.ndarray]) -> None:
    def with_others(row: Row) -> list[Row]:
        if row.topic == "/camera/cam_a/image_raw":
            return [row, dataclasses.replace(row, topic="/camera/cam_a/image_a_rect")]
        if row.topic == "/radar/radar_a/points":
            lidar = rig_drive.Messages(rig_drive.make_typestore()).cloud(
                START, "lidar", np.zeros(5, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
            )
            return [row, dataclasses.replace(row, topic="/lidar", message=lidar)]
        return [row]

    found = proposed(rig_drive.write_drive(tmp_path / "bag", with_others), model)
    assert found.values["cameras.CAM_FRONT.topic"] == "/camera/cam_a/image_raw"
    assert any("/camera/cam_a/image_a_rect" in text for text in found.told)
    assert "/lidar" not in str(found.values)


def test_nothing_that_the_node_can_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = rig_drive.write_drive(tmp_path / "bag", lambda row: [row] * (row.topic == "/odometry"))
    assert bring_up_rig.main(["--bag", str(bag), "--out", str(tmp_path / "out")]) == 1
    assert "no sensor can be used" in capsys.readouterr().err and not list((tmp_path / "out").glob("*"))


# ---- the parts


def ring(headings_deg: list[float], looks_along: int) -> dict[str, np.ndarray]:
    poses = {}
    for k, heading in enumerate(headings_deg):
        yaw = np.radians(heading)
        pose = make_transform(rotation_from_yaw(yaw), np.array([np.cos(yaw), np.sin(yaw), 1.0]))
        poses[f"s{k}"] = pose @ OPTICAL_IN_FORWARD if looks_along == OPTICAL else pose
    return poses


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_as_near_as_any_way_to_give_them(seed: int) -> None:
    """Against every way there is."""
    rng = np.random.default_rng(seed)
    rig, model = ring(list(rng.uniform(-180, 180, 4)), FORWARD), ring(list(rng.uniform(-180, 180, 4)), FORWARD)

    def off(a: str, b: str) -> tuple[float, float]:
        angle = abs((np.degrees(np.angle(rig[a][0, 0] + 1j * rig[a][1, 0])
                                - np.angle(model[b][0, 0] + 1j * model[b][1, 0])) + 180) % 360 - 180)  # fmt: skip
        return angle, angle + 5 * min(4.0, float(np.linalg.norm(rig[a][:3, 3] - model[b][:3, 3])))

    def cost(parts: tuple[str | None, ...]) -> float:
        return sum(80.0 if b is None else off(a, b)[1] for a, b in zip(rig, parts))

    ways = [
        way for way in itertools.product([*model, None], repeat=4)
        if all(b is None or (way.count(b) == 1 and off(a, b)[0] <= 60) for a, b in zip(rig, way))
    ]  # fmt: skip
    found = assign(rig, model, FORWARD)
    parts = tuple(found[name].sensor if name in found else None for name in rig)
    assert cost(parts) == pytest.approx(min(map(cost, ways)), abs=1e-6)


def test_a_sensor_that_looks_elsewhere_has_no_part() -> None:
    found = assign(ring([5.0, 90.0], OPTICAL), ring([0.0, 180.0], OPTICAL), OPTICAL)
    assert {name: part.sensor for name, part in found.items()} == {"s0": "s0"}
    assert found["s0"].off_deg == pytest.approx(5.0) and found["s0"].next_best == "s1, 175 degrees away"


@pytest.mark.parametrize(
    ("offsets_ms", "anchor", "expected"),
    [
        ({"a": 0, "b": 10, "c": 25}, "c", {"a": -25.0, "b": -15.0, "c": 0.0}),
        ({"a": 90, "b": 10, "c": 25}, "c", {"a": -35.0, "b": -15.0, "c": 0.0}),  # a sweep across the period's end
        ({"a": 0, "b": 0}, "b", {"a": 0.0, "b": 0.0}),
        ({"a": 3}, "a", {"a": 0.0}),
    ],
)
def test_the_anchor_is_the_last_of_a_sweep(offsets_ms: dict[str, int], anchor: str, expected: dict[str, float]) -> None:
    stamps = {n: np.arange(START + t * MS, START + t * MS + 5_000 * MS, 100 * MS) for n, t in offsets_ms.items()}
    found = measure_timing(stamps)
    assert found is not None and found.anchor == anchor and found.offsets_ms == pytest.approx(expected)
    assert found.period_ms == 100 and max(found.jitter_ms.values()) == 0


def test_cameras_that_run_freely_are_told() -> None:
    stamps = {"a": START + np.arange(200) * 100 * MS, "b": START + np.arange(200) * 101 * MS}
    found = measure_timing(stamps)
    assert found is not None and len(found.running_free) == 1
    assert measure_timing({"a": np.array([START])}) is None


@pytest.mark.parametrize(
    ("columns", "fields", "guessed"),
    [
        ({"x": 80, "y": 40, "rcs": 9, "vx": 1, "vy": 1, "vx_comp": 1, "vy_comp": 1},
         {"vx": "vx_comp", "vy": "vy_comp", "doppler": "", "velocity": "compensated", "layout": "cartesian",
          "rcs": "rcs"},
         set()),
        ({"range": 80, "azimuth": 1.2, "radial_speed": 9},
         {"vx": "", "vy": "", "doppler": "radial_speed", "velocity": "relative", "layout": "polar", "range": "range",
          "azimuth": "azimuth", "angle_unit": "rad", "rcs": ""}, {"velocity", "angle_unit", "rcs"}),
        ({"range": 80, "azimuth": 65.0, "doppler": 9, "RCS": 3},
         {"vx": "", "vy": "", "doppler": "doppler", "velocity": "relative", "layout": "polar", "range": "range",
          "azimuth": "azimuth", "angle_unit": "deg", "rcs": "RCS"}, {"velocity", "angle_unit"}),
    ],
)  # fmt: skip
def test_columns_of_a_radar(columns: dict[str, float], fields: dict[str, str], guessed: set[str]) -> None:
    found = radar_fields(columns)
    assert found is not None and found[0] == fields and set(found[1]) == guessed


@pytest.mark.parametrize("columns", [{"x": 1.0, "y": 1.0, "z": 1.0, "intensity": 9.0}, {"speed": 1.0}, {}])
def test_a_cloud_that_is_no_radar(columns: dict[str, Any]) -> None:
    assert radar_fields(columns) is None


def seen(topic: str, kind: str, *frames: str, rate_hz: float = 10.0, delay_ms: float = 5.0, **more: Any) -> TopicSeen:
    times = Times(count=100, period_ns=round(NS / rate_hz), delay_ns=round(delay_ms * MS), span_ns=10 * NS)
    stamps = START + np.arange(100) * round(NS / rate_hz)
    return TopicSeen(topic, kind, times, stamps, frames, **more)


def survey(*topics: TopicSeen, moving: tuple[tuple[str, str], ...] = ()) -> Survey:
    tree = StaticTree()
    make = rig_drive.Messages(rig_drive.make_typestore())
    tree.add(make.transforms(START, "base_link", MOUNTS).transforms)
    return Survey({topic.topic: topic for topic in topics}, {}, tree, frozenset(moving))


def test_odometry_that_comes_in_another_way() -> None:
    pose, twist = seen("/pose", POSE, "odom"), seen("/speed", TWIST, "base_link", rate_hz=50)
    found = find_odometry(survey(pose, twist, seen("/tf", TRANSFORMS)))
    assert found is not None and found.base_frame == "base_link"
    expected = {"source": "pose_twist", "pose_topic": "/pose", "twist_topic": "/speed", "frame": "odom"}
    assert found.values == expected
    in_map = survey(
        seen("/pose", POSE, "map"), twist, seen("/tf", TRANSFORMS), moving=(("map", "odom"), ("odom", "car"))
    )
    found = find_odometry(in_map)
    assert found is not None and found.values == {"source": "tf", "frame": "odom"} and found.base_frame == "car"
    assert find_odometry(survey(pose)) is None


def test_images_that_are_compressed_and_late(model: dict[str, np.ndarray]) -> None:
    camera = seen("/eye/image/compressed", COMPRESSED, "cam_a", delay_ms=180.0, size=(640, 360), encoding="jpeg")
    info = seen("/eye/camera_info", INFO, "cam_a", size=(640, 360))
    video = seen("/back/h265", PACKET, "cam_b", encoding="hevc")
    odometry = seen("/odom", ODOMETRY, "odom", "base_link")
    found = propose(survey(camera, info, video, odometry), SPEC, model, {})
    assert found.values["cameras.CAM_FRONT.compressed"] and found.values["cameras.CAM_BACK.packets"]
    assert found.values["cameras.CAM_FRONT.info_topic"] == "/eye/camera_info"
    assert "cameras.CAM_BACK.info_topic" not in found.values
    assert [text for text in found.asked if "no camera_info belongs to it" in text and text.startswith("/back/h265")]
    assert found.values["sync.deadline_ms"] == 220.0 and "sync.deadline_ms" in found.guesses
    assert "RADAR_FRONT" in found.values["absent"] and "CAM_FRONT" not in found.values["absent"]


def test_the_rig_of_the_model_is_that_of_its_golden_frame(model: dict[str, np.ndarray]) -> None:
    assert set(model) == {*SPEC.cameras, *SPEC.radars}
