"""Extrinsics that no sensor of a car can have: each usual mistake is named, no real rig is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from bev_perception.calibration import CalibrationError, load_extrinsics
from bev_perception.geometry import make_transform, rotation_from_quaternion, rotation_from_yaw
from bev_perception.sensors.plausible import Fault, camera_fault, order_fault, radar_fault

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "bev_perception" / "config" / "nuscenes_like.calibration.yaml"
REAL = ROOT.parent / "shared" / "data" / "nuscenes"
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # a camera that looks along x


def about(axis: str, degrees: float) -> np.ndarray:
    """Rotation about an axis of the sensor's own frame."""
    half = np.deg2rad(degrees) / 2
    return rotation_from_quaternion(np.array([np.cos(half), *(np.sin(half) * (axis == name) for name in "xyz")]))


def camera(rotation: np.ndarray, xyz: tuple[float, float, float] = (1.7, 0.0, 1.5)) -> Fault | None:
    return camera_fault(make_transform(rotation, np.array(xyz)))


def radar(rotation: np.ndarray, xyz: tuple[float, float, float] = (3.4, 0.0, 0.5)) -> Fault | None:
    return radar_fault(make_transform(rotation, np.array(xyz)))


def fault(name: str, pose: np.ndarray) -> Fault | None:
    return (camera_fault if name.startswith("CAM") else radar_fault)(pose)


def shipped(order: tuple[int, ...] = (0, 1, 2, 3), scale: float = 1.0) -> dict[str, np.ndarray]:
    """The shipped rig, as it is read when it was written with another order of numbers or unit."""
    sensors = yaml.safe_load(SHIPPED.read_text())["sensors"]
    return {
        name: make_transform(
            rotation_from_quaternion(np.array(entry["rotation_wxyz"])[list(order)]),
            scale * np.array(entry["translation"]),
        )
        for name, entry in sensors.items()
    }


def split(poses: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    cameras = [pose for name, pose in poses.items() if name.startswith("CAM")]
    return cameras, [pose for name, pose in poses.items() if not name.startswith("CAM")]


def test_the_shipped_rig_is_possible() -> None:
    assert {name: fault(name, pose) for name, pose in shipped().items()} == dict.fromkeys(shipped())
    assert order_fault(*split(shipped())) == ""


def test_real_rigs_are_possible() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no real recordings in {REAL}")
    seen = 0
    for rig in json.loads((REAL / "rigs.json").read_text()).values():
        poses = {
            name: make_transform(rotation_from_quaternion(np.array(entry["rotation"])), np.array(entry["translation"]))
            for name, entry in rig.items()
            if not name.startswith("LIDAR")
        }
        assert {name: fault(name, pose) for name, pose in poses.items()} == dict.fromkeys(poses)
        assert order_fault(*split(poses)) == ""
        seen += len(poses)
    cameras = json.loads((REAL / "scene-0061_s0.json").read_text())["cams"]
    for found in cameras.values():
        assert camera_fault(np.array(found["cam2ego"])) is None
    assert (seen, len(cameras)) == (22, 6)


@pytest.mark.parametrize("yaw", range(-180, 180, 15))
@pytest.mark.parametrize("tilt", [-55.0, -20.0, 0.0, 20.0, 55.0])
def test_a_camera_may_look_anywhere_but_straight_up_or_down(yaw: float, tilt: float) -> None:
    turned = rotation_from_yaw(np.deg2rad(yaw)) @ OPTICAL @ about("x", tilt)
    for roll in (-40.0, 0.0, 40.0):
        assert camera(turned @ about("z", roll)) is None
    assert camera(turned @ about("z", 50.0)).reason == "mount_roll"
    for roll in (140.0, 170.0, -170.0):
        assert "upside down" in camera(turned @ about("z", roll)).detail
    assert "rolled by 130 degrees" in camera(turned @ about("z", -130.0)).detail


@pytest.mark.parametrize(("tilt", "way"), [(60.7, "up"), (90.0, "up"), (-60.7, "down"), (-90.0, "down")])
def test_a_camera_that_sees_sky_or_ground_alone(tilt: float, way: str) -> None:
    found = camera(OPTICAL @ about("x", tilt))
    assert found.reason == "mount_pitch" and f"{abs(tilt):.0f} degrees {way}" in found.detail


def test_a_camera_frame_that_is_not_optical() -> None:
    """x forward and z up, as bodies have it: the optical axis, z, points to the sky."""
    assert "90 degrees up; expected at most 60; camera frames are optical" in camera(np.eye(3)).detail


@pytest.mark.parametrize("pitch", [-19.7, 0.0, 44.7])
@pytest.mark.parametrize("roll", [0.0, 44.0, 180.0])
def test_a_radar_may_be_tilted_and_upside_down(pitch: float, roll: float) -> None:
    assert radar(about("y", -pitch) @ about("x", roll)) is None


@pytest.mark.parametrize(
    ("rotation", "reason", "part"),
    [
        (about("y", 20.7), "mount_pitch", "21 degrees down, into the ground"),
        (about("y", -45.7), "mount_pitch", "46 degrees up"),
        (OPTICAL @ about("z", 90.0), "mount_pitch", "radar frames: x forward, y left, z up"),
        (about("x", 90.0), "mount_roll", "rolled by 90 degrees"),
        (about("z", 180.0), "mount_inward", "front bumper looks backward, through the vehicle"),
    ],
    ids=["ground", "sky", "optical", "rolled", "backward"],
)
def test_a_radar_that_cannot_see_the_road(rotation: np.ndarray, reason: str, part: str) -> None:
    found = radar(rotation)
    assert found is not None and found.reason == reason and part in found.detail


def test_radars_beside_and_behind_look_where_they_like() -> None:
    assert radar(about("z", 180.0), (3.4, 0.9, 0.5)) is None  # along the side, from the mirror
    assert radar(about("z", 180.0), (3.4, 0.0, 1.2)) is None  # over the roof
    assert radar(about("z", 180.0), (2.5, 0.0, 0.5)) is None and radar(about("z", 0.0), (-0.3, 0.0, 0.5)) is None
    assert radar(about("z", 180.0), (3.4, 0.5, 0.5)) is None
    assert radar(about("z", 180.0), (-0.6, 0.0, 0.5)) is None
    assert radar(about("z", 0.0), (-0.6, 0.0, 0.5)).reason == "mount_inward"


def test_millimetres_and_mirrors() -> None:
    for name, pose in shipped(scale=1000.0).items():
        found = fault(name, pose)
        assert found.reason == "mount_too_far" and "write metres, not millimetres" in found.detail
    mirrored = OPTICAL @ np.diag([-1.0, 1.0, 1.0])
    assert camera(mirrored).reason == "mount_mirrored"


def test_quaternions_that_were_written_x_y_z_w() -> None:
    """Some wrong poses look possible, so the file is judged as a whole; those that do not say what happened."""
    swapped = shipped(order=(1, 2, 3, 0))
    found = {name: fault(name, pose) for name, pose in swapped.items()}
    told = {name for name, one in found.items() if one is not None and "rotation_wxyz begins with w" in one.detail}
    assert told >= {"CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT", "RADAR_FRONT", "RADAR_FRONT_LEFT"}
    assert order_fault(*split(swapped)).endswith("expected the order w x y z")


def test_a_file_of_two_wrong_sensors_is_not_called_swapped() -> None:
    poses = shipped()
    for name in ("CAM_FRONT", "CAM_BACK"):
        poses[name] = poses[name] @ make_transform(about("z", 90.0), np.zeros(3))
    assert order_fault(*split(poses)) == ""
    assert fault("CAM_FRONT", poses["CAM_FRONT"]).reason == "mount_roll"


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("{translation: [1, 0, 1], rotation_wxyz: [0.0, -90.0, 0.0, -90.0]}", "these look like angles"),
        ("{translation: [1, 0, 1], rotation_wxyz: [0.0, -1.57, 1.57, 0.0]}", "these look like angles"),
        ("{translation: [1, 0, 1], rotation_wxyz: [0.7, 0.8, 0.0, 0.0]}", "has 1: write a quaternion"),
        ("{translation: [1, 0, 1], rotation_wxyz: [-90.0, 0.0, -90.0]}", "expected 3 and 4 finite numbers"),
        ("{translation: [1, 0, 1], rotation_rpy: [-90.0, 0.0, -90.0]}", "`rotation_wxyz: [w, x, y, z]`"),
    ],
)
def test_angles_in_place_of_a_quaternion(tmp_path: Path, entry: str, part: str) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(f"base_frame: base_link\nsensors:\n  A: {entry}\n")
    with pytest.raises(CalibrationError) as error:
        load_extrinsics(path, "base_link", ["A"])
    assert part in str(error.value)
