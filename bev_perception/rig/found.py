"""Which of the topics are cameras with their camera_info, radars with what their columns mean, and the odometry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from bev_perception.rig.survey import CLOUD, INFO, ODOMETRY, POSE, TRANSFORMS, TWIST, Survey, TopicSeen
from bev_perception.sensors.intake import COMPRESSED, IMAGE, PACKET
from bev_perception.sensors.odometry_messages import TF_TOPIC
from bev_perception.sensors.radar_messages import RADAR_KINDS

# Columns by which a cloud is a radar's: of speed, along the axes or along the line of sight.
COMPENSATED = (("vx_comp", "vy_comp"), ("vx_compensated", "vy_compensated"), ("v_x_comp", "v_y_comp"))
RELATIVE = (("vx", "vy"), ("v_x", "v_y"), ("velocity_x", "velocity_y"), ("vel_x", "vel_y"))
DOPPLER = (
    "doppler",
    "radial_velocity",
    "radial_speed",
    "v_r",
    "vr",
    "range_rate",
    "doppler_velocity",
    "velocity",
    "speed",
)
CROSS_SECTION = ("rcs", "RCS", "rcs_dbsm", "radar_cross_section")
POSITION = ("x", "y")
POLAR = (("range", "azimuth"), ("r", "azimuth"), ("distance", "azimuth"))
MAP_FRAMES = ("map", "world", "earth", "utm")


@dataclass(frozen=True)
class CameraFound:
    """images and info are topics; others: further topics of the same images, not taken."""

    images: TopicSeen
    info: TopicSeen | None
    rectified: bool
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.images.topic


@dataclass(frozen=True)
class RadarFound:
    """kind: of RADAR_KINDS; fields: parameters below `radars.NAME.fields`; guesses: field -> why it is a guess."""

    scans: TopicSeen
    kind: str
    fields: Mapping[str, str]
    guesses: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.scans.topic


@dataclass(frozen=True)
class OdometryFound:
    """values: parameters; reason: why this one. base_frame: of which it is the motion."""

    values: Mapping[str, str]
    base_frame: str
    reason: str


def find_cameras(survey: Survey) -> list[CameraFound]:
    """One for each frame and namespace, raw images before compressed ones, unrectified before rectified ones."""
    order = {IMAGE: 0, COMPRESSED: 1, PACKET: 2}
    by_camera: dict[tuple[str, str], list[TopicSeen]] = {}
    for seen in survey.of(*order):
        if "depth" in seen.topic.lower() or not seen.times.count:
            continue
        by_camera.setdefault((seen.frame, _namespace(seen.topic)), []).append(seen)
    cameras = []
    for topics in by_camera.values():
        chosen, *others = sorted(topics, key=lambda seen: (_rectified(seen.topic), order[seen.kind], seen.topic))
        info = _info_of(chosen, survey.of(INFO))
        cameras.append(CameraFound(chosen, info, _rectified(chosen.topic), tuple(seen.topic for seen in others)))
    return sorted(cameras, key=lambda camera: camera.name)


def _rectified(topic: str) -> bool:
    return "rect" in topic.lower().replace("direct", "")


def _namespace(topic: str) -> str:
    """/camera/front/image_raw and /camera/front/image_raw/compressed -> /camera/front."""
    parts = topic.split("/")
    while len(parts) > 2 and ("image" in parts[-1] or parts[-1] in ("compressed", "ffmpeg", "h264", "h265")):
        parts.pop()
    return "/".join(parts)


def _info_of(images: TopicSeen, infos: Iterable[TopicSeen]) -> TopicSeen | None:
    """The camera_info that shares most of its name with the images, of those that share their frame where any does."""
    listed = [info for info in infos if info.frame == images.frame] or list(infos)
    common = {info.topic: _shared_parts(info.topic, images.topic) for info in listed}
    best = max(listed, key=lambda info: (common[info.topic], -len(info.topic)), default=None)
    if best is None or (best.frame != images.frame and common[best.topic] < 2):
        return None
    return best


def _shared_parts(one: str, other: str) -> int:
    """How many parts of two names agree from the front: /a/b/c and /a/b/d share two."""
    pairs = zip(one.strip("/").split("/"), other.strip("/").split("/"))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def find_radars(survey: Survey) -> list[RadarFound]:
    """Clouds without a speed are of other sensors, and are left."""
    found = []
    for name, kind in RADAR_KINDS.items():
        for seen in survey.of(kind.message):
            if kind.message != CLOUD:
                found.append(RadarFound(seen, name, {}, {}))
            elif (fields := radar_fields(seen.columns)) is not None:
                found.append(RadarFound(seen, name, *fields))
    return sorted(found, key=lambda radar: radar.name)


def radar_fields(columns: Mapping[str, float]) -> tuple[dict[str, str], dict[str, str]] | None:
    """Columns of a cloud with their largest values -> (fields, field -> why it is a guess); None without a speed."""
    fields: dict[str, str] = {}
    guesses: dict[str, str] = {}
    pair = next((pair for pair in (*COMPENSATED, *RELATIVE) if set(pair) <= set(columns)), None)
    doppler = next((name for name in DOPPLER if name in columns), "")
    if pair is None and not doppler:
        return None
    if pair is not None:
        fields |= {"vx": pair[0], "vy": pair[1], "doppler": ""}
        fields["velocity"] = "compensated" if pair in COMPENSATED else "relative"
        if pair in RELATIVE:
            guesses["velocity"] = "columns of this name are relative in most drivers; the doctor looks"
    else:
        fields |= {"vx": "", "vy": "", "doppler": doppler, "velocity": "relative"}
        guesses["velocity"] = "a Doppler speed is relative in most drivers; the doctor looks"
    if set(POSITION) <= set(columns):
        fields["layout"] = "cartesian"
    else:
        polar = next((pair for pair in POLAR if set(pair) <= set(columns)), None)
        if polar is None:
            return None
        fields |= {"layout": "polar", "range": polar[0], "azimuth": polar[1]}
        in_degrees = columns[polar[1]] > 2 * math.pi * 1.001
        fields["angle_unit"] = "deg" if in_degrees else "rad"
        guesses["angle_unit"] = f"the largest azimuth is {columns[polar[1]]:.3g}"
    fields["rcs"] = next((name for name in CROSS_SECTION if name in columns), "")
    if not fields["rcs"]:
        guesses["rcs"] = f"no column of {', '.join(columns)} is a cross section: it is 0"
    return fields, guesses


def find_odometry(survey: Survey) -> OdometryFound | None:
    """The continuous one with most messages: nav_msgs/Odometry, or pose and twist, or /tf."""
    listed = [seen for seen in survey.of(ODOMETRY) if len(seen.frames) > 1]
    continuous = [seen for seen in listed if not is_map(seen.frame)]
    if listed:
        best = max(continuous or listed, key=lambda seen: (seen.times.rate_hz, seen.topic))
        others = [seen.topic for seen in listed if seen is not best]
        reason = f"{best.frames[0]} -> {best.frames[1]} at {best.times.rate_hz:.0f} Hz"
        if others:
            reason += f"; not {', '.join(others)}, which {'is' if len(others) == 1 else 'are'} slower or in a map"
        values = {"source": "odometry", "topic": best.topic, "frame": best.frames[0]}
        return OdometryFound(values, best.frames[1], reason)
    poses, twists = survey.of(POSE), survey.of(TWIST)
    continuous = [pose for pose in poses if not is_map(pose.frame)]
    if continuous and twists:
        pose, twist = continuous[0], max(twists, key=lambda seen: seen.times.rate_hz)
        values = {"source": "pose_twist", "pose_topic": pose.topic, "twist_topic": twist.topic, "frame": pose.frame}
        return OdometryFound(values, twist.frame, f"no nav_msgs/Odometry; pose in {pose.frame}, twist in {twist.frame}")
    edges = sorted(edge for edge in survey.moving if not is_map(edge[0]))
    if edges and any(seen.topic == TF_TOPIC for seen in survey.of(TRANSFORMS)):
        parent, child = next((edge for edge in edges if "odom" in edge[0]), edges[0])
        return OdometryFound(
            {"source": "tf", "frame": parent}, child, f"no odometry topic; /tf has {parent} -> {child}"
        )
    return None


def is_map(frame: str) -> bool:
    return frame.lstrip("/").rpartition("/")[2].lower().startswith(MAP_FRAMES)
