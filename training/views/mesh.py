"""Images as surfaces in space, and what another camera sees of them.

As in "Towards viewpoint robustness in bird's eye view segmentation" (Klinghoffer et al., ICCV 2023) each image becomes
a mesh by its depth and is drawn anew; here what leaves the image of one is looked for in those of its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from bev_perception.geometry import invert, transform_points
from training.views.depth import lattice, lattice_depth

Floats = NDArray[np.float64]

TORN = 1.35  # of two vertices, one so many times as far away as the other: no surface joins them
INPAINT_PX = 3
LEAST_ALIKE = -0.2  # cosine: a photo that looks elsewhere by more than 100 degrees shows nothing of use
ROW = 1024


@dataclass(frozen=True)
class Photo:
    """image (h, w, 3) uint8; K (3, 3), pixel centres at integers; ego_from_cam (4, 4), optical axes."""

    image: NDArray[np.uint8]
    K: Floats
    ego_from_cam: Floats


class Scene:
    """The surfaces of several photos, of one moment."""

    def __init__(self, photos: Sequence[Photo], points: Floats, boxes: Floats, stride: int = 4) -> None:
        """points (P, 3) of LiDAR, boxes (M, 7), ego frame; stride: pixels between vertices."""
        self.photos, self._surfaces = photos, []
        for photo in photos:
            embree = EmbreeScene()
            TriangleMesh(embree, _triangles(photo, points, boxes, stride).astype(np.float32))
            self._surfaces.append(embree)

    def seen_from(
        self, K: Floats, ego_from_cam: Floats, size: tuple[int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The picture (h, w, 3) uint8 that a camera there takes, and which pixels (h, w) bool a photo has shown; the
        others are painted in from around them. K (3, 3) may turn and mirror pixels, too.

        The photo that looks most alike is asked first, and others for what it has not seen: two never mix, as their
        depths and exposures differ.
        """
        height, width = size
        v, u = np.mgrid[:height, :width]
        rays = np.stack([u, v, np.ones(size)], -1).reshape(-1, 3) @ np.linalg.inv(K).T
        directions = (rays @ ego_from_cam[:3, :3].T).astype(np.float32)
        origin = ego_from_cam[:3, 3].astype(np.float32)
        picture, seen = np.zeros((height * width, 3), np.uint8), np.zeros(height * width, bool)
        alike = [float(photo.ego_from_cam[:3, 2] @ ego_from_cam[:3, 2]) for photo in self.photos]
        for number in np.argsort(alike)[::-1]:
            left = np.flatnonzero(~seen)
            if not len(left) or alike[number] < LEAST_ALIKE:
                break
            along = np.ascontiguousarray(directions[left])
            found = self._surfaces[number].run(np.tile(origin, (len(left), 1)), along, query="INTERSECT", output=1)
            hit = found["primID"] >= 0
            points = (origin + along[hit] * found["tfar"][hit, None]).astype(np.float64)
            if len(points):
                picture[left[hit]], seen[left[hit]] = _colours(self.photos[number], points), True
        picture, shown = picture.reshape(height, width, 3), seen.reshape(size)
        if seen.any() and not seen.all():
            picture = cv2.inpaint(picture, (~shown).astype(np.uint8), INPAINT_PX, cv2.INPAINT_TELEA).astype(np.uint8)
        return picture, shown


def _colours(photo: Photo, points: Floats) -> NDArray[np.uint8]:
    """(N, 3) uint8: what the photo shows of points (N, 3) of the ego frame."""
    cam = transform_points(invert(photo.ego_from_cam), points) @ photo.K.T
    place = np.zeros((-(-len(points) // ROW), ROW, 2), np.float32)  # an image, as OpenCV has no longer rows
    place.reshape(-1, 2)[: len(points)] = cam[:, :2] / cam[:, 2:]
    taken = cv2.remap(photo.image, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return taken.reshape(-1, 3)[: len(points)].astype(np.uint8)


def _triangles(photo: Photo, points: Floats, boxes: Floats, stride: int) -> Floats:
    """(T, 3, 3) in the ego frame: two for each cell of the lattice that is not torn."""
    size = photo.image.shape[0], photo.image.shape[1]
    depth = lattice_depth(photo.ego_from_cam, photo.K, size, stride, points, boxes)
    v, u = lattice(size, stride)
    rays = np.stack(
        np.broadcast_arrays((u - photo.K[0, 2]) / photo.K[0, 0], ((v - photo.K[1, 2]) / photo.K[1, 1])[:, None], 1.0),
        -1,
    )
    vertices = transform_points(photo.ego_from_cam, (rays * depth[..., None]).reshape(-1, 3)).reshape(*depth.shape, 3)
    corners = np.stack([vertices[:-1, :-1], vertices[:-1, 1:], vertices[1:, 1:], vertices[1:, :-1]], 2).reshape(
        -1, 4, 3
    )
    depths = np.stack([depth[:-1, :-1], depth[:-1, 1:], depth[1:, 1:], depth[1:, :-1]], 2).reshape(-1, 4)
    whole = depths.max(1) < TORN * depths.min(1)
    return np.concatenate([corners[whole][:, [0, 1, 2]], corners[whole][:, [0, 2, 3]]])
