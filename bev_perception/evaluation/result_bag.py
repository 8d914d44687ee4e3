"""Detections as a rosbag2 MCAP, written without ROS and as they come: the messages that the node publishes, and for
Foxglove, which shows them without a plugin, a scene and lines in each image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from bev_perception.bags.metadata import METADATA, read_metadata
from bev_perception.bags.storage import BagError
from bev_perception.evaluation.bag import DETECTIONS_TOPIC, SCENE_TOPIC, image_boxes_topic
from bev_perception.evaluation.box_lines import box_lines
from bev_perception.evaluation.foxglove_messages import ANNOTATIONS_TYPE, SCENE_TYPE, foxglove_types
from bev_perception.evaluation.message_maker import MessageMaker
from bev_perception.evaluation.objects import objects_from_detections
from bev_perception.evaluation.scene import image_annotations, scene_update
from bev_perception.files import replace_folder, work_folder
from bev_perception.messages import PUBLISHERS, estimates
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import Detections, SensorFrame

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


def detection_message(make: MessageMaker, detections: Detections, spec: ModelSpec, frame_id: str) -> Any:
    """The Detection3DArray of bev_perception.messages.detection_array, in the classes of rosbags."""
    rows = []
    columns = zip(detections.boxes.tolist(), detections.velocity.tolist(), detections.scores.tolist())
    values = zip(columns, detections.labels.tolist(), estimates(detections))
    for ((x, y, z, length, width, height, yaw), (vx, vy), score), label, (probability, place, speed) in values:
        pose = make.pose(x, y, z, yaw)
        twist = make.make("geometry_msgs/Twist", linear=make.vector(vx, vy, 0.0), angular=make.vector(0.0, 0.0, 0.0))
        rows.append(
            make.make(
                "bev_perception_msgs/Detection3D",
                class_name=spec.classes[label],
                label=label,
                score=score,
                existence_probability=probability,
                pose=make.make("geometry_msgs/PoseWithCovariance", pose=pose, covariance=place),
                dimensions=make.vector(length, width, height),
                twist=make.make("geometry_msgs/TwistWithCovariance", twist=twist, covariance=speed),
                id="",
                attribute="",
                num_sensor_points=0,
            )
        )
    made_of = detections.composition
    inputs = [
        make.make(
            "bev_perception_msgs/SensorInput",
            name=name,
            stamps=[make.time(stamp) for stamp in made_of.stamps_ns.get(name, ())],
            missing=detections.missing.get(name, ""),
        )
        for name in spec.cameras + spec.radars
    ]
    return make.make(
        "bev_perception_msgs/Detection3DArray",
        header=make.make("std_msgs/Header", stamp=make.time(detections.stamp_ns), frame_id=frame_id),
        model_name=spec.name,
        model_sha256=spec.onnx_sha256,
        sensors_used=list(detections.sensors_used),
        sensors_missing=list(detections.missing),
        temporal_used=detections.temporal_used,
        closed_by=made_of.closed_by,
        inputs=inputs,
        pose_stamp=make.time(made_of.pose_ns),
        poses_crc32=made_of.poses_crc32,
        detections=rows,
    )


class DetectionBag:
    """The bag while it is written. Times in nanoseconds; record_ns is when a frame came."""

    def __init__(self, writer: Writer, store: Typestore, spec: ModelSpec, frame_id: str) -> None:
        self._writer, self._make, self._spec, self._frame_id = writer, MessageMaker(store), spec, frame_id
        topics = {DETECTIONS_TOPIC: ARRAY_TYPE, SCENE_TOPIC: SCENE_TYPE}
        topics |= {image_boxes_topic(camera): ANNOTATIONS_TYPE for camera in spec.cameras}
        self._connections = {t: writer.add_connection(t, kind, typestore=store) for t, kind in topics.items()}

    def add(self, record_ns: int, detections: Detections) -> None:
        """What the node publishes, and the same as a scene for Foxglove."""
        objects = objects_from_detections(detections, self._spec.classes)
        message = detection_message(self._make, detections, self._spec, self._frame_id)
        self._write(DETECTIONS_TOPIC, record_ns, message)
        self._write(SCENE_TOPIC, record_ns, scene_update(self._make, detections.stamp_ns, objects, self._frame_id))

    def add_lines(self, record_ns: int, frame: SensorFrame, detections: Detections) -> None:
        """Boxes in each image of the frame, at the image's stamp; none where the camera's image was not used, so that
        those of the frame before vanish."""
        objects = objects_from_detections(detections, self._spec.classes)
        for camera, view in zip(self._spec.cameras, frame.cameras):
            used = view is not None and camera in detections.sensors_used
            shown = objects if used else objects.select(np.zeros(len(objects), bool))
            lines = box_lines(shown, view, frame) if view is not None else []
            stamp_ns = view.frame.stamp_ns if view is not None else frame.stamp_ns
            message = image_annotations(self._make, stamp_ns, shown, lines)
            self._write(image_boxes_topic(camera), record_ns, message)

    def _write(self, topic: str, record_ns: int, message: Any) -> None:
        connection = self._connections[topic]
        self._writer.write(connection, record_ns, self._make.store.serialize_cdr(message, connection.msgtype))


@contextmanager
def open_detection_bag(path: Path, spec: ModelSpec, frame_id: str) -> Iterator[DetectionBag]:
    """A rosbag2 directory with one .mcap, which takes its name, also from an earlier one, when the block ends; nothing
    of it stays when the block raises. Equal input gives equal bytes.

    Raises BagError, before anything is written, where our .msg files are nowhere to be found or where `path` is
    something that was not written here.
    """
    store = make_typestore()
    store.register(foxglove_types())
    if path.exists() and not is_detection_bag(path):
        raise BagError(f"{path} was not written by a replay and is not replaced: move it, or choose another folder")
    with work_folder(path) as part:
        unfinished = part / path.name  # rosbag2 names the file after the last folder
        writer = Writer(unfinished, version=9, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)  # six times smaller, for every reader
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
