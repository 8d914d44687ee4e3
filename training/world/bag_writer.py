"""A synthetic drive as a rosbag2 MCAP recording, as a car with the nuScenes rig would have made it.

TOPICS below lists what is in it, at the rig's rates where no lower ones are asked for. Headers carry the true stamps of
the measurements; the record time of a message is its stamp plus the fixed latency of its kind (LATENCY_NS), and
messages are stored by record time.
Frames: odom -> base_link on /tf, base_link -> one frame per sensor (its channel in lower case; cameras are optical
frames) on /tf_static.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.files import replace_folder, work_folder
from bev_perception.geometry import rotation_from_yaw
from bev_perception.model_spec import CLASSES
from training.world.bag_messages import DETECTION_ARRAY, Messages
from training.world.bag_rig import BAG_RIGS, BagRig
from training.world.camera import CameraImage
from training.world.generate import (
    NS,
    Progress,
    Rates,
    Scan,
    epoch_ns,
    ordered_map,
    plan_drive,
    summary,
    take,
    world_of,
)
from training.world.lidar import LidarSweep
from training.world.listed_radar import ListedRadar
from training.world.observation import (
    ANNOTATION_RANGE_M,
    Observation,
    Snapshot,
    camera_matrix,
    merge,
    observe,
    snapshot,
)
from training.world.record_queue import RecordQueue
from training.world.rig import NUSCENES, Rig, SensorMount
from training.world.styles import TOWN, Style
from training.world.world import World

# kind -> (topic, message type). {frame} is the sensor's frame id: cam_front, radar_front_left ...
TOPICS = {
    "raw": ("/camera/{frame}/image_raw", "sensor_msgs/msg/Image"),  # bgr8, 12 Hz each
    "jpeg": ("/camera/{frame}/image_raw/compressed", "sensor_msgs/msg/CompressedImage"),  # 12 Hz each
    "camera_info": ("/camera/{frame}/camera_info", "sensor_msgs/msg/CameraInfo"),  # with every image, no distortion
    "radar": ("/radar/{frame}/points", "sensor_msgs/msg/PointCloud2"),  # 13 Hz each, the 18 nuScenes fields
    "lidar": ("/lidar/top/points", "sensor_msgs/msg/PointCloud2"),  # 20 Hz, x y z intensity ring; only when asked for
    "odometry": ("/odometry", "nav_msgs/msg/Odometry"),  # 50 Hz, odom -> base_link, twist in base_link
    "tf": ("/tf", "tf2_msgs/msg/TFMessage"),  # 50 Hz, odom -> base_link
    "tf_static": ("/tf_static", "tf2_msgs/msg/TFMessage"),  # once, base_link -> every sensor
    "ground_truth": (GROUND_TRUTH_TOPIC, DETECTION_ARRAY),  # base_link, at every stamp of the camera that fires last
}
LATENCY_NS = {"camera": 12_000_000, "radar": 8_000_000, "lidar": 15_000_000, "odometry": 2_000_000}
ODOMETRY_HZ = 50
# An observation this old no longer counts as "seen now" for the ground truth: a little over one radar period.
SEEN_FOR_NS = 100_000_000
JPEG_QUALITY = 95
LIDAR_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2")])
# Standard deviation of --odometry-noise 1: vx, vy (m/s), yaw rate (rad/s) of every 50 Hz twist.
_TWIST_SIGMA = np.array([0.05, 0.02, 0.002])


@dataclass(frozen=True)
class BagSettings:
    """Everything the bytes of a bag depend on."""

    seed: int = 900
    duration_s: float = 10.0
    scale: float = 0.25
    image_format: str = "raw"
    lidar: bool = False
    odometry_noise: float = 0.0
    radar: ListedRadar | None = None  # None: the profile `clear`
    style: Style = TOWN
    mounts: Rig = NUSCENES
    rig: str = "nuscenes"  # a key of BAG_RIGS
    rates: Rates = field(default_factory=Rates)


@dataclass(frozen=True)
class _Take:
    """One scan as it travels from a worker: what goes into the bag, and what was seen."""

    scan: Scan
    data: np.ndarray | bytes
    size: tuple[int, int]
    seen: dict[int, Observation]


def write_bag(out: str | Path, settings: BagSettings, workers: int = 2, overwrite: bool = False) -> dict[str, Any]:
    """Writes the rosbag2 directory `out` (metadata.yaml and one .mcap), atomically; returns the rates.

    Raises FileExistsError when `out` is there and not to be overwritten, ValueError for an unknown image format or rig.
    """
    out = Path(out)
    if settings.image_format not in ("raw", "jpeg"):
        raise ValueError(f"image format must be 'raw' or 'jpeg', found {settings.image_format!r}")
    if settings.rig not in BAG_RIGS:
        raise ValueError(f"rig must be one of {', '.join(BAG_RIGS)}, found {settings.rig!r}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists already; choose another name, delete it or ask to overwrite it")
    with work_folder(out) as part:
        # rosbag2 names the file inside after the directory, so the last part of the name must be the final one
        rates = _write(part / out.name, settings, workers)
        replace_folder(part / out.name, out)
    return rates


def _write(path: Path, settings: BagSettings, workers: int) -> dict[str, Any]:
    world = world_of(settings.seed, settings.duration_s, settings.style, settings.mounts)
    rig = BAG_RIGS[settings.rig]
    mounts = {
        name: mount
        for name, mount in world.rig.mounts.items()
        if (settings.lidar or mount.kind != "lidar") and (rig is None or name in rig.names)
    }
    truth_at = _last_camera(mounts) if rig is None else rig.truth_at
    scans = plan_drive(settings.duration_s, settings.rates, mounts)
    start_ns = epoch_ns(settings.seed)
    progress = Progress("scans", len(scans))
    store = make_typestore()
    messages = Messages(store)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        queue = RecordQueue(writer, store)
        poses = {frame_of(mount, rig): mount.ego_from_sensor for mount in mounts.values()}
        queue.push(start_ns, *topic("tf_static"), messages.transforms(start_ns, "base_link", poses))
        odometry = _odometry(world, settings)
        upcoming = next(odometry, None)
        newest: dict[str, _Take] = {}
        for taken in ordered_map(_take_one, [(scan, settings) for scan in scans], workers):
            now = taken.scan.stamp_ns
            while upcoming is not None and upcoming[0] <= now:
                _push_odometry(queue, messages, start_ns, rig, *upcoming)
                upcoming = next(odometry, None)
            newest[taken.scan.channel] = taken
            _push_scan(queue, messages, start_ns, taken, mounts[taken.scan.channel], settings)
            if taken.scan.channel == truth_at:
                truth = ground_truth(messages, world, now, start_ns, list(newest.values()))
                queue.push(start_ns + now + LATENCY_NS["camera"], *topic("ground_truth"), truth)
            queue.flush(start_ns + now)
            progress.add(1, images=int(mounts[taken.scan.channel].kind == "camera"))
        while upcoming is not None:
            _push_odometry(queue, messages, start_ns, rig, *upcoming)
            upcoming = next(odometry, None)
        queue.flush(None)
    return summary(progress)


def topic(kind: str, channel: str = "", rig: BagRig | None = None) -> tuple[str, str]:
    """(topic, message type) of a kind in TOPICS, for the sensor `channel` where it is one per sensor."""
    name, message_type = TOPICS[kind]
    if rig is not None and kind in rig.topics:
        return rig.topics[kind].format(name=rig.names.get(channel, "")), message_type
    return name.format(frame=channel.lower()), message_type


def frame_of(mount: SensorMount, rig: BagRig | None = None) -> str:
    """frame_id of a sensor."""
    return mount.name.lower() if rig is None else rig.frames[mount.kind].format(name=rig.names[mount.name])


def _last_camera(mounts: Mapping[str, SensorMount]) -> str:
    """The one that closes a sweep of all."""
    return max((mount.phase_ns, name) for name, mount in mounts.items() if mount.kind == "camera")[1]


def ground_truth(messages: Messages, world: World, stamp_ns: int, start_ns: int, takes: list[_Take]) -> Any:
    """Detection3DArray in base_link at stamp_ns: actors within 80 m that any scan of the last 0.1 s hit."""
    seen: dict[int, Observation] = {}
    for taken in takes:
        if stamp_ns - taken.scan.stamp_ns <= SEEN_FOR_NS:
            # a fresh copy: merge adds in place and the same take counts for more than one frame
            merge(seen, {track_id: replace(o) for track_id, o in taken.seen.items()})
    world_from_ego = world.ego_pose(stamp_ns)
    boxes = [
        messages.true_box(
            state,
            CLASSES.index(state.name),
            world_from_ego,
            seen[state.track_id].lidar_points + seen[state.track_id].radar_points,
        )
        for state in world.actor_states(stamp_ns, ANNOTATION_RANGE_M)
        if state.track_id in seen and seen[state.track_id].seen
    ]
    return messages.ground_truth(start_ns + stamp_ns, boxes)


@lru_cache(maxsize=4)
def _actors_of(seed: int, duration_s: float, style: Style, rig: Rig, stamp_ns: int) -> Snapshot:
    return snapshot(world_of(seed, duration_s, style, rig), stamp_ns)


def _take_one(task: tuple[Scan, BagSettings]) -> _Take:
    scan, settings = task
    drive = settings.seed, settings.duration_s, settings.style, settings.mounts
    world = world_of(*drive)
    result = take(world, scan, settings.seed, settings.scale, settings.radar)
    # one snapshot serves the scans of a tenth of a second
    actors = _actors_of(*drive, round(scan.stamp_ns, -8))
    seen = {track_id: o for track_id, o in observe(world, scan, result, actors, settings.scale).items() if o.seen}
    data: np.ndarray | bytes
    if isinstance(result, CameraImage):
        size = (result.bgr.shape[1], result.bgr.shape[0])
        data = result.bgr
        if settings.image_format == "jpeg":
            done, encoded = cv2.imencode(".jpg", result.bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if not done:
                raise RuntimeError(f"OpenCV could not encode an image of shape {result.bgr.shape} as JPEG")
            data = encoded.tobytes()
        return _Take(scan, data, size, seen)
    if isinstance(result, LidarSweep):
        points = np.empty(len(result.points), LIDAR_DTYPE)
        for column, name in enumerate(LIDAR_DTYPE.names or ()):
            points[name] = result.points[:, column]
        return _Take(scan, points, (0, 0), seen)
    return _Take(scan, result, (0, 0), seen)


def _push_scan(
    queue: RecordQueue, messages: Messages, start_ns: int, taken: _Take, mount: SensorMount, settings: BagSettings
) -> None:
    scan, rig = taken.scan, BAG_RIGS[settings.rig]
    frame, kind = frame_of(mount, rig), mount.kind
    stamp = start_ns + scan.stamp_ns
    record = stamp + LATENCY_NS[kind]
    if kind != "camera":
        points = np.asarray(taken.data)
        if rig is not None and kind == "radar":
            points = rig.returns(points)
        queue.push(record, *topic(kind, scan.channel, rig), messages.cloud(stamp, frame, points))
        return
    info = messages.camera_info(stamp, frame, camera_matrix(mount, settings.scale), *taken.size)
    queue.push(record, *topic("camera_info", scan.channel, rig), info)
    if isinstance(taken.data, bytes):
        image = messages.compressed_image(stamp, frame, taken.data)
    else:
        image = messages.image(stamp, frame, taken.data)
    queue.push(record, *topic(settings.image_format, scan.channel, rig), image)


def _push_odometry(
    queue: RecordQueue,
    messages: Messages,
    start_ns: int,
    rig: BagRig | None,
    stamp_ns: int,
    pose: np.ndarray,
    twist: tuple[float, float, float],
) -> None:
    stamp = start_ns + stamp_ns
    record = stamp + LATENCY_NS["odometry"]
    queue.push(record, *topic("odometry", rig=rig), messages.odometry(stamp, pose, twist))
    queue.push(record, *topic("tf"), messages.transforms(stamp, "odom", {"base_link": pose}))


def _odometry(world: World, settings: BagSettings) -> Iterator[tuple[int, np.ndarray, tuple[float, float, float]]]:
    """(stamp_ns, odom_from_ego, twist) at 50 Hz. With noise on the twist the pose, its integral, drifts."""
    rng = np.random.default_rng([settings.seed, 1000])
    step_ns = NS // ODOMETRY_HZ
    pose: np.ndarray | None = None
    for stamp_ns in range(0, round(settings.duration_s * NS) + 1, step_ns):
        twist = np.asarray(world.ego_twist(stamp_ns), dtype=np.float64)
        if settings.odometry_noise > 0:
            twist = twist + settings.odometry_noise * rng.normal(size=3) * _TWIST_SIGMA
        if pose is None or settings.odometry_noise <= 0:
            pose = world.ego_pose(stamp_ns)
        else:
            dt = step_ns / NS
            motion = np.eye(4)
            motion[:3, :3] = rotation_from_yaw(twist[2] * dt)
            motion[:2, 3] = rotation_from_yaw(twist[2] * dt / 2)[:2, :2] @ twist[:2] * dt
            pose = pose @ motion
        yield stamp_ns, pose, (float(twist[0]), float(twist[1]), float(twist[2]))
