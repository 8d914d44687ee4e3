"""Light, weather and surfaces: the linear RGB radiance that comes back along rays that hit the world."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.ground import PX_PER_M, Ground
from training.world.mesh import Material
from training.world.noise import fractal
from training.world.raycast import Hits
from training.world.shot import Shot
from training.world.surfaces import finish
from training.world.world import Conditions, World

Floats32 = NDArray[np.float32]
F = np.float32


@dataclass(frozen=True)
class Light:
    """The light of one set of conditions, linear RGB float32; `sun` is None where no sun casts shadows."""

    sun: Floats32 | None
    sun_direction: Floats32
    sun_colour: Floats32
    above: Floats32  # ambient light on what faces up
    below: Floats32  # ambient light on what faces down
    zenith: Floats32
    horizon: Floats32
    extinction: float  # 1/m, of fog and rain
    exposure: float
    lamps_on: float  # 0..1: street lights, windows, vehicle lights


def light(conditions: Conditions) -> Light:
    """The light under these conditions."""
    c = conditions
    direction = np.array(
        [
            np.cos(c.sun_elevation) * np.cos(c.sun_azimuth),
            np.cos(c.sun_elevation) * np.sin(c.sun_azimuth),
            np.sin(c.sun_elevation),
        ],
        F,
    )
    clear = (1.0 - c.cloud) ** 0.7 * (1 - 0.8 * c.fog)
    grey = np.array([1.0, 1.0, 1.02])
    mix = c.cloud * 0.9
    if c.time_of_day == "day":
        sun = np.array([1.0, 0.94, 0.84]) * 3.2 * clear
        above = (1 - mix) * np.array([0.55, 0.68, 0.95]) * 0.95 + mix * grey * 1.15
        zenith = (1 - mix) * np.array([0.22, 0.42, 0.95]) + mix * grey * 0.75
        horizon = (1 - mix) * np.array([0.85, 1.0, 1.2]) + mix * grey * 1.05
        exposure, lamps = 0.62 + 0.22 * c.cloud, 0.25 * max(c.rain, c.fog)
    elif c.time_of_day == "dusk":
        sun = np.array([1.5, 0.72, 0.32]) * 0.9 * clear
        above = (1 - mix) * np.array([0.26, 0.26, 0.36]) + mix * grey * 0.24
        zenith = (1 - mix) * np.array([0.10, 0.16, 0.38]) + mix * grey * 0.16
        horizon = (1 - mix) * np.array([0.85, 0.48, 0.28]) + mix * grey * 0.30
        exposure, lamps = 1.9, 0.6
    else:
        sun = np.zeros(3)
        above = np.array([0.017, 0.019, 0.028])
        zenith, horizon = np.array([0.004, 0.006, 0.013]), np.array([0.030, 0.026, 0.026])
        exposure, lamps = 7.0, 1.0
    casts = bool(sun.max() > 0.25)
    extinction = 0.0006 + 0.028 * c.fog**1.3 + 0.006 * c.rain
    return Light(
        direction if casts else None,
        direction,
        sun.astype(F),
        above.astype(F),
        (above * 0.55).astype(F),
        zenith.astype(F),
        horizon.astype(F),
        float(extinction),
        float(exposure),
        float(lamps),
    )


def sky(directions: Floats32, light_: Light, conditions: Conditions) -> Floats32:
    """Radiance of the sky along unit directions (N, 3): a gradient, clouds and the glow about the sun."""
    up = np.clip(directions[:, 2], 0, 1)
    blend = np.exp(-up * F(4.5))[:, None]
    radiance = light_.zenith * (1 - blend) + light_.horizon * blend
    if conditions.time_of_day != "night" or conditions.cloud > 0.3:
        flat = F(1) / (up + F(0.09))
        u: Floats32 = directions[:, 0] * flat
        v: Floats32 = directions[:, 1] * flat
        cover = fractal(u + 40, v + 40, 24) * F(0.65) + fractal(u + 90, v + 70, 75) * F(0.35)
        veil = np.clip((cover + F(1.3 * conditions.cloud - 0.75)) * F(2.2), 0, 1) * np.clip(up * F(9), 0, 1)
        tone = (light_.horizon * F(0.55) + light_.above * F(0.5)) * F(1.0 - 0.35 * conditions.cloud)
        shade_ = F(1) + F(0.25) * fractal(u + 10, v + 10, 50)[:, None]
        radiance += (tone * shade_ - radiance) * (veil * F(0.8))[:, None]
    azimuth: Floats32 = np.arctan2(directions[:, 1], directions[:, 0]) * F(512 / (2 * np.pi))
    hills = F(0.030) + F(0.022) * fractal(azimuth, np.zeros_like(azimuth), 1) + F(0.012) * fractal(azimuth, azimuth, 3)
    behind = np.flatnonzero((directions[:, 2] < hills) & (directions[:, 2] > -0.05))
    radiance[behind] = light_.horizon * F(0.55) + light_.above * np.array([0.05, 0.09, 0.05], F)
    if conditions.time_of_day != "night":
        toward = np.clip(directions @ light_.sun_direction, 0, 1)
        glow = F(0.25) * toward**8 + F(0.8) * toward**64 + F(20) * toward**3000
        radiance += light_.sun_colour * (glow * F(0.5))[:, None]
    return radiance


def ground_albedo(ground: Ground, points: Floats32, footprint: Floats32) -> Floats32:
    """Linear RGB of the painted ground at (N, 3) points, averaged over about `footprint` metres."""
    level = np.clip(np.log2(np.maximum(footprint, F(1e-3)) * F(PX_PER_M)) + F(0.3), 0, len(ground.levels) - 1)
    level = level.astype(np.int8)
    out = np.empty((len(points), 3), F)
    square = (np.arange(256, dtype=F) / F(255)) ** 2
    for k, image in enumerate(ground.levels):
        of = np.flatnonzero(level == k)
        if not len(of):
            continue
        # Bilinear, by remap on maps of moderate width (it refuses images of more than 32767 rows).
        rows = -(-len(of) // 512)
        at = np.zeros((2, rows * 512), F)
        at[:, : len(of)] = (points[of, :2] - np.array(ground.origin, F)).T * F(PX_PER_M / 2**k) - F(0.5)
        maps = at.reshape(2, rows, 512)
        taken = cv2.remap(image, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out[of] = square[taken.reshape(-1, 3)[: len(of)]]
    return out


def _facade(hits: Hits, at: NDArray[np.intp], albedo: Floats32, glow: Floats32, gloss: Floats32, light_: Light) -> None:
    """Windows, sills and storeys on house walls; some windows are lit in the dark."""
    p, n = hits.point[at], hits.normal[at]
    wall = np.abs(n[:, 2]) < 0.5
    at, p, n = at[wall], p[wall], n[wall]
    tone = hits.colour[at].sum(1)
    width, storey = F(2.2) + (tone * F(7.3)) % F(1.1), F(3.0)
    u, v = (-n[:, 1] * p[:, 0] + n[:, 0] * p[:, 1]) / width, p[:, 2] / storey
    cu, cv = np.floor(u), np.floor(v)
    fu, fv = u - cu, v - cv
    window = (fu > 0.24) & (fu < 0.76) & (fv > 0.30) & (fv < 0.80)
    frame = window & ((fu < 0.28) | (fu > 0.72) | (fv < 0.34) | (fv > 0.76) | (np.abs(fu - 0.5) < 0.02))
    albedo[at] *= np.where((fv < 0.05) | ((fv > 0.25) & (fv < 0.3) & (fu > 0.2) & (fu < 0.8)), F(0.7), F(1))[:, None]
    panes, frames = at[window & ~frame], at[frame]
    albedo[panes] = (0.03, 0.035, 0.04)
    albedo[frames] = (0.45, 0.44, 0.42)
    gloss[panes] = 0.45
    if light_.lamps_on > 0.3:
        draw = np.abs(np.sin(cu * F(12.9898) + cv * F(78.233) + tone * F(37.7)) * F(43758.547)) % F(1)
        lit = at[window & ~frame & (draw < 0.3 * light_.lamps_on)]
        glow[lit] += np.array([0.16, 0.11, 0.05], F) * F(light_.lamps_on)


def _plain(hits: Hits, albedo: Floats32, distance: Floats32, lit_by: Light) -> tuple[Floats32, Floats32]:
    """Gloss (N,) and glow (N, 3) of the style without details; changes `albedo` in place."""
    p, m = hits.point, hits.material
    gloss, glow = np.zeros(len(albedo), F), np.zeros_like(albedo)
    fine = fractal(p[:, 0] + p[:, 2] * F(0.7), p[:, 1] + p[:, 2] * F(1.3), 22)
    coarse = fractal(p[:, 0] + p[:, 2], p[:, 1] + p[:, 2], 2.7)
    grain = np.array([0.55, 0.18, 0.05, 0.0, 0.15, 0, 0, 0.22, 1.1, 0.1, 0.2, 0, 0, 0.1], F)[m]
    shade_ = F(1) + grain * (fine * np.clip(F(14) / distance, F(0.15), 1) + F(0.7) * coarse)
    albedo *= np.maximum(shade_, F(0.15))[:, None]
    if len(facade := np.flatnonzero(m == Material.FACADE)):
        _facade(hits, facade, albedo, glow, gloss, lit_by)
    return gloss, glow


def _lamp_light(world: World, points: Floats32, normals: Floats32, ego: Floats32) -> Floats32:
    """Irradiance of the nearest street lights, (N, 3)."""
    lamps = world.town.lamps.astype(F)
    if not len(lamps):
        return np.zeros_like(points)
    near = lamps[np.argsort(np.hypot(*(lamps[:, :2] - ego[:2]).T))[:14]]
    total = np.zeros(len(points), F)
    for lamp in near:
        to = lamp - points
        d2 = np.einsum("ij,ij->i", to, to)
        cosine = np.clip(np.einsum("ij,ij->i", to, normals) / np.sqrt(d2) + F(0.15), 0, 1)
        total += np.where(to[:, 2] > 0, F(11) * cosine / (d2 + F(8)), F(0))
    return total[:, None] * np.array([1.0, 0.78, 0.48], F)


def _headlights(points: Floats32, normals: Floats32, world_from_ego: NDArray[np.float64]) -> Floats32:
    """Irradiance of the ego's dipped beam, (N,)."""
    ego_from_world = np.linalg.inv(world_from_ego)
    p = points @ ego_from_world[:3, :3].T.astype(F) + ego_from_world[:3, 3].astype(F)
    x, y, z = p[:, 0] - F(3.7), p[:, 1], p[:, 2]
    ahead = x > 0.3
    x = np.maximum(x, F(0.3))
    beam = np.exp(-((y / x) ** 2) / F(0.32))
    cut = np.clip((F(1.25) + F(0.004) * x - z) * F(1.6), F(0.12), 1)
    to = np.array([3.7, 0, 0.7], F) - p
    d2 = np.einsum("ij,ij->i", to, to)
    n = normals @ ego_from_world[:3, :3].T.astype(F)
    cosine = np.clip(np.einsum("ij,ij->i", to, n) / np.sqrt(d2), 0, 1) * F(0.7) + F(0.3)
    return np.where(ahead, F(85) * beam * cut * cosine / (d2 + F(25)), F(0))


def _lights_on(world: World) -> NDArray[np.bool_]:
    """For each track id whether that vehicle's lamps burn: parked ones' and those of cycles that stand do not."""
    return np.array(
        [not actor.parked and (actor.rider or actor.name not in ("motorcycle", "bicycle")) for actor in world.actors]
        + [False]
    )


def shade(shot: Shot, hits: Hits, directions: Floats32, open_sky: Floats32 | None = None) -> Floats32:
    """Linear RGB radiance (N, 3) float32 along rays of a picture, in the world frame.

    `directions` need not be unit; `open_sky` (N,) 0..1 is how much of the ambient light reaches where they end.
    """
    world, conditions, stamp_ns = shot.world, shot.world.conditions, shot.stamp_ns
    pixel_rad = 1.0 / shot.K[0, 0]
    lit_by = light(conditions)
    length = np.linalg.norm(directions, axis=1)
    unit = directions / length[:, None]
    out = np.empty((len(directions), 3), F)
    solid = np.isfinite(hits.t)
    out[~solid] = sky(unit[~solid], lit_by, conditions)
    at = np.flatnonzero(solid)
    h = Hits(*(getattr(hits, name)[at] for name in Hits.__dataclass_fields__))
    unit, distance = unit[at], h.t * length[at]
    p, n, m = h.point, h.normal, h.material
    facing = -np.einsum("ij,ij->i", unit, n)

    albedo = h.colour.copy()
    on_ground = np.flatnonzero(m == Material.GROUND)
    footprint = distance * F(pixel_rad) / np.sqrt(np.maximum(np.abs(facing), F(0.02)))
    albedo[on_ground] = ground_albedo(world.town.ground, p[on_ground], footprint[on_ground])
    if world.style.detailed:
        h, gloss, glow = finish(world, h, albedo, stamp_ns, footprint, lit_by.lamps_on)
        n = h.normal
    else:
        gloss, glow = _plain(h, albedo, distance, lit_by)
    gloss[m == Material.GLASS] = 0.75
    gloss[m == Material.PAINT] = 0.28
    gloss[m == Material.METAL] = 0.15
    if conditions.rain:
        wet = F(conditions.rain)
        albedo[on_ground] *= F(1) - F(0.45) * wet
        puddles = fractal(p[on_ground, 0] + p[on_ground, 2], p[on_ground, 1] + p[on_ground, 2], 2.7)
        gloss[on_ground] = wet * np.clip(F(0.35) + F(0.5) * puddles, F(0.05), 1)

    # Ambient light comes from above and, weaker, from the ground; walls darken towards their foot.
    up = (n[:, 2:] + 1) * F(0.5)
    irradiance = lit_by.below + (lit_by.above - lit_by.below) * up
    irradiance *= np.where(m == Material.GROUND, F(1), F(0.72) + F(0.28) * np.clip(p[:, 2] / F(1.5), 0, 1))[:, None]
    if open_sky is not None:
        irradiance *= open_sky[at, None]
    if lit_by.sun is not None:
        cosine = n @ lit_by.sun
        if conditions.cloud < 0.999:
            facing_sun = np.flatnonzero(cosine > 0)
            dark = shot.tracer.shadowed(p[facing_sun], n[facing_sun], lit_by.sun, stamp_ns, shot.view)
            cosine[facing_sun[dark]] = 0
        np.maximum(cosine, 0, out=cosine)
        irradiance += lit_by.sun_colour * cosine[:, None]
        half = lit_by.sun - unit
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        shine = np.flatnonzero((gloss > 0.1) & (cosine > 0) & (m != Material.GROUND))
        spark = np.clip(np.einsum("ij,ij->i", half[shine], n[shine]), 0, 1) ** 90
        glow[shine] += lit_by.sun_colour * (spark * gloss[shine] * F(2.5))[:, None]
    if lit_by.lamps_on > 0.3:
        world_from_ego = world.ego_pose(stamp_ns)
        irradiance += _lamp_light(world, p, n, world_from_ego[:3, 3].astype(F)) * F(0.13 * lit_by.lamps_on)
        beam = _headlights(p, n, world_from_ego) * F(0.9 * lit_by.lamps_on)
        beam *= np.where(m == Material.REFLECTIVE, F(5), F(1))
        irradiance += beam[:, None] * np.array([1.0, 0.95, 0.85], F)
    burning = np.where(h.owner >= 0, _lights_on(world)[h.owner], True)
    power = F(0.15 + 0.85 * lit_by.lamps_on) / F(lit_by.exposure)
    glow[(m == Material.HEADLIGHT) & burning] += np.array([6.0, 5.6, 4.8], F) * power * F(0.3 + 1.5 * lit_by.lamps_on)
    glow[(m == Material.TAILLIGHT) & burning] += np.array([2.2, 0.10, 0.06], F) * power
    glow[m == Material.LAMP] += np.array([5.0, 4.0, 2.6], F) * power * F(lit_by.lamps_on > 0.3)

    radiance = albedo * irradiance + glow
    mirror = np.flatnonzero(gloss > 0.01)
    if len(mirror):
        reflected = unit[mirror] + n[mirror] * (2 * facing[mirror])[:, None]
        fresnel = gloss[mirror] * (F(0.18) + F(0.82) * (1 - np.clip(facing[mirror], 0, 1)) ** 4)
        seen = sky(reflected, lit_by, conditions)
        town = lit_by.below * F(0.35)
        seen = np.where(reflected[:, 2:] > 0.12, seen, town)
        radiance[mirror] += (seen - radiance[mirror]) * fresnel[:, None]
    clear = np.exp(-distance * F(lit_by.extinction))[:, None]
    haze = lit_by.horizon * F(0.85) if conditions.time_of_day != "night" else lit_by.horizon * F(0.8)
    out[at] = radiance * clear + haze * (1 - clear)
    if conditions.fog:  # fog also greys the sky near the horizon
        bank = np.exp(-np.maximum(directions[~solid, 2] / length[~solid], 0) * F(5))[:, None] * F(
            min(1.0, 1.6 * conditions.fog)
        )
        out[~solid] += (haze - out[~solid]) * bank
    return out
