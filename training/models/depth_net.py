"""Depth distribution and context of each image feature: BEVDet's one convolution, BEVDepth's camera-aware network,
CRN's that does not know its camera.

All: forward(features (B, N, F, h, w), img_from_ego (B, N, 4, 4), camera_valid (B, N), image_size) ->
depth logits (B, N, D, h, w), context (B, N, C, h, w).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.models.backbones.resnet import BasicBlock
from training.models.camera_vector import CAMERA_VECTORS
from training.models.center_head import conv_bn_relu
from training.models.deform_conv import DeformConv


class PlainDepth(nn.Module):
    """One 1x1 convolution (LSS, Philion & Fidler, ECCV 2020; BEVDet, Huang et al., 2021)."""

    def __init__(self, in_channels: int, bins: int, context: int) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(in_channels, bins + context, 1)

    def forward(
        self, features: Tensor, img_from_ego: Tensor, camera_valid: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        both = self.conv(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return both[:, :, : self.bins], both[:, :, self.bins :]


@dataclass(frozen=True)
class DepthNetConfig:
    """BEVDepth's sizes. mid: channels inside; aspp: of each branch of the pyramid; blocks: residual blocks.
    camera_aware False: CRN's network, of which the rest says nothing (BlindDepth). camera: a key of CAMERA_VECTORS,
    what the network is told of its camera: "projection", or "calibration" for the released weights of BEVDepth."""

    mid: int = 512
    aspp: int = 512
    blocks: int = 3
    dilations: tuple[int, ...] = (1, 6, 12, 18)
    deform_groups: int = 4
    dropout: float = 0.5
    camera_aware: bool = True
    camera: str = "projection"

    def __post_init__(self) -> None:
        if self.camera not in CAMERA_VECTORS:
            raise ValueError(f"camera must be one of {sorted(CAMERA_VECTORS)}, found {self.camera!r}")


class CameraAwareDepth(nn.Module):
    """BEVDepth's DepthNet (Li et al., AAAI 2023): features gated by the camera, then a deep depth branch.

    Deformable convolution as in DeformConv (grid sampling), unmodulated as the original's.
    """

    def __init__(self, in_channels: int, bins: int, context: int, config: DepthNetConfig = DepthNetConfig()) -> None:
        super().__init__()
        mid = config.mid
        self.reduce = conv_bn_relu(in_channels, mid)
        self.camera_vector, numbers = CAMERA_VECTORS[config.camera]
        self.camera_norm = nn.BatchNorm1d(numbers)
        self.depth_gate, self.context_gate = CameraGate(numbers, mid), CameraGate(numbers, mid)
        self.depth = nn.Sequential(
            *(BasicBlock(mid, mid) for _ in range(config.blocks)),
            Aspp(mid, config.aspp, config.dilations, config.dropout),
            DeformConv(mid, mid, groups=config.deform_groups, modulated=False),
            nn.Conv2d(mid, bins, 1),
        )
        self.context = nn.Conv2d(mid, context, 1)

    def forward(
        self, features: Tensor, img_from_ego: Tensor, camera_valid: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        cameras = features.shape[:2]
        x = self.reduce(features.flatten(0, 1))
        vector = self.camera_norm(self.camera_vector(img_from_ego, camera_valid, image_size).flatten(0, 1))
        depth = self.depth(self.depth_gate(x, vector))
        context = self.context(self.context_gate(x, vector))
        return depth.unflatten(0, cameras), context.unflatten(0, cameras)


class BlindDepth(nn.Module):
    """CRN's (Kim et al., ICCV 2023, `camera_aware=False`): BEVDepth's without gates, pyramid and deformable
    convolution; the context has a 3x3 convolution of its own."""

    def __init__(self, in_channels: int, bins: int, context: int, config: DepthNetConfig) -> None:
        super().__init__()
        mid = config.mid
        self.reduce = conv_bn_relu(in_channels, mid)
        self.depth = nn.Sequential(*(BasicBlock(mid, mid) for _ in range(config.blocks)), nn.Conv2d(mid, bins, 1))
        self.context = nn.Sequential(conv_bn_relu(mid, mid), nn.Conv2d(mid, context, 1))

    def forward(
        self, features: Tensor, img_from_ego: Tensor, camera_valid: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        x = self.reduce(features.flatten(0, 1))
        return self.depth(x).unflatten(0, features.shape[:2]), self.context(x).unflatten(0, features.shape[:2])


def depth_network(in_channels: int, bins: int, context: int, config: DepthNetConfig | None) -> nn.Module:
    """None: BEVDet's one convolution."""
    if config is None:
        return PlainDepth(in_channels, bins, context)
    network = CameraAwareDepth if config.camera_aware else BlindDepth
    return network(in_channels, bins, context, config)


class CameraGate(nn.Module):
    """Squeeze-and-excitation (Hu et al., CVPR 2018) where the camera, not the image, decides: x times a sigmoid."""

    def __init__(self, numbers: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(numbers, channels), nn.ReLU(),
            nn.Linear(channels, channels),
            nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, channels),
        )  # fmt: skip

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return x * self.layers(vector).sigmoid()[..., None, None].to(x.dtype)


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017): one branch per dilation and one of the image's mean."""

    def __init__(self, channels: int, hidden: int, dilations: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for dilation in dilations:
            kernel = 1 if dilation == 1 else 3
            conv = nn.Conv2d(channels, hidden, kernel, 1, dilation * (kernel // 2), dilation, bias=False)
            self.branches.append(nn.Sequential(conv, nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)))
        self.mean = conv_bn_relu(channels, hidden, kernel=1)
        self.join = conv_bn_relu(hidden * (len(dilations) + 1), channels, kernel=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.dropout(self.join(torch.cat([branch(x) for branch in self.branches] + [mean], dim=1)))


class PlaneRefinement(nn.Module):
    """BEVDepth's depth refinement ("depth aggregation"): 3x3 convolutions over the (depth, column) plane of a camera.

    (B, C, D, w) -> the same shape. Lets features that were lifted to a wrong depth move along their ray.
    B: cameras whose rows are summed, or each row of each camera.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels, channels)
        self.conv = nn.Sequential(conv_bn_relu(channels, channels), conv_bn_relu(channels, channels))
        self.out = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, plane: Tensor) -> Tensor:
        x = self.reduce(plane)
        return self.out(x + self.conv(x))
