"""Extrinsics that no sensor of a car can have: what is most often wrong in them, found from the pose alone.

Cheap, and asked once for each change. A pose that passes may still be wrong by degrees or centimetres.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import numpy as np

from bev_perception.fault import Fault
from bev_perception.geometry import quaternion_from_rotation, rotation_from_quaternion

MAX_DISTANCE_M = 20.0  # from base_link, on the longest of vehicles
MAX_PITCH_DEG = 60.0  # of a camera's optical axis, up or down
MAX_ROLL_DEG = 45.0
RADAR_DOWN_DEG, RADAR_UP_DEG = 20.0, 45.0  # half a metre above the ground, 20 degrees down end 1.4 m ahead
# A radar at the bumper looks away from the vehicle. x of base_link, below the rear axle.
BUMPER_FRONT_M, BUMPER_REAR_M, BUMPER_HALF_WIDTH_M, BUMPER_HEIGHT_M = 2.5, -0.3, 0.5, 1.2
INWARD = 0.7  # cosine: within 45 degrees of straight through
# A sensor on one side looks to that side, ahead or back, not across the vehicle; cosine: within 41 degrees.
SIDE_M, ACROSS = 0.4, 0.75
# Of a sensor whose name says LEFT or RIGHT: it sits or looks there, and not clearly on the other side.
SIDES = {"LEFT": 1.0, "RIGHT": -1.0}
BESIDE_M, ASIDE = 0.3, 0.3  # m; cosine: 17 degrees from straight ahead or back
OPTICAL, FORWARD = 2, 0  # the axis along which cameras and radars look
SWAPPED = "; in the order x y z w its quaternion would be possible: rotation_wxyz begins with w"


def camera_fault(ego_from_cam: np.ndarray) -> Fault | None:
    """What is impossible about a camera's pose (4, 4); optical axes: z forward, x right, y down."""
    return _fault(ego_from_cam, _camera_axes)


def radar_fault(ego_from_radar: np.ndarray) -> Fault | None:
    """What is impossible about a radar's pose (4, 4); axes: x forward, y left, z up."""
    return _fault(ego_from_radar, _radar_axes)


def side_fault(name: str, ego_from_sensor: np.ndarray, looks_along: int) -> Fault | None:
    """Whether a sensor is on the other side than its name says (`CAM_FRONT_LEFT`): a rig whose left and right are
    exchanged is possible in itself, and only names tell. looks_along: the number of its axis, OPTICAL or FORWARD."""
    sides = SIDES.keys() & re.split(r"[^A-Z]+", name.upper())
    if len(sides) != 1:
        return None
    side = SIDES[(said := sides.pop())]
    sits, looks = float(side * ego_from_sensor[1, 3]), float(side * ego_from_sensor[1, looks_along])
    if max(sits, looks) > 0 or (sits > -BESIDE_M and looks > -ASIDE):
        return None
    other = {"LEFT": "right", "RIGHT": "left"}[said]
    turned = math.degrees(math.asin(min(1.0, -looks)))
    where = f"is {round(-sits, 2) + 0.0:.2f} m to the {other} and looks {turned:.0f} degrees there"
    expected = f"the {said.lower()}, as it is called; y of base_link points to the left"
    return Fault("mount_side", f"{name} {where}; expected {expected}: mirrored poses, or two names exchanged")


def order_fault(cameras: Iterable[np.ndarray], radars: Iterable[np.ndarray]) -> str:
    """ "", or that the quaternions of a whole file are in the wrong order: several of its poses (4, 4) are impossible,
    and none is when all are read as x y z w. Some wrong ones look possible, so that this concerns every sensor."""
    sensors = [(pose, _camera_axes) for pose in cameras] + [(pose, _radar_axes) for pose in radars]
    wrong = sum(axes(pose[:3, :3], pose[:3, 3]) is not None for pose, axes in sensors)
    if wrong < 2 or any(axes(_read_as_xyzw(pose[:3, :3]), pose[:3, 3]) for pose, axes in sensors):
        return ""
    found = f"{wrong} of {len(sensors)} sensors look where none can, and none does in the order x y z w"
    return f"rotation_wxyz: {found}; expected the order w x y z"


def _fault(ego_from_sensor: np.ndarray, axes: Callable[[np.ndarray, np.ndarray], Fault | None]) -> Fault | None:
    rotation, position = ego_from_sensor[:3, :3], ego_from_sensor[:3, 3]
    if np.linalg.det(rotation) < 0:
        expected = "+1: an axis is negated, or two are exchanged"
        return Fault("mount_mirrored", f"the determinant of the rotation is negative; expected {expected}")
    distance = float(np.linalg.norm(position))
    if distance > MAX_DISTANCE_M:
        found = f"{distance:.1f} m from base_link"
        return Fault("mount_too_far", f"{found}; expected at most {MAX_DISTANCE_M:g} m: write metres, not millimetres")
    fault = axes(rotation, position)
    if fault is not None and axes(_read_as_xyzw(rotation), position) is None:
        return Fault(fault.reason, fault.detail + SWAPPED)
    return fault


def _camera_axes(rotation: np.ndarray, position: np.ndarray) -> Fault | None:
    pitch = _elevation_deg(rotation[2, 2])
    if abs(pitch) > MAX_PITCH_DEG:
        found = f"the optical axis points {abs(pitch):.0f} degrees {'up' if pitch > 0 else 'down'}"
        expected = f"at most {MAX_PITCH_DEG:g}; camera frames are optical: z forward, x right, y down"
        return Fault("mount_pitch", f"{found}; expected {expected}")
    roll = math.degrees(math.atan2(-rotation[2, 0], -rotation[2, 1]))  # of the image about the optical axis
    if abs(roll) > MAX_ROLL_DEG:
        found = "is upside down" if abs(roll) > 180 - MAX_ROLL_DEG else f"is rolled by {abs(roll):.0f} degrees"
        mend = "mend the rotation, or turn the image in the driver"
        return Fault("mount_roll", f"the image {found}; expected at most {MAX_ROLL_DEG:g} degrees: {mend}")
    return _across(position, rotation[1, 2], "camera")


def _radar_axes(rotation: np.ndarray, position: np.ndarray) -> Fault | None:
    pitch = _elevation_deg(rotation[2, 0])
    if not -RADAR_DOWN_DEG <= pitch <= RADAR_UP_DEG:
        found = f"the radar looks {abs(pitch):.0f} degrees {'up' if pitch > 0 else 'down, into the ground'}"
        expected = f"{RADAR_DOWN_DEG:g} down to {RADAR_UP_DEG:g} up; radar frames: x forward, y left, z up"
        return Fault("mount_pitch", f"{found}; expected {expected}")
    # Upside down is how some radars are mounted, and their frame says so; half way is how none is.
    roll = abs(math.degrees(math.atan2(rotation[2, 1], rotation[2, 2])))
    if MAX_ROLL_DEG < roll < 180 - MAX_ROLL_DEG:
        expected = f"at most {MAX_ROLL_DEG:g}, or upside down: it measures in the plane of the road"
        return Fault("mount_roll", f"the radar is rolled by {roll:.0f} degrees; expected {expected}")
    x, y, z = position
    ahead = rotation[0, 0]
    in_front, behind = x > BUMPER_FRONT_M and ahead < -INWARD, x < BUMPER_REAR_M and ahead > INWARD
    if abs(y) < BUMPER_HALF_WIDTH_M and z < BUMPER_HEIGHT_M and (in_front or behind):
        found = f"the radar at the {'front' if in_front else 'rear'} bumper looks {'back' if in_front else 'for'}ward"
        return Fault("mount_inward", f"{found}, through the vehicle; expected away from it: mend the rotation")
    beside = BUMPER_REAR_M < x < BUMPER_FRONT_M and z < BUMPER_HEIGHT_M
    return _across(position, rotation[1, 0], "radar") if beside else None


def _across(position: np.ndarray, aside: float, kind: str) -> Fault | None:
    """aside: cosine between the sensor's axis and the left of the vehicle."""
    y = float(position[1])
    if abs(y) <= SIDE_M or -math.copysign(1.0, y) * aside <= ACROSS:
        return None
    found = (
        f"the {kind} {abs(y):.2f} m to the {'left' if y > 0 else 'right'} looks across the vehicle to the other side"
    )
    return Fault("mount_inward", f"{found}; expected away from it: mend the rotation")


def _elevation_deg(sine: float) -> float:
    return math.degrees(math.asin(min(1.0, max(-1.0, sine))))


def _read_as_xyzw(rotation: np.ndarray) -> np.ndarray:
    """The rotation that was meant, had somebody written the four numbers of this one in the order x y z w."""
    x, y, z, w = quaternion_from_rotation(rotation)
    return rotation_from_quaternion(np.array([w, x, y, z]))
