"""Detections as a rosbag2 MCAP, written without ROS and as they come: the messages that the node publishes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from bev_perception.bags.metadata import METADATA, read_metadata
from bev_perception.bags.storage import BagError
from bev_perception.evaluation.bag import DETECTIONS_TOPIC
from bev_perception.files import replace_folder, work_folder
from bev_perception.messages import NOT_ESTIMATED, PUBLISHERS
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import Detections

ARRAY_TYPE = PUBLISHERS["detections"].kind
MARK = ("written_by", "bev_perception")  # in the metadata: only what has it is replaced
DEFINITIONS = Path(__file__).resolve().parents[1] / "definitions"  # where setup.py puts our .msg files


def make_typestore() -> Typestore:
    """Jazzy's message types and Detection3DArray. Raises BagError where our .msg files are nowhere to be found."""
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = _message_dir()
    for name in ("Detection3D", "SensorInput", "Detection3DArray"):
        text = (folder / f"{name}.msg").read_text()
        store.register(get_types_from_msg(text, f"bev_perception_msgs/msg/{name}"))
    return store


def _message_dir() -> Path:
    """Of the source tree, of an installed bev_perception, or of an installed bev_perception_msgs."""
    tried = [Path(__file__).resolve().parents[2] / "bev_perception_msgs" / "msg", DEFINITIONS]
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    tried += [Path(prefix) / "share" / "bev_perception_msgs" / "msg" for prefix in prefixes]
    for folder in tried:
        if (folder / "Detection3DArray.msg").is_file():
            return folder
    raise BagError(f"Detection3DArray.msg is in none of {', '.join(map(str, tried))}; source the workspace that has it")


def detection_message(store: Typestore, detections: Detections, spec: ModelSpec, frame_id: str) -> Any:
    """The Detection3DArray of bev_perception.messages.detection_array, in the classes of rosbags."""

    def make(kind: str, **fields: Any) -> Any:
        return store.types[kind.replace("/", "/msg/")](**fields)

    def vector(x: float, y: float, z: float, kind: str = "Vector3") -> Any:
        return make(f"geometry_msgs/{kind}", x=x, y=y, z=z)

    rows = []
    columns = zip(detections.boxes.tolist(), detections.velocity.tolist(), detections.scores.tolist())
    for ((x, y, z, length, width, height, yaw), (vx, vy), score), label in zip(columns, detections.labels.tolist()):
        turn = make("geometry_msgs/Quaternion", x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2))
        pose = make("geometry_msgs/Pose", position=vector(x, y, z, "Point"), orientation=turn)
        twist = make("geometry_msgs/Twist", linear=vector(vx, vy, 0.0), angular=vector(0.0, 0.0, 0.0))
        rows.append(
            make(
                "bev_perception_msgs/Detection3D",
                class_name=spec.classes[label],
                label=label,
                score=score,
                existence_probability=math.nan,
                pose=make("geometry_msgs/PoseWithCovariance", pose=pose, covariance=NOT_ESTIMATED),
                dimensions=vector(length, width, height),
                twist=make("geometry_msgs/TwistWithCovariance", twist=twist, covariance=NOT_ESTIMATED),
                id="",
                attribute="",
                num_sensor_points=0,
            )
        )

    def time(stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        return make("builtin_interfaces/Time", sec=seconds, nanosec=nanoseconds)

    made_of = detections.composition
    inputs = [
        make(
            "bev_perception_msgs/SensorInput",
            name=name,
            stamps=[time(stamp) for stamp in made_of.stamps_ns.get(name, ())],
            missing=detections.missing.get(name, ""),
        )
        for name in spec.cameras + spec.radars
    ]
    return make(
        "bev_perception_msgs/Detection3DArray",
        header=make("std_msgs/Header", stamp=time(detections.stamp_ns), frame_id=frame_id),
        model_name=spec.name,
        model_sha256=spec.onnx_sha256,
        sensors_used=list(detections.sensors_used),
        sensors_missing=list(detections.missing),
        temporal_used=detections.temporal_used,
        closed_by=made_of.closed_by,
        inputs=inputs,
        pose_stamp=time(made_of.pose_ns),
        poses_crc32=made_of.poses_crc32,
        detections=rows,
    )


class DetectionBag:
    """The bag while it is written."""

    def __init__(self, writer: Writer, store: Typestore, spec: ModelSpec, frame_id: str) -> None:
        self._writer, self._store, self._spec, self._frame_id = writer, store, spec, frame_id
        self._connection = writer.add_connection(DETECTIONS_TOPIC, ARRAY_TYPE, typestore=store)

    def add(self, record_ns: int, detections: Detections) -> None:
        message = detection_message(self._store, detections, self._spec, self._frame_id)
        self._writer.write(self._connection, record_ns, self._store.serialize_cdr(message, ARRAY_TYPE))


@contextmanager
def open_detection_bag(path: Path, spec: ModelSpec, frame_id: str) -> Iterator[DetectionBag]:
    """A rosbag2 directory with one .mcap, which takes its name, also from an earlier one, when the block ends; nothing
    of it stays when the block raises. Equal input gives equal bytes.

    Raises BagError, before anything is written, where our .msg files are nowhere to be found or where `path` is
    something that was not written here.
    """
    store = make_typestore()
    if path.exists() and not is_detection_bag(path):
        raise BagError(f"{path} was not written by a replay and is not replaced: move it, or choose another folder")
    with work_folder(path) as part:
        unfinished = part / path.name  # rosbag2 names the file after the last folder
        writer = Writer(unfinished, version=9, storage_plugin=StoragePlugin.MCAP)
        writer.set_custom_data(*MARK)
        with writer:
            yield DetectionBag(writer, store, spec, frame_id)
        replace_folder(unfinished, path)


def is_detection_bag(path: Path) -> bool:
    """Whether a folder is one that was written here, and holds nothing else; an empty folder is nobody's."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    if not names:
        return True
    if names != {METADATA, f"{path.name}.mcap"}:
        return False
    try:
        return bool(read_metadata(path)["custom_data"][MARK[0]] == MARK[1])
    except (OSError, ValueError, TypeError, KeyError):
        return False
