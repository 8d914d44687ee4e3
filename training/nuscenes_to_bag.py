"""Scenes of a nuScenes-format data set become ROS 2 recordings that the node, a replay or any other program hears.

    python -m training.nuscenes_to_bag OUT --data DATA --split val
    python -m training.nuscenes_to_bag OUT --data DATA --scenes scene-0103 --anchor CAM_FRONT --lidar

Each scene is a rosbag2 folder OUT/SCENE (MCAP, CDR) with the topics of the synthetic drives: JPEG and PNG files as they
are (sensor_msgs/CompressedImage) with their camera_info, radar returns with all fields of their files (PointCloud2),
the ego pose of every file as nav_msgs/Odometry and /tf (`odom` is the set's global frame), /tf_static, and the
annotations of each keyframe on /ground_truth/detections, at the stamp of the --anchor camera's image, where the node
has its frames. A message is recorded at its stamp. Memory does not grow with the set; scenes that are there already
are left alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.files import work_folder
from bev_perception.geometry import invert, transform_boxes
from bev_perception.model_spec import CLASSES
from training.command_line import errors_as_text
from training.data.index import Index, open_index
from training.data.lidar import read_lidar
from training.data.nuscenes import LIDAR, read_split
from training.data.poses import poses_from_rows
from training.data.radar_pcd import read_radar_pcd
from training.data.source import Source, add_source, source_of
from training.world.actors import ActorState
from training.world.bag_messages import Messages
from training.world.bag_writer import LIDAR_DTYPE, topic
from training.world.record_queue import RecordQueue

TWIST_OVER_NS = 40_000_000  # to both sides: shorter ways are as small as the rounding of their stamps
# First bytes of a file -> the format that CompressedImage states.
FORMATS = {b"\xff\xd8\xff": "bgr8; jpeg compressed bgr8", b"\x89PNG": "bgr8; png compressed bgr8"}


def write_scene(out: Path, index: Index, scene: str, anchor: str, lidar: bool) -> int:
    """The recording of one scene, atomically -> its messages. anchor: the camera at whose stamps the objects are given.

    Raises ValueError for a scene or an anchor that the set does not have, and for images of other formats.
    """
    number = _position(index.scenes, scene, "scene")
    anchor_channel = _position(index.channels, anchor, "sensor")
    with work_folder(out) as part:
        path = part / out.name  # rosbag2 names the file inside after the folder
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            store = make_typestore()
            queue = RecordQueue(writer, store)
            _write(queue, Messages(store), index, number, anchor_channel, lidar)
            messages = queue.pushed
        os.replace(path, out)
    return messages


def _write(queue: RecordQueue, make: Messages, index: Index, scene: int, anchor: int, lidar: bool) -> None:
    arrays = index.arrays
    rows = np.flatnonzero(arrays["data_scene"] == scene)
    wanted = [lidar or index.channels[channel] != LIDAR for channel in arrays["data_channel"][rows]]
    rows = rows[np.array(wanted, dtype=bool)]
    rows = rows[np.argsort(arrays["data_stamp"][rows], kind="stable")]
    stamps, poses = arrays["data_stamp"][rows], poses_from_rows(arrays["data_pose"][rows])
    frames = np.flatnonzero(arrays["frame_scene"] == scene)
    truth = {int(arrays["frame_data"][frame, anchor]): int(frame) for frame in frames}
    first = int(stamps[0])
    queue.push(first, *topic("tf_static"), make.transforms(first, "base_link", _mounts(index, rows)))
    twists = _twists(stamps, poses)
    last = -1
    for k, row in enumerate(rows.tolist()):
        stamp = int(stamps[k])
        if stamp != last:
            queue.push(stamp, *topic("odometry"), make.odometry(stamp, poses[k], twists[k]))
            queue.push(stamp, *topic("tf"), make.transforms(stamp, "odom", {"base_link": poses[k]}))
            last = stamp
        for message in _measurement(make, index, row):
            queue.push(stamp, *message)
        if row in truth:
            queue.push(stamp, *topic("ground_truth"), _truth(make, index, truth[row], stamp, poses[k]))
        queue.flush(stamp)
    queue.flush(None)


def _measurement(make: Messages, index: Index, row: int) -> Iterator[tuple[str, str, Any]]:
    """(topic, type, message) of one file."""
    arrays = index.arrays
    channel = index.channels[arrays["data_channel"][row]]
    stamp, frame, path = int(arrays["data_stamp"][row]), channel.lower(), index.path(row)
    K = arrays["calibration_K"][arrays["data_calibration"][row]]
    if channel == LIDAR:
        points = read_lidar(path)
        cloud = np.empty(len(points), LIDAR_DTYPE)
        for column, name in enumerate(LIDAR_DTYPE.names or ()):
            cloud[name] = points[:, column]
        yield *topic("lidar"), make.cloud(stamp, frame, cloud)
    elif np.isnan(K).any():
        yield *topic("radar", channel), make.cloud(stamp, frame, read_radar_pcd(path))
    else:
        width, height = arrays["calibration_size"][arrays["data_calibration"][row]].tolist()
        data = Path(path).read_bytes()
        found = [kind for magic, kind in FORMATS.items() if data.startswith(magic)]
        if not found:
            raise ValueError(f"{path} is neither JPEG nor PNG; other images are not written into recordings")
        yield *topic("camera_info", channel), make.camera_info(stamp, frame, K, width, height)
        yield *topic("jpeg", channel), make.compressed_image(stamp, frame, data, found[0])


def _truth(make: Messages, index: Index, frame: int, stamp: int, global_from_ego: np.ndarray) -> Any:
    """The keyframe's objects where they are at `stamp`, moved by their velocities, in the ego frame of that time."""
    arrays = index.arrays
    of_frame = slice(int(arrays["box_end"][frame - 1]) if frame else 0, int(arrays["box_end"][frame]))
    global_from_keyframe = poses_from_rows(arrays["frame_pose"][frame : frame + 1])[0]
    ego_from_keyframe = invert(global_from_ego) @ global_from_keyframe
    later_s = (stamp - int(arrays["frame_stamp"][frame])) * 1e-9
    velocity = arrays["box_velocity"][of_frame]
    boxes = arrays["box"][of_frame].copy()
    boxes[:, :3] += np.nan_to_num(velocity) * later_s
    boxes, velocity = transform_boxes(ego_from_keyframe, boxes), velocity @ ego_from_keyframe[:3, :3].T
    names = (*index.attributes, "")  # -1: none
    points = arrays["box_points"][of_frame].sum(axis=1)
    made = []
    for k, label in enumerate(arrays["box_class"][of_frame].tolist()):
        attribute = names[arrays["box_attribute"][of_frame][k]]
        place, size, yaw = boxes[k, :3], boxes[k, 3:6], float(boxes[k, 6])
        state = ActorState(0, "", CLASSES[label], attribute, place, size, yaw, velocity[k])
        made.append(make.true_box(state, label, np.eye(4), int(points[k])))
    for box in made:
        box.id = ""  # the index of a set does not tell instances
    return make.ground_truth(stamp, made)


def _mounts(index: Index, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Frame -> base_link_from_sensor, as each sensor's first file has it."""
    arrays = index.arrays
    mounts: dict[str, np.ndarray] = {}
    for row in rows.tolist():
        name = index.channels[arrays["data_channel"][row]].lower()
        if name not in mounts:
            calibration = arrays["data_calibration"][row]
            mounts[name] = poses_from_rows(arrays["calibration_pose"][calibration : calibration + 1])[0]
    return mounts


def _twists(stamps: np.ndarray, poses: np.ndarray) -> list[tuple[float, float, float]]:
    """vx, vy (m/s) along the ego axes and yaw rate (rad/s) at each stamp, of the way from before to after it."""
    before = np.searchsorted(stamps, stamps - TWIST_OVER_NS, side="right") - 1
    after = np.searchsorted(stamps, stamps + TWIST_OVER_NS)
    before, after = np.maximum(before, 0), np.minimum(after, len(stamps) - 1)
    twists = []
    for k, (a, b) in enumerate(zip(before, after)):
        seconds = max(float(stamps[b] - stamps[a]) * 1e-9, 1e-9)
        along = poses[k][:3, :3].T @ (poses[b][:3, 3] - poses[a][:3, 3]) / seconds
        turn = poses[a][:3, :3].T @ poses[b][:3, :3]
        twists.append((float(along[0]), float(along[1]), float(np.arctan2(turn[1, 0], turn[0, 0])) / seconds))
    return twists


def _position(names: Sequence[str], wanted: str, kind: str) -> int:
    if wanted not in names:
        raise ValueError(f"the set has no {kind} {wanted!r}; it has {', '.join(sorted(names)[:12])}")
    return list(names).index(wanted)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.nuscenes_to_bag",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder of the recordings, one for each scene")
    add_source(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--scenes", nargs="+", metavar="NAME")
    which.add_argument("--split", help="all scenes of a split")
    parser.add_argument("--anchor", default="CAM_BACK_LEFT", help="camera at whose stamps the objects are given")
    parser.add_argument("--lidar", action="store_true", help="with the LiDAR's topic")
    args = parser.parse_args(argv)
    source: Source = source_of(args)
    index = open_index(source.root, source.version, source.classes)
    scenes = args.scenes or read_split(source, args.split)
    for number, scene in enumerate(scenes, 1):
        out = args.out / scene
        if out.exists():
            print(f"[{number}/{len(scenes)}] {out} is there already", flush=True)
            continue
        messages = write_scene(out, index, scene, args.anchor, args.lidar)
        print(f"[{number}/{len(scenes)}] {out}: {messages} messages", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
