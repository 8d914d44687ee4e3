"""ResNet with basic blocks (He et al., CVPR 2016). Parameter names are torchvision's, so its ImageNet weights load."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; (B, C_in, H, W) -> (B, channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


def make_layer(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` basic blocks, the first with `stride`."""
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride), *(BasicBlock(channels, channels) for _ in range(blocks - 1))
    )


class ResNet(nn.Module):
    """ResNet-18 (blocks 2,2,2,2) or ResNet-34 (3,4,6,3); width 64 is the original, 32 a quarter of its cost.

    (B, 3, H, W) -> features of layer2, layer3, layer4: strides 8, 16, 32 and width * 2, 4, 8 channels.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = (2, 2, 2, 2), width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = make_layer(width, width, blocks[0], 1)
        self.layer2 = make_layer(width, 2 * width, blocks[1], 2)
        self.layer3 = make_layer(2 * width, 4 * width, blocks[2], 2)
        self.layer4 = make_layer(4 * width, 8 * width, blocks[3], 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        stride8 = self.layer2(x)
        stride16 = self.layer3(stride8)
        return stride8, stride16, self.layer4(stride16)

    def load_imagenet(self, path: str) -> None:
        """Load a torchvision ResNet state dict (`fc.*` is left out). Raises RuntimeError on any other difference."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
