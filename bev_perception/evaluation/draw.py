"""Pictures of one frame: boxes and radar in the six images, and the bird's-eye view beside them. OpenCV only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from bev_perception.evaluation.judged import Judged
from bev_perception.evaluation.objects import Objects
from bev_perception.evaluation.paint import MISSED_COLOR, TRUTH_COLOR, Paint, by_class, by_verdict
from bev_perception.geometry import box_corners, project
from bev_perception.model_spec import ImageSpec, ModelSpec
from bev_perception.preprocess.images import prepare_images
from bev_perception.preprocess.radar import accumulate
from bev_perception.structures import SensorFrame

# BGR
RADAR_COLOR = (205, 205, 205)
RADAR_MOVING_COLOR = (255, 60, 255)
BACKGROUND = (28, 22, 18)
GRID_COLOR = (66, 56, 48)
TEXT_COLOR = (225, 225, 225)
NEAR_M = 0.2  # nothing is projected nearer to the camera than this
MOVING_MPS = 0.7  # radial speed over ground from which a radar return is drawn as moving
NEWEST_S = (
    0.12  # younger radar returns (the newest scan of each radar) go into the images, older ones into the BEV only
)
LABEL_HEIGHT = 26  # boxes lower than this many pixels get no text
FONT = cv2.FONT_HERSHEY_SIMPLEX
SHIFT = 4  # fractional bits of OpenCV's drawing coordinates

EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
FRONT_FACE = (0, 1, 5, 4)


@dataclass(frozen=True)
class DrawSettings:
    """Sizes in pixels; the BEV shows +-bev_range metres."""

    image_width: int = 480
    bev_range: float = 52.0
    gap: int = 4


def clip_segments(starts: np.ndarray, ends: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """(S, 3) segment ends (u * depth, v * depth, depth) -> those parts with depth >= near, (S', 3) each.

    In these coordinates a straight edge of the world stays straight, so the cut is linear interpolation.
    """
    inside_start, inside_end = starts[:, 2] >= near, ends[:, 2] >= near
    depth_change = ends[:, 2] - starts[:, 2]
    fraction = (near - starts[:, 2]) / np.where(depth_change == 0, 1.0, depth_change)
    cut = starts + fraction[:, None] * (ends - starts)
    seen = inside_start | inside_end
    starts = np.where(inside_start[:, None], starts, cut)[seen]
    ends = np.where(inside_end[:, None], ends, cut)[seen]
    return starts, ends


def draw_boxes(
    image: np.ndarray, img_from_ego: np.ndarray, objects: Objects, labels: bool = True, paint: Paint | None = None
) -> None:
    """Draws boxes (ego frame) into a BGR image in place: edges, the front face tinted and crossed, class and score."""
    paint = paint or by_class(objects)
    order = np.argsort(-np.hypot(objects.boxes[:, 0], objects.boxes[:, 1]))  # near ones on top
    corners = box_corners(objects.boxes)
    height, width = image.shape[:2]
    for k in order:
        color = paint.colors[k]
        points = corners[k] @ img_from_ego[:3, :3].T + img_from_ego[:3, 3]
        starts, ends = clip_segments(points[[a for a, _ in EDGES]], points[[b for _, b in EDGES]], NEAR_M)
        if not len(starts):
            continue
        starts, ends = starts[:, :2] / starts[:, 2:], ends[:, :2] / ends[:, 2:]
        both = np.concatenate([starts, ends])
        low, high = both.min(axis=0), both.max(axis=0)
        if high[0] < 0 or high[1] < 0 or low[0] >= width or low[1] >= height:
            continue
        if np.all(points[list(FRONT_FACE), 2] >= NEAR_M):
            face = points[list(FRONT_FACE)]
            _tint(image, face[:, :2] / face[:, 2:], color)
        for start, end in zip(starts, ends):
            _line(image, start, end, color)
        if labels and np.all(points[:, 2] >= NEAR_M) and high[1] - low[1] >= LABEL_HEIGHT:
            _label(image, paint.texts[k], (low[0], low[1] - 3), color)


def _tint(image: np.ndarray, polygon: np.ndarray, color: tuple[int, int, int]) -> None:
    """Blends a filled polygon into the image; only the touched rectangle is copied."""
    height, width = image.shape[:2]
    low = np.clip(np.floor(polygon.min(axis=0)), 0, [width, height]).astype(int)
    high = np.clip(np.ceil(polygon.max(axis=0)) + 1, 0, [width, height]).astype(int)
    if np.any(high <= low):
        return
    part = image[low[1] : high[1], low[0] : high[0]]
    filled = part.copy()
    cv2.fillConvexPoly(filled, _fixed(polygon - low), color, cv2.LINE_AA, SHIFT)
    cv2.addWeighted(filled, 0.35, part, 0.65, 0, dst=part)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(np.clip(points, -1e6, 1e6) * (1 << SHIFT)).astype(np.int32)


def _line(image: np.ndarray, start: np.ndarray, end: np.ndarray, color: tuple[int, int, int]) -> None:
    a, b = _fixed(np.stack([start, end]))
    cv2.line(image, tuple(map(int, a)), tuple(map(int, b)), color, 1, cv2.LINE_AA, SHIFT)


def _label(image: np.ndarray, text: str, corner: tuple[float, float], color: tuple[int, int, int]) -> None:
    scale = 0.34
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    x = int(np.clip(corner[0], 0, max(image.shape[1] - width - 2, 0)))
    y = int(np.clip(corner[1], height + 2, image.shape[0] - 2))
    part = image[max(y - height - 2, 0) : y + 2, x : x + width + 2]
    cv2.addWeighted(part, 0.4, np.zeros_like(part), 0.6, 0, dst=part)
    cv2.putText(image, text, (x + 1, y - 1), FONT, scale, color, 1, cv2.LINE_AA)


def draw_radar(image: np.ndarray, img_from_ego: np.ndarray, points: np.ndarray) -> None:
    """Draws accumulated radar returns (P, 7), see preprocess.radar.accumulate, in place; moving ones in magenta."""
    pixels, depth = project(img_from_ego, points[:, :3].astype(np.float64))
    moving = np.hypot(points[:, 4], points[:, 5]) > MOVING_MPS
    height, width = image.shape[:2]
    inside = (depth > NEAR_M) & np.all((pixels >= 0) & (pixels < [width, height]), axis=1)
    for k in np.flatnonzero(inside):
        color = RADAR_MOVING_COLOR if moving[k] else RADAR_COLOR
        center = tuple(int(v) for v in _fixed(pixels[k]))
        cv2.circle(image, center, 3 << SHIFT, (0, 0, 0), -1, cv2.LINE_AA, SHIFT)
        cv2.circle(image, center, 2 << SHIFT, color, -1, cv2.LINE_AA, SHIFT)


def draw_bev(
    size: int,
    bev_range: float,
    detections: Objects,
    ground_truth: Objects | None = None,
    radar: np.ndarray | None = None,
    judged: Judged | None = None,
) -> np.ndarray:
    """(size, size, 3) BGR: +x (forward) up, +y left; ground truth green and filled, detections in class colours.

    Velocity arrows are as long as the way of one second. radar: (P, 7) accumulated returns in the ego frame. judged:
    then detections are in the colours of hits and false alarms, and missed objects in theirs, crossed.
    """
    canvas = np.full((size, size, 3), BACKGROUND, dtype=np.uint8)
    scale = size / (2 * bev_range)

    def pixels(xy: np.ndarray) -> np.ndarray:
        return np.stack([size / 2 - xy[..., 1] * scale, size / 2 - xy[..., 0] * scale], axis=-1)

    _draw_rings(canvas, scale)
    if radar is not None:
        for point, (vx, vy) in zip(pixels(radar[:, :2]), radar[:, 4:6]):
            color = RADAR_MOVING_COLOR if np.hypot(vx, vy) > MOVING_MPS else (120, 115, 110)
            cv2.circle(canvas, tuple(map(int, _fixed(point))), 1 << SHIFT, color, -1, cv2.LINE_AA, SHIFT)
    found_colors = by_verdict(detections, judged).colors if judged else by_class(detections).colors
    for objects, truth in ((ground_truth, True), (detections, False)):
        if objects is None:
            continue
        corners = box_corners(objects.boxes)[:, :4, :2]
        for k, polygon in enumerate(corners):
            missed = truth and judged is not None and bool(judged.missed[k])
            color = MISSED_COLOR if missed else TRUTH_COLOR if truth else found_colors[k]
            outline = pixels(polygon)
            if truth:
                _tint(canvas, outline, color)
            if missed:
                for a, b in ((0, 2), (1, 3)):
                    _line(canvas, outline[a], outline[b], color)
            cv2.polylines(canvas, [_fixed(outline)], True, color, 1, cv2.LINE_AA, SHIFT)
            center = objects.boxes[k, :2]
            nose = (polygon[0] + polygon[1]) / 2
            _line(canvas, pixels(center), pixels(nose), color)
            velocity = objects.velocity[k]
            if np.hypot(*velocity) > 0.5:
                _arrow(canvas, pixels(nose), pixels(nose + velocity), color)
    _draw_ego(canvas, pixels)
    return canvas


def _draw_rings(canvas: np.ndarray, scale: float) -> None:
    size = canvas.shape[0]
    center = ((size << SHIFT) // 2,) * 2
    for meters in (15, 30, 50):
        cv2.circle(canvas, center, round(meters * scale * (1 << SHIFT)), GRID_COLOR, 1, cv2.LINE_AA, SHIFT)
        at = (size // 2 + 4, int(size / 2 - meters * scale) + 12)
        cv2.putText(canvas, f"{meters} m", at, FONT, 0.34, (150, 140, 130), 1, cv2.LINE_AA)
    cv2.line(canvas, (size // 2, 0), (size // 2, size), GRID_COLOR, 1)
    cv2.line(canvas, (0, size // 2), (size, size // 2), GRID_COLOR, 1)


def _draw_ego(canvas: np.ndarray, pixels: Callable[[np.ndarray], np.ndarray]) -> None:
    # base_link is below the rear axle: the body reaches from 1 m behind it to 3.8 m before it
    body = np.array([[3.8, 0.9], [3.8, -0.9], [-1.0, -0.9], [-1.0, 0.9]])
    cv2.fillConvexPoly(canvas, _fixed(pixels(body)), (245, 245, 245), cv2.LINE_AA, SHIFT)
    nose = np.array([[3.8, 0.0], [2.2, 0.8], [2.2, -0.8]])
    cv2.fillConvexPoly(canvas, _fixed(pixels(nose)), (60, 60, 60), cv2.LINE_AA, SHIFT)


def _arrow(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, color: tuple[int, int, int]) -> None:
    _line(canvas, start, end, color)
    along = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    across = np.array([-along[1], along[0]])
    for side in (-1, 1):
        _line(canvas, end, end - 5 * along + side * 3 * across, color)


def draw_frame(
    frame: SensorFrame,
    spec: ModelSpec,
    detections: Objects,
    ground_truth: Objects | None = None,
    settings: DrawSettings | None = None,
    judged: Judged | None = None,
) -> np.ndarray:
    """All cameras of a frame with detections and radar drawn in, beside the BEV with ground truth: one BGR picture.

    judged: of these detections and this ground truth; then hits, false alarms and misses have colours of their own, and
    what was missed is drawn into the images as well.
    """
    settings = settings or DrawSettings()
    paint = by_verdict(detections, judged) if judged else by_class(detections)
    missed = ground_truth.select(judged.missed) if judged and ground_truth is not None else None
    height = _panel_height(frame, settings.image_width)
    shown = replace(spec, image=ImageSpec(height, settings.image_width, "bgr", spec.image.interpolation))
    images, img_from_ego, valid, problems = prepare_images(frame, shown)
    radar = accumulate(frame, spec)
    panels = []
    for i, name in enumerate(spec.cameras):
        panel = images[i]
        view = frame.cameras[i]
        if valid[i] and view is not None:
            draw_radar(panel, img_from_ego[i], radar[radar[:, 6] < NEWEST_S])
            projection, late_s = img_from_ego[i].astype(np.float64), (view.frame.stamp_ns - frame.stamp_ns) * 1e-9
            draw_boxes(panel, projection, detections.later(late_s), paint=paint)
            if missed is not None:
                texts = [f"missed {name}" for name in missed.names]
                draw_boxes(panel, projection, missed.later(late_s), paint=Paint([MISSED_COLOR] * len(missed), texts))
        else:
            reason = problems[name].reason if name in problems else frame.missing.get(name, "missing")
            _label(panel, f"no image: {reason}", (settings.image_width / 2 - 60, height / 2), TEXT_COLOR)
        _label(panel, name, (3, 14), TEXT_COLOR)
        panels.append(panel)
    size = 2 * height + settings.gap
    return mosaic(panels, draw_bev(size, settings.bev_range, detections, ground_truth, radar, judged), settings.gap)


def _panel_height(frame: SensorFrame, width: int) -> int:
    """Of the flattest camera at this width (others lose their top rows); 9/16 of the width without any camera."""
    calibrations = [view.calibration for view in frame.cameras if view is not None]
    return min((round(c.height * width / c.width) for c in calibrations), default=round(width * 9 / 16))


def mosaic(panels: list[np.ndarray], bev: np.ndarray, gap: int = 4) -> np.ndarray:
    """Panels of one size, in ring order (clockwise from front left) -> two rows, front above back, and the BEV beside.

    The rear row is turned round, so that left is left in both rows. Without panels the BEV alone.
    """
    if not panels:
        return bev
    height, width = panels[0].shape[:2]
    columns = (len(panels) + 1) // 2
    canvas = np.full((2 * height + gap, columns * (width + gap) + bev.shape[1], 3), BACKGROUND, dtype=np.uint8)
    for i, panel in enumerate(panels):
        row, column = (0, i) if i < columns else (1, len(panels) - 1 - i)
        y, x = row * (height + gap), column * (width + gap)
        canvas[y : y + height, x : x + width] = panel
    canvas[: bev.shape[0], columns * (width + gap) :] = bev[: canvas.shape[0]]
    return canvas
