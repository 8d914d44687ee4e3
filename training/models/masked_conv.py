"""Sparse 2-D convolutions as dense ones with a mask: same results as spconv's, on any device and in any exporter.

A map is a pair (x, mask): x (B, C, X, Y) is zero wherever mask (B, 1, X, Y) is 0; mask is float, 0 or 1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.pillar_encoder import RowNorm, norm_rows


def row_norm(channels: int) -> nn.BatchNorm1d:
    """The norm of spconv's feature rows in the published networks; for `masked_norm`."""
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)


def masked_norm(norm: RowNorm, x: Tensor, mask: Tensor) -> Tensor:
    """Batch norm whose statistics come from the active sites alone, as those of spconv's feature rows do.

    A function, not a module: training on several GPUs replaces every batch norm by one that knows of no mask.
    """
    if not norm.training:
        y = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        return y * mask.to(y.dtype)
    last = x.permute(0, 2, 3, 1)
    active = mask[:, 0] > 0
    out = last.new_zeros(last.shape)
    out[active] = norm_rows(norm, last[active]).to(out.dtype)
    return out.permute(0, 3, 1, 2)


class SparseConv(nn.Module):
    """spconv.SparseConv2d: an output site is active when any active input lies under the kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 2, padding: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # Without a bias the convolution is zero by itself wherever no active input lies under the kernel.
        return self.conv(x), F.max_pool2d(mask, self.kernel, self.stride, self.padding)


class SubmanifoldConv(nn.Module):
    """spconv.SubMConv2d (Graham et al., CVPR 2018): stride 1, the active sites stay what they are."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, 1, kernel // 2, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.conv(x)
        return y * mask.to(y.dtype)


class SparseBasicBlock(nn.Module):
    """ResNet's basic block on active sites (PillarNet, Shi et al., ECCV 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = SubmanifoldConv(channels, channels), row_norm(channels)
        self.conv2, self.norm2 = SubmanifoldConv(channels, channels), row_norm(channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = masked_norm(self.norm1, self.conv1(x, mask), mask).relu()
        return (x + masked_norm(self.norm2, self.conv2(y, mask), mask)).relu()


class SparseStage(nn.Module):
    """Sparse convolution + norm + ReLU where stride or width change, then basic blocks."""

    def __init__(self, in_channels: int, channels: int, stride: int, blocks: int) -> None:
        super().__init__()
        changes = stride > 1 or in_channels != channels
        self.down = SparseConv(in_channels, channels, stride=stride) if changes else None
        self.norm = row_norm(channels) if changes else None
        self.blocks = nn.ModuleList(SparseBasicBlock(channels) for _ in range(blocks))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.down is not None and self.norm is not None:
            x, mask = self.down(x, mask)
            x = masked_norm(self.norm, x, mask).relu()
        for block in self.blocks:
            x = block(x, mask)
        return x, mask
