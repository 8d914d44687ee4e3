"""Cross-Modality Alignment: densifies a sparse radar map, so that it can be like a LiDAR map.

RadarDistill (Bang et al., CVPR 2024, arXiv 2403.05061), section 3.2, in the form of its released code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.backbones.convnext import ChannelNorm
from training.models.deform_conv import DeformConv


class GlobalResponseNorm(nn.Module):
    """ConvNeXt V2's GRN (Woo et al., CVPR 2023): gamma (x N) + beta + x with N = G / (mean_c G + 1e-6), G = |x|_2 over
    the map. (B, C, X, Y); starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # float32: a sum of squares over a map leaves half precision. The floor gives sqrt a gradient on an empty map.
        energy = x.float().square().sum(dim=(2, 3), keepdim=True).clamp(min=1e-12).sqrt()
        response = (energy / (energy.mean(dim=1, keepdim=True) + 1e-6)).to(x.dtype)
        return self.gamma * (x * response) + self.beta + x


class ConvNeXtV2Body(nn.Module):
    """x + PW2(GRN(GELU(PW1(LN(DW7x7(x)))))), expansion 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, 4 * channels, 1)
        self.response = GlobalResponseNorm(4 * channels)
        self.reduce = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.gelu(self.expand(self.norm(self.depthwise(x))))
        return x + self.reduce(self.response(y))


def encoder(channels: int) -> nn.Sequential:
    """(B, C, X, Y) -> (B, C, X / 2, Y / 2): modulated deformable 3x3 convolution of stride 2, then two bodies."""
    down = DeformConv(channels, channels, stride=2)
    return nn.Sequential(down, ConvNeXtV2Body(channels), ConvNeXtV2Body(channels))


def decoder(channels: int) -> nn.Sequential:
    """(B, C, X, Y) -> (B, C, 2 X, 2 Y)."""
    up = nn.ConvTranspose2d(channels, channels, 4, 2, 1, bias=False)
    return nn.Sequential(up, nn.BatchNorm2d(channels), nn.GELU())


class Aggregate(nn.Module):
    """Two maps of `channels` -> one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.GELU()
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layers(torch.cat([a, b], dim=1))


class CrossModalityAlignment(nn.Module):
    """conv4 of the radar (B, C, X, Y) -> F^l1, F^l2, both of its shape; X and Y must be multiples of 4."""

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.encoder1, self.encoder2, self.encoder3 = (encoder(channels) for _ in range(3))
        self.decoder1, self.decoder2, self.decoder3 = (decoder(channels) for _ in range(3))
        self.aggregate1, self.aggregate2, self.aggregate3 = (Aggregate(channels) for _ in range(3))

    def forward(self, conv4: Tensor) -> tuple[Tensor, Tensor]:
        half = self.encoder1(conv4)
        low1 = self.aggregate1(self.decoder1(half), conv4)
        quarter = self.encoder2(half)
        half = self.aggregate2(self.decoder2(quarter), self.encoder3(low1))
        return low1, self.aggregate3(self.decoder3(half), low1)
