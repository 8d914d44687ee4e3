"""What one ray a pixel does not see: both sides of an edge, gaps between leaves, and light that does not get in."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.mesh import Material
from training.world.raycast import Hits
from training.world.shot import Shot
from training.world.surfaces import passes

Floats32 = NDArray[np.float32]
F = np.float32

SUBPIXELS = ((-0.25, -0.25), (0.25, 0.25))  # rows and columns off the middle, which is seen anyway
SKY_M = 5.0  # what stands further away shuts out no ambient light
SHADED_M = 30.0  # and beyond this distance nobody looks for it
LEAVES = 2  # so many layers of leaves a ray passes, no more
_SIDE = 4


def edges(hits: Hits, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(h * w,) which pixels border on another object, material or depth; two facets of one body are much alike."""
    h, w = size
    t = np.where(np.isfinite(hits.t), hits.t, F(1e4)).reshape(h, w)
    what = hits.material.reshape(h, w).astype(np.int32) + 64 * hits.owner.reshape(h, w)
    out = np.zeros((h, w), bool)
    for here, there in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
        differs = what[here] != what[there]
        differs |= np.abs(t[here] - t[there]) > F(0.12) * np.minimum(t[here], t[there])
        # The ground goes off to the horizon without an edge; leaves are all edges, which a ray a pixel shows as well.
        kind = hits.material.reshape(h, w)[here]
        differs &= ~(((kind == Material.GROUND) | (kind == Material.FOLIAGE)) & (what[here] == what[there]))
        out[here] |= differs
        out[there] |= differs
    return out.ravel()


def through_leaves(shot: Shot, origins: Floats32, directions: Floats32) -> Hits:
    """What rays in the world, (N, 3) each, meet: those that find a gap between leaves go on behind them."""
    hits = shot.cast(origins, directions)
    whole = {name: getattr(hits, name) for name in Hits.__dataclass_fields__}
    left = np.arange(len(directions))
    for _ in range(LEAVES):
        left = left[whole["material"][left] == Material.FOLIAGE]
        length = np.linalg.norm(directions[left], axis=1)
        facing = np.abs(np.einsum("ij,ij->i", whole["normal"][left], directions[left])) / length
        gap = passes(whole["point"][left], facing)
        left, length = left[gap], length[gap]
        if not len(left):
            break
        start = whole["t"][left] + F(0.05) / length
        found = shot.cast(origins[left] + directions[left] * start[:, None], directions[left])
        for name in whole:
            whole[name][left] = getattr(found, name)
        whole["t"][left] += start
    return Hits(**whole)


def _dome() -> Floats32:
    """Directions (16, 3) that share the light of an even sky on level ground evenly."""
    k = np.arange(_SIDE * _SIDE)
    angle, z = k * np.pi * (3 - 5**0.5), np.sqrt(1 - (k + 0.5) / len(k))
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), z], 1).astype(F)


def open_above(shot: Shot, hits: Hits) -> Floats32:
    """(h * w,) how much of the sky's light, 0..1, reaches the ground that is near; 1 elsewhere.

    Neighbouring pixels each look along another of 16 directions; the mean over 4 x 4 of them has looked along all.
    """
    h, w = shot.size
    out = np.ones(h * w, F)
    at = np.flatnonzero((hits.material == Material.GROUND) & (hits.t < SHADED_M))
    if not len(at):
        return out
    row, column = np.divmod(at, w)
    # 16 is a square: an order in which neighbours in the list are far apart in the square.
    order = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
    directions = _dome()[order[row % _SIDE, column % _SIDE]]
    free = ~shot.tracer.covered(hits.point[at], directions, SKY_M, shot.stamp_ns, shot.view)
    seen = np.zeros((2, h * w), F)
    seen[0, at], seen[1, at] = free, 1
    summed = [cv2.blur(plane.reshape(h, w), (_SIDE, _SIDE)).ravel() for plane in seen]
    out[at] = F(0.2) + F(0.8) * summed[0][at] / summed[1][at]
    return out
