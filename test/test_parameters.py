"""Names, types, ranges and the YAML that node and offline tools share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from bev_perception import conversions, model_spec
from bev_perception.calibration import CalibrationError, StaticTree, load_extrinsics, save_extrinsics
from bev_perception.frame_proof import FRAME_TOLERANCES
from bev_perception.geometry import make_transform, quaternion_from_rotation, rotation_from_yaw
from bev_perception.inference.backend import BACKENDS
from bev_perception.inference.precisions import CHOICES as ENGINE_PRECISIONS
from bev_perception.inference.precisions import PRECISIONS
from bev_perception.inference.proof import TOLERANCES
from bev_perception.inference.tensorrt_api import BUILDERS
from bev_perception.messages import PUBLISHERS
from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.modes import MODES, SEVERITIES
from bev_perception.parameter_table import (
    CAMERA_PARAMETERS,
    PARAMETERS,
    RADAR_PARAMETERS,
    REQUIRED,
    ParameterError,
    check_value,
)
from bev_perception.parameters import make_config, parse_yaml, resolve_path
from bev_perception.preprocess.contents import CHOICES, ImageChecks
from bev_perception.ring.triggers import TRIGGERS
from bev_perception.sensors import radar_messages
from bev_perception.sensors.odometry_messages import ODOMETRY_SOURCES, OdometryConfig
from bev_perception.sensors.radar_checks import RadarLimits
from bev_perception.sync_config import SyncConfig

CONFIG = Path(__file__).resolve().parent.parent / "bev_perception" / "config"
NUSCENES_CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
NUSCENES_RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
SPEC = ModelSpec(
    "test", NUSCENES_CAMERAS, NUSCENES_RADARS, dict.fromkeys(CLASSES, 0.15) | {"car": 0.3}, dict.fromkeys(CLASSES, 1.0)
)


# Parameter -> the table that says what there is.
TABLES = {
    "backend": BACKENDS,
    "tensorrt.builder": BUILDERS,
    "radar_fields.layout": radar_messages.LAYOUTS,
    "radar_fields.angle_unit": radar_messages.ANGLE_UNITS,
    "radar_fields.velocity": radar_messages.VELOCITIES,
    "image_reader": conversions.IMAGE_READERS,
    "cloud_reader": conversions.CLOUD_READERS,
    "odometry.source": ODOMETRY_SOURCES,
    "publish.outputs": PUBLISHERS,
    "ring.triggers": TRIGGERS,
}


def errors(**values: object) -> list[str]:
    with pytest.raises(ParameterError) as error:
        make_config({"bundle": "b", **values}, SPEC)
    return str(error.value).splitlines()


def test_the_table_is_sound() -> None:
    rows = PARAMETERS + CAMERA_PARAMETERS + RADAR_PARAMETERS
    assert len({row.name for row in PARAMETERS}) == len(PARAMETERS)
    for row in rows:
        assert row.description
        if row.default is not REQUIRED:
            assert check_value(row, row.default) == row.default


def test_defaults() -> None:
    config = make_config({"bundle": "b"}, SPEC)
    assert config.anchor == "CAM_BACK_LEFT"
    assert config.cameras["CAM_FRONT"].topic == "/camera/cam_front/image_raw"
    assert config.cameras["CAM_FRONT"].info_topic == "/camera/cam_front/camera_info"
    assert config.radars["RADAR_FRONT"].topic == "/radar/radar_front/points"
    assert config.radars["RADAR_FRONT"].frame_id == "radar_front"
    assert config.score_threshold["car"] == 0.3 and config.score_threshold["bus"] == 0.15
    sync = config.sync_config(SPEC)
    assert sync.deadline_ns == 150_000_000 and sync.radar_sweeps == SPEC.radar.sweeps
    assert sync.radar_max_age_ns == 600_000_000 and sync.anchor == "CAM_BACK_LEFT"


def test_defaults_are_those_of_what_is_configured() -> None:
    config = make_config({"bundle": "b"}, SPEC)
    offsets = dict.fromkeys(SPEC.cameras, 0)
    radar = {"radar_sweeps": SPEC.radar.sweeps, "radar_max_age_ns": round(SPEC.radar.max_age_s * 1e9)}
    assert config.sync_config(SPEC) == SyncConfig(SPEC.cameras, SPEC.radars, offsets_ns=offsets, **radar)
    assert {radar.fields for radar in config.radars.values()} == {radar_messages.RadarFields()}
    assert config.odometry == OdometryConfig() and config.radar_limits == RadarLimits()
    assert config.radar_limits.empty_ns == 5_000_000_000 and config.odometry.difference_ns == 100_000_000
    assert config.image_checks == ImageChecks()
    chosen = make_config({"bundle": "b", "images.noise": "mask", "cameras.CAM_FRONT.bits": 12}, SPEC)
    assert chosen.image_checks == ImageChecks(noise="mask") and chosen.cameras["CAM_FRONT"].bits == 12


@pytest.mark.parametrize("name", TABLES)
def test_a_new_row_of_a_table_is_a_new_choice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, row = TABLES[name], next(row for row in PARAMETERS if row.name == name)
    value = ["another"] if row.type == "string[]" else "another"
    (error,) = errors(**{name: value})
    assert error == f"{name}: 'another' is not one of {', '.join(table)}"
    monkeypatch.setitem(table, "another", next(iter(table.values())))
    make_config({"bundle": "b", name: value}, SPEC)


def test_no_other_choices_are_written_down() -> None:
    """But words that no table of ours holds: precisions, where extrinsics come from, ROS's names of reliabilities, what
    to do about an image."""
    with_choices = {row.name: row.choices for row in PARAMETERS + CAMERA_PARAMETERS + RADAR_PARAMETERS if row.choices}
    assert with_choices.pop("tensorrt.precision") is ENGINE_PRECISIONS
    assert {*PRECISIONS, *model_spec.PRECISIONS} == set(TOLERANCES) == set(FRAME_TOLERANCES)
    checks = {f"images.{field.name}" for field in dataclasses.fields(ImageChecks)}
    assert all(with_choices.pop(name) is CHOICES for name in checks)
    assert all(with_choices.pop(f"modes.{name}") is SEVERITIES for name in MODES)
    assert with_choices.pop("kind") is radar_messages.RADAR_KINDS
    extrinsics = {f"extrinsics.{name}" for name in ("source", "implausible", "unlike")}
    assert set(with_choices) == {*TABLES, *extrinsics, "qos.reliability"}


def test_reliabilities_are_those_of_ros() -> None:
    qos = pytest.importorskip("rclpy.qos", reason="ROS 2 is not sourced")
    (row,) = (row for row in PARAMETERS if row.name == "qos.reliability")
    assert all(word.upper() in qos.ReliabilityPolicy.__members__ for word in row.choices)


def test_a_model_of_radars_alone_has_no_anchor() -> None:
    spec = dataclasses.replace(SPEC, cameras=())
    config = make_config({"bundle": "b"}, spec)
    assert config.anchor == "" and config.cameras == {} and config.sync_config(spec).anchor == ""
    with pytest.raises(ParameterError, match="anchor: 'CAM_FRONT' is no camera of the bundle"):
        make_config({"bundle": "b", "anchor": "CAM_FRONT"}, spec)


@pytest.mark.parametrize(
    "values, parts",
    [
        ({"bundel": "x"}, ["bundel: no such parameter", "'bundle'"]),
        ({"cameras.CAM_FRONT.topc": "x"}, ["no such parameter", "cameras.CAM_FRONT.topic"]),
        ({"cameras.CAM_FRNT.topic": "x"}, ["no such parameter", "cameras.CAM_FRONT.topic"]),
        ({"score_threshold.cars": 0.1}, ["no such parameter", "score_threshold.car"]),
        ({"backend": "tensorrtt"}, ["not one of", "did you mean 'tensorrt'"]),
        ({"bundle": ""}, ["bundle", "is required"]),
        ({"qos.depth": 0}, ["qos.depth: 0 is outside [1, 1000]"]),
        ({"qos.depth": 2.5}, ["expected int, found 2.5"]),
        ({"qos.depth": True}, ["expected int, found True"]),
        ({"sync.deadline_ms": "60"}, ["expected double, found '60'"]),
        ({"sync.deadline_ms": float("nan")}, ["finite"]),
        ({"score_threshold.car": 1.5}, ["outside [0, 1]"]),
        ({"publish.outputs": ["markers", "vision"]}, ["'vision' is not one of", "vision_msgs"]),
        ({"publish.outputs": "markers"}, ["expected string[]"]),
        ({"sync.camera_tolerance_ms": 50}, ["at most half of sync.period_ms"]),
        ({"anchor": "CAM_BACK_LEF"}, ["no camera of the bundle", "did you mean 'CAM_BACK_LEFT'"]),
        ({"extrinsics.source": "file"}, ["extrinsics.file: is required"]),
        ({"radar_fields.vx": ""}, ["give both"]),
        ({"radar_fields.vx": "", "radar_fields.vy": ""}, ["or doppler"]),
        ({"radars.RADAR_FRONT.fields.vx": ""}, ["radars.RADAR_FRONT.fields.vx and .vy: give both"]),
        ({"radars.RADAR_FRONT.fields.layout": "round"}, ["not one of inherit, cartesian, polar"]),
        (
            {"radars.RADAR_FRONT.kind": "tracks", "radars.RADAR_FRONT.fields.doppler": ""},
            ["FRONT.fields: give vx and vy"],
        ),
        ({"radars.RADAR_FRONT.kind": "object"}, ["not one of cloud, scan, tracks"]),
        ({"absent": ["CAM_FRONTT"]}, ["absent: 'CAM_FRONTT' is no sensor", "did you mean 'CAM_FRONT'"]),
        ({"radar_fields.layout": "polar", "radar_fields.azimuth": ""}, ["radar_fields.azimuth: must not be empty"]),
        ({"cameras.CAM_FRONT.frame_id": ""}, ["frame_id: is required when extrinsics.source is `tf_static`"]),
        ({"cameras.CAM_BACK_LEFT.offset_ms": 5.0}, ["is the anchor, its offset is 0"]),
    ],
)
def test_faults_are_named(values: dict, parts: list[str]) -> None:
    found = errors(**values)
    assert len(found) == 1
    for part in parts:
        assert part in found[0], found


def test_each_radar_may_have_a_map_of_its_own() -> None:
    """What it does not say is the common map's, or the message's where that defines its fields."""
    own = {"radars.RADAR_FRONT.fields.layout": "polar", "radars.RADAR_FRONT.fields.rcs": ""}
    scan = {"radars.RADAR_BACK_LEFT.kind": "scan", "radars.RADAR_BACK_LEFT.fields.rcs": "amplitude"}
    common = {"radar_fields.rcs": "RCS", "radar_fields.range": "r"}
    radars = make_config({"bundle": "b", **common, **own, **scan}, SPEC).radars
    fields = radar_messages.RadarFields
    assert radars["RADAR_FRONT"].fields == fields("polar", range="r", rcs="")
    assert radars["RADAR_FRONT_LEFT"].fields == fields(range="r", rcs="RCS")
    assert radars["RADAR_BACK_LEFT"].fields == dataclasses.replace(
        radar_messages.RADAR_KINDS["scan"].fields, rcs="amplitude"
    )
    assert radars["RADAR_BACK_LEFT"].kind == "scan" and radars["RADAR_FRONT"].kind == "cloud"


def test_absent_sensors_need_no_parameters() -> None:
    absent = ["CAM_BACK", "CAM_BACK_LEFT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT", "RADAR_FRONT_LEFT"]
    nameless = {"cameras.CAM_BACK.frame_id": "", "radars.RADAR_FRONT_LEFT.fields.vx": ""}
    config = make_config({"bundle": "b", "absent": absent, **nameless}, SPEC)
    assert set(config.cameras) == set(NUSCENES_CAMERAS) - set(absent) and len(config.radars) == 2
    assert config.anchor == "CAM_BACK_RIGHT"
    sync = config.sync_config(SPEC)
    assert sync.absent == set(absent) and sync.cameras == SPEC.cameras and sync.radars == SPEC.radars


def test_all_faults_come_at_once() -> None:
    assert len(errors(**{"a": 1, "backend": "x", "qos.depth": 0})) == 3


def test_a_whole_number_is_a_fine_double() -> None:
    config = make_config({"bundle": "b", "sync.deadline_ms": 80, "use_sim_time": True}, SPEC)
    assert config.sync_config(SPEC).deadline_ns == 80_000_000


def test_the_shipped_yaml_fits_the_nuscenes_rig() -> None:
    config = make_config(parse_yaml(CONFIG / "perception.param.yaml"), SPEC)
    offsets = [config.sync_config(SPEC).offsets_ns[name] for name in NUSCENES_CAMERAS]
    assert offsets == sorted(offsets) and offsets[-1] == 0
    assert config.bundle == resolve_path("package://bev_perception/bundles/demo")
    poses = load_extrinsics(CONFIG / "nuscenes_like.calibration.yaml", "base_link", NUSCENES_CAMERAS + NUSCENES_RADARS)
    # an optical frame: its z axis is where the camera looks, its y axis points down
    assert poses["CAM_FRONT"][:3, 2] == pytest.approx([1, 0, 0], abs=1e-6)
    assert poses["CAM_BACK"][:3, 2] == pytest.approx([-1, 0, 0], abs=1e-6)
    assert poses["CAM_BACK_LEFT"][:3, 1] == pytest.approx([0, 0, -1], abs=1e-6)


def test_yaml_sections(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"

    def parse(tree: object) -> dict:
        path.write_text(yaml.safe_dump(json.loads(json.dumps(tree))))  # without aliases, which ROS does not read)
        return parse_yaml(path)

    general = {"ros__parameters": {"bundle": "a", "sync": {"deadline_ms": 1.0}, "cameras.X.topic": "/x"}}
    special = {"ros__parameters": {"bundle": "b"}}
    assert parse({"/**": general, "bev_perception": special, "other_node": general}) == {
        "bundle": "b",
        "sync.deadline_ms": 1.0,
        "cameras.X.topic": "/x",
    }
    for tree, part in (
        ({"other_node": general}, "no section"),
        ({"/**": {"bundle": "a"}}, "ros__parameters"),
        (["a"], "expected"),
    ):
        with pytest.raises(ParameterError, match=part):
            parse(tree)
    path.write_text("a: [")
    with pytest.raises(ParameterError, match="YAML"):
        parse_yaml(path)
    with pytest.raises(ParameterError, match="cannot be read"):
        parse_yaml(tmp_path / "absent.yaml")


def random_pose(rng: np.random.Generator) -> np.ndarray:
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return make_transform(rotation * np.sign(np.linalg.det(rotation)), rng.normal(size=3))


def test_extrinsics_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    poses = {"A": random_pose(rng), "B": random_pose(rng)}
    path = tmp_path / "c.yaml"
    save_extrinsics(path, "base_link", poses)
    found = load_extrinsics(path, "base_link", ["B"])
    assert list(found) == ["B"] and found["B"] == pytest.approx(poses["B"], abs=1e-5)
    with pytest.raises(CalibrationError, match="no entry for C; it has A, B"):
        load_extrinsics(path, "base_link", ["A", "C"])
    with pytest.raises(CalibrationError, match="relative to 'base_link'"):
        load_extrinsics(path, "base_footprint", ["A"])
    path.write_text("base_frame: base_link\nsensors: {A: {translation: [0, 0, 0], rotation_wxyz: [1, 1, 0, 0]}}")
    with pytest.raises(CalibrationError, match="norm"):
        load_extrinsics(path, "base_link", ["A"])
    path.write_text("base_frame: base_link\nsensors: {A: {translation: [0, 0], rotation_wxyz: [1, 0, 0, 0]}}")
    with pytest.raises(CalibrationError, match="3 and 4 finite numbers"):
        load_extrinsics(path, "base_link", ["A"])


class Record:
    """A message with attributes."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


def transform(parent: str, child: str, pose: np.ndarray) -> Record:
    w, x, y, z = quaternion_from_rotation(pose[:3, :3])
    t = pose[:3, 3]
    body = Record(translation=Record(x=t[0], y=t[1], z=t[2]), rotation=Record(w=w, x=x, y=y, z=z))
    return Record(header=Record(frame_id=parent), child_frame_id=child, transform=body)


def test_static_tree() -> None:
    rng = np.random.default_rng(1)
    mast, cam, base, radar = (random_pose(rng) for _ in range(4))
    tree = StaticTree()
    assert tree.add([transform("mast", "cam", cam), transform("chassis", "base_link", base)]) == ["cam", "base_link"]
    with pytest.raises(CalibrationError, match="no static transforms from 'cam' to 'base_link'"):
        tree.lookup("base_link", "cam")
    tree.add([transform("/chassis", "mast", mast), transform("base_link", "radar", radar)])
    assert tree.lookup("base_link", "cam") == pytest.approx(np.linalg.inv(base) @ mast @ cam)
    assert tree.lookup("cam", "radar") == pytest.approx(np.linalg.inv(mast @ cam) @ base @ radar)
    assert tree.lookup("cam", "cam") == pytest.approx(np.eye(4))
    assert tree.add([transform("mast", "cam", cam)]) == []
    assert tree.add([transform("mast", "cam", make_transform(rotation_from_yaw(0.1), np.zeros(3)))]) == ["cam"]
    bad = transform("mast", "cam", cam)
    bad.transform.rotation = Record(w=0.0, x=0.0, y=0.0, z=0.0)
    with pytest.raises(CalibrationError, match="quaternion"):
        tree.add([bad])
    tree.add([transform("a", "b", mast), transform("b", "a", mast)])
    with pytest.raises(CalibrationError, match="loop"):
        tree.lookup("base_link", "a")
