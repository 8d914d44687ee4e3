"""MVP's virtual points (Yin et al., NeurIPS 2021): pixels of an instance mask, at the depth of the nearest LiDAR point.

Columns of the result: x, y, z (m, ego frame), age (s), one-hot of the ten classes in CLASSES' order, the mask's score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bev_perception.model_spec import CLASSES

VIRTUAL_CHANNELS = 4 + len(CLASSES) + 1


def virtual_points(
    points: np.ndarray,
    masks: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    img_from_ego: Sequence[np.ndarray],
    rng: np.random.Generator,
    per_mask: int = 50,
    max_pixels: float = 3000.0,
    painted: bool = True,
) -> np.ndarray:
    """Virtual points of one frame: (Q, 15) float32.

    points (P, 5): x, y, z in the ego frame (m), intensity, age (s). Per camera: masks (K, H, W) bool, labels (K,) class
    indices, scores (K,) in [0, 1], img_from_ego (4, 4) into the masks' image. In each mask up to `per_mask` pixels are
    drawn without repetition; each takes depth and age of the LiDAR point that projects into the same mask nearest to it
    in pixels, if nearer than `max_pixels`. A mask without LiDAR points gives nothing.
    painted: also give the real points that project into a mask, with its class and score; after all virtual ones. A
    point in several masks has all their classes and the highest score, as in the official code.
    Raises ValueError when the lists or shapes do not fit together or a label is no class.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 5:
        raise ValueError(f"virtual_points wants points (P, 5): x, y, z, intensity, age; found {points.shape}")
    if not len(masks) == len(labels) == len(scores) == len(img_from_ego):
        raise ValueError(
            "virtual_points wants one entry per camera in masks, labels, scores and img_from_ego, found "
            f"{len(masks)}, {len(labels)}, {len(scores)} and {len(img_from_ego)}"
        )
    rows = []
    paint = np.zeros((len(points), len(CLASSES) + 1))
    for camera, (mask, label, score) in enumerate(zip(masks, labels, scores)):
        _check_camera(camera, mask, label, score)
        if not len(mask):
            continue
        matrix = np.asarray(img_from_ego[camera], dtype=np.float64)
        seen, pixel, depth = project(points[:, :3], matrix, mask.shape[1:])
        column, row = np.rint(pixel).astype(np.int64).T
        ego_from_img = np.linalg.inv(matrix)
        for one, kind, sure in zip(mask, label, score):
            name = np.append(np.eye(len(CLASSES))[kind], sure)
            inside = one[row, column]
            if not inside.any():
                continue
            paint[seen[inside]] = np.maximum(paint[seen[inside]], name)
            drawn = _draw(one, per_mask, rng)
            distance = np.linalg.norm(drawn[:, None] - pixel[inside][None], axis=-1)
            nearest = distance.argmin(axis=1)
            near = distance[np.arange(len(drawn)), nearest] < max_pixels
            drawn, nearest = drawn[near], nearest[near]
            xyz = unproject(drawn, depth[inside][nearest], ego_from_img)
            age = points[seen[inside][nearest], 4:5]
            rows.append(np.concatenate([xyz, age, np.tile(name, (len(drawn), 1))], axis=1))
    if painted:
        hit = paint[:, : len(CLASSES)].any(axis=1)
        rows.append(np.concatenate([points[hit][:, [0, 1, 2, 4]], paint[hit]], axis=1))
    return np.concatenate(rows).astype(np.float32) if rows else np.zeros((0, VIRTUAL_CHANNELS), np.float32)


def project(
    xyz: np.ndarray, img_from_ego: np.ndarray, size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P, 3) -> indices of the points seen in an image of (height, width), their (u, v) pixels and depths (m).

    A pixel's centre has whole coordinates: u in [-0.5, width - 0.5) is inside.
    """
    flat = xyz @ img_from_ego[:3, :3].T + img_from_ego[:3, 3]
    depth = flat[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = flat[:, :2] / depth[:, None]
        nearest = np.rint(pixel)
        seen = (depth > 0) & np.all((nearest >= 0) & (nearest < [size[1], size[0]]), axis=1)
    index = np.flatnonzero(seen)
    return index, pixel[index], depth[index]


def unproject(pixel: np.ndarray, depth: np.ndarray, ego_from_img: np.ndarray) -> np.ndarray:
    """(Q, 2) pixels at (Q,) depths -> (Q, 3) points in the ego frame."""
    flat = np.concatenate([pixel * depth[:, None], depth[:, None]], axis=1)
    return flat @ ego_from_img[:3, :3].T + ego_from_img[:3, 3]


def _draw(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` pixels of a mask, (Q, 2) float64 as (u, v)."""
    row, column = np.nonzero(mask)
    chosen = rng.permutation(len(row))[:count]
    return np.stack([column[chosen], row[chosen]], axis=1).astype(np.float64)


def _check_camera(camera: int, mask: np.ndarray, label: np.ndarray, score: np.ndarray) -> None:
    if mask.ndim != 3 or mask.dtype != np.bool_ or not len(mask) == len(label) == len(score):
        raise ValueError(
            f"camera {camera}: virtual_points wants masks (K, H, W) bool, labels (K,), scores (K,); found "
            f"{mask.shape} {mask.dtype}, {np.shape(label)}, {np.shape(score)}"
        )
    wrong = [int(k) for k in label if not 0 <= k < len(CLASSES)]
    if wrong:
        raise ValueError(f"camera {camera}: labels {wrong} are not indices of the {len(CLASSES)} classes")
