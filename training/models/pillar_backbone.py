"""PillarNet-18: a sparse 2-D ResNet on pillars and the neck that joins its two coarsest maps.

PillarNet (Shi et al., ECCV 2022); neck and widths as in RadarDistill (Bang et al., CVPR 2024), section 3.
The LiDAR teacher and the radar student are the same network with other points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.models.masked_conv import SparseStage


@dataclass(frozen=True)
class PillarBackboneConfig:
    """Widths and strides of conv1..conv5 (conv1 has none, conv5 always 2); blocks in each stage (2 is ResNet-18's
    count); convolutions in the neck."""

    channels: tuple[int, int, int, int, int] = (32, 64, 128, 256, 256)
    strides: tuple[int, int, int] = (2, 2, 2)
    blocks: tuple[int, int, int, int, int] = (2, 2, 2, 2, 2)
    neck_layers: int = 5

    @property
    def stride(self) -> int:
        """Pillars along a side of one cell of conv4 and of the neck."""
        return self.strides[0] * self.strides[1] * self.strides[2]


def conv_norm_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
        nn.ReLU(),
    )


class DenseBasicBlock(nn.Module):
    """ResNet's basic block on a dense map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm2(self.conv2(self.conv1(x)))).relu()


class PillarBackbone(nn.Module):
    """(x (B, C0, X, Y), mask (B, 1, X, Y)) of pillars -> {"conv1": ..., "conv5": ...}, by default at 1, 2, 4, 8, 16.

    conv1..conv4 are sparse (zero outside their active sites), conv5 is dense. C0 is channels[0].
    """

    def __init__(self, config: PillarBackboneConfig = PillarBackboneConfig()) -> None:
        super().__init__()
        c, blocks = config.channels, config.blocks
        self.config = config
        self.conv1 = SparseStage(c[0], c[0], 1, blocks[0])
        self.conv2 = SparseStage(c[0], c[1], config.strides[0], blocks[1])
        self.conv3 = SparseStage(c[1], c[2], config.strides[1], blocks[2])
        self.conv4 = SparseStage(c[2], c[3], config.strides[2], blocks[3])
        dense = [DenseBasicBlock(c[4]) for _ in range(blocks[4])]
        self.conv5 = nn.Sequential(conv_norm_relu(c[3], c[4], stride=2), *dense)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        maps = self.sparse(x, mask)
        return maps | {"conv5": self.conv5(maps["conv4"])}

    def sparse(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """conv1 to conv4 alone."""
        maps: dict[str, Tensor] = {}
        for name, stage in (("conv1", self.conv1), ("conv2", self.conv2), ("conv3", self.conv3), ("conv4", self.conv4)):
            x, mask = stage(x, mask)
            maps[name] = x
        return maps


class PillarNeck(nn.Module):
    """conv5 -> block1 -> x2 up; joined with the map of conv4's size -> block0 -> "neck", of the same size.

    Two steps, because in the radar student something else stands in for conv4: its densified map.
    """

    def __init__(self, config: PillarBackboneConfig = PillarBackboneConfig()) -> None:
        super().__init__()
        low, high, layers = config.channels[3], config.channels[4], config.neck_layers
        self.block1 = nn.Sequential(*(conv_norm_relu(high, high) for _ in range(1 + layers)))
        self.deblock = nn.Sequential(
            nn.ConvTranspose2d(high, high, 2, 2, bias=False),
            nn.BatchNorm2d(high, eps=1e-3, momentum=0.01),
            nn.ReLU(),
        )
        self.block0 = nn.Sequential(conv_norm_relu(low + high, low), *(conv_norm_relu(low, low) for _ in range(layers)))
        self.out_channels = low

    def up(self, conv5: Tensor) -> Tensor:
        """conv5 (B, C, X, Y) -> (B, C, 2 X, 2 Y)."""
        return self.deblock(self.block1(conv5))

    def join(self, low: Tensor, high: Tensor) -> Tensor:
        """The stride-8 map and what `up` gave -> the neck's map; low has channels[3] channels."""
        return self.block0(torch.cat([low, high], dim=1))
