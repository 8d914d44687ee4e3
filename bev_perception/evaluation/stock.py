"""The usual way of doing the node's work around the engine, as ROS 2 Python nodes and detection code bases do it.

Written to be fair but not clever: full-size copies (cv_bridge), float32 normalisation and transposition in numpy, point
clouds as lists of tuples (read_points), Python loops over points and boxes. The bench compares with it; for radar and
decoding it is also the slow, obvious reference of the fast way.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import cv2
import numpy as np

from bev_perception.conversions import to_camera_frame
from bev_perception.geometry import invert
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import SensorFrame

MEAN, STD = np.array([103.53, 116.28, 123.675], np.float32), np.array([57.375, 57.12, 58.395], np.float32)
STRUCT_CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}


def image_copy(message: Any) -> np.ndarray:
    """sensor_msgs/Image (bgr8) -> (H, W, 3) uint8 by cv_bridge, or where it is not installed the copy it makes."""
    try:
        return to_camera_frame(message, "", "cv_bridge").data.copy()
    except ImportError:
        image: np.ndarray = np.ndarray(
            (message.height, message.width, 3), np.uint8, bytes(message.data), strides=(message.step, 3, 1)
        )
        return image.copy()


def images_normalised_first(messages: list[Any], spec: ModelSpec) -> np.ndarray:
    """(N, 3, H, W) float32: normalise, then scale, as the multi-view pipelines of mmdet3d do (PETR, BEVFormer)."""
    prepared = []
    for message in messages:
        image = (image_copy(message).astype(np.float32) - MEAN) / STD
        prepared.append(_scaled(image, spec).transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(prepared))


def images_scaled_first(messages: list[Any], spec: ModelSpec) -> np.ndarray:
    """(N, 3, H, W) float32 with the cheaper order (BEVDet): scale, then normalise."""
    prepared = [
        ((_scaled(image_copy(message), spec).astype(np.float32) - MEAN) / STD).transpose(2, 0, 1)
        for message in messages
    ]
    return np.ascontiguousarray(np.stack(prepared))


def _scaled(image: np.ndarray, spec: ModelSpec) -> np.ndarray:
    height = round(image.shape[0] * spec.image.width / image.shape[1])
    return cv2.resize(image, (spec.image.width, height), interpolation=cv2.INTER_LINEAR)[height - spec.image.height :]


def read_points(message: Any) -> list[tuple[float, ...]]:
    """PointCloud2 -> list of tuples, one struct.unpack_from each (sensor_msgs_py before it knew numpy)."""
    order = ">" if message.is_bigendian else "<"
    layout, offset = order, 0
    for f in sorted(message.fields, key=lambda f: f.offset):
        layout += "x" * (f.offset - offset) + STRUCT_CODES[f.datatype]
        offset = f.offset + struct.calcsize(order + STRUCT_CODES[f.datatype])
    unpack = struct.Struct(layout).unpack_from
    data = bytes(message.data)
    return [unpack(data, k * message.point_step) for k in range(message.width * message.height)]


def radar_map(frame: SensorFrame, spec: ModelSpec) -> np.ndarray:
    """radar_bev (C, X, Y) by Python loops over sweeps and points; compensated scans, same result as prepare_radar."""
    x_cells, y_cells = spec.grid.shape
    cells: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for sweeps in frame.radars:
        for sweep in sweeps[: spec.radar.sweeps]:
            age = (frame.stamp_ns - sweep.scan.stamp_ns) * 1e-9
            if age > spec.radar.max_age_s:
                continue
            m = invert(frame.ego.odom_from_ego) @ sweep.ego.odom_from_ego @ sweep.ego_from_radar
            for x, y, z, rcs, vx, vy in sweep.scan.points.tolist():
                velocity_x = m[0, 0] * vx + m[0, 1] * vy
                velocity_y = m[1, 0] * vx + m[1, 1] * vy
                px = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] + velocity_x * age
                py = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] + velocity_y * age
                fx, fy = (px - spec.grid.x_min) / spec.grid.step, (py - spec.grid.y_min) / spec.grid.step
                if 0 <= fx < x_cells and 0 <= fy < y_cells:
                    ix, iy = int(fx), int(fy)
                    offsets = (fx - ix - 0.5, fy - iy - 0.5)
                    row = (rcs / 20, velocity_x / 10, velocity_y / 10, age, *offsets)
                    cells.setdefault((ix, iy), []).append(row)
    radar_bev = np.zeros((7, x_cells, y_cells), np.float32)
    for (ix, iy), rows in cells.items():
        radar_bev[0, ix, iy] = math.log1p(len(rows))
        for channel in range(6):
            radar_bev[channel + 1, ix, iy] = sum(row[channel] for row in rows) / len(rows)
    return radar_bev


def decode(outputs: dict[str, np.ndarray], spec: ModelSpec) -> list[tuple[float, ...]]:
    """Rows (score, label, x, y, z, l, w, h, yaw, vx, vy) after thresholds and circle NMS, in Python loops."""
    rows = []
    for score, label, cell, box in zip(outputs["scores"], outputs["labels"], outputs["cells"], outputs["boxes"]):
        if score < spec.score_threshold[spec.classes[label]]:
            continue
        ix, iy = divmod(int(cell), spec.grid.shape[1])
        x = spec.grid.x_min + (ix + float(box[0])) * spec.grid.step
        y = spec.grid.y_min + (iy + float(box[1])) * spec.grid.step
        size = [math.exp(v) for v in box[3:6]]
        rows.append(
            (float(score), int(label), x, y, float(box[2]), *size, math.atan2(box[6], box[7]), *map(float, box[8:]))
        )
    rows.sort(key=lambda row: -row[0])
    kept: list[tuple[float, ...]] = []
    for row in rows:
        radius = spec.nms_radius[spec.classes[int(row[1])]]
        near = (k for k in kept if k[1] == row[1] and math.hypot(k[2] - row[2], k[3] - row[3]) < radius)
        if next(near, None) is None:
            kept.append(row)
    return kept
