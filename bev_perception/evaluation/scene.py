"""Detections as Foxglove shows them without a plugin: a scene in three dimensions, and lines in each image.

The messages are those of foxglove_messages.py, in the classes of rosbags: a result bag is written without ROS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bev_perception.colors import color_of
from bev_perception.evaluation.draw import LABEL_HEIGHT
from bev_perception.evaluation.message_maker import MessageMaker
from bev_perception.evaluation.objects import Objects
from bev_perception.evaluation.paint import by_class
from bev_perception.messages import ARROW_S, HEADING_M, MIN_ARROW_MPS

LIFETIME_NS = 1_000_000_000  # after this an object vanishes when nothing newer comes
ALL, LINE_LIST, IMAGE_LINE_LIST = 1, 2, 4  # constants of SceneEntityDeletion, LinePrimitive and PointsAnnotation
HEAD_M, ARROW_M, HEADING_LINE_M, TEXT_M = 0.6, 0.2, 0.08, 0.8  # sizes in the scene
LINE_PX, TEXT_PX = 1.5, 12.0  # and in an image
PRIMITIVES = ("arrows", "cubes", "spheres", "cylinders", "lines", "triangles", "texts", "models")


def scene_update(make: MessageMaker, stamp_ns: int, objects: Objects, frame_id: str) -> Any:
    """foxglove_msgs/SceneUpdate: of each object its box, heading, velocity (an arrow to where it will be in a second)
    and a label; class, score and velocity are there to be read when one is clicked. What was there before goes."""
    deletion = make.make("foxglove_msgs/SceneEntityDeletion", timestamp=make.time(stamp_ns), type=ALL, id="")
    texts = by_class(objects).texts
    entities = [_entity(make, stamp_ns, objects, k, texts[k], frame_id) for k in range(len(objects))]
    return make.make("foxglove_msgs/SceneUpdate", deletions=[deletion], entities=entities)


def _entity(make: MessageMaker, stamp_ns: int, objects: Objects, k: int, text: str, frame_id: str) -> Any:
    x, y, z, length, width, height, yaw = objects.boxes[k].tolist()
    vx, vy = objects.velocity[k].tolist()
    solid = _color(make, objects.names[k])
    cube = make.make(
        "foxglove_msgs/CubePrimitive",
        pose=make.pose(x, y, z, yaw),
        size=make.vector(length, width, height),
        color=_color(make, objects.names[k], 0.5),
    )
    heading = make.make(
        "foxglove_msgs/LinePrimitive",
        type=LINE_LIST,
        pose=make.pose(x, y, z, yaw),
        thickness=HEADING_LINE_M,
        scale_invariant=False,
        points=[make.vector(along, 0.0, 0.0, "Point") for along in (0.0, length / 2 + HEADING_M)],
        color=solid,
        colors=[],
        indices=np.zeros(0, np.uint32),
    )
    label = make.make(
        "foxglove_msgs/TextPrimitive",
        pose=make.pose(x, y, z + height / 2 + 0.6),
        billboard=True,
        font_size=TEXT_M,
        scale_invariant=False,
        color=solid,
        text=text,
    )
    arrows = [_arrow(make, x, y, z, vx, vy, solid)] if math.hypot(vx, vy) >= MIN_ARROW_MPS else []
    facts = {"class": objects.names[k], "score": f"{objects.scores[k]:.3f}", "velocity": f"{vx:.2f} {vy:.2f} m/s"}
    return make.make(
        "foxglove_msgs/SceneEntity",
        timestamp=make.time(stamp_ns),
        frame_id=frame_id,
        id=str(k),
        lifetime=make.time(LIFETIME_NS, "Duration"),
        frame_locked=False,
        metadata=[make.make("foxglove_msgs/KeyValuePair", key=key, value=value) for key, value in facts.items()],
        **dict.fromkeys(PRIMITIVES, ()) | {"arrows": arrows, "cubes": [cube], "lines": [heading], "texts": [label]},
    )


def _arrow(make: MessageMaker, x: float, y: float, z: float, vx: float, vy: float, color: Any) -> Any:
    way = math.hypot(vx, vy) * ARROW_S
    head = min(HEAD_M, way)
    return make.make(
        "foxglove_msgs/ArrowPrimitive",
        pose=make.pose(x, y, z, math.atan2(vy, vx)),
        shaft_length=way - head,
        shaft_diameter=ARROW_M,
        head_length=head,
        head_diameter=2 * ARROW_M,
        color=color,
    )


def image_annotations(make: MessageMaker, stamp_ns: int, objects: Objects, lines: Sequence[np.ndarray]) -> Any:
    """foxglove_msgs/ImageAnnotations: the edges of each object in the colour of its class, and a label above those that
    are high enough. lines: of each object (S, 2, 2) pixels, centres at integers (see box_lines). stamp_ns: the
    image's, by which Foxglove finds it."""
    texts = by_class(objects).texts
    seen = [k for k in range(len(objects)) if len(lines[k])]
    high = [k for k in seen if np.ptp(lines[k][..., 1]) >= LABEL_HEIGHT]
    return make.make(
        "foxglove_msgs/ImageAnnotations",
        timestamp=make.time(stamp_ns),
        circles=[],
        points=[_outline(make, stamp_ns, lines[k], _color(make, objects.names[k])) for k in seen],
        texts=[_text(make, stamp_ns, lines[k], texts[k], _color(make, objects.names[k])) for k in high],
        metadata=[],
    )


def _outline(make: MessageMaker, stamp_ns: int, lines: np.ndarray, color: Any) -> Any:
    return make.make(
        "foxglove_msgs/PointsAnnotation",
        timestamp=make.time(stamp_ns),
        type=IMAGE_LINE_LIST,
        points=[make.make("foxglove_msgs/Point2", x=u, y=v) for u, v in (lines.reshape(-1, 2) + 0.5).tolist()],
        outline_color=color,
        outline_colors=[],
        fill_color=make.make("foxglove_msgs/Color", r=0.0, g=0.0, b=0.0, a=0.0),
        thickness=LINE_PX,
        metadata=[],
    )


def _text(make: MessageMaker, stamp_ns: int, lines: np.ndarray, text: str, color: Any) -> Any:
    u, v = (lines.reshape(-1, 2).min(axis=0) + 0.5).tolist()
    return make.make(
        "foxglove_msgs/TextAnnotation",
        timestamp=make.time(stamp_ns),
        position=make.make("foxglove_msgs/Point2", x=u, y=max(v - 2.0, TEXT_PX)),
        text=text,
        font_size=TEXT_PX,
        text_color=color,
        background_color=make.make("foxglove_msgs/Color", r=0.0, g=0.0, b=0.0, a=0.6),
        metadata=[],
    )


def _color(make: MessageMaker, class_name: str, alpha: float = 1.0) -> Any:
    b, g, r = color_of(class_name)
    return make.make("foxglove_msgs/Color", r=r / 255, g=g / 255, b=b / 255, a=alpha)
