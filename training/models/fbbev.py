"""FB-BEV (Li et al., ICCV 2023): forward projection, then a depth-aware backward projection where objects may be."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ModelSpec
from training.models.bev_encoder import BevEncoderConfig
from training.models.bev_queries import BevQueries, FeedForward, as_map, as_rows
from training.models.bev_tail import BevTail
from training.models.bevformer import HEIGHTS
from training.models.camera_bev import CameraBev, CameraBevConfig, Lifted
from training.models.center_head import HeadConfig, conv_bn_relu
from training.models.depth_net import DepthNetConfig
from training.models.detector import Memory, Prediction
from training.models.image_branch import ImageConfig
from training.models.temporal_fusion import TemporalConfig
from training.models.view.attention import SpatialCrossAttention
from training.models.view.depth_bins import DepthBins
from training.models.view.projection import anchor_points, depth_weights, project


@dataclass(frozen=True)
class BackwardConfig:
    """The backward projection. threshold: a cell is kept when its foreground score is above it."""

    heads: int = 8
    points: int = 8
    hidden: int = 320
    dropout: float = 0.1
    heights: tuple[float, ...] = HEIGHTS
    threshold: float = 0.4


def fbbev_camera() -> CameraBevConfig:
    """ResNet-50 and the sizes of BEVDepth's depth network, whose 80 channels FB-BEV lifts too; no refinement."""
    image = ImageConfig("resnet50", neck="second", stride=16, channels=512)
    return CameraBevConfig(image, DepthBins(2.0, 0.5, 112), 80, DepthNetConfig(), aux=("depth",))


@dataclass(frozen=True)
class FbBevConfig:
    """FB-BEV-R50 with a history of 16 frames by default."""

    camera: CameraBevConfig = field(default_factory=fbbev_camera)
    backward: BackwardConfig = BackwardConfig()
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig("history", 16, 160))
    encoder: BevEncoderConfig = field(default_factory=BevEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


class BackwardProjection(nn.Module):
    """One encoder layer from BEV queries into the images, each sample weighted by the depth predicted there."""

    anchors: Tensor

    def __init__(self, grid: BevGrid, channels: int, bins: DepthBins, config: BackwardConfig) -> None:
        super().__init__()
        self.grid, self.bins = grid, bins
        self.queries = BevQueries(grid, channels)
        self.spatial = SpatialCrossAttention(channels, config.heads, 1, len(config.heights), config.points)
        self.feed_forward = FeedForward(channels, config.hidden, config.dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("anchors", anchor_points(grid, config.heights), persistent=False)

    def forward(self, lifted: Lifted, inputs: dict[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """-> (B, C, X, Y)."""
        projected = project(self.anchors, inputs["img_from_ego"], inputs["camera_valid"], image_size)
        weight = depth_weights(lifted.depth, projected, self.bins)
        query = as_rows(lifted.bev) + self.queries.embedding
        found = self.spatial(query + self.queries.position(), [lifted.context], projected, weight)
        query = self.norms[0](query + self.dropout(found))
        return as_map(self.norms[1](self.feed_forward(query)), self.grid)


class FbBev(nn.Module):
    """A detector as training.models.detector describes; aux["foreground"] (B, 1, X, Y) logits are the proposals.

    The backward projection is computed for all cells and added where the proposal network keeps them: a network of
    fixed shapes, which gives what the paper's gather of the kept cells gives.
    """

    training_only = ("camera.semantic",)

    def __init__(self, spec: ModelSpec, config: FbBevConfig = FbBevConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.camera.bins
        self.camera = CameraBev(spec, config.camera)
        channels = self.camera.channels
        self.proposals = nn.Sequential(conv_bn_relu(channels, channels // 2), nn.Conv2d(channels // 2, 1, 1))
        self.backward_projection = BackwardProjection(spec.grid, channels, self.bins, config.backward)
        self.tail = BevTail(channels, spec, config.temporal, config.encoder, config.head)
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        bev, aux = self.both_ways(inputs)
        return self.tail(bev, memory, aux)

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self.both_ways(inputs)[0], memory)

    def both_ways(self, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward map plus backward map on the kept cells (B, C, X, Y), and the auxiliary outputs."""
        lifted = self.camera(inputs)
        foreground = self.proposals(lifted.bev)
        kept = foreground.sigmoid() > self.config.backward.threshold
        backward = self.backward_projection(lifted, inputs, self.camera.image_size)
        bev = lifted.bev + torch.where(kept, backward.to(lifted.bev.dtype), 0.0)
        return bev, lifted.aux | {"foreground": foreground}
