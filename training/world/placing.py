"""Placing actors so that nobody overlaps anybody, nor the ego, at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.actors import Actor
from training.world.paths import Motion

EGO_LENGTH, EGO_WIDTH, EGO_CENTRE_AHEAD = 4.9, 2.0, 1.4
NEAR_ROUTE_M = 62.0

# Length, width, height: mean and half range, metres.
SIZES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "car": ((4.55, 0.5), (1.9, 0.12), (1.62, 0.18)),
    "truck": ((7.2, 1.6), (2.45, 0.15), (3.0, 0.4)),
    "bus": ((11.0, 1.2), (2.85, 0.1), (3.3, 0.2)),
    "trailer": ((9.5, 3.0), (2.5, 0.12), (3.6, 0.3)),
    "construction_vehicle": ((6.3, 0.9), (2.55, 0.2), (3.1, 0.3)),
    "pedestrian": ((0.72, 0.1), (0.68, 0.08), (1.75, 0.15)),
    "motorcycle": ((2.1, 0.12), (0.8, 0.08), (1.25, 0.05)),
    "bicycle": ((1.72, 0.1), (0.62, 0.05), (1.15, 0.06)),
    "traffic_cone": ((0.42, 0.05), (0.42, 0.05), (1.0, 0.15)),
    "barrier": ((0.5, 0.06), (2.4, 0.3), (1.0, 0.08)),
}
RIDER_HEIGHT = (1.68, 0.1)


def draw_size(name: str, rider: bool, rng: np.random.Generator) -> NDArray[np.float64]:
    size = np.array([mean + rng.uniform(-half, half) for mean, half in SIZES[name]])
    if rider:
        size[2] = RIDER_HEIGHT[0] + rng.uniform(-RIDER_HEIGHT[1], RIDER_HEIGHT[1])
    if name == "trailer" and size[0] < 8:
        size[2] -= 0.6
    return size


def boxes_overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether rectangles overlap, pair by pair, by the separating axes of both; each (5, N): x, y, yaw, l, w."""
    (x, y, yaw, ln, w), (ox, oy, oyaw, ol, ow) = one, other
    dx, dy = ox - x, oy - y
    c, s = np.abs(np.cos(oyaw - yaw)), np.abs(np.sin(oyaw - yaw))
    apart = np.abs(dx * np.cos(yaw) + dy * np.sin(yaw)) > (ln + ol * c + ow * s) / 2
    apart |= np.abs(dy * np.cos(yaw) - dx * np.sin(yaw)) > (w + ol * s + ow * c) / 2
    apart |= np.abs(dx * np.cos(oyaw) + dy * np.sin(oyaw)) > (ol + ln * c + w * s) / 2
    apart |= np.abs(dy * np.cos(oyaw) - dx * np.sin(oyaw)) > (ow + ln * s + w * c) / 2
    return ~apart


@dataclass
class Scene:
    """The actors placed so far, with their sampled rectangles, so that a new one can be refused where it would hit."""

    rng: np.random.Generator
    times: NDArray[np.float64]
    route: NDArray[np.float64]
    actors: list[Actor]
    fixed: list[tuple[float, float, float, float, float]]
    moving: list[NDArray[np.float64]]  # each (5, T): x, y, yaw, ln, w
    draw_size: Callable[[str, bool, np.random.Generator], NDArray[np.float64]]

    @staticmethod
    def around(
        ego: Motion,
        duration_s: float,
        rng: np.random.Generator,
        draw_size: Callable[[str, bool, np.random.Generator], NDArray[np.float64]] = draw_size,
    ) -> Scene:
        times = np.arange(-0.4, duration_s + 0.5, 0.1)
        x, y, yaw, *_ = ego.at(times)
        rows = np.stack(
            [
                x + EGO_CENTRE_AHEAD * np.cos(yaw),
                y + EGO_CENTRE_AHEAD * np.sin(yaw),
                yaw,
                np.full(len(times), EGO_LENGTH + 1.2),
                np.full(len(times), EGO_WIDTH + 0.5),
            ]
        )
        return Scene(rng, times, np.stack([x, y], 1), [], [], [rows], draw_size)

    def _free(self, rows: NDArray[np.float64]) -> bool:
        x, y, _, ln, w = rows
        reach = np.hypot(ln[0], w[0]) / 2
        if self.fixed:
            f = np.array(self.fixed).T[:, :, None]  # (5, N, 1)
            close = np.hypot(f[0] - x, f[1] - y) < reach + np.hypot(f[3], f[4]) / 2
            n, t = np.nonzero(close)
            if boxes_overlap(rows[:, t], f[:, n, 0]).any():
                return False
        m = np.stack(self.moving, 1)  # (5, N, T)
        close = np.hypot(m[0] - x, m[1] - y) < reach + np.hypot(m[3], m[4]) / 2
        n, t = np.nonzero(close)
        t_own = t if len(x) > 1 else np.zeros_like(t)
        return not boxes_overlap(rows[:, t_own], m[:, n, t]).any()

    def add(
        self,
        name: str,
        motion: Motion,
        rider: bool = False,
        parked: bool = False,
        gap: float = 0.25,
        size: NDArray[np.float64] | None = None,
    ) -> bool:
        """Place an actor unless it would touch another (or the ego) at any time, or stays far from the route."""
        size = self.draw_size(name, rider, self.rng) if size is None else size
        style = int(self.rng.integers(1 << 31))
        still = bool(np.all(motion.profile.v == 0))
        x, y, yaw, *_ = motion.at(self.times[:1] if still else self.times)
        every = 1 if still else 5
        if np.hypot(x[::every, None] - self.route[::5, 0], y[::every, None] - self.route[::5, 1]).min() > NEAR_ROUTE_M:
            return False
        extent = np.full(len(x), size[0] + gap), np.full(len(x), size[1] + gap)
        rows = np.stack([x, y, yaw, *extent])
        if not self._free(rows):
            return False
        if still:
            self.fixed.append((float(x[0]), float(y[0]), float(yaw[0]), size[0], size[1]))
        else:
            rows[3:] -= gap
            self.moving.append(rows)
        self.actors.append(Actor(len(self.actors), name, size, motion, style, rider, parked, still))
        return True

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, weights: dict[str, float]) -> str:
        p = np.array(list(weights.values()))
        return list(weights)[self.rng.choice(len(p), p=p / p.sum())]
