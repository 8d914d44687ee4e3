"""Necks: several maps of one backbone -> one or a few maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.center_head import conv_bn_relu


def upsample_to(x: Tensor, like: Tensor, mode: str = "bilinear") -> Tensor:
    """Resize x (B, C, h, w) to the height and width of `like`; the strides need not divide its size."""
    corners = None if mode == "nearest" else True
    return F.interpolate(x, size=like.shape[-2:], mode=mode, align_corners=corners)


class FPN(nn.Module):
    """Feature pyramid (Lin et al., CVPR 2017): maps of rising stride -> maps of `out_channels` at the levels `outputs`.

    `in_channels` are those of the maps given, finest first; a 1x1 convolution takes each to `out_channels`, the coarser
    one is added after nearest upsampling, a 3x3 convolution smooths the sum. `outputs` are indices into the maps:
    (0,) for the finest alone, negative ones count from the coarsest.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, outputs: Sequence[int] = (0,)) -> None:
        super().__init__()
        levels = len(in_channels)
        if not outputs or not all(-levels <= i < levels for i in outputs):
            raise ValueError(f"FPN outputs {tuple(outputs)} must be indices of its {levels} input maps")
        self.outputs = tuple(i % levels for i in outputs)
        # Levels finer than the finest output would get no gradient: they have no convolution.
        self.first = min(self.outputs)
        self.lateral = nn.ModuleList([nn.Conv2d(c, out_channels, 1) for c in in_channels[self.first :]])
        self.smooth = nn.ModuleList([nn.Conv2d(out_channels, out_channels, 3, 1, 1) for _ in self.outputs])
        self.channels = (out_channels,) * len(self.outputs)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        laterals = [conv(x) for conv, x in zip(self.lateral, maps[self.first :], strict=True)]
        summed = [laterals[-1]]
        for finer in laterals[-2::-1]:
            summed.insert(0, finer + upsample_to(summed[0], finer, "nearest"))
        return tuple(conv(summed[i - self.first]) for conv, i in zip(self.smooth, self.outputs))


class FpnLss(nn.Module):
    """BEVDet's neck (Huang et al., 2021; after Philion and Fidler, ECCV 2020): a fine and a coarse map joined.

    The coarse map is resized to the fine one, both concatenated, then two 3x3 convolutions with `out_channels`.
    """

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__()
        self.channels = out_channels
        self.conv1 = conv_bn_relu(fine_channels + coarse_channels, out_channels)
        self.conv2 = conv_bn_relu(out_channels, out_channels)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return self.conv2(self.conv1(torch.cat([fine, upsample_to(coarse, fine)], dim=1)))


class SecondFPN(nn.Module):
    """SECOND's neck (Yan et al., Sensors 2018): each map is brought to one size and all are concatenated.

    Up-strides as .25, .5, 1, 2: above 1 a transposed convolution of that kernel and stride, else a convolution of the
    inverse; then batch norm and ReLU. `out` channels for each map -> (B, sum of out, h, w), attribute `channels`.
    Defaults of batch norm are SECOND's.
    """

    def __init__(self, in_channels: Sequence[int], up_strides: Sequence[float], out: int | Sequence[int]) -> None:
        super().__init__()
        widths = [out] * len(in_channels) if isinstance(out, int) else list(out)
        if not len(in_channels) == len(up_strides) == len(widths):
            raise ValueError(
                f"SecondFPN: {len(in_channels)} maps, {len(up_strides)} up-strides, {len(widths)} widths; want as many"
            )
        self.channels = sum(widths)
        self.deblocks = nn.ModuleList(
            [
                nn.Sequential(resize_conv(c, width, up), nn.BatchNorm2d(width, 1e-3, 0.01), nn.ReLU(inplace=True))
                for c, up, width in zip(in_channels, up_strides, widths)
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        resized = [deblock(x) for deblock, x in zip(self.deblocks, maps, strict=True)]
        sizes = {tuple(x.shape[-2:]) for x in resized}
        if len(sizes) > 1:
            raise ValueError(
                f"SecondFPN: its maps {[tuple(x.shape[-2:]) for x in maps]} come out as {sorted(sizes)}; "
                "the input's sides must be multiples of the total stride"
            )
        return torch.cat(resized, dim=1)


def resize_conv(in_channels: int, channels: int, up_stride: float) -> nn.Module:
    """A convolution without overlap that multiplies height and width by `up_stride` (4, 2, 1, 0.5, 0.25 ...)."""
    up, down = round(up_stride), round(1 / up_stride)
    if up_stride > 1 and up == up_stride:
        return nn.ConvTranspose2d(in_channels, channels, up, up, bias=False)
    if up_stride <= 1 and abs(down * up_stride - 1) < 1e-6:
        return nn.Conv2d(in_channels, channels, down, down, bias=False)
    raise ValueError(f"up-stride {up_stride} is neither a whole number nor one over a whole number")
