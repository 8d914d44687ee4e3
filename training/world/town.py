"""The town that does not move: where its houses, yards and street furniture stand."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.clutter import (
    Bench,
    bench,
    billboard,
    building,
    fence,
    hedge,
    lamp_post,
    signpost,
    traffic_light,
    tree,
)  # fmt: skip
from training.world.ground import PX_PER_M, Canvas, Ground, Yard, paint_ground
from training.world.mesh import Mesh, join
from training.world.roads import PAVEMENT_M, Layout, Road

MARGIN_M = 115.0


@dataclass(frozen=True)
class Town:
    ground: Ground
    clutter: Mesh
    lamps: NDArray[np.float64]  # (N, 3) positions of the street lights
    yards: list[Yard]
    benches: tuple[Bench, ...] = ()


class _Plots:
    """Which ground is taken, at one metre: roads with their pavements, then whatever is built."""

    def __init__(self, layout: Layout, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        self.canvas = Canvas(low / PX_PER_M, high / PX_PER_M, 1)
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
                    meshes.append(lamp_post().placed(x, y, 0, inward))
                    head = path.beside(s, side * (half - 1.4))
                    lamps.append(np.array([float(head[0]), float(head[1]), 7.1]))
                elif kind < 0.6:
                    meshes.append(signpost(rng).placed(x, y, 0, heading + (np.pi if side > 0 else 0.0)))
                elif kind < 0.95:
                    tx, ty, _ = (float(v) for v in path.beside(s, side * (half + 2.75)))
                    meshes.append(tree(rng).placed(tx, ty, 0, heading))
            s += rng.uniform(8, 17)
    for at, crossing_half in road.junctions:
        for way in (-1, 1):
            x, y, heading = (float(v) for v in path.beside(at + way * (crossing_half + 0.5), way * (half + 0.5)))
            meshes.append(traffic_light().placed(x, y, 0, heading + (np.pi if way > 0 else 0.0)))
    return meshes


def _furnish(road: Road, plots: _Plots, rng: np.random.Generator) -> tuple[list[Mesh], list[Bench]]:
    """Benches on the pavements, hedges and more trees behind them, where nothing was built."""
    meshes, benches = [], []
    for side in (-1, 1):
        s = rng.uniform(2, 12)
        while s < road.path.length:
            length = rng.uniform(3, 9)
            behind = side * (road.half_width + PAVEMENT_M + 1.2)
            x, y, heading = (float(v) for v in road.path.beside(s, behind))
            if rng.random() < 0.55 and road.clear(s, length / 2 + 1) and plots.claim(x, y, heading, length, 1.2):
                meshes.append(hedge(rng, length).placed(x, y, 0, heading))
            tx, ty, _ = (float(v) for v in road.path.beside(s, side * (road.half_width + PAVEMENT_M + 4.0)))
            if rng.random() < 0.5 and road.clear(s, 3) and plots.claim(tx, ty, heading, 3.0, 3.0):
                meshes.append(tree(rng).placed(tx, ty, 0, heading))
            if rng.random() < 0.12 and road.clear(s, 2):
                bx, by, _ = (float(v) for v in road.path.beside(s, side * (road.half_width + 2.6)))
                benches.append(Bench(bx, by, heading - side * np.pi / 2))
                meshes.append(bench(rng).placed(bx, by, 0, benches[-1].yaw))
            s += length + rng.uniform(0.5, 9.0)
    return meshes, benches


def build_town(layout: Layout, rng: np.random.Generator, duration_s: float, furnished: bool = False) -> Town:
    """Buildings and street furniture along the roads, within reach of the ego's route; `furnished` with benches, hedges
    and more trees."""
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
                            meshes.append(tree(rng).placed(tx, ty, 0, yaw))
                        fx, fy, _ = (float(v) for v in road.path.beside(s + length / 2, side * (middle - depth / 2)))
                        if rng.random() < 0.5:
                            meshes.append(fence(length * 0.9, rng).placed(fx, fy, 0, yaw))
                        if rng.random() < 0.35:
                            turned = yaw + np.pi / 2 + rng.uniform(-0.4, 0.4)
                            meshes.append(billboard(rng).placed(bx, by, 0, turned))
                    else:
                        height = float(rng.uniform(4.5, 8) if rng.random() < 0.5 else rng.uniform(8, 20))
                        meshes.append(building(rng, length, depth, height).placed(bx, by, 0, yaw))
                s += length + rng.uniform(0.5, 5.0)
        meshes += _kerbside(road, rng, lamps)
    ground = paint_ground(layout, rng, low, high, yards)
    benches: list[Bench] = []
    for road in layout.roads if furnished else ():
        more, found = _furnish(road, plots, rng)
        meshes += more
        benches += found
    clutter = join(meshes)
    centre = clutter.triangles.mean(1)[:, :2]
    inside = np.all((centre > low) & (centre < high), axis=1)
    return Town(ground, clutter.select(inside), np.array(lamps).reshape(-1, 3), yards, tuple(benches))
