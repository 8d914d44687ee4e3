"""The town that does not move: the painted ground, buildings, trees, lamps, poles, fences and billboards."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.mesh import Colour, Material, Mesh, bar, box, column, join, patch, span
from training.data.synthetic.paths import Path
from training.data.synthetic.roads import CROSSING_M, LANE_M, PAVEMENT_M, Layout, Road

PX_PER_M = 10
MARGIN_M = 115.0

FACADES: tuple[Colour, ...] = (
    (0.42, 0.30, 0.22), (0.50, 0.46, 0.40), (0.35, 0.14, 0.10), (0.48, 0.42, 0.28), (0.30, 0.33, 0.36),
    (0.55, 0.53, 0.50), (0.22, 0.24, 0.27), (0.40, 0.20, 0.13), (0.33, 0.38, 0.30),
)  # fmt: skip
LEAVES: tuple[Colour, ...] = ((0.06, 0.13, 0.03), (0.10, 0.16, 0.04), (0.04, 0.10, 0.04), (0.20, 0.14, 0.03))
BARK: Colour = (0.10, 0.07, 0.05)
STEEL: Colour = (0.28, 0.29, 0.30)


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


@dataclass(frozen=True)
class Town:
    ground: Ground
    clutter: Mesh
    lamps: NDArray[np.float64]  # (N, 3) positions of the street lights
    yards: list[Yard]


class _Canvas:
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


def _markings(canvas: _Canvas, road: Road, rng: np.random.Generator) -> None:
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


def _paint_ground(layout: Layout, rng: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64],
                  yards: list[Yard]) -> Ground:  # fmt: skip
    canvas = _Canvas(low, high, 3)
    canvas.image[:] = _shade((0.075, 0.11, 0.035))
    patches = cv2.resize(rng.integers(0, 60, (40, 40)).astype(np.uint8), canvas.image.shape[1::-1],
                         interpolation=cv2.INTER_CUBIC)  # fmt: skip
    canvas.image[..., 0] += patches // 2
    canvas.image[..., 1] += patches // 4
    for road in layout.roads:
        s = 0.0
        while s < road.path.length:  # forecourts of differing paving between pavement and houses
            length = rng.uniform(10, 30)
            for side in (-1, 1):
                if rng.random() < 0.6:
                    tone = tuple(np.array((0.24, 0.22, 0.19)) * rng.uniform(0.6, 1.3))
                    canvas.strip(road.path, (s, s + length), (side * road.half_width, side * (road.half_width + 14)),
                                 _shade(tone))  # fmt: skip
            s += length
    for yard in yards:
        c, s = np.cos(yard.yaw), np.sin(yard.yaw)
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (yard.length / 2, yard.depth / 2)
        canvas.fill(corners @ np.array([[c, s], [-s, c]]) + (yard.x, yard.y), _shade(float(rng.uniform(0.1, 0.2))))
    whole = [(road, (0.0, road.path.length)) for road in layout.roads]
    paving = rng.uniform(0.2, 0.32)
    for road, s in whole:
        canvas.strip(road.path, s, (-road.half_width - PAVEMENT_M, road.half_width + PAVEMENT_M), _shade(paving))
    for road, s in whole:
        canvas.strip(road.path, s, (-road.half_width - 0.25, road.half_width + 0.25), _shade(min(paving * 1.6, 0.5)))
    asphalt = rng.uniform(0.06, 0.12)
    for road, s in whole:
        canvas.strip(road.path, s, (-road.half_width, road.half_width), _shade(asphalt))
    for road, _ in whole:
        for _ in range(int(road.path.length / 12)):  # repairs
            at, d = rng.uniform(0, road.path.length), rng.uniform(-road.half_width, road.half_width - 2)
            patch = (at, at + rng.uniform(1, 9)), (d, d + rng.uniform(0.6, 2.0))
            canvas.strip(road.path, *patch, _shade(asphalt * rng.uniform(0.6, 1.35)))
        _markings(canvas, road, rng)
    levels = [canvas.image]
    while len(levels) < 5:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return Ground(levels, (float(low[0]), float(low[1])))


def _building(rng: np.random.Generator, length: float, depth: float, height: float) -> Mesh:
    colour = tuple(np.array(FACADES[rng.integers(len(FACADES))]) * rng.uniform(0.8, 1.2))
    parts = [span((-length / 2, -depth / 2, 0), (length / 2, depth / 2, height), colour, Material.FACADE)]
    dark: Colour = (0.14, 0.12, 0.12)
    if rng.random() < 0.4:  # a pitched roof
        ridge = height + depth * 0.3
        e = 0.4
        roof = np.array([
            [(-length / 2 - e, -depth / 2 - e, height), (length / 2 + e, -depth / 2 - e, height), (length / 2, 0, ridge)],
            [(-length / 2 - e, -depth / 2 - e, height), (length / 2, 0, ridge), (-length / 2, 0, ridge)],
            [(-length / 2 - e, depth / 2 + e, height), (length / 2 + e, depth / 2 + e, height), (length / 2, 0, ridge)],
            [(-length / 2 - e, depth / 2 + e, height), (length / 2, 0, ridge), (-length / 2, 0, ridge)],
            [(-length / 2, -depth / 2, height), (-length / 2, depth / 2, height), (-length / 2, 0, ridge)],
            [(length / 2, -depth / 2, height), (length / 2, depth / 2, height), (length / 2, 0, ridge)],
        ])  # fmt: skip
        tiles: Colour = (0.30, 0.10, 0.06) if rng.random() < 0.6 else dark
        parts.append(patch(roof, tiles, Material.MATTE))
    else:
        parts.append(box((0, 0, height + 0.2), (length + 0.3, depth + 0.3, 0.4), dark, Material.MATTE))
    for side in (-1, 1):  # shop fronts and doors
        if rng.random() < 0.5:
            parts.append(box((rng.uniform(-0.2, 0.2) * length, side * depth / 2, 1.4), (length * 0.45, 0.12, 2.4),
                             (0.05, 0.06, 0.07), Material.GLASS))  # fmt: skip
            sign = tuple(rng.uniform(0.03, 0.6, 3))
            parts.append(box((rng.uniform(-0.2, 0.2) * length, side * (depth / 2 + 0.2), 3.0), (length * 0.4, 0.5, 0.6),
                             sign, Material.SIGN))  # fmt: skip
        parts.append(box((rng.uniform(-0.4, 0.4) * length, side * depth / 2, 1.1), (1.1, 0.08, 2.2),
                         tuple(rng.uniform(0.03, 0.3, 3)), Material.MATTE))  # fmt: skip
    return join(parts)


def _tree(rng: np.random.Generator) -> Mesh:
    height = rng.uniform(4.5, 9.0)
    leaf = tuple(np.array(LEAVES[rng.integers(len(LEAVES))]) * rng.uniform(0.8, 1.3))
    trunk = column((0, 0), (0, height * 0.5), (0.16, 0.11), 6, BARK, Material.MATTE)
    if rng.random() < 0.3:
        crown = [column((0, 0), (1.2, height), (height * 0.2, 0.02), 8, leaf, Material.FOLIAGE)]
    else:
        crown = []
        for _ in range(4):
            r = height * rng.uniform(0.16, 0.26)
            c = rng.uniform(-0.14, 0.14, 2) * height
            z = height * rng.uniform(0.55, 0.8)
            middle = (float(c[0]), float(c[1]))
            crown.append(column(middle, (z - r, z), (r * 0.45, r), 7, leaf, Material.FOLIAGE))
            crown.append(column(middle, (z, z + r), (r, r * 0.4), 7, leaf, Material.FOLIAGE))
    return join([trunk, *crown])


def _lamp_post() -> Mesh:
    """A street light whose arm reaches towards +y."""
    pole = column((0, 0), (0, 7.0), (0.10, 0.06), 6, STEEL, Material.METAL)
    arm = bar((0, 0, 6.9), (0, 1.8, 7.2), 0.08, STEEL, Material.METAL)
    return join([pole, arm, box((0, 1.9, 7.17), (0.3, 0.7, 0.12), (0.8, 0.75, 0.6), Material.LAMP)])


def _signpost(rng: np.random.Generator) -> Mesh:
    """A traffic sign facing -x."""
    colour: Colour = ((0.65, 0.04, 0.04), (0.04, 0.12, 0.55), (0.75, 0.60, 0.05), (0.75, 0.75, 0.75))[rng.integers(4)]
    height = rng.uniform(2.2, 3.0)
    pole = column((0, 0), (0, height + 0.3), (0.04, 0.04), 5, STEEL, Material.METAL)
    return join([pole, box((-0.06, 0, height), (0.03, 0.65, 0.65), colour, Material.REFLECTIVE)])


def _traffic_light() -> Mesh:
    pole = column((0, 0), (0, 3.4), (0.07, 0.07), 6, STEEL, Material.METAL)
    head = box((0, 0, 3.2), (0.3, 0.35, 0.95), (0.02, 0.02, 0.02), Material.MATTE)
    light = box((-0.16, 0, 3.5), (0.02, 0.22, 0.22), (0.9, 0.05, 0.03), Material.TAILLIGHT)
    return join([pole, head, light])


def _billboard(rng: np.random.Generator) -> Mesh:
    board = box((0, 0, 3.6), (5.0, 0.15, 2.6), tuple(rng.uniform(0.05, 0.7, 3)), Material.SIGN)
    inset = box((0.4, 0, 3.7), (2.4, 0.2, 1.4), tuple(rng.uniform(0.05, 0.7, 3)), Material.SIGN)
    legs = [column((x, 0), (0, 2.4), (0.12, 0.12), 6, STEEL, Material.METAL) for x in (-1.6, 1.6)]
    return join([board, inset, *legs])


def _fence(length: float, rng: np.random.Generator) -> Mesh:
    tall = rng.random() < 0.5
    colour: Colour = (0.25, 0.16, 0.09) if tall else (0.5, 0.5, 0.5)
    posts = [box((x, 0, 0.6), (0.09, 0.09, 1.2), colour, Material.MATTE) for x in np.arange(-length / 2, length / 2, 2.0)]
    if tall:
        posts.append(box((0, 0, 0.65), (length, 0.04, 1.1), colour, Material.MATTE))
    else:
        posts += [box((0, 0, z), (length, 0.05, 0.12), colour, Material.METAL) for z in (0.5, 0.9)]
    return join(posts)


class _Plots:
    """Which ground is taken, at one metre: roads with their pavements, then whatever is built."""

    def __init__(self, layout: Layout, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        self.canvas = _Canvas(low / PX_PER_M, high / PX_PER_M, 1)
        self.low = low
        for road in layout.roads:
            wide = road.half_width + PAVEMENT_M
            stations = np.linspace(0, road.path.length, int(road.path.length / 3))
            x0, y0, _ = road.path.beside(stations, wide)
            x1, y1, _ = road.path.beside(stations[::-1], -wide)
            points = np.column_stack([np.concatenate([x0, x1]), np.concatenate([y0, y1])])
            self.canvas.fill(points / PX_PER_M, (255,))

    def claim(self, x: float, y: float, yaw: float, length: float, depth: float) -> bool:
        """Take a rectangle if it is free."""
        c, s = np.cos(yaw), np.sin(yaw)
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (length / 2, depth / 2)
        corners = corners @ np.array([[c, s], [-s, c]]) + (x, y)
        pixels = np.round(corners - self.low - 0.5).astype(np.int32)
        mask = np.zeros_like(self.canvas.image)
        cv2.fillPoly(mask, [pixels], (255,))
        if not mask.any() or (self.canvas.image & mask).any():
            return False
        self.canvas.image |= mask
        return True


def _kerbside(road: Road, rng: np.random.Generator, lamps: list[NDArray[np.float64]]) -> list[Mesh]:
    """Lamps, signs, trees and traffic lights along the kerbs."""
    path, half, meshes = road.path, road.half_width, []
    for side in (-1, 1):
        s = rng.uniform(3, 15)
        while s < path.length:
            x, y, heading = (float(v) for v in path.beside(s, side * (half + 0.5)))
            inward = heading + (np.pi if side > 0 else 0.0)
            if road.clear(s, 1.0):
                kind = rng.random()
                if kind < 0.4:
                    meshes.append(_lamp_post().placed(x, y, 0, inward))
                    head = path.beside(s, side * (half - 1.4))
                    lamps.append(np.array([float(head[0]), float(head[1]), 7.1]))
                elif kind < 0.6:
                    meshes.append(_signpost(rng).placed(x, y, 0, heading + (np.pi if side > 0 else 0.0)))
                elif kind < 0.95:
                    tx, ty, _ = (float(v) for v in path.beside(s, side * (half + 2.75)))
                    meshes.append(_tree(rng).placed(tx, ty, 0, heading))
            s += rng.uniform(8, 17)
    for at, crossing_half in road.junctions:
        for way in (-1, 1):
            x, y, heading = (float(v) for v in path.beside(at + way * (crossing_half + 0.5), way * (half + 0.5)))
            meshes.append(_traffic_light().placed(x, y, 0, heading + (np.pi if way > 0 else 0.0)))
    return meshes


def build_town(layout: Layout, rng: np.random.Generator, duration_s: float) -> Town:
    """Buildings and street furniture along the roads, within reach of the ego's route."""
    x, y, *_ = layout.ego.at(np.linspace(0, duration_s, 200))
    route = np.column_stack([x, y])
    low, high = np.floor(route.min(0) - MARGIN_M), np.ceil(route.max(0) + MARGIN_M)
    plots = _Plots(layout, low, high)
    meshes: list[Mesh] = []
    lamps: list[NDArray[np.float64]] = []
    yards: list[Yard] = []
    for road in layout.roads:
        for side in (-1, 1):
            s = rng.uniform(0, 5)
            while s < road.path.length:
                length, depth = rng.uniform(9, 22), rng.uniform(8, 14)
                free = rng.random() < 0.34
                setback = PAVEMENT_M + (0.5 if free else rng.uniform(0.3, 5.0))
                depth = 15.0 if free else depth
                middle = road.half_width + setback + depth / 2
                bx, by, yaw = (float(v) for v in road.path.beside(s + length / 2, side * middle))
                near = np.hypot(*(route - (bx, by)).T).min() < MARGIN_M - 10
                if near and plots.claim(bx, by, yaw, length, depth):
                    if free and rng.random() < 0.75:
                        yards.append(Yard(bx, by, yaw, length, depth))
                    elif free:
                        for _ in range(rng.integers(1, 5)):
                            at, d = rng.uniform(0, length), rng.uniform(-0.5, 0.5) * depth * 0.8
                            tx, ty, _ = (float(v) for v in road.path.beside(s + at, side * (middle + d)))
                            meshes.append(_tree(rng).placed(tx, ty, 0, yaw))
                        fx, fy, _ = (float(v) for v in road.path.beside(s + length / 2, side * (middle - depth / 2)))
                        if rng.random() < 0.5:
                            meshes.append(_fence(length * 0.9, rng).placed(fx, fy, 0, yaw))
                        if rng.random() < 0.35:
                            turned = yaw + np.pi / 2 + rng.uniform(-0.4, 0.4)
                            meshes.append(_billboard(rng).placed(bx, by, 0, turned))
                    else:
                        height = float(rng.uniform(4.5, 8) if rng.random() < 0.5 else rng.uniform(8, 20))
                        meshes.append(_building(rng, length, depth, height).placed(bx, by, 0, yaw))
                s += length + rng.uniform(0.5, 5.0)
        meshes += _kerbside(road, rng, lamps)
    ground = _paint_ground(layout, rng, low, high, yards)
    clutter = join(meshes)
    centre = clutter.triangles.mean(1)[:, :2]
    inside = np.all((centre > low) & (centre < high), axis=1)
    return Town(ground, clutter.select(inside), np.array(lamps).reshape(-1, 3), yards)
