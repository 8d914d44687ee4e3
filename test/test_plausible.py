"""Extrinsics that no sensor of a car can have: each usual mistake is named, no real rig is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_parameters import SPEC

from bev_perception.calibration import CalibrationError, load_extrinsics, save_extrinsics
from bev_perception.geometry import make_transform, rotation_from_quaternion, rotation_from_yaw
from bev_perception.measurements import Measurements
from bev_perception.parameters import make_config
from bev_perception.sensors.plausible import FORWARD, OPTICAL, Fault, camera_fault, order_fault, radar_fault, side_fault
from bev_perception.sensors.sensor_calibration import SensorCalibration

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "bev_perception" / "config" / "nuscenes_like.calibration.yaml"
REAL = ROOT.parent / "shared" / "data" / "nuscenes"
AHEAD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # a camera that looks along x


def about(axis: str, degrees: float) -> np.ndarray:
    """Rotation about an axis of the sensor's own frame."""
    half = np.deg2rad(degrees) / 2
    return rotation_from_quaternion(np.array([np.cos(half), *(np.sin(half) * (axis == name) for name in "xyz")]))


def camera(rotation: np.ndarray, xyz: tuple[float, float, float] = (1.7, 0.0, 1.5)) -> Fault | None:
    return camera_fault(make_transform(rotation, np.array(xyz)))


def radar(rotation: np.ndarray, xyz: tuple[float, float, float] = (3.4, 0.0, 0.5)) -> Fault | None:
    return radar_fault(make_transform(rotation, np.array(xyz)))


def fault(name: str, pose: np.ndarray) -> Fault | None:
    if name.startswith("CAM"):
        return camera_fault(pose) or side_fault(name, pose, OPTICAL)
    return radar_fault(pose) or side_fault(name, pose, FORWARD)


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
    turned = rotation_from_yaw(np.deg2rad(yaw)) @ AHEAD @ about("x", tilt)
    for roll in (-40.0, 0.0, 40.0):
        assert camera(turned @ about("z", roll)) is None
    assert camera(turned @ about("z", 50.0)).reason == "mount_roll"
    for roll in (140.0, 170.0, -170.0):
        assert "upside down" in camera(turned @ about("z", roll)).detail
    assert "rolled by 130 degrees" in camera(turned @ about("z", -130.0)).detail


@pytest.mark.parametrize(("tilt", "way"), [(60.7, "up"), (90.0, "up"), (-60.7, "down"), (-90.0, "down")])
def test_a_camera_that_sees_sky_or_ground_alone(tilt: float, way: str) -> None:
    found = camera(AHEAD @ about("x", tilt))
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
        (AHEAD @ about("z", 90.0), "mount_pitch", "radar frames: x forward, y left, z up"),
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
    mirrored = AHEAD @ np.diag([-1.0, 1.0, 1.0])
    assert camera(mirrored).reason == "mount_mirrored"


def mirrored_rotation(name: str, rotation: np.ndarray) -> np.ndarray:
    """What looks to the left looks to the right then, upright as before: a rotation, as quaternions can say it."""
    flipped = np.diag([-1.0, 1.0, 1.0]) if name.startswith("CAM") else np.diag([1.0, -1.0, 1.0])
    return np.diag([1.0, -1.0, 1.0]) @ rotation @ flipped


SIDED = [
    "CAM_FRONT_LEFT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
    "RADAR_FRONT_LEFT",
    "RADAR_FRONT_RIGHT",
]


def test_a_rig_whose_left_is_its_right() -> None:
    """As axes with y to the right have it: each pose is possible, but the names are others'."""
    found = {}
    for name, pose in shipped().items():
        x, y, z = pose[:3, 3]
        mirrored = make_transform(mirrored_rotation(name, pose[:3, :3]), np.array([x, -y, z]))
        assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1.0)
        found[name] = fault(name, mirrored)
    told = [name for name, one in found.items() if one is not None]
    assert set(told) == {name for name in shipped() if "LEFT" in name or "RIGHT" in name}
    assert {one.reason for one in found.values() if one} == {"mount_side"}
    assert "m to the right and looks 55 degrees there; expected the left" in found["CAM_FRONT_LEFT"].detail


def test_a_mirrored_calibration_file_is_told_where_it_is_read(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, cameras=("CAM_FRONT_LEFT",), radars=("RADAR_FRONT_LEFT",))
    path = tmp_path / "calibration.yaml"
    mirror = np.diag([1.0, -1.0, 1.0])
    poses = {
        name: make_transform(mirrored_rotation(name, pose[:3, :3]), mirror @ pose[:3, 3])
        for name, pose in shipped().items()
    }
    save_extrinsics(path, "base_link", poses)
    config = make_config({"bundle": "b", "extrinsics.source": "file", "extrinsics.file": str(path)}, spec)
    told: list[tuple[str, str]] = []
    taken = Measurements(config.sync_config(spec))
    made = SensorCalibration(config, taken, lambda name, reason, detail: told.append((name, reason)), lambda *_: None)
    assert told == [("CAM_FRONT_LEFT", "mount_side"), ("RADAR_FRONT_LEFT", "mount_side")]
    assert "mount_side: RADAR_FRONT_LEFT is" in made.gap("RADAR_FRONT_LEFT")


@pytest.mark.parametrize("name", SIDED)
def test_a_sensor_beside_the_vehicle_does_not_look_across_it(name: str) -> None:
    """Rotations that are mirrored while the positions stay."""
    pose = shipped()[name]
    found = fault(name, make_transform(mirrored_rotation(name, pose[:3, :3]), pose[:3, 3]))
    assert found is not None and found.reason == "mount_inward" and "across the vehicle" in found.detail


def test_only_what_sits_beside_the_middle_can_look_across_the_vehicle() -> None:
    """Up to 0.4 m to a side a camera may look to the other; to the left it is turned to the right by a quarter."""
    across = rotation_from_yaw(-np.pi / 2) @ AHEAD
    assert camera(across, (1.0, 0.4, 1.5)) is None
    assert camera(across, (1.0, 0.41, 1.5)).reason == "mount_inward"


@pytest.mark.parametrize(
    ("y", "yaw", "wrong"),
    [(0.1, 0, False), (-0.1, 0, False), (-0.1, 90, False), (0.8, 30, False), (-0.2, -10, False), (-0.5, 0, True),
     (-0.1, -45, True), (0.0, -170, False), (0.0, -90, True)],
)  # fmt: skip
def test_sides_are_told_by_names(y: float, yaw: float, wrong: bool) -> None:
    """A stereo pair, a camera over the middle that looks aside: only what is clearly on the other side is named."""
    pose = make_transform(rotation_from_yaw(np.deg2rad(yaw)) @ AHEAD, np.array([1.0, y, 1.5]))
    other = np.diag([1.0, -1.0, 1.0, 1.0]) @ pose
    for name, one in (("CAM_FRONT_LEFT", pose), ("front-left2", pose), ("right_camera", other)):
        assert (side_fault(name, one, OPTICAL) is not None) == wrong
    for name in ("CAM_FRONT", "leftover", "left_right", "cam_a"):
        assert side_fault(name, pose, OPTICAL) is None


def test_quaternions_that_were_written_x_y_z_w() -> None:
    """Some wrong poses look possible, so the file is judged as a whole; those that do not say what happened."""
    swapped = shipped(order=(1, 2, 3, 0))
    found = {name: fault(name, pose) for name, pose in swapped.items()}
    told = {name for name, one in found.items() if one is not None and "rotation_wxyz begins with w" in one.detail}
    assert told >= {"CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT", "RADAR_FRONT", "RADAR_FRONT_LEFT"}
    assert order_fault(*split(swapped)).endswith("expected the order w x y z")


def test_an_order_in_which_a_radar_would_look_through_the_vehicle_is_not_the_right_one() -> None:
    poses = shipped(order=(1, 2, 3, 0))
    backward = np.array([0.0, 0.0, 0.0, 1.0])[[1, 2, 3, 0]]  # half a turn about z, as it is read
    poses["RADAR_FRONT"] = make_transform(rotation_from_quaternion(backward), np.array([3.4, 0.0, 0.5]))
    assert order_fault(*split(poses)) == ""
    poses["RADAR_FRONT"][:3, 3] = 0.0, 0.0, 0.5  # where a radar may look anywhere
    assert order_fault(*split(poses)) != ""


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
