"""One picture to be taken: which camera at which time and size, and the rays that its pixels look along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from training.world.raycast import Hits, Tracer, View, tracer
from training.world.rig import SensorMount
from training.world.world import World

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
F = np.float32


def scaled_K(K: Floats, scale: float) -> Floats:
    """The camera matrix of the image scaled by `scale`.

    Pixel centres lie at integer coordinates, so the image's corner is at -0.5: fx' = s fx, cx' = (cx + 0.5) s - 0.5.
    """
    out = K.copy()
    out[:2, :2] *= scale
    out[:2, 2] = (K[:2, 2] + 0.5) * scale - 0.5
    return out


@dataclass(frozen=True)
class Shot:
    """A picture of `world` by the camera `mount` at `stamp_ns`, at `scale` of 1600x900.

    Raises ValueError for a mount that is no camera or a scale outside (0, 1].
    """

    world: World
    mount: SensorMount
    stamp_ns: int
    scale: float

    def __post_init__(self) -> None:
        if self.mount.K is None:
            raise ValueError(f"{self.mount.name} is a {self.mount.kind}, not a camera; choose one of the CAM_ mounts")
        if not 0.0 < self.scale <= 1.0:
            raise ValueError(f"the scale is {self.scale}; choose one in (0, 1]")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return round(self.mount.height * self.scale), round(self.mount.width * self.scale)

    @cached_property
    def K(self) -> Floats:
        """(3, 3) intrinsics at this scale."""
        assert self.mount.K is not None
        return scaled_K(self.mount.K, self.scale)

    @property
    def tracer(self) -> Tracer:
        return tracer(self.world)

    @cached_property
    def view(self) -> View:
        forward = (self.world.ego_pose(self.stamp_ns) @ self.mount.ego_from_sensor)[:2, 2]
        assert self.mount.K is not None
        half = np.arctan(self.mount.width / 2 / self.mount.K[0, 0]) + np.deg2rad(20)
        return View(float(np.arctan2(forward[1], forward[0])), half)

    def pixels(self) -> tuple[Floats, Floats]:
        """Columns and rows of all pixel centres, (h * w,) each, row by row."""
        h, w = self.size
        u, v = np.meshgrid(np.arange(w, dtype=float), np.arange(h, dtype=float))
        return u.ravel(), v.ravel()

    def through(self, u: Floats, v: Floats) -> Floats32:
        """Directions (N, 3) float32 in the optical frame, z = 1, through places of the image, pixels."""
        rays = [(u - self.K[0, 2]) / self.K[0, 0], (v - self.K[1, 2]) / self.K[1, 1], np.ones(u.shape)]
        return np.stack(rays, axis=-1).astype(F)

    def rays(self, u: Floats, v: Floats) -> tuple[Floats32, Floats32]:
        """Origins and directions (N, 3) float32 in the world of the rays through places of the image.

        A rolling shutter (`Style.rolling_s`) reads the rows one after another, the middle one at the stamp: the vehicle
        drives on meanwhile, and what else moves stands still for it.
        """
        rays = self.through(u, v)
        if not self.world.style.rolling_s:
            world_from_camera = self.world.ego_pose(self.stamp_ns) @ self.mount.ego_from_sensor
            directions = rays @ world_from_camera[:3, :3].T.astype(F)
            origins = np.broadcast_to(world_from_camera[:3, 3].astype(F), directions.shape)
            return np.ascontiguousarray(origins), np.ascontiguousarray(directions)
        rows, of = np.unique(np.round(v), return_inverse=True)
        late_ns = ((rows + 0.5) / self.size[0] - 0.5) * self.world.style.rolling_s * 1e9
        ego = np.stack([self.world.ego_pose(self.stamp_ns + round(late)) for late in late_ns])
        poses = (ego @ self.mount.ego_from_sensor).astype(F)[of]
        return np.ascontiguousarray(poses[:, :3, 3]), np.einsum("nij,nj->ni", poses[:, :3, :3], rays)

    def cast(self, origins: Floats32, directions: Floats32) -> Hits:
        """What rays in the world meet at the stamp."""
        return self.tracer.cast(origins, directions, self.stamp_ns, self.view)
