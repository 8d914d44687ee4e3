"""The cameras of a drive in one picture, to see what a world looks like."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.camera import render_camera
from training.world.rig import scan_rng
from training.world.world import World

ROWS: tuple[tuple[str, ...], ...] = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT"),
)


def montage(world: World, stamp_ns: int, scale: float) -> NDArray[np.uint8]:
    """(2 h, 3 w, 3) uint8 BGR: the front cameras above those to the back, each at `scale` of 1600x900. Those of
    another rig stand in their order, black where there is none."""
    mounts = {name: mount for name, mount in world.rig.mounts.items() if mount.kind == "camera"}
    rows = ROWS
    if set(mounts) != {name for row in ROWS for name in row}:
        names = [*mounts, *[""] * (-len(mounts) % 3)]
        rows = tuple(tuple(names[k : k + 3]) for k in range(0, len(names), 3))
    images = {
        name: render_camera(world, mount, stamp_ns, scale, scan_rng(world.seed, name, stamp_ns)).bgr
        for name, mount in mounts.items()
    }
    black = np.zeros_like(next(iter(images.values())))
    return np.vstack([np.hstack([images.get(name, black) for name in row]) for row in rows])


def encoded(world: World, stamp_ns: int, scale: float, suffix: str) -> bytes:
    """The montage as a file of this kind (.png, .jpg). Raises ValueError for a kind that OpenCV does not write."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 88] if suffix in (".jpg", ".jpeg") else []
    try:
        done, data = cv2.imencode(suffix, montage(world, stamp_ns, scale), options)
    except cv2.error as error:
        raise ValueError(f"no picture can be written as {suffix!r}; end its name with .png or .jpg") from error
    assert done
    return data.tobytes()
