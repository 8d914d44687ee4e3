"""Detections -> ROS messages. PUBLISHERS lists what the node can publish.

Messages are imported where they are made: the table is read without ROS too, and a package must be installed only where
it is published.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from bev_perception.colors import color_of
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import Detections
from bev_perception.uncertainty import NOT_ESTIMATED, message_covariances

HEADING_M = 0.7  # the heading reaches this far out of the front
MIN_ARROW_MPS = 0.3  # slower objects get no velocity line
ARROW_S = 1.0  # the line reaches where the object will be in this time


@dataclass(frozen=True)
class Context:
    """What messages need beside the detections."""

    spec: ModelSpec
    frame_id: str
    marker_lifetime_s: float


def to_time(stamp_ns: int) -> Any:
    """Integer nanoseconds -> builtin_interfaces/Time."""
    from builtin_interfaces.msg import Time

    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def message_class(name: str) -> type:
    """`sensor_msgs/msg/Image` -> its class. Raises ImportError where that is not installed."""
    package, _, kind = name.split("/")
    try:
        found: type = getattr(importlib.import_module(f"{package}.msg"), kind)
    except AttributeError as error:
        raise ImportError(f"{package} has no message {kind}") from error
    return found


def detection_array(detections: Detections, context: Context) -> Any:
    """bev_perception_msgs/Detection3DArray; see its definition."""
    from std_msgs.msg import Header

    from bev_perception_msgs.msg import Detection3D, Detection3DArray, SensorInput

    spec, made_of = context.spec, detections.composition
    message = Detection3DArray(
        header=Header(stamp=to_time(detections.stamp_ns), frame_id=context.frame_id),
        model_name=spec.name,
        model_sha256=spec.onnx_sha256,
        sensors_used=list(detections.sensors_used),
        sensors_missing=list(detections.missing),
        temporal_used=detections.temporal_used,
        closed_by=made_of.closed_by,
        inputs=[
            SensorInput(
                name=name,
                stamps=[to_time(stamp) for stamp in made_of.stamps_ns.get(name, ())],
                missing=detections.missing.get(name, ""),
            )
            for name in spec.cameras + spec.radars
        ],
        pose_stamp=to_time(made_of.pose_ns),
        poses_crc32=made_of.poses_crc32,
    )
    out = []
    rows = zip(detections.boxes.tolist(), detections.velocity.tolist(), detections.scores.tolist(), detections.labels)
    for ((x, y, z, length, width, height, yaw), (vx, vy), score, label), worth in zip(rows, estimates(detections)):
        d = Detection3D(class_name=spec.classes[label], label=int(label), score=score)
        pose, twist = d.pose, d.twist
        d.existence_probability, pose.covariance, twist.covariance = worth
        position, orientation, size, linear = (
            pose.pose.position,
            pose.pose.orientation,
            d.dimensions,
            twist.twist.linear,
        )
        position.x, position.y, position.z = x, y, z
        orientation.z, orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        size.x, size.y, size.z = length, width, height
        linear.x, linear.y = vx, vy
        out.append(d)
    message.detections = out
    return message


def estimates(detections: Detections) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Of each detection: existence_probability and the covariances (36,) of pose and twist; NaN and NOT_ESTIMATED where
    the model is not calibrated."""
    if detections.uncertainty is None:
        return repeat((math.nan, NOT_ESTIMATED, NOT_ESTIMATED), len(detections))
    return zip(detections.uncertainty.probability.tolist(), *message_covariances(detections.uncertainty))


def marker_array(detections: Detections, context: Context) -> Any:
    """visualization_msgs/MarkerArray: a translucent box, its heading, its velocity and a label for each object.

    The leading DELETEALL and what follows are applied together, so nothing flickers; the lifetime clears the view when
    the node dies.
    """
    from builtin_interfaces.msg import Duration
    from geometry_msgs.msg import Point
    from std_msgs.msg import ColorRGBA, Header
    from visualization_msgs.msg import Marker, MarkerArray

    header = Header(stamp=to_time(detections.stamp_ns), frame_id=context.frame_id)
    seconds, fraction = divmod(context.marker_lifetime_s, 1.0)
    lifetime = Duration(sec=int(seconds), nanosec=int(fraction * 1e9))
    classes = context.spec.classes

    def colors(alpha: float) -> list[Any]:
        """Of each class."""
        return [ColorRGBA(b=b / 255, g=g / 255, r=r / 255, a=alpha) for b, g, r in map(color_of, classes)]

    def marker(namespace: str, index: int, kind: int) -> Any:
        return Marker(header=header, ns=namespace, id=index, type=kind, action=Marker.ADD, lifetime=lifetime)

    def place(m: Any, x: float, y: float, z: float, yaw: float = 0.0) -> None:
        p, q = m.pose.position, m.pose.orientation
        p.x, p.y, p.z, q.z, q.w = x, y, z, math.sin(yaw / 2), math.cos(yaw / 2)

    solid, translucent = colors(1.0), colors(0.5)
    headings: list[Any] = []
    velocities: list[Any] = []
    heading_colors: list[Any] = []
    velocity_colors: list[Any] = []
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    rows = zip(detections.boxes.tolist(), detections.velocity.tolist(), detections.scores.tolist(), detections.labels)
    for i, ((x, y, z, length, width, height, yaw), (vx, vy), score, label) in enumerate(rows):
        box = marker("boxes", i, Marker.CUBE)
        place(box, x, y, z, yaw)
        box.scale.x, box.scale.y, box.scale.z = length, width, height
        box.color = translucent[label]
        text = marker("labels", i, Marker.TEXT_VIEW_FACING)
        place(text, x, y, z + height / 2 + 0.6)
        text.scale.z, text.color, text.text = 0.8, solid[label], f"{classes[label]} {score:.2f}"
        markers += (box, text)
        center, reach = Point(x=x, y=y, z=z), length / 2 + HEADING_M
        headings += (center, Point(x=x + reach * math.cos(yaw), y=y + reach * math.sin(yaw), z=z))
        heading_colors += (solid[label], solid[label])
        if math.hypot(vx, vy) >= MIN_ARROW_MPS:
            velocities += (center, Point(x=x + vx * ARROW_S, y=y + vy * ARROW_S, z=z))
            velocity_colors += (solid[label], solid[label])
    lines = (("heading", 0.08, headings, heading_colors), ("velocity", 0.2, velocities, velocity_colors))
    for namespace, thickness, points, of_points in lines:
        if points:
            line = marker(namespace, 0, Marker.LINE_LIST)
            line.scale.x, line.points, line.colors = thickness, points, of_points
            markers.append(line)
    return MarkerArray(markers=markers)


def vision_detections(detections: Detections, context: Context) -> Any:
    """vision_msgs/Detection3DArray: class, score and box; it has no place for velocity."""
    from std_msgs.msg import Header
    from vision_msgs.msg import Detection3D as VisionDetection
    from vision_msgs.msg import Detection3DArray as VisionArray
    from vision_msgs.msg import ObjectHypothesisWithPose

    header = Header(stamp=to_time(detections.stamp_ns), frame_id=context.frame_id)
    message = VisionArray(header=header)
    for ours in detection_array(detections, context).detections:
        theirs = VisionDetection(header=header)
        result = ObjectHypothesisWithPose(pose=ours.pose)
        result.hypothesis.class_id, result.hypothesis.score = ours.class_name, ours.score
        theirs.results = [result]
        theirs.bbox.center, theirs.bbox.size = ours.pose.pose, ours.dimensions
        message.detections.append(theirs)
    return message


# Class name -> name of the constant in autoware_perception_msgs/ObjectClassification; anything else is UNKNOWN.
AUTOWARE_LABELS = {
    "car": "CAR", "truck": "TRUCK", "construction_vehicle": "TRUCK", "bus": "BUS", "trailer": "TRAILER",
    "motorcycle": "MOTORCYCLE", "bicycle": "BICYCLE", "pedestrian": "PEDESTRIAN",
}  # fmt: skip


def autoware_objects(detections: Detections, context: Context) -> Any:
    """autoware_perception_msgs/DetectedObjects. Their twist is in the object's own axes: ours is turned by -yaw."""
    from autoware_perception_msgs.msg import (
        DetectedObject,
        DetectedObjectKinematics,
        DetectedObjects,
        ObjectClassification,
        Shape,
    )
    from std_msgs.msg import Header

    message = DetectedObjects(header=Header(stamp=to_time(detections.stamp_ns), frame_id=context.frame_id))
    yaws = detections.boxes[:, 6].tolist()
    for ours, yaw in zip(detection_array(detections, context).detections, yaws):
        label = getattr(ObjectClassification, AUTOWARE_LABELS.get(ours.class_name, "UNKNOWN"))
        calibrated = not math.isnan(ours.existence_probability)
        theirs = DetectedObject(existence_probability=ours.existence_probability if calibrated else ours.score)
        theirs.classification = [ObjectClassification(label=label, probability=1.0)]
        kinematics = theirs.kinematics
        kinematics.pose_with_covariance = ours.pose
        kinematics.orientation_availability = DetectedObjectKinematics.AVAILABLE
        kinematics.has_twist = True
        v, c, s = ours.twist.twist.linear, math.cos(yaw), math.sin(yaw)
        linear = kinematics.twist_with_covariance.twist.linear
        linear.x, linear.y = c * v.x + s * v.y, c * v.y - s * v.x
        if calibrated:
            kinematics.has_position_covariance = kinematics.has_twist_covariance = True
            kinematics.twist_with_covariance.covariance = _in_own_axes(ours.twist.covariance, c, s)
        theirs.shape.type, theirs.shape.dimensions = Shape.BOUNDING_BOX, ours.dimensions
        message.objects.append(theirs)
    return message


def _in_own_axes(covariance: np.ndarray, cos: float, sin: float) -> np.ndarray:
    """(36,) of a twist along base_link -> along the axes of an object whose yaw has this cosine and sine."""
    turned = np.array(covariance, dtype=np.float64).reshape(6, 6)
    own_from_base = np.array([[cos, sin], [-sin, cos]])
    turned[:2, :2] = own_from_base @ turned[:2, :2] @ own_from_base.T
    return turned.ravel()


@dataclass(frozen=True)
class Output:
    """One message the node can publish. kind: its type, `package/msg/Kind`."""

    topic: str
    kind: str
    convert: Callable[[Detections, Context], Any]

    @property
    def package(self) -> str:
        return self.kind.partition("/")[0]

    def message_type(self) -> type:
        """Raises ImportError where its package is not installed."""
        return message_class(self.kind)


PUBLISHERS: dict[str, Output] = {
    "detections": Output("perception/detections", "bev_perception_msgs/msg/Detection3DArray", detection_array),
    "markers": Output("perception/markers", "visualization_msgs/msg/MarkerArray", marker_array),
    "vision_msgs": Output("perception/vision_detections", "vision_msgs/msg/Detection3DArray", vision_detections),
    "autoware": Output("perception/objects", "autoware_perception_msgs/msg/DetectedObjects", autoware_objects),
}
# What the node tells of itself; bev_perception.ros.diagnostics makes the messages.
STATUS_TOPIC, DIAGNOSTICS_TOPIC = "perception/status", "/diagnostics"
