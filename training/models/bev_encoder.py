"""BEV encoders: a small backbone and a neck over a BEV map.

All take bev (B, C, X, Y) and give a dict of maps "encoder1", "encoder2", ... (the stages) and "neck" (for a head);
`channels` and `strides` (against the input) have the same keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from training.models.backbones.resnet import make_layer, make_plain_layer
from training.models.center_head import conv_bn_relu
from training.models.necks import FpnLss, SecondFPN, upsample_to


@dataclass(frozen=True)
class BevEncoderConfig:
    """BEVDet's sizes: `channels` and `steps` (strides) of the stages, each of `blocks` basic blocks; `neck` channels
    out. BEVFusion's last stage has step 1. neck_norm: batch norm and ReLU after the neck's last convolution, as the
    students of DistillBEV have it (`extra_norm_act`): a teacher's map is >= 0 there, too. plain_shortcuts: the first
    block of each stage has the released code's 3x3 shortcut without norm."""

    channels: tuple[int, int, int] = (128, 256, 512)
    blocks: int = 2
    neck: int = 256
    steps: tuple[int, int, int] = (2, 2, 2)
    neck_norm: bool = False
    plain_shortcuts: bool = False


class BevEncoder(nn.Module):
    """BEVDet's (Huang et al., 2021): three ResNet stages, each of stride 2, then FPN-LSS at the input's resolution.

    FPN-LSS joins the first and the last stage (Philion and Fidler, ECCV 2020). The shortcuts of the stages are 1x1
    convolutions with batch norm as in ResNet, or the original's plain 3x3 ones.
    """

    def __init__(self, in_channels: int, config: BevEncoderConfig = BevEncoderConfig()) -> None:
        super().__init__()
        widths = (in_channels, *config.channels)
        make = make_plain_layer if config.plain_shortcuts else make_layer
        self.stages = nn.ModuleList(
            [make(a, b, config.blocks, step) for a, b, step in zip(widths, config.channels, config.steps)]
        )
        self.join = FpnLss(config.channels[0], config.channels[-1], 2 * config.neck)
        last: list[nn.Module] = [conv_bn_relu(2 * config.neck, config.neck), nn.Conv2d(config.neck, config.neck, 1)]
        if config.neck_norm:
            last += [nn.BatchNorm2d(config.neck), nn.ReLU(inplace=True)]
        self.out = nn.Sequential(*last)
        self.channels = {f"encoder{i + 1}": c for i, c in enumerate(config.channels)} | {"neck": config.neck}
        self.strides: dict[str, float] = {f"encoder{i + 1}": float(math.prod(config.steps[: i + 1])) for i in range(3)}
        self.strides["neck"] = 1.0

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        maps, x = {}, bev
        for i, stage in enumerate(self.stages):
            x = maps[f"encoder{i + 1}"] = stage(x)
        return maps | {"neck": self.out(upsample_to(self.join(maps["encoder1"], x), bev))}


@dataclass(frozen=True)
class BevDepthEncoderConfig:
    """BEVDepth's sizes: ResNet-18's first three layers with `base` channels, `neck` channels of each of four maps."""

    base: int = 160
    blocks: tuple[int, int, int] = (2, 2, 2)
    neck: int = 64


class BevDepthEncoder(nn.Module):
    """BEVDepth's (Li et al., AAAI 2023): ResNet-18 without max-pool, then SECOND's neck at the input's resolution.

    The neck reads the input too, so the four maps have strides 1, 2, 4, 8; X and Y must be multiples of 8.
    """

    def __init__(self, in_channels: int, config: BevDepthEncoderConfig = BevDepthEncoderConfig()) -> None:
        super().__init__()
        base = config.base
        self.stem = conv_bn_relu(in_channels, base, kernel=7, stride=2)
        self.stages = nn.ModuleList(
            [
                make_layer(base, base, config.blocks[0], 1),
                make_layer(base, 2 * base, config.blocks[1], 2),
                make_layer(2 * base, 4 * base, config.blocks[2], 2),
            ]
        )
        self.neck = SecondFPN((in_channels, base, 2 * base, 4 * base), (1, 2, 4, 8), config.neck)
        self.channels = {f"encoder{i + 1}": base * 2**i for i in range(3)} | {"neck": self.neck.channels}
        self.strides: dict[str, float] = {f"encoder{i + 1}": 2.0 ** (i + 1) for i in range(3)} | {"neck": 1.0}

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        maps, x = {}, self.stem(bev)
        for i, stage in enumerate(self.stages):
            x = maps[f"encoder{i + 1}"] = stage(x)
        return maps | {"neck": self.neck([bev, *maps.values()])}


def encoder_over(channels: int, config: BevEncoderConfig | BevDepthEncoderConfig) -> BevEncoder | BevDepthEncoder:
    """The encoder of BEV maps of `channels` that the config is of."""
    return BevEncoder(channels, config) if isinstance(config, BevEncoderConfig) else BevDepthEncoder(channels, config)


@dataclass(frozen=True)
class SecondConfig:
    """CenterPoint's sizes for pillars; the voxel variants have layers (5, 5), strides (1, 2), channels (128, 256),
    up_strides (1, 2), neck 256. `neck` is the channels of each map in the neck."""

    layers: tuple[int, ...] = (3, 5, 5)
    strides: tuple[int, ...] = (2, 2, 2)
    channels: tuple[int, ...] = (64, 128, 256)
    up_strides: tuple[float, ...] = (0.5, 1.0, 2.0)
    neck: int = 128


class SecondEncoder(nn.Module):
    """SECOND and its neck (Yan et al., Sensors 2018), as CenterPoint (Yin et al., CVPR 2021) uses them for LiDAR.

    Stage i is one 3x3 convolution with strides[i] and layers[i] more. With the defaults the neck has stride 4.
    """

    def __init__(self, in_channels: int, config: SecondConfig = SecondConfig()) -> None:
        super().__init__()
        if not len(config.layers) == len(config.strides) == len(config.channels) == len(config.up_strides):
            raise ValueError(f"layers, strides, channels and up_strides must have one entry per stage: {config}")
        widths = (in_channels, *config.channels)
        self.stages = nn.ModuleList(
            [second_stage(a, b, n, s) for a, b, n, s in zip(widths, config.channels, config.layers, config.strides)]
        )
        self.neck = SecondFPN(config.channels, config.up_strides, config.neck)
        self.channels = {f"encoder{i + 1}": c for i, c in enumerate(config.channels)} | {"neck": self.neck.channels}
        self.strides: dict[str, float] = {}
        total = 1.0
        for i, stride in enumerate(config.strides):
            total *= stride
            self.strides[f"encoder{i + 1}"] = total
        self.strides["neck"] = total / config.up_strides[-1]

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        maps, x = {}, bev
        for i, stage in enumerate(self.stages):
            x = maps[f"encoder{i + 1}"] = stage(x)
        return maps | {"neck": self.neck(list(maps.values()))}


def second_stage(in_channels: int, channels: int, layers: int, stride: int) -> nn.Sequential:
    """1 + `layers` times 3x3 convolution, batch norm (SECOND's constants), ReLU; the first has `stride`."""
    modules: list[nn.Module] = []
    for i in range(1 + layers):
        conv = nn.Conv2d(channels if i else in_channels, channels, 3, 1 if i else stride, 1, bias=False)
        modules += [conv, nn.BatchNorm2d(channels, 1e-3, 0.01), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)
