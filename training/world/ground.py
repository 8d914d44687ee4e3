"""The ground plane: its paint as a pyramid of images, and the plots beside the roads."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.mesh import Colour, tinted
from training.world.paths import Path
from training.world.roads import CROSSING_M, LANE_M, PAVEMENT_M, Layout, Road

PX_PER_M = 10


@dataclass(frozen=True)
class Ground:
    """The albedo of the ground plane as a pyramid of images: level k has 10 / 2^k pixels a metre.

    `levels[k]` is (H, W, 3) uint8 holding 255 sqrt(linear RGB albedo); row is y, column is x; `origin` is the world
    x, y of the corner of pixel (0, 0).
    """

    levels: list[NDArray[np.uint8]]
    origin: tuple[float, float]


@dataclass(frozen=True)
class Yard:
    """A free plot beside a road, room for parked machines: centre, heading along the road, length and depth."""

    x: float
    y: float
    yaw: float
    length: float
    depth: float


class Canvas:
    """Draws in world metres on an image of 10 pixels a metre."""

    def __init__(self, low: NDArray[np.float64], high: NDArray[np.float64], channels: int) -> None:
        self.low = low
        w, h = np.ceil((high - low) * PX_PER_M / 8).astype(int) * 8
        self.image = np.zeros((h, w, channels) if channels > 1 else (h, w), np.uint8)

    def fill(self, points: NDArray[np.float64], value: tuple[int, ...]) -> None:
        pixels = np.round(((points - self.low) * PX_PER_M - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(self.image, [pixels], value, lineType=cv2.LINE_8, shift=4)

    def strip(self, path: Path, s: tuple[float, float], left: tuple[float, float], value: tuple[int, ...]) -> None:
        """The strip of road between two stations and two lateral offsets."""
        if s[1] <= s[0]:
            return
        stations = np.linspace(s[0], s[1], max(2, int((s[1] - s[0]) / 3) + 1))
        x0, y0, _ = path.beside(stations, left[0])
        x1, y1, _ = path.beside(stations[::-1], left[1])
        self.fill(np.column_stack([np.concatenate([x0, x1]), np.concatenate([y0, y1])]), value)


def _shade(albedo: float | Colour) -> tuple[int, int, int]:
    r, g, b = np.round(255 * np.sqrt(np.broadcast_to(albedo, 3))).astype(int)
    return int(r), int(g), int(b)


def _markings(canvas: Canvas, road: Road, rng: np.random.Generator) -> None:
    white, yellow = _shade(0.55), _shade((0.55, 0.40, 0.06))
    path, half = road.path, road.half_width
    edges = [0.0]
    for at, crossing_half in sorted(road.junctions):
        edges += [at - crossing_half - CROSSING_M, at + crossing_half + CROSSING_M]
    edges.append(path.length)
    double = rng.random() < 0.5
    for a, b in zip(edges[::2], edges[1::2]):
        if double:
            for d in (-0.17, 0.17):
                canvas.strip(path, (a, b), (d - 0.06, d + 0.06), yellow)
        dashes = np.arange(a + 1, b - 3, 6.0)
        for lane in range(0 if not double else 1, road.lanes):
            for side in (-1, 1) if lane else (1,):
                for s in dashes:
                    canvas.strip(path, (s, s + 3), (side * lane * LANE_M - 0.07, side * lane * LANE_M + 0.07), white)
        for side in (-1, 1):
            edge = side * road.lanes * LANE_M
            canvas.strip(path, (a, b), (edge - 0.06, edge + 0.06), white)
            for s in np.arange(a + 3, b - 3, 6.2):
                canvas.strip(path, (s, s + 0.12), (edge, side * half), white)
    for at, crossing_half in road.junctions:
        for way in (-1, 1):
            near, far = at + way * (crossing_half + 0.6), at + way * (crossing_half + 3.4)
            for d in np.arange(-half + 0.4, half - 0.4, 1.0):
                canvas.strip(path, (min(near, far), max(near, far)), (d, d + 0.5), white)
            stop = at + way * (crossing_half + CROSSING_M)
            lanes = (0.0, road.lanes * LANE_M) if way > 0 else (-road.lanes * LANE_M, 0.0)
            canvas.strip(path, (stop - 0.2, stop + 0.2), lanes, white)


def paint_ground(
    layout: Layout, rng: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64], yards: list[Yard]
) -> Ground:
    canvas = Canvas(low, high, 3)
    canvas.image[:] = _shade((0.075, 0.11, 0.035))
    tones = cv2.resize(
        rng.integers(0, 60, (40, 40)).astype(np.uint8), canvas.image.shape[1::-1], interpolation=cv2.INTER_CUBIC
    )
    patches = tones.astype(np.uint8)
    canvas.image[..., 0] += (patches // 2).astype(np.uint8)
    canvas.image[..., 1] += (patches // 4).astype(np.uint8)
    for road in layout.roads:
        at = 0.0
        while at < road.path.length:  # forecourts of differing paving between pavement and houses
            length = rng.uniform(10, 30)
            for side in (-1, 1):
                if rng.random() < 0.6:
                    tone = tinted((0.24, 0.22, 0.19), rng.uniform(0.6, 1.3))
                    canvas.strip(
                        road.path,
                        (at, at + length),
                        (side * road.half_width, side * (road.half_width + 14)),
                        _shade(tone),
                    )
            at += length
    for yard in yards:
        c, s = np.cos(yard.yaw), np.sin(yard.yaw)
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (yard.length / 2, yard.depth / 2)
        canvas.fill(corners @ np.array([[c, s], [-s, c]]) + (yard.x, yard.y), _shade(float(rng.uniform(0.1, 0.2))))
    whole = [(road, (0.0, road.path.length)) for road in layout.roads]
    paving = rng.uniform(0.2, 0.32)
    for road, whole_road in whole:
        canvas.strip(
            road.path, whole_road, (-road.half_width - PAVEMENT_M, road.half_width + PAVEMENT_M), _shade(paving)
        )
    for road, whole_road in whole:
        canvas.strip(
            road.path, whole_road, (-road.half_width - 0.25, road.half_width + 0.25), _shade(min(paving * 1.6, 0.5))
        )
    asphalt = rng.uniform(0.06, 0.12)
    for road, whole_road in whole:
        canvas.strip(road.path, whole_road, (-road.half_width, road.half_width), _shade(asphalt))
    for road, _ in whole:
        for _ in range(int(road.path.length / 12)):  # repairs
            at, d = rng.uniform(0, road.path.length), rng.uniform(-road.half_width, road.half_width - 2)
            along, across = (at, at + rng.uniform(1, 9)), (d, d + rng.uniform(0.6, 2.0))
            canvas.strip(road.path, along, across, _shade(asphalt * rng.uniform(0.6, 1.35)))
        _markings(canvas, road, rng)
    levels = [canvas.image]
    while len(levels) < 5:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA).astype(np.uint8))
    return Ground(levels, (float(low[0]), float(low[1])))
