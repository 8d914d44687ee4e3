"""CenterPoint's head (Yin et al., CVPR 2021) as one task of ten classes, and its in-graph peak finding.

One task for all classes as in RCBEVDet (Lin et al., CVPR 2024): six separate heads would cost more than the rest of the
student together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.model_spec import BOX_CHANNELS


def conv_bn_relu(in_channels: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; keeps the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


# The last layer gives velocity in units of 10 m/s, so that its weights are of the size of all others'.
VELOCITY_UNIT = 10.0


class CenterHead(nn.Module):
    """(B, C, X, Y) -> heatmap logits (B, classes, X, Y) and regression (B, 10, X, Y) in BOX_CHANNELS order."""

    units: Tensor

    def __init__(self, in_channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.heatmap = nn.Sequential(conv_bn_relu(in_channels, hidden), nn.Conv2d(hidden, classes, 1))
        self.regression = nn.Sequential(conv_bn_relu(in_channels, hidden), nn.Conv2d(hidden, len(BOX_CHANNELS), 1))
        last = self.heatmap[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, -2.19)  # sigmoid = 0.1: the focal loss starts calm

        units = [VELOCITY_UNIT if name in ("vx", "vy") else 1.0 for name in BOX_CHANNELS]
        self.register_buffer("units", torch.tensor(units).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor]:
        return self.heatmap(bev), self.regression(bev) * self.units


def find_peaks(heatmap_logits: Tensor, regression: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """3x3 max-pool NMS and top-K over classes and cells.

    (B, classes, X, Y), (B, 10, X, Y) -> scores (B, K), labels (B, K) int64, cells (B, K) int64 = ix * Y + iy,
    boxes (B, K, 10).
    """
    scores = heatmap_logits.sigmoid()
    scores = scores * (F.max_pool2d(scores, 3, 1, 1) == scores).to(scores.dtype)
    area = scores.shape[2] * scores.shape[3]
    top, index = scores.flatten(1).topk(top_k, dim=1)
    labels, cells = torch.div(index, area, rounding_mode="floor"), index % area
    boxes = regression.flatten(2).gather(2, cells[:, None].expand(-1, regression.shape[1], -1)).transpose(1, 2)
    return top, labels, cells, boxes
