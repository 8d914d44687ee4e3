"""Detections -> ROS messages. PUBLISHERS lists what the node can publish; optional packages are imported late."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from bev_perception.model_spec import ModelSpec
from bev_perception.structures import Detections
from bev_perception_msgs.msg import Detection3D, Detection3DArray

NOT_ESTIMATED = np.diag(np.full(6, -1.0)).reshape(-1)
NOT_ESTIMATED.setflags(write=False)
COLORS = {
    "car": (0.20, 0.60, 1.00), "truck": (1.00, 0.55, 0.10), "construction_vehicle": (0.85, 0.75, 0.10),
    "bus": (1.00, 0.25, 0.25), "trailer": (0.70, 0.45, 0.25), "barrier": (0.60, 0.60, 0.60),
    "motorcycle": (0.80, 0.30, 0.90), "bicycle": (0.55, 0.85, 0.30), "pedestrian": (0.10, 0.90, 0.70),
    "traffic_cone": (1.00, 0.80, 0.40),
}  # fmt: skip
OTHER_COLOR = (0.9, 0.9, 0.9)
HEADING_M = 0.7  # the heading reaches this far out of the front
MIN_ARROW_MPS = 0.3  # slower objects get no velocity line
ARROW_S = 1.0  # the line reaches where the object will be in this time


@dataclass(frozen=True)
class Context:
    """What messages need beside the detections."""

    spec: ModelSpec
    frame_id: str
    marker_lifetime_s: float


def to_time(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def detection_array(detections: Detections, context: Context) -> Detection3DArray:
    """bev_perception_msgs/Detection3DArray; see its definition."""
    spec = context.spec
    message = Detection3DArray(
        header=Header(stamp=to_time(detections.stamp_ns), frame_id=context.frame_id),
        model_name=spec.name,
        model_sha256=spec.onnx_sha256,
        sensors_used=list(detections.sensors_used),
        sensors_missing=list(detections.missing),
        temporal_used=detections.temporal_used,
    )
    out = []
    rows = zip(detections.boxes.tolist(), detections.velocity.tolist(), detections.scores.tolist(), detections.labels)
    for (x, y, z, length, width, height, yaw), (vx, vy), score, label in rows:
        d = Detection3D(class_name=spec.classes[label], label=int(label), score=score)
        d.existence_probability = math.nan
        pose, twist = d.pose, d.twist
        pose.covariance = NOT_ESTIMATED
        twist.covariance = NOT_ESTIMATED
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


def marker_array(detections: Detections, context: Context) -> MarkerArray:
    """A translucent box, its heading, its velocity and a label for each object.

    The leading DELETEALL and what follows are applied together, so nothing flickers; the lifetime clears the view when
    the node dies.
    """
    header = Header(stamp=to_time(detections.stamp_ns), frame_id=context.frame_id)
    seconds, fraction = divmod(context.marker_lifetime_s, 1.0)
    lifetime = Duration(sec=int(seconds), nanosec=int(fraction * 1e9))
    classes = context.spec.classes
    solid, translucent = ([_color(name, alpha) for name in classes] for alpha in (1.0, 0.5))

    def marker(namespace: str, index: int, kind: int) -> Marker:
        return Marker(header=header, ns=namespace, id=index, type=kind, action=Marker.ADD, lifetime=lifetime)

    def place(m: Marker, x: float, y: float, z: float, yaw: float = 0.0) -> None:
        p, q = m.pose.position, m.pose.orientation
        p.x, p.y, p.z, q.z, q.w = x, y, z, math.sin(yaw / 2), math.cos(yaw / 2)

    headings: list[Point] = []
    velocities: list[Point] = []
    heading_colors: list[ColorRGBA] = []
    velocity_colors: list[ColorRGBA] = []
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
    for namespace, thickness, points, colors in lines:
        if points:
            line = marker(namespace, 0, Marker.LINE_LIST)
            line.scale.x, line.points, line.colors = thickness, points, colors
            markers.append(line)
    return MarkerArray(markers=markers)


def _color(class_name: str, alpha: float) -> ColorRGBA:
    r, g, b = COLORS.get(class_name, OTHER_COLOR)
    return ColorRGBA(r=r, g=g, b=b, a=alpha)


def vision_detections(detections: Detections, context: Context) -> Any:
    """vision_msgs/Detection3DArray: class, score and box; it has no place for velocity."""
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

    message = DetectedObjects(header=Header(stamp=to_time(detections.stamp_ns), frame_id=context.frame_id))
    yaws = detections.boxes[:, 6].tolist()
    for ours, yaw in zip(detection_array(detections, context).detections, yaws):
        label = getattr(ObjectClassification, AUTOWARE_LABELS.get(ours.class_name, "UNKNOWN"))
        theirs = DetectedObject(existence_probability=ours.score)
        theirs.classification = [ObjectClassification(label=label, probability=1.0)]
        kinematics = theirs.kinematics
        kinematics.pose_with_covariance = ours.pose
        kinematics.orientation_availability = DetectedObjectKinematics.AVAILABLE
        kinematics.has_twist = True
        v, c, s = ours.twist.twist.linear, math.cos(yaw), math.sin(yaw)
        linear = kinematics.twist_with_covariance.twist.linear
        linear.x, linear.y = c * v.x + s * v.y, c * v.y - s * v.x
        theirs.shape.type, theirs.shape.dimensions = Shape.BOUNDING_BOX, ours.dimensions
        message.objects.append(theirs)
    return message


def _vision_type() -> type:
    from vision_msgs.msg import Detection3DArray as VisionArray

    return VisionArray


def _autoware_type() -> type:
    from autoware_perception_msgs.msg import DetectedObjects

    return DetectedObjects


@dataclass(frozen=True)
class Output:
    """One message the node can publish. message_type() raises ImportError where its package is not installed."""

    topic: str
    message_type: Callable[[], type]
    convert: Callable[[Detections, Context], Any]
    package: str


PUBLISHERS: dict[str, Output] = {
    "detections": Output("perception/detections", lambda: Detection3DArray, detection_array, "bev_perception_msgs"),
    "markers": Output("perception/markers", lambda: MarkerArray, marker_array, "visualization_msgs"),
    "vision_msgs": Output("perception/vision_detections", _vision_type, vision_detections, "vision_msgs"),
    "autoware": Output("perception/objects", _autoware_type, autoware_objects, "autoware_perception_msgs"),
}
