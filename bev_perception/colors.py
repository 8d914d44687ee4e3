"""The colours of the classes: in the pictures, in the report and in RViz."""

from __future__ import annotations

# BGR, as OpenCV takes them. Neighbours on the street differ; ground truth is green and no class is.
CLASS_COLORS: dict[str, tuple[int, int, int]] = {
    "car": (60, 160, 255),
    "truck": (60, 90, 245),
    "construction_vehicle": (40, 200, 240),
    "bus": (200, 120, 250),
    "trailer": (150, 60, 210),
    "barrier": (190, 190, 190),
    "motorcycle": (250, 120, 110),
    "bicycle": (250, 190, 60),
    "pedestrian": (240, 220, 90),
    "traffic_cone": (80, 230, 230),
}
OTHER_COLOR = (225, 225, 225)  # of a class that has none


def color_of(class_name: str) -> tuple[int, int, int]:
    """BGR, 0 to 255."""
    return CLASS_COLORS.get(class_name, OTHER_COLOR)
