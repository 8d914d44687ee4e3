"""What a depth network is told of its camera, taken from all that the engine is given of it: the projection."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bev_perception.model_spec import ImageSpec
from bev_perception.preprocess.images import image_from_source, pixels_from_source

EPSILON = 1e-6
SOURCE = (1600, 900)  # columns and rows of nuScenes' images, whose pixels the released numbers are in


class Camera(NamedTuple):
    """A projection taken apart. Pixels of the network's image: fx, fy, cx, cy, skew; scale of the ego frame: each
    (B, N, 1). Rotation cam_from_ego, its rows r1, r2, r3, and the camera's place in the ego frame, m: (B, N, 3)."""

    fx: Tensor
    fy: Tensor
    cx: Tensor
    cy: Tensor
    skew: Tensor
    scale: Tensor
    r1: Tensor
    r2: Tensor
    r3: Tensor
    place: Tensor


def take_apart(img_from_ego: Tensor, camera_valid: Tensor) -> Camera:
    """(B, N, 4, 4), (B, N) -> its parts (RQ decomposition), float32. A camera that is off is an identity matrix.

    Resize, crop and image augmentation are in the intrinsics, BEV augmentation is in the rotation; a mirrored image or
    world turns the sign of fx.
    """
    eye = torch.eye(4, device=img_from_ego.device, dtype=torch.float32)
    matrix = torch.where(camera_valid[..., None, None] > 0, img_from_ego.float(), eye)
    m1, m2, m3 = matrix[..., 0, :3], matrix[..., 1, :3], matrix[..., 2, :3]
    scale = m3.norm(dim=-1, keepdim=True).clamp(min=EPSILON)
    m1, m2, r3, p = m1 / scale, m2 / scale, m3 / scale, matrix[..., :3, 3] / scale
    cy = (m2 * r3).sum(-1, keepdim=True)
    fy = (m2 - cy * r3).norm(dim=-1, keepdim=True).clamp(min=EPSILON)
    r2 = (m2 - cy * r3) / fy
    cx, skew = (m1 * r3).sum(-1, keepdim=True), (m1 * r2).sum(-1, keepdim=True)
    r1 = r2[..., [1, 2, 0]] * r3[..., [2, 0, 1]] - r2[..., [2, 0, 1]] * r3[..., [1, 2, 0]]
    fx = (m1 * r1).sum(-1, keepdim=True)
    fx_safe = torch.where(fx.abs() < EPSILON, EPSILON, fx)
    # Back substitution: K t = p with K = [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]; the camera stands at -R^T t.
    t3 = p[..., 2:]
    t2 = (p[..., 1:2] - cy * t3) / fy
    t1 = (p[..., :1] - skew * t2 - cx * t3) / fx_safe
    return Camera(fx, fy, cx, cy, skew, scale, r1, r2, r3, -(r1 * t1 + r2 * t2 + r3 * t3))


def projection_vector(img_from_ego: Tensor, camera_valid: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(B, N, 4, 4), (B, N) -> (B, N, 18) float32: the parts of the projection, none of them lost.

    Focal lengths, principal point and skew in units of the image's size, log scale of the ego frame (BEV scaling),
    rotation cam_from_ego (9) and the camera's place in the ego frame in 10 m (3).
    """
    height, width = image_size
    camera = take_apart(img_from_ego, camera_valid)
    intrinsics = [
        camera.fx / width, camera.fy / height, camera.cx / width, camera.cy / height, camera.skew / width,
        camera.scale.log(),
    ]  # fmt: skip
    return torch.cat([*intrinsics, camera.r1, camera.r2, camera.r3, camera.place / 10], dim=-1)


def calibration_vector(img_from_ego: Tensor, camera_valid: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(B, N, 4, 4), (B, N) -> (B, N, 27) float32: BEVDepth's numbers (Li et al., AAAI 2023; DepthNet.forward of its
    bevdepth/layers/backbones/base_lss_fpn.py), for weights that were trained with them.

    fx, fy, cx, cy in pixels of SOURCE; resize and crop from there (6); BEV augmentation (5), which is none; the upper
    three rows of ego_from_cam, m (12). On nuScenes the released numbers, but for the vehicle's motion between camera
    and frame, which is in the projection. A camera of another size gives those of one of SOURCE that sees the same.
    Augmentation cannot be told from the camera in a projection: it is all in the first four and the last twelve here.
    """
    camera = take_apart(img_from_ego, camera_valid)
    spec = ImageSpec(*image_size)
    (scale_x, _, left), (_, scale_y, top), _ = pixels_from_source(*SOURCE, spec).tolist()
    _, _, crop_top, crop_left = image_from_source(*SOURCE, spec)
    intrinsics = [camera.fx / scale_x, camera.fy / scale_y, (camera.cx - left) / scale_x, (camera.cy - top) / scale_y]
    fixed = (scale_x, 0.0, -crop_left, 0.0, scale_y, -crop_top, 1.0, 0.0, 0.0, 1.0, 1.0)
    constants = torch.tensor(fixed, device=camera.fx.device).expand(*camera_valid.shape, -1)
    columns = torch.stack([camera.r1, camera.r2, camera.r3, camera.place], dim=-1)  # (B, N, 3, 4)
    return torch.cat([*intrinsics, constants, columns.flatten(2)], dim=-1)


# Name -> the function and the length of what it gives.
CAMERA_VECTORS = {"projection": (projection_vector, 18), "calibration": (calibration_vector, 27)}
