"""The six cameras: rays through pixel centres, then a lens and a sensor with their flaws."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.raycast import Hits, View, tracer
from training.world.rig import RIG, SensorMount
from training.world.shading import light, shade
from training.world.world import World

F = np.float32


@dataclass(frozen=True)
class CameraImage:
    """`bgr` (h, w, 3) uint8; `instance` (h, w) int32 track id or -1; `depth` (h, w) float32 metres along the optical
    axis, inf for the sky."""

    bgr: NDArray[np.uint8]
    instance: NDArray[np.int32]
    depth: NDArray[np.float32]


def scaled_K(K: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """The camera matrix of the image scaled by `scale`.

    Pixel centres lie at integer coordinates, so the image's corner is at -0.5: fx' = s fx, cx' = (cx + 0.5) s - 0.5.
    """
    out = K.copy()
    out[:2, :2] *= scale
    out[:2, 2] = (K[:2, 2] + 0.5) * scale - 0.5
    return out


def camera_rays(mount: SensorMount, scale: float) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Directions (h * w, 3) float32 in the optical frame with z = 1, and (h, w)."""
    if mount.K is None:
        raise ValueError(f"{mount.name} is a {mount.kind}, not a camera; choose one of the CAM_ mounts")
    if not 0.0 < scale <= 1.0:
        raise ValueError(f"the scale is {scale}; choose one in (0, 1]")
    w, h = round(mount.width * scale), round(mount.height * scale)
    K = scaled_K(mount.K, scale)
    u, v = np.meshgrid(np.arange(w), np.arange(h))
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], axis=-1)
    return rays.reshape(-1, 3).astype(F), (h, w)


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
    own = np.random.default_rng([world.seed, 101, list(RIG).index(mount.name)])
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


def cast_camera(
    world: World, mount: SensorMount, stamp_ns: int, scale: float
) -> tuple[NDArray[np.float32], Hits, tuple[int, int], View]:
    """What each pixel meets: ray directions (h * w, 3) in the world, hits, (h, w) and the view they were cast in."""
    rays, size = camera_rays(mount, scale)
    world_from_camera = world.ego_pose(stamp_ns) @ mount.ego_from_sensor
    directions = np.ascontiguousarray(rays @ world_from_camera[:3, :3].T.astype(F))
    origins = np.ascontiguousarray(np.broadcast_to(world_from_camera[:3, 3].astype(F), directions.shape))
    facing = float(np.arctan2(world_from_camera[1, 2], world_from_camera[0, 2]))
    assert mount.K is not None
    view = View(facing, np.arctan(mount.width / 2 / mount.K[0, 0]) + np.deg2rad(20))
    return directions, tracer(world).cast(origins, directions, stamp_ns, view), size, view


def render_camera(
    world: World, mount: SensorMount, stamp_ns: int, scale: float, rng: np.random.Generator
) -> CameraImage:
    """What this camera sees at this time, at `scale` of 1600x900; see `scaled_K` for its intrinsics.

    Raises ValueError for a mount that is no camera or a scale outside (0, 1].
    """
    directions, hits, (h, w), view = cast_camera(world, mount, stamp_ns, scale)
    caster = tracer(world)
    assert mount.K is not None
    lights_on = np.array(
        [not actor.parked and (actor.rider or actor.name not in ("motorcycle", "bicycle")) for actor in world.actors]
        + [False]
    )
    radiance = shade(caster, hits, directions, stamp_ns, view, 1.0 / (mount.K[0, 0] * scale), lights_on)
    bgr = _develop(radiance.reshape(h, w, 3), world, mount, rng)
    return CameraImage(bgr, hits.owner.reshape(h, w), hits.t.reshape(h, w))
