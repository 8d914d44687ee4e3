"""The messages of foxglove_msgs that result bags hold: they show boxes in Foxglove without a plugin.

A bag carries the definitions of its messages, so foxglove_msgs need not be installed, neither to write it nor to look
at it. Names, types and order of the fields are those of foxglove_msgs 3.4 (MIT, Copyright Foxglove Technologies Inc,
https://github.com/foxglove/foxglove-sdk, schemas/ros2): who knows the package knows these.
"""

from __future__ import annotations

from functools import cache

from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import get_types_from_msg

SCENE_TYPE, ANNOTATIONS_TYPE = "foxglove_msgs/msg/SceneUpdate", "foxglove_msgs/msg/ImageAnnotations"

# Message -> its fields, one after the other.
FIELDS: dict[str, str] = {
    "Color": "float64 r; float64 g; float64 b; float64 a",
    "KeyValuePair": "string key; string value",
    "Point2": "float64 x; float64 y",
    # In three dimensions. A primitive has a pose in the frame of its entity.
    "ArrowPrimitive": (
        "geometry_msgs/Pose pose; float64 shaft_length; float64 shaft_diameter; float64 head_length;"
        "float64 head_diameter; Color color"
    ),
    "CubePrimitive": "geometry_msgs/Pose pose; geometry_msgs/Vector3 size; Color color",
    "SpherePrimitive": "geometry_msgs/Pose pose; geometry_msgs/Vector3 size; Color color",
    "CylinderPrimitive": (
        "geometry_msgs/Pose pose; geometry_msgs/Vector3 size; float64 bottom_scale; float64 top_scale; Color color"
    ),
    "LinePrimitive": (
        "uint8 LINE_STRIP=0; uint8 LINE_LOOP=1; uint8 LINE_LIST=2; uint8 type; geometry_msgs/Pose pose;"
        "float64 thickness; bool scale_invariant; geometry_msgs/Point[] points; Color color; Color[] colors;"
        "uint32[] indices"
    ),
    "TriangleListPrimitive": (
        "geometry_msgs/Pose pose; geometry_msgs/Point[] points; Color color; Color[] colors; uint32[] indices"
    ),
    "TextPrimitive": (
        "geometry_msgs/Pose pose; bool billboard; float64 font_size; bool scale_invariant; Color color; string text"
    ),
    "ModelPrimitive": (
        "geometry_msgs/Pose pose; geometry_msgs/Vector3 scale; Color color; bool override_color; string url;"
        "string media_type; uint8[] data"
    ),
    "SceneEntityDeletion": (
        "builtin_interfaces/Time timestamp; uint8 MATCHING_ID=0; uint8 ALL=1; uint8 type; string id"
    ),
    "SceneEntity": (
        "builtin_interfaces/Time timestamp; string frame_id; string id; builtin_interfaces/Duration lifetime;"
        "bool frame_locked; KeyValuePair[] metadata; ArrowPrimitive[] arrows; CubePrimitive[] cubes;"
        "SpherePrimitive[] spheres; CylinderPrimitive[] cylinders; LinePrimitive[] lines;"
        "TriangleListPrimitive[] triangles; TextPrimitive[] texts; ModelPrimitive[] models"
    ),
    "SceneUpdate": "SceneEntityDeletion[] deletions; SceneEntity[] entities",
    # In an image. Pixels are counted from the corner of the first one: its centre is at (0.5, 0.5).
    "CircleAnnotation": (
        "builtin_interfaces/Time timestamp; Point2 position; float64 diameter; float64 thickness; Color fill_color;"
        "Color outline_color; KeyValuePair[] metadata"
    ),
    "PointsAnnotation": (
        "builtin_interfaces/Time timestamp; uint8 UNKNOWN=0; uint8 POINTS=1; uint8 LINE_LOOP=2; uint8 LINE_STRIP=3;"
        "uint8 LINE_LIST=4; uint8 type; Point2[] points; Color outline_color; Color[] outline_colors;"
        "Color fill_color; float64 thickness; KeyValuePair[] metadata"
    ),
    "TextAnnotation": (
        "builtin_interfaces/Time timestamp; Point2 position; string text; float64 font_size; Color text_color;"
        "Color background_color; KeyValuePair[] metadata"
    ),
    "ImageAnnotations": (
        "builtin_interfaces/Time timestamp; CircleAnnotation[] circles; PointsAnnotation[] points;"
        "TextAnnotation[] texts; KeyValuePair[] metadata"
    ),
}


@cache
def foxglove_types() -> Typesdict:
    """For `Typestore.register`; not to be changed."""
    types: Typesdict = {}
    for name, fields in FIELDS.items():
        lines = [_in_package(field.strip()) for field in fields.split(";")]
        types |= get_types_from_msg("\n".join(lines), f"foxglove_msgs/msg/{name}")
    return types


def _in_package(field: str) -> str:
    """`Color[] colors` -> `foxglove_msgs/Color[] colors`."""
    return f"foxglove_msgs/{field}" if field.partition(" ")[0].removesuffix("[]") in FIELDS else field
