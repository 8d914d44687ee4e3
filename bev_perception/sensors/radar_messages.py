"""What radars send -> RadarScan. RADAR_KINDS lists the messages, LAYOUTS how they say where a return is.

Duck-typed as conversions.py is: messages of rclpy and of `rosbags` work alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.conversions import CLOUD_READERS, MessageError, stamp_ns
from bev_perception.sensors.serialised import SCAN_COLUMNS, TRACK_COLUMNS
from bev_perception.structures import RadarScan

RADIAL_EPSILON_M = 1e-6
# How large angles can be, in rad: azimuths may be counted from 0 or from -pi.
ANGLES = {"azimuth": 2 * np.pi, "elevation": np.pi / 2}
ANGLE_SLACK = 1.001  # float32 rounds upwards, too
Positions = tuple[np.ndarray, np.ndarray, np.ndarray]


def _from_polar(distance: np.ndarray, azimuth: np.ndarray, elevation: np.ndarray, to_rad: float) -> Positions:
    azimuth, elevation = azimuth * to_rad, elevation * to_rad
    flat = distance * np.cos(elevation)
    return flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)


def _check_angles(angles: dict[str, np.ndarray], fields: RadarFields, sensor: str) -> None:
    """Raises MessageError return_angle where an angle is beyond every circle: one is enough to say what all are in."""
    to_rad = ANGLE_UNITS[fields.angle_unit]
    for name, values in angles.items():
        beyond = np.isfinite(values) & (np.abs(values) * to_rad > ANGLES[name] * ANGLE_SLACK)
        if beyond.any():
            found = f"{int(beyond.sum())} of {len(values)} returns have an {name} beyond {ANGLES[name] / to_rad:.5g}"
            mend = f"set radars.{sensor}.fields.angle_unit, or mend the driver"
            raise MessageError(
                "return_angle", f"{found} {fields.angle_unit}, as {values[beyond][0]:.5g} is: another unit? {mend}"
            )


@dataclass(frozen=True)
class Layout:
    """How a radar says where a return is: two RadarFields it needs and a third that may be missing (it is 0 then).

    position(first, second, third, to_rad) -> x, y, z in metres; to_rad: of the angle's unit.
    """

    needed: tuple[str, str]
    third: str
    position: Callable[[np.ndarray, np.ndarray, np.ndarray, float], Positions]


LAYOUTS = {
    "cartesian": Layout(("x", "y"), "z", lambda x, y, z, to_rad: (x, y, z)),
    "polar": Layout(("range", "azimuth"), "elevation", _from_polar),
}
ANGLE_UNITS = {"rad": 1.0, "deg": np.pi / 180}
VELOCITIES = {"compensated": True, "relative": False}  # whether over ground, or relative to the moving sensor


@dataclass(frozen=True)
class RadarFields:
    """How a radar names what its returns hold; see the parameters `radar_fields.*` and `radars.NAME.fields.*`."""

    layout: str = "cartesian"
    x: str = "x"
    y: str = "y"
    z: str = "z"
    range: str = "range"
    azimuth: str = "azimuth"
    elevation: str = "elevation"
    angle_unit: str = "rad"
    rcs: str = "rcs"
    velocity: str = "compensated"
    vx: str = "vx_comp"
    vy: str = "vy_comp"
    doppler: str = ""


COLUMNS_OF_TRACKS = ("x", "y", "z", "doppler")


def _scan_returns(msg: Any, reader: str) -> np.ndarray:
    """radar_msgs/RadarScan -> (P,) structured, the fields of RadarReturn: m, rad, m/s, dB."""
    if isinstance(msg.returns, np.ndarray):  # read from the bytes
        return msg.returns
    rows = [(r.range, r.azimuth, r.elevation, r.doppler_velocity, r.amplitude) for r in msg.returns]
    return np.array(rows, dtype=[(name, "f4") for name in SCAN_COLUMNS])


def _track_returns(msg: Any, reader: str) -> np.ndarray:
    """radar_msgs/RadarTracks -> (P,) structured: the centre of each track, m, and its speed along the line of sight.

    Networks know the radial speed that a radar measures, not the whole vector that its tracker has guessed.
    """
    tracks = msg.tracks
    if not isinstance(tracks, np.ndarray):  # a list of objects, not read from the bytes
        rows = [(*_xyz(track.position), *_xyz(track.velocity)) for track in tracks]
        tracks = np.array(rows, dtype=[(name, "f8") for name in TRACK_COLUMNS])
    x, y, z, vx, vy, vz = (tracks[name] for name in TRACK_COLUMNS)
    returns = np.empty(len(tracks), dtype=[(name, "f4") for name in COLUMNS_OF_TRACKS])
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is left out later
        returns["x"], returns["y"], returns["z"] = x, y, z
        distance = np.maximum(np.sqrt(x * x + y * y + z * z), RADIAL_EPSILON_M)
        returns["doppler"] = (x * vx + y * vy + z * vz) / distance
    return returns


def _xyz(vector: Any) -> tuple[float, float, float]:
    return vector.x, vector.y, vector.z


@dataclass(frozen=True)
class RadarKind:
    """A kind of radar message: `message` is its type, returns(message, cloud reader) -> (P,) structured array.

    count: how many returns a message has, before any is read.
    fields: which column is what where the definition of the message says it, None where the driver decides.
    clutter: returns of the ground and of noise are among them, so that a radar that sees nothing for long is odd.
    """

    message: str
    returns: Callable[[Any, str], np.ndarray]
    count: Callable[[Any], int]
    fields: RadarFields | None
    clutter: bool


# RadarScan's amplitude is in dB of whatever the driver likes: a radar cross section only where the driver says so.
_SCAN_FIELDS = RadarFields("polar", rcs="", velocity="relative", vx="", vy="", doppler="doppler_velocity")
_TRACK_FIELDS = RadarFields("cartesian", rcs="", velocity="relative", vx="", vy="", doppler="doppler")
# The values of `radars.NAME.kind`.
RADAR_KINDS = {
    "cloud": RadarKind(
        "sensor_msgs/msg/PointCloud2",
        lambda msg, reader: CLOUD_READERS[reader](msg),
        lambda msg: int(msg.width) * int(msg.height),
        None,
        True,
    ),
    "scan": RadarKind("radar_msgs/msg/RadarScan", _scan_returns, lambda msg: len(msg.returns), _SCAN_FIELDS, True),
    "tracks": RadarKind(
        "radar_msgs/msg/RadarTracks", _track_returns, lambda msg: len(msg.tracks), _TRACK_FIELDS, False
    ),
}


def read_radar(
    msg: Any, sensor: str, fields: RadarFields, reader: str = "numpy", kind: str = "cloud"
) -> tuple[RadarScan, int]:
    """A radar's message -> (RadarScan in the radar's frame, number of returns left out because they are not finite).

    reader, kind: keys of CLOUD_READERS and of RADAR_KINDS. A missing z (or elevation) is 0. A message without returns
    is a good scan: nothing was seen. Raises MessageError: cloud_fields, cloud_truncated, cloud_bytes, return_angle,
    cloud_not_finite (no return is finite), stamp_not_set.
    """
    returns = RADAR_KINDS[kind].returns(msg, reader)
    stamp = stamp_ns(msg.header.stamp)
    names = returns.dtype.names or ()

    def column(name: str, optional: bool = False) -> np.ndarray:
        if name in names:
            values = returns[name]
            return np.asarray(values if values.ndim == 1 else values[:, 0], dtype=np.float32)
        if optional:
            return np.zeros(len(returns), dtype=np.float32)
        has = ", ".join(names) or "none"
        mend = f"set radar_fields.* or radars.{sensor}.fields.*"
        raise MessageError("cloud_fields", f"no field {name!r}; the {kind} has {has}: {mend}")

    layout = LAYOUTS[fields.layout]
    parts = {name: column(getattr(fields, name)) for name in layout.needed}
    parts[layout.third] = column(getattr(fields, layout.third), optional=True)
    with np.errstate(invalid="ignore"):  # what is not finite is left out below
        first, second, third = parts.values()
        x, y, z = layout.position(first, second, third, ANGLE_UNITS[fields.angle_unit])
    if fields.vx:
        vx, vy = column(fields.vx), column(fields.vy)
    else:
        # radial speed along the line of sight; only its part in the x-y plane is kept
        per_metre = column(fields.doppler) / np.maximum(np.sqrt(x * x + y * y + z * z), RADIAL_EPSILON_M)
        vx, vy = per_metre * x, per_metre * y
    rcs = column(fields.rcs) if fields.rcs else np.zeros(len(returns), dtype=np.float32)
    _check_angles({name: values for name, values in parts.items() if name in ANGLES}, fields, sensor)
    points = np.stack([x, y, z, rcs, vx, vy], axis=1).astype(np.float32, copy=False)
    finite = np.isfinite(points).all(axis=1)
    bad = int(len(points) - finite.sum())
    if bad and bad == len(points):
        raise MessageError("cloud_not_finite", f"all {bad} returns hold NaN or infinity; check the radar driver")
    return RadarScan(sensor, stamp, points[finite] if bad else points, VELOCITIES[fields.velocity]), bad
