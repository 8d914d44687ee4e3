"""Rigs that a synthetic car may have: nuScenes', three others, nuScenes' with cameras moved, or one from a file."""

from __future__ import annotations

from dataclasses import replace

from bev_perception.plain import from_plain, to_plain
from bev_perception.yaml_file import read_yaml
from training.world.rig import NUSCENES, Rig, Sensor, camera, radar

LIDAR = NUSCENES.sensors[-1]


def with_cameras(
    name: str, rig: Rig = NUSCENES, up_m: float = 0.0, pitch_deg: float = 0.0, yaw_deg: float = 0.0, zoom: float = 1.0
) -> Rig:
    """`rig` with every camera higher, looking further up, turned to the left about the vertical, and with `zoom` times
    the focal length."""

    def moved(sensor: Sensor) -> Sensor:
        turned = replace(sensor, z=sensor.z + up_m, pitch=sensor.pitch + pitch_deg, yaw=sensor.yaw + yaw_deg)
        return replace(turned, focal=sensor.focal * zoom)

    return Rig(name, tuple(moved(s) if s.kind == "camera" else s for s in rig.sensors))


FOUR_CAMERAS = Rig(
    "four_cameras",
    (
        camera("CAM_FRONT_LEFT", 90.0, (1.20, 0.90, 1.20), -30, 700.0),
        camera("CAM_FRONT", 0.0, (1.70, 0.00, 1.45), -20, 900.0),
        camera("CAM_FRONT_RIGHT", -90.0, (1.20, -0.90, 1.20), -10, 700.0),
        camera("CAM_BACK", 180.0, (-0.60, 0.00, 1.10), 0, 700.0),
        radar("RADAR_FRONT", 0.0, (3.60, 0.00, 0.45), 0),
        radar("RADAR_BACK_LEFT", 150.0, (-0.70, 0.75, 0.60), 4),
        radar("RADAR_BACK_RIGHT", -150.0, (-0.70, -0.75, 0.60), 8),
        LIDAR,
    ),
)
# Its cab stands before the front axle, 4.5 m before the rear one; cameras above the windscreen and on the mirrors.
TRUCK = Rig(
    "truck",
    (
        camera("CAM_FRONT_LEFT", 60.0, (5.30, 1.20, 2.50), -43),
        camera("CAM_FRONT", 0.0, (5.60, 0.00, 2.50), -35),
        camera("CAM_FRONT_RIGHT", -60.0, (5.30, -1.20, 2.50), -27),
        camera("CAM_BACK_RIGHT", -115.0, (5.10, -1.25, 2.50), -20),
        camera("CAM_BACK", 180.0, (-1.80, 0.00, 2.50), -10, 800.0),
        camera("CAM_BACK_LEFT", 115.0, (5.10, 1.25, 2.50), 0),
        radar("RADAR_FRONT", 0.0, (5.90, 0.00, 0.60), 0),
        radar("RADAR_FRONT_LEFT", 90.0, (5.00, 1.20, 0.90), 2),
        radar("RADAR_FRONT_RIGHT", -90.0, (5.00, -1.20, 0.90), 4),
        radar("RADAR_BACK_LEFT", 175.0, (-1.80, 1.00, 0.90), 6),
        radar("RADAR_BACK_RIGHT", -175.0, (-1.80, -1.00, 0.90), 8),
        replace(LIDAR, x=5.00, z=3.20),
    ),
)
FRONT = Rig("front", tuple(s for s in NUSCENES.sensors if s.name in ("CAM_FRONT", "RADAR_FRONT", LIDAR.name)))
RIGS = {
    rig.name: rig
    for rig in (
        NUSCENES,
        FOUR_CAMERAS,
        TRUCK,
        FRONT,
        with_cameras("raised", up_m=0.8),
        with_cameras("pitched", pitch_deg=-10.0),
        with_cameras("turned", yaw_deg=12.0),
        with_cameras("wide", zoom=0.7),
    )
}
ABOUT = (
    "where sensors sit: nuscenes; four_cameras: and three radars; truck: cameras at 2.5 m; front: one of each; "
    "raised by 0.8 m, pitched by -10 degrees, turned by 12, wide (0.7 of the focal length): nuscenes' cameras, all of "
    "them; or FILE.yaml with name and sensors"
)


def rig_named(name: str) -> Rig:
    """One of RIGS, or of a file NAME.yaml with the fields of `Rig`; sensors need no more than name, kind, x, y, z, yaw,
    rate_hz and, of cameras, focal.

    Raises ValueError for another name and, naming the file and the place, for keys that are unknown or missing and for
    what no sensor can be; OSError for a file that cannot be read.
    """
    if name in RIGS:
        return RIGS[name]
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"no rig {name!r}; choose one of {sorted(RIGS)} or a file NAME.yaml")
    plain = read_yaml(name)
    if isinstance(plain, dict) and isinstance(plain.get("sensors"), list):
        usual = to_plain(replace(LIDAR, name=""))
        optional = {key: usual[key] for key in ("phase_ms", "pitch", "roll", "focal", "center_v")}
        plain["sensors"] = [optional | s if isinstance(s, dict) else s for s in plain["sensors"]]
    rig: Rig = from_plain(Rig, plain, f"{name}:")
    if not any(sensor.kind == "camera" for sensor in rig.sensors):
        raise ValueError(f"{name}: a rig without a camera; keyframes and ground truth come at the stamps of one")
    return rig
