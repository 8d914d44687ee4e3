"""The images of a keyframe as cameras that stand elsewhere would have taken them, augmented as all images are."""

from __future__ import annotations

import numpy as np

from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.images import in_color_order, pixels_from_source
from training.data.augment import Augmentation, change_colours, draw_image
from training.data.prepared import Prepared
from training.data.view_change import Move, photo, views
from training.views.mesh import Photo


def moved_images(
    prepared: Prepared,
    spec: ModelSpec,
    move: Move,
    points: np.ndarray,
    boxes: np.ndarray,
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> tuple[np.ndarray, np.ndarray]:
    """-> (N, H, W, 3) uint8 in the spec's colour order and img_from_ego (N, 4, 4) of the moved cameras.

    points (P, 3) of the newest LiDAR sweep, boxes (M, 7), in the ego frame. Cameras without an image stay black.
    """
    images, img_from_ego = np.zeros_like(prepared.images), prepared.img_from_ego.copy()
    affines = [draw_image(rng, augmentation, spec.image) for _ in spec.cameras]
    there = [i for i in range(len(spec.cameras)) if prepared.camera_valid[i]]
    if there:
        cameras = [photo(prepared.images[i], img_from_ego[i]) for i in there]
        photos = [_whole(camera, prepared, spec, i) for camera, i in zip(cameras, there)]
        size = (spec.image.height, spec.image.width)
        pictures, projections = views(photos, cameras, [affines[i] for i in there], move, points, boxes, size)
        for i, picture, projection in zip(there, pictures, projections):
            images[i], img_from_ego[i] = change_colours(picture, rng, augmentation), projection
    return images, img_from_ego


def _whole(camera: Photo, prepared: Prepared, spec: ModelSpec, i: int) -> Photo:
    """The camera's image as it was received, with what the network's has lost; the network's where it is not kept."""
    source = prepared.sources.get(spec.cameras[i])
    if source is None:
        return camera
    height, width = source.image.shape[:2]
    image = np.ascontiguousarray(in_color_order(source.image, spec.image))
    return Photo(image, np.linalg.inv(pixels_from_source(width, height, spec.image)) @ camera.K, camera.ego_from_cam)
