"""The six cameras: rays through pixel centres, then a lens and a sensor with their flaws."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.edges import SUBPIXELS, edges, open_above, through_leaves
from training.world.raycast import Hits
from training.world.rig import SensorMount, number_of
from training.world.sensor import Sun, develop, draw_sensor
from training.world.shading import light, shade
from training.world.shot import Shot
from training.world.world import World

F = np.float32


@dataclass(frozen=True)
class CameraImage:
    """`bgr` (h, w, 3) uint8; `instance` (h, w) int32 track id or -1; `depth` (h, w) float32 metres along the optical
    axis, inf for the sky."""

    bgr: NDArray[np.uint8]
    instance: NDArray[np.int32]
    depth: NDArray[np.float32]


def _lens_drops(image: NDArray[np.float32], rain: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Blurred drops that sit on the lens for the whole drive."""
    h, w = image.shape[:2]
    mask = np.zeros((h, w), F)
    for _ in range(int(4 + 14 * rain)):
        centre = int(rng.uniform(0, w)), int(rng.uniform(0, h))
        r = rng.uniform(0.006, 0.022) * w
        cv2.ellipse(mask, (centre, (2 * r, 2 * r * rng.uniform(1.0, 1.5)), 0.0), (1.0,), -1)
    mask = cv2.GaussianBlur(mask, (0, 0), max(0.6, w * 0.002))[..., None] * F(0.85)
    blurred = cv2.GaussianBlur(image, (0, 0), w * 0.02)
    return image + (blurred * F(1.05) - image) * mask


def _streaks(image: NDArray[np.float32], rain: float, brightness: float, rng: np.random.Generator) -> None:
    h, w = image.shape[:2]
    layer = np.zeros((h, w), F)
    lean = rng.uniform(-0.15, 0.15)
    for _ in range(int(160 * rain)):
        x, y, length = rng.uniform(0, w), rng.uniform(-0.1 * h, h), rng.uniform(0.02, 0.09) * h
        end = int(x + lean * length), int(y + length)
        cv2.line(layer, (int(x), int(y)), end, (float(rng.uniform(0.2, 1.0)),), 1, cv2.LINE_AA)
    image += layer[..., None] * F(brightness)


def _develop(
    radiance: NDArray[np.float32], world: World, mount: SensorMount, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Lens, exposure, colour and noise: linear RGB (h, w, 3) to BGR uint8."""
    conditions = world.conditions
    lit = light(conditions)
    h, w = radiance.shape[:2]
    # What belongs to this camera on this drive, whatever the frame.
    own = np.random.default_rng([world.seed, 101, number_of(mount.name)])
    gain = np.exp(own.normal(0, 0.12))
    balance = np.exp(own.normal(0, 0.03, 3))
    image = radiance * F(lit.exposure * gain * np.exp(rng.normal(0, 0.03)))
    if lit.lamps_on > 0.3 or conditions.rain:  # bright lamps bloom
        bright = np.maximum(image - F(1.0), 0)
        image += cv2.GaussianBlur(bright, (0, 0), w * 0.012) * F(0.5) + cv2.GaussianBlur(bright, (0, 0), w * 0.003) * F(
            0.4
        )
    if conditions.rain:
        image = _lens_drops(image, conditions.rain, own)
        _streaks(image, conditions.rain, 0.10 if conditions.time_of_day == "day" else 0.04, rng)
    y, x = np.ogrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    vignette = (1 - 0.16 * (x**2 + 0.32 * y**2)).astype(F)
    image *= vignette[..., None] * balance.astype(F)
    strength = {"day": 1.0, "dusk": 1.8, "night": 3.2}[conditions.time_of_day]
    noise = rng.standard_normal((h, w, 3), dtype=F)
    image += noise * np.sqrt(F(0.00012) * np.maximum(image, 0) + F(4e-6)) * F(strength)
    np.maximum(image, 0, out=image)
    # A film curve, then display gamma, both through one table.
    levels = np.arange(4096) / 4095.0 * 4.0
    table = (255 * (1 - np.exp(-levels * 1.05)) ** (1 / 2.2) + 0.5).clip(0, 255).astype(np.uint8)
    index = np.minimum(image * F(4095 / 4.0), 4095).astype(np.int16)
    return np.ascontiguousarray(table[index][..., ::-1])


def cast_camera(shot: Shot) -> tuple[NDArray[np.float32], Hits]:
    """What each pixel meets: ray directions (h * w, 3) in the world and hits."""
    origins, directions = shot.rays(*shot.pixels())
    if shot.world.style.detailed:
        return directions, through_leaves(shot, origins, directions)
    return directions, shot.cast(origins, directions)


def render_camera(
    world: World, mount: SensorMount, stamp_ns: int, scale: float, rng: np.random.Generator
) -> CameraImage:
    """What this camera sees at this time, at `scale` of 1600x900; see `scaled_K` for its intrinsics.

    Raises ValueError for a mount that is no camera or a scale outside (0, 1].
    """
    shot = Shot(world, mount, stamp_ns, scale)
    directions, hits = cast_camera(shot)
    h, w = shot.size
    if world.style.detailed:
        bgr = _detailed(shot, directions, hits, rng)
    else:
        bgr = _develop(shade(shot, hits, directions).reshape(h, w, 3), world, mount, rng)
    return CameraImage(bgr, hits.owner.reshape(h, w), hits.t.reshape(h, w))


def _detailed(shot: Shot, directions: NDArray[np.float32], hits: Hits, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture with more rays along edges, ambient light that is shut out, and a sensor of its own."""
    world, (h, w) = shot.world, shot.size
    edge = np.flatnonzero(edges(hits, shot.size))
    row, column = np.divmod(np.tile(edge, len(SUBPIXELS)), w)
    dv, du = np.repeat(np.array(SUBPIXELS), len(edge), axis=0).T
    origins, more = shot.rays(column + du, row + dv)
    both = hits, through_leaves(shot, origins, more)
    whole = Hits(*(np.concatenate([getattr(part, name) for part in both]) for name in Hits.__dataclass_fields__))
    open_sky = open_above(shot, hits)
    open_sky = np.concatenate([open_sky, np.tile(open_sky[edge], len(SUBPIXELS))])
    radiance = shade(shot, whole, np.concatenate([directions, more]), open_sky)
    image = radiance[: h * w]
    image[edge] += radiance[h * w :].reshape(len(SUBPIXELS), len(edge), 3).sum(0)
    image[edge] /= F(1 + len(SUBPIXELS))
    image = image.reshape(h, w, 3)
    # What belongs to this camera on this drive, whatever the frame.
    own = np.random.default_rng([world.seed, 101, number_of(shot.mount.name)])
    sensor = draw_sensor(own, world.conditions.time_of_day)
    if world.conditions.rain:
        image = _lens_drops(image, world.conditions.rain, own)
        _streaks(image, world.conditions.rain, float(0.06 * image.mean()), rng)
    shift = world.ego_twist(shot.stamp_ns)[2] * sensor.exposure_s * float(shot.K[0, 0])
    return develop(image, sensor, shot.scale, shift, _sun(shot), rng)


def _sun(shot: Shot) -> Sun | None:
    """The sun where it shines into the lens; None where it is behind, covered, or casts no shadows."""
    lit = light(shot.world.conditions)
    if lit.sun is None:
        return None
    world_from_camera = shot.world.ego_pose(shot.stamp_ns) @ shot.mount.ego_from_sensor
    x, y, z = world_from_camera[:3, :3].T @ lit.sun
    origin = world_from_camera[None, :3, 3].astype(F)
    if z < 0.2 or shot.tracer.shadowed(origin, np.zeros((1, 3), F), lit.sun, shot.stamp_ns, shot.view)[0]:
        return None
    return Sun((shot.K[0, 0] * x / z + shot.K[0, 2], shot.K[1, 1] * y / z + shot.K[1, 2]), lit.sun_colour)
