"""3D boxes of what has only a 2D box and a class: the head's depth, moved by radar returns where there are some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bev_perception.geometry import invert, transform_points
from training.long_range.network import ANGLES, InverseHead
from training.long_range.views import Floats, angles, bearing, crop, rays

GATE = 3.0  # scales to both sides of the predicted depth within which returns are of the object
RETURN_M = 0.5  # deviation of what a radar measures from where the object begins
BEHIND = 0.5  # of an object's half length along the ray: its middle lies so far behind what echoes
LEAST_BEHIND = 0.25  # of the same: how far that varies


@dataclass(frozen=True)
class Looks:
    """N objects in one image: crops (N, side, side, 3) uint8, labels (N,) into CLASSES, boxes (N, 4) px, and the camera
    they were seen by: K (3, 3) and cam_from_ego (4, 4)."""

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    boxes: Floats
    K: Floats
    cam_from_ego: Floats


@dataclass(frozen=True)
class Pseudo:
    """N objects in the ego frame: boxes (N, 7), depth (N,) m along the camera's axis, and `scale` (N,), of the Laplace
    distribution of its logarithm: about the share by which the depth is wrong. returns (N,): radar returns used."""

    boxes: Floats
    depth: Floats
    scale: Floats
    returns: NDArray[np.int64]


def look(
    image: NDArray[np.uint8],
    boxes: Floats,
    labels: NDArray[np.int64],
    K: Floats,
    cam_from_ego: Floats,
    side: int,
) -> Looks:
    """An image and the 2D boxes (N, 4), px, in it, whoever drew them."""
    crops = [crop(image, box, side) for box in boxes]
    return Looks(np.array(crops, np.uint8).reshape(-1, side, side, 3), labels, boxes, K, cam_from_ego)


@torch.inference_mode()
def pseudo_boxes(head: InverseHead, looks: Looks, returns: Floats | None = None) -> Pseudo:
    """returns: (P, 3) radar returns in the ego frame at the keyframe's stamp, None: without radar."""
    if not len(looks.labels):
        none = np.zeros(0)
        return Pseudo(np.zeros((0, 7)), none, none, none.astype(np.int64))
    crops = torch.from_numpy(looks.crops).permute(0, 3, 1, 2).float() / 255
    sizes = torch.from_numpy(angles(looks.boxes, looks.K)).float().clamp(*ANGLES)
    guess = head(crops, torch.from_numpy(looks.labels), sizes[:, None])
    depth = guess.log_depth[:, 0].double().exp().numpy()
    scale = guess.log_scale[:, 0].double().exp().numpy()
    turn = np.arctan2(*guess.turn.double().numpy().T)
    size = guess.log_size.double().exp().numpy()
    used = np.zeros(len(depth), dtype=np.int64)
    if returns is not None:
        reach = half_along(size, turn)
        depth, scale, used = with_radar(depth, scale, reach, looks, returns)
    return Pseudo(placed(depth, size, turn, looks), depth, scale, used)


def placed(depth: Floats, size: Floats, turn: Floats, looks: Looks) -> Floats:
    """(N,) depths along the rays through the 2D boxes' middles, (N, 3) sizes, (N,) yaws relative to the rays -> (N, 7)
    boxes in the ego frame."""
    in_camera, in_ego = rays(looks.boxes, looks.K, looks.cam_from_ego)
    centres = transform_points(invert(looks.cam_from_ego), in_camera * depth[:, None])
    yaw = turn + bearing(in_ego)
    return np.column_stack([centres, size, np.arctan2(np.sin(yaw), np.cos(yaw))])


def half_along(size: Floats, turn: Floats) -> Floats:
    """(N,) m: half of what boxes of (N, 3) length, width, height measure along the ray."""
    return (size[:, 0] * np.abs(np.cos(turn)) + size[:, 1] * np.abs(np.sin(turn))) / 2


def with_radar(
    depth: Floats, scale: Floats, reach: Floats, looks: Looks, returns: Floats
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Depths, scales, and how many returns each took.

    A radar knows no height: returns count whose column is one of the 2D box, and whose depth is within GATE scales of
    what the image says; with n of them the object's middle is at their mean and BEHIND `reach`. Both depths are
    weighed by their precisions, 1 / (2 b^2 d^2) of a Laplace scale b and 1 / (RETURN_M^2 / n + (LEAST_BEHIND reach)^2
    + s^2): returns that do not agree, with a variance s^2, are of several things, and say little of this one.
    """
    points = transform_points(looks.cam_from_ego, returns[:, :3])
    points = points[points[:, 2] > 0]
    columns = points[:, 0] / points[:, 2] * looks.K[0, 0] + looks.K[0, 2]
    beside = (columns[None] >= looks.boxes[:, :1]) & (columns[None] <= looks.boxes[:, 2:3])
    middles = points[None, :, 2] + BEHIND * reach[:, None]
    taken = beside & (np.abs(middles - depth[:, None]) <= GATE * (scale * depth)[:, None])
    count = taken.sum(axis=1)
    mean = (middles * taken).sum(axis=1) / np.maximum(count, 1)
    own = 1 / (2 * (scale * depth) ** 2)
    spread = (((middles - mean[:, None]) * taken) ** 2).sum(axis=1) / np.maximum(count, 1)
    variance = RETURN_M**2 / np.maximum(count, 1) + (LEAST_BEHIND * reach) ** 2 + spread
    theirs = np.where(count > 0, 1 / variance, 0.0)
    fused = (own * depth + theirs * mean) / (own + theirs)
    return fused, np.where(count > 0, 1 / np.sqrt(2 * (own + theirs)) / fused, scale), count


def height_rule(head: InverseHead, looks: Looks) -> Pseudo:
    """What needs no learning: every object is as large as its class, d = f H / h, and looks along its ray."""
    labels = torch.from_numpy(looks.labels)
    size = head.class_size[labels].double().exp().numpy().reshape(-1, 3)
    depth = size[:, 2] / angles(looks.boxes, looks.K)[:, 1]
    none = np.zeros(len(depth))
    return Pseudo(placed(depth, size, none, looks), depth, none + math.nan, none.astype(np.int64))


def join(parts: Sequence[Pseudo]) -> Pseudo:
    """After each other."""
    return Pseudo(
        np.concatenate([np.zeros((0, 7)), *(part.boxes for part in parts)]),
        np.concatenate([np.zeros(0), *(part.depth for part in parts)]),
        np.concatenate([np.zeros(0), *(part.scale for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.returns for part in parts)]),
    )
