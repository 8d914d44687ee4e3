"""What transformer layers over BEV queries share: queries with positions, a feed-forward block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid


class BevQueries(nn.Module):
    """Learned queries (X * Y, C) and learned positions, one half of the channels per axis (BEVFormer's)."""

    def __init__(self, grid: BevGrid, channels: int) -> None:
        super().__init__()
        x, y = grid.shape
        self.embedding = nn.Parameter(torch.randn(x * y, channels) * 0.02)
        self.along_x = nn.Parameter(torch.rand(x, channels // 2))
        self.along_y = nn.Parameter(torch.rand(y, channels - channels // 2))

    def position(self) -> Tensor:
        """(X * Y, C), a row per cell in the order ix * Y + iy."""
        x, y = len(self.along_x), len(self.along_y)
        both = [self.along_x[:, None].expand(-1, y, -1), self.along_y[None].expand(x, -1, -1)]
        return torch.cat(both, dim=-1).reshape(x * y, -1)


class FeedForward(nn.Module):
    """x + W2 dropout(relu(W1 x)) on the last axis."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def as_rows(bev: Tensor) -> Tensor:
    """(B, C, X, Y) -> (B, X * Y, C)."""
    return bev.flatten(2).transpose(1, 2)


def as_map(rows: Tensor, grid: BevGrid) -> Tensor:
    """(B, X * Y, C) -> (B, C, X, Y)."""
    return rows.transpose(1, 2).unflatten(2, grid.shape)
