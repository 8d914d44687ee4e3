"""Deformable 3x3 convolution from grid sampling: TensorRT's parser refuses the ONNX operator DeformConv."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = 9


class DeformConv(nn.Module):
    """Deformable convolution (Dai et al., ICCV 2017; modulated: Zhu et al., CVPR 2019), 3x3, padding 1.

    (B, C_in, H, W) -> (B, channels, H / stride, W / stride). One ordinary 3x3 convolution of the input gives for each
    output pixel and tap an offset (dy, dx) in pixels and, if modulated, a weight through a sigmoid. It starts at zero:
    an ordinary convolution (of half the weight if modulated). `weight` has the layout of nn.Conv2d, outside is zero.
    """

    taps: Tensor

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, groups: int = 1, modulated: bool = True
    ) -> None:
        super().__init__()
        self.stride, self.groups, self.modulated = stride, groups, modulated
        self.offset = nn.Conv2d(in_channels, TAPS * (3 if modulated else 2), 3, stride, 1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        conv = nn.Conv2d(in_channels, channels, 3, groups=groups)  # its usual initialisation
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias
        rows, cols = torch.meshgrid(torch.arange(3) - 1, torch.arange(3) - 1, indexing="ij")
        self.register_buffer("taps", torch.stack([rows.flatten(), cols.flatten()], dim=1).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        predicted = self.offset(x)
        h, w = predicted.shape[2:]
        # Positions in float32: half precision has no tenth of a pixel at column 500.
        offset = predicted[:, : 2 * TAPS].float().reshape(b, TAPS, 2, h, w) + self.taps.reshape(1, TAPS, 2, 1, 1)
        y = offset[:, :, 0] + torch.arange(h, device=x.device).reshape(h, 1) * self.stride
        x_at = offset[:, :, 1] + torch.arange(w, device=x.device) * self.stride
        where = torch.stack([(x_at + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1], dim=-1)
        # All taps in one call: (B, C, 9 h, w).
        read = F.grid_sample(x.float(), where.reshape(b, TAPS * h, w, 2), padding_mode="zeros", align_corners=False)
        read = read.reshape(b, c, TAPS, h, w).to(x.dtype)
        if self.modulated:
            read = read * predicted[:, 2 * TAPS :].sigmoid()[:, None].to(x.dtype)
        return F.conv2d(read.flatten(1, 2), self.weight.flatten(1)[..., None, None], self.bias, groups=self.groups)
