"""ConvNeXt (Liu et al., CVPR 2022). Parameter names are torchvision's, so its ImageNet weights load.

Stochastic depth is left out; detectors fine-tune for too few epochs to need it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.backbones.imagenet import load_torchvision

EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W): between two transposes, the form TensorRT has a kernel for."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permute(nn.Module):
    """x.permute(dims); a layer so that the layers around it get torchvision's numbers."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class ConvNeXtBlock(nn.Module):
    """x + scale * MLP(norm(depthwise 7x7(x))); (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=EPS),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.block(x)


def init_transformer(module: nn.Module) -> None:
    """Truncated normal weights (0.02) and zero biases of convolutions and linear layers, as ConvNeXt and ViT start."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ConvNeXt(nn.Module):
    """(B, 3, H, W) -> stages' outputs at strides 4, 8, 16, 32 with `channels` = width * (1, 2, 4, 8) channels.

    Defaults are ConvNeXt-T. H and W must be multiples of 32: the strided convolutions have no padding.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 3, 9, 3), width: int = 96) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, width, 4, 4), ChannelNorm(width))]
        for i, (count, channels) in enumerate(zip(blocks, self.channels)):
            if i > 0:
                previous = self.channels[i - 1]
                layers.append(nn.Sequential(ChannelNorm(previous), nn.Conv2d(previous, channels, 2, 2)))
            layers.append(nn.Sequential(*(ConvNeXtBlock(channels) for _ in range(count))))
        self.features = nn.Sequential(*layers)
        self.apply(init_transformer)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stem, stage1, down2, stage2, down3, stage3, down4, stage4 = self.features
        stride4 = stage1(stem(x))
        stride8 = stage2(down2(stride4))
        stride16 = stage3(down3(stride8))
        return stride4, stride8, stride16, stage4(down4(stride16))

    def load_imagenet(self, path: str) -> None:
        """Load a torchvision ConvNeXt state dict (without `classifier.*`); errors as `load_torchvision`."""
        load_torchvision(self, path, "features.0.0.weight", "classifier.")
