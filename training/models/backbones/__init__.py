"""Image backbones: (B, 3, H, W) normalised BGR -> maps at strides 4, 8, 16, 32, attribute `channels` of the four.

An entry takes the channels of the first stage; None is the original size, for which ImageNet weights exist.
"""

from __future__ import annotations

from collections.abc import Callable

from training.models.backbones.convnext import ConvNeXt
from training.models.backbones.fan import FAN
from training.models.backbones.resnet import FCOS3D, ResNet

ImageBackbone = ResNet | ConvNeXt | FAN

BACKBONES: dict[str, Callable[[int | None], ImageBackbone]] = {
    "resnet18": lambda width: ResNet((2, 2, 2, 2), width or 64),
    "resnet34": lambda width: ResNet((3, 4, 6, 3), width or 64),
    "resnet50": lambda width: ResNet((3, 4, 6, 3), width or 64, bottleneck=True),
    "resnet101": lambda width: ResNet((3, 4, 23, 3), width or 64, bottleneck=True),
    "resnet101_fcos3d": lambda width: ResNet((3, 4, 23, 3), width or 64, kinds=FCOS3D),
    "convnext_tiny": lambda width: ConvNeXt((3, 3, 9, 3), width or 96),
    "convnext_base": lambda width: ConvNeXt((3, 3, 27, 3), width or 128),
    "fan_small": lambda width: FAN((3, 3, 7, 3), width or 128),
}
