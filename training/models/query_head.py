"""BEVFormer's detection head (Li et al., ECCV 2022): queries that look at the BEV map, one object each, no NMS.

Deformable DETR's decoder (Zhu et al., ICLR 2021) with a box refined by every layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import BOX_CHANNELS
from training.models.bev_queries import FeedForward
from training.models.detector import Candidates
from training.models.view.attention import deformable_attention

# A query's box: x, y, z in metres (ego frame), then as BOX_CHANNELS from log_l on.
CENTER = 3
PRIOR = 0.01  # first score of every class, for the focal loss


@dataclass(frozen=True)
class QueryHeadConfig:
    """Sizes of the decoder; z_range: the heights in metres (ego frame) that a centre can have."""

    queries: int = 900
    channels: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    hidden: int = 512
    dropout: float = 0.1
    z_range: tuple[float, float] = (-3.16, 4.84)


class BevCrossAttention(nn.Module):
    """Each query reads `points` learned places around its reference point in the BEV map, for each head."""

    def __init__(self, channels: int, heads: int, points: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"BevCrossAttention wants channels in multiples of {heads} heads, found {channels}")
        self.heads, self.points = heads, points
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, heads * points * 2)
        self.weights = nn.Linear(channels, heads * points)
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        # As in Deformable DETR: head h looks in its own direction, point i lies i + 1 cells away.
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None] * torch.arange(1.0, points + 1)[:, None]).flatten())

    def forward(self, query: Tensor, bev: Tensor, reference: Tensor) -> Tensor:
        """query (B, Q, C), bev (B, C, X, Y), reference (B, Q, 2) as (x, y) in [0, 1] over the grid -> (B, Q, C)."""
        lead, (x, y) = query.shape[:2], bev.shape[2:]
        size = torch.tensor([x, y], dtype=query.dtype, device=query.device)
        offsets = self.offsets(query).reshape(*lead, self.heads, self.points, 2) / size
        weights = self.weights(query).reshape(*lead, self.heads, self.points).softmax(dim=-1)
        places = (reference[:, :, None, None] + offsets).flip(-1)  # maps end in (X, Y): y runs along the last axis
        result: Tensor = self.output(deformable_attention(self.value(bev), places, weights))
        return result


class DecoderLayer(nn.Module):
    """Self-attention between queries, cross-attention into the map, feed-forward; residual and layer norm each."""

    def __init__(self, config: QueryHeadConfig) -> None:
        super().__init__()
        c = config.channels
        self.attend = nn.MultiheadAttention(c, config.heads, config.dropout, batch_first=True)
        self.look = BevCrossAttention(c, config.heads, config.points)
        self.feed_forward = FeedForward(c, config.hidden, config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, query: Tensor, position: Tensor, bev: Tensor, reference: Tensor) -> Tensor:
        asked = query + position
        query = self.norms[0](query + self.dropout(self.attend(asked, asked, query, need_weights=False)[0]))
        query = self.norms[1](query + self.dropout(self.look(query + position, bev, reference)))
        rows: Tensor = self.norms[2](self.feed_forward(query))
        return rows


class QueryHead(nn.Module):
    """bev (B, C, X, Y) -> class logits (L, B, Q, classes) and boxes (L, B, Q, 10) of each of the L decoder layers.

    A box is x, y, z (m, ego frame), log length, log width, log height, sin yaw, cos yaw, vx, vy (m/s).
    """

    def __init__(self, grid: BevGrid, classes: int, config: QueryHeadConfig = QueryHeadConfig()) -> None:
        super().__init__()
        c = config.channels
        self.content = nn.Parameter(torch.randn(config.queries, c))
        self.position = nn.Parameter(torch.randn(config.queries, c))
        self.reference = nn.Linear(c, CENTER)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.classify = nn.ModuleList(_branch(c, classes, norm=True) for _ in range(config.layers))
        self.regress = nn.ModuleList(_branch(c, len(BOX_CHANNELS), norm=False) for _ in range(config.layers))
        for branch in self.classify:
            assert isinstance(branch, nn.Sequential)
            nn.init.constant_(branch[-1].bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        low = [grid.x_min, grid.y_min, config.z_range[0]]
        high = [grid.x_max, grid.y_max, config.z_range[1]]
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("extent", torch.tensor(high) - torch.tensor(low), persistent=False)

    low: Tensor
    extent: Tensor

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor]:
        position = self.position.expand(len(bev), -1, -1)
        query = self.content.expand(len(bev), -1, -1)
        center = self.reference(position)  # before the sigmoid
        logits, boxes = [], []
        for layer, classify, regress in zip(self.layers, self.classify, self.regress):
            query = layer(query, position, bev, center.sigmoid()[..., :2].to(query.dtype))
            change = regress(query).float()
            refined = center.float() + change[..., :CENTER]
            boxes.append(torch.cat([self.low + refined.sigmoid() * self.extent, change[..., CENTER:]], dim=-1))
            logits.append(classify(query))
            center = refined.detach()  # each layer answers for its own step alone
        return torch.stack(logits), torch.stack(boxes)


def _branch(channels: int, outputs: int, norm: bool) -> nn.Sequential:
    hidden: list[nn.Module] = []
    for _ in range(2):
        hidden += [nn.Linear(channels, channels), *([nn.LayerNorm(channels)] if norm else []), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(channels, outputs))


def to_cells(boxes: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """Query boxes (..., 10) -> cell of the centre (...) int64 = ix * Y + iy and boxes (..., 10) in BOX_CHANNELS."""
    low = boxes.new_tensor([grid.x_min, grid.y_min])
    at = (boxes[..., :2] - low) / grid.step
    last = at.new_tensor(grid.shape) - 1
    cell = at.detach().floor().clamp(min=0).minimum(last)  # a centre on the far edge belongs to the last cell
    index = (cell[..., 0] * grid.shape[1] + cell[..., 1]).long()
    return index, torch.cat([at - cell, boxes[..., 2:]], dim=-1)


def query_candidates(logits: Tensor, boxes: Tensor, grid: BevGrid, top_k: int) -> Candidates:
    """One layer's logits (B, Q, classes) and boxes (B, Q, 10) -> the best `top_k` pairs of query and class:
    scores (B, K), labels (B, K), cells (B, K), boxes (B, K, 10) in BOX_CHANNELS. K is at most Q * classes."""
    classes = logits.shape[-1]
    scores, index = logits.sigmoid().flatten(1).topk(min(top_k, logits[0].numel()), dim=1)
    query, labels = torch.div(index, classes, rounding_mode="floor"), index % classes
    cells, coded = to_cells(boxes, grid)
    rows = coded.gather(1, query[..., None].expand(-1, -1, coded.shape[-1]))
    return scores, labels, cells.gather(1, query), rows


def query_maps(logits: Tensor, boxes: Tensor, grid: BevGrid, empty: float = -10.0) -> tuple[Tensor, Tensor]:
    """Queries drawn into the grid, for losses that compare maps: heatmap logits (B, classes, X, Y), the highest of the
    queries centred in a cell, `empty` without any; regression (B, 1, 10, X, Y) of the cell's surest query, else 0."""
    b, _, classes = logits.shape
    area = grid.shape[0] * grid.shape[1]
    cells, coded = to_cells(boxes, grid)
    heatmap = logits.new_full((b, area, classes), empty)
    heatmap = heatmap.scatter_reduce(1, cells[..., None].expand(-1, -1, classes), logits, "amax")
    surest = logits.detach().amax(dim=-1)
    best = surest.new_full((b, area), -torch.inf).scatter_reduce(1, cells, surest, "amax")
    target = torch.where(surest == best.gather(1, cells), cells, area)  # the others go to a row that is cut off
    regression = coded.new_zeros(b, area + 1, coded.shape[-1])
    regression = regression.scatter(1, target[..., None].expand(-1, -1, coded.shape[-1]), coded)[:, :area]
    return (
        heatmap.transpose(1, 2).reshape(b, classes, *grid.shape),
        regression.transpose(1, 2).reshape(b, 1, -1, *grid.shape),
    )
