"""Surfaces close to: the grain, cracks and stains of the ground, leaves, and what is painted on walls and bodies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.world.facades import clad
from training.world.liveries import decorate
from training.world.mesh import Material
from training.world.noise import draws, fractal, grain
from training.world.raycast import Hits
from training.world.world import World

Floats32 = NDArray[np.float32]
F = np.float32

LEAF_M = 0.11
HOLES = 0.45  # share of the outer leaves that let a ray pass


def finish(
    world: World, hits: Hits, albedo: Floats32, stamp_ns: int, footprint: Floats32, lamps_on: float
) -> tuple[Hits, Floats32, Floats32]:
    """Hits with the normals of small things, gloss (N,) and glow (N, 3); `albedo` (N, 3) is changed in place.

    `footprint` (N,) is the width in metres of what a pixel sees there; `lamps_on` is 0..1.
    """
    gloss, glow = np.zeros(len(albedo), F), np.zeros_like(albedo)
    normal = hits.normal.copy()
    ground = np.flatnonzero(hits.material == Material.GROUND)
    albedo[ground] *= ground_grain(hits.point[ground], albedo[ground], footprint[ground])[:, None]
    wall = np.flatnonzero((hits.material == Material.FACADE) & (np.abs(hits.normal[:, 2]) < 0.5))
    if len(wall):
        albedo[wall], normal[wall], gloss[wall], glow[wall] = clad(
            hits.point[wall], hits.normal[wall], hits.colour[wall], footprint[wall], lamps_on
        )
    leaf = np.flatnonzero(hits.material == Material.FOLIAGE)
    if len(leaf):
        albedo[leaf], normal[leaf] = leaves(hits.point[leaf], hits.normal[leaf], albedo[leaf], footprint[leaf])
    decorate(world, hits, albedo, stamp_ns, footprint)
    rest = np.flatnonzero(np.isin(hits.material, (Material.MATTE, Material.METAL, Material.RUBBER, Material.SIGN)))
    p = hits.point[rest]
    albedo[rest] *= (F(1) + F(0.12) * fractal(p[:, 0] + p[:, 1], p[:, 2] * F(2), 30))[:, None]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return replace(hits, normal=normal), gloss, glow


def ground_grain(point: Floats32, albedo: Floats32, footprint: Floats32) -> Floats32:
    """Factors (N,) on the albedo of the painted ground: stones, worn tracks, stains and cracks; blades where it is
    green."""
    x, y = point[:, 0], point[:, 1]
    green = np.clip(albedo[:, 1] / np.maximum(albedo[:, 0], F(1e-3)) - F(1.05), 0, F(0.3)) / F(0.3)
    fine = grain(x, y, 45, footprint) * (F(0.30) + F(0.6) * green)
    middle = grain(x + 31, y + 17, 9, footprint) * (F(0.12) + F(0.5) * green)
    wide = fractal(x, y, 1.3) * (F(0.10) + F(0.25) * green)
    stain = np.clip(fractal(x + 211, y + 97, 4) - F(0.45), 0, 1) * F(0.9)
    crack = np.clip(F(1) - np.abs(fractal(x + 57, y + 3, 9)) / F(0.02), 0, 1)
    crack *= (fractal(x + 5, y + 71, 1) > 0.1) * np.clip(F(0.05) / footprint, 0, 1) * F(0.5)
    return np.maximum(F(1) + fine + middle + wide - (stain + crack) * (F(1) - green), F(0.25))


def leaves(point: Floats32, normal: Floats32, albedo: Floats32, footprint: Floats32) -> tuple[Floats32, Floats32]:
    """Albedo and normals (N, 3) of leaves that turn every way, lighter and darker, with depth between them."""
    cell = np.floor(point / np.maximum(F(LEAF_M), footprint)[:, None])
    shade = draws(cell[:, 0], cell[:, 1], cell[:, 2])
    clump = fractal(point[:, 0] + point[:, 2], point[:, 1] + point[:, 2] * F(0.6), 22)
    bright = (F(0.35) + F(1.15) * shade**2) * np.clip(F(0.85) + F(0.7) * clump, F(0.2), F(1.6))
    turn = np.stack([draws(cell[:, 0] + k, cell[:, 1], cell[:, 2]) for k in (101, 202, 303)], 1) - F(0.5)
    return albedo * bright[:, None], normal + turn * F(1.4)


def passes(point: Floats32, facing: Floats32) -> NDArray[np.bool_]:
    """Which rays (N,) find a gap between the leaves that they met at `point`: more where they graze a crown."""
    cell = np.floor(point / F(LEAF_M * 1.2))
    return draws(cell[:, 0], cell[:, 1], cell[:, 2]) < F(HOLES) * (F(1.6) - facing)
