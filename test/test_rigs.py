"""Rigs of the synthetic car: where their sensors sit and look, in worlds, data sets and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from bev_perception.geometry import rotation_from_quaternion, rotation_from_yaw
from bev_perception.plain import to_plain
from training.world.__main__ import main
from training.world.generate import Rates
from training.world.nuscenes_writer import DatasetSettings, write_dataset
from training.world.observation import camera_matrix
from training.world.rig import NUSCENES, RIG, Rig, Sensor, scan_rng
from training.world.rigs import FOUR_CAMERAS, RIGS, rig_named, with_cameras

FRONT = Sensor("front", "camera", 1.0, 0.0, 1.5, 0.0, 12.0, focal=1000.0)


def test_a_sensor_looks_where_its_angles_say() -> None:
    for yaw, pitch, roll in ((0, 0, 0), (30, 0, 0), (-110, 12, 0), (180, -10, 5)):
        mount = Sensor("c", "camera", 1.0, 2.0, 3.0, yaw, 12.0, pitch=pitch, roll=roll, focal=1000.0).mount
        right, _, ahead = mount.ego_from_sensor[:3, :3].T
        a, b = np.deg2rad((yaw, pitch))
        np.testing.assert_allclose(ahead, [np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.sin(b)], atol=1e-12)
        assert right[2] == pytest.approx(-np.sin(np.deg2rad(roll)) * np.cos(b)), (
            "rolled to the right: that side is lower"
        )
        np.testing.assert_array_equal(mount.ego_from_sensor[:3, 3], [1.0, 2.0, 3.0])


def test_cameras_move_and_nothing_else() -> None:
    moved = with_cameras("m", up_m=0.8, pitch_deg=-10.0, yaw_deg=12.0, zoom=0.5).mounts
    for name, mount in RIG.items():
        if mount.kind != "camera":
            np.testing.assert_array_equal(moved[name].ego_from_sensor, mount.ego_from_sensor)
            continue
        before, after = mount.ego_from_sensor, moved[name].ego_from_sensor
        np.testing.assert_allclose(after[:3, 3] - before[:3, 3], [0, 0, 0.8], atol=1e-12)
        assert np.rad2deg(np.arcsin(after[2, 2])) == pytest.approx(-10.0)
        flat = rotation_from_yaw(np.deg2rad(12.0)) @ before[:3, 2]
        assert np.arctan2(*after[1::-1, 2]) == pytest.approx(np.arctan2(*flat[1::-1]))
        assert moved[name].K is not None and mount.K is not None
        np.testing.assert_array_equal(np.diag(moved[name].K)[:2], np.diag(mount.K)[:2] / 2)


def test_every_rig_has_a_camera_a_lidar_and_names_that_a_bundle_may_have() -> None:
    for name, rig in RIGS.items():
        kinds = [sensor.kind for sensor in rig.sensors]
        assert name == rig.name and "camera" in kinds and kinds.count("lidar") == 1


def test_a_drive_with_four_cameras_as_a_data_set(tmp_path: Path) -> None:
    settings = DatasetSettings(3, 1.0, 0.05, Rates(camera=2, lidar=2, radar=13), rig=FOUR_CAMERAS)
    write_dataset(tmp_path, 2, settings, workers=1)
    tables = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "v1.0-trainval").glob("*.json")}
    sensors = {row["token"]: row["channel"] for row in tables["sensor"]}
    assert set(sensors.values()) == {sensor.name for sensor in FOUR_CAMERAS.sensors}
    assert len(tables["calibrated_sensor"]) == 2 * 8
    for row in tables["calibrated_sensor"]:
        mount = FOUR_CAMERAS.mounts[sensors[row["sensor_token"]]]
        assert row["translation"] == mount.ego_from_sensor[:3, 3].tolist()
        turned = rotation_from_quaternion(np.array(row["rotation"]))
        np.testing.assert_allclose(turned, mount.ego_from_sensor[:3, :3], atol=1e-12)
        if mount.kind == "camera":
            assert row["camera_intrinsic"] == camera_matrix(mount, 0.05).tolist()
    assert len(tables["sample"]) == 4 and tables["sample_annotation"]
    with pytest.raises(ValueError, match="made with other settings than those asked for: rig"):
        write_dataset(tmp_path, 2, DatasetSettings(3, 1.0, 0.05, settings.rates), workers=1)


def test_scenes_of_before_were_those_of_the_usual_rig(tmp_path: Path) -> None:
    settings = DatasetSettings(3, 1.0, 0.05, Rates(camera=2, lidar=2, radar=13))
    write_dataset(tmp_path, 1, settings, workers=1)
    stamp = tmp_path / ".scenes" / "scene-0000.json"
    content = json.loads(stamp.read_text())
    del content["settings"]["rig"]
    stamp.write_text(json.dumps(content))
    write_dataset(tmp_path, 1, settings, workers=1)
    assert "rig" not in json.loads(stamp.read_text())["settings"], "not made anew"


def test_a_rig_from_a_file(tmp_path: Path) -> None:
    rig = Rig("mine", (FRONT, Sensor("nose", "radar", 3.5, 0.0, 0.5, 0.0, 13.0)))
    short = {"name": "mine", "sensors": [
        {"name": "front", "kind": "camera", "x": 1.0, "y": 0.0, "z": 1.5, "yaw": 0.0, "rate_hz": 12.0, "focal": 1000.0},
        {"name": "nose", "kind": "radar", "x": 3.5, "y": 0.0, "z": 0.5, "yaw": 0.0, "rate_hz": 13.0},
    ]}  # fmt: skip
    for number, plain in enumerate((short, to_plain(rig))):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(plain))
        assert rig_named(str(path)) == rig
    draws = [scan_rng(3, name, 5).integers(1 << 30) for name in ("front", "nose", "CAM_FRONT")]
    assert len(set(draws)) == 3, "each sensor has noise of its own"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "sonar"}, "a sonar with a focal length of 1000"),
        ({"kind": "radar"}, "cameras alone have a positive focal length"),
        ({"focal": 0.0}, "cameras alone have a positive focal length"),
        ({"hight": 1.5}, "hight"),
        ({"z": "high"}, "z"),
        ({"rate_hz": 12.5}, "a whole number"),
    ],
)
def test_a_file_of_no_rig(tmp_path: Path, change: dict, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "sensors": [to_plain(FRONT) | change]}))
    assert main(["look", str(tmp_path / "p.png"), "--mounts", str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error and said in error


def test_what_is_no_rig_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rig 'lorry'; choose one of"):
        rig_named("lorry")
    with pytest.raises(ValueError, match="are there twice"):
        Rig("two", (FRONT, FRONT))
    path = tmp_path / "blind.yaml"
    path.write_text(yaml.safe_dump(to_plain(Rig("blind", (NUSCENES.sensors[-1],)))))
    with pytest.raises(ValueError, match="a rig without a camera"):
        rig_named(str(path))
