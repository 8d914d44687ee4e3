"""Camera and radar fused twice, in the spirit of CRN (Camera Radar Net, Kim et al., ICCV 2023).

What follows the paper: image context is lifted twice, by its predicted depth and by the occupancy that the radar sees
in the camera's frustum (radar-assisted view transform); both are joined by convolutions on each camera's plane of depth
and column. Queries made of both modalities then gather from both BEV maps by deformable attention (multi-modal feature
aggregation, 6 layers, one softmax over both modalities). Four keyframes; BEVDepth's encoder and CenterPoint's head.

What is simpler: the engine's radar is a BEV map (or pillars), so the radar is encoded in BEV once and read into the
frustum, where CRN voxelises the points in each frustum and splats radar features from there; BEV cells read the planes
bilinearly (ColumnLift) where CRN pools them; the depth plane sums depth x context over the rows, CRN collapses the rows
first; the earlier keyframes are kept as SOLOFusion does (HistoryFusion), joined by 1x1 convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ModelSpec
from training.models.bev_encoder import BevDepthEncoderConfig
from training.models.bev_queries import FeedForward, as_map, as_rows
from training.models.bev_tail import BevTail
from training.models.center_head import HeadConfig, conv_bn_relu
from training.models.depth_net import DepthNetConfig, depth_network
from training.models.detector import Memory, Prediction
from training.models.image_branch import ImageBranch, ImageConfig
from training.models.radar_branch import RadarBev
from training.models.radar_frustum import RadarFrustum
from training.models.temporal_fusion import TemporalConfig
from training.models.view.attention import OffsetsAndWeights, deformable_attention
from training.models.view.column_lift import ColumnLift, depth_plane
from training.models.view.depth_bins import DepthBins


@dataclass(frozen=True)
class MfaConfig:
    """Multi-modal feature aggregation: `layers` of deformable attention with `points` per head and modality."""

    channels: int = 128
    layers: int = 6
    heads: int = 4
    points: int = 4
    hidden: int = 256
    dropout: float = 0.1


@dataclass(frozen=True)
class CrnConfig:
    """CRN-R50 by default. context: channels of the lifted image; depth_net None: one 1x1 convolution; radar: widths of
    the radar's BEV layers; frustum: channels and number of the convolutions that make the radar's occupancy."""

    image: ImageConfig = field(default_factory=lambda: ImageConfig("resnet50", neck="second", stride=16, channels=512))
    bins: DepthBins = field(default_factory=lambda: DepthBins(2.0, 0.8, 70))
    context: int = 80
    depth_net: DepthNetConfig | None = field(default_factory=lambda: DepthNetConfig(256, camera_aware=False))
    radar: tuple[int, ...] = (64, 64, 80)
    frustum: tuple[int, int] = (64, 3)
    mfa: MfaConfig = field(default_factory=MfaConfig)
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig("history", 3, 128))
    encoder: BevDepthEncoderConfig = field(default_factory=BevDepthEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


class AggregationLayer(nn.Module):
    """z' = LN(z + sum over modalities m, points k of A_mk W' F_m(p + dp_mk)), then a feed-forward block and LN."""

    centers: Tensor

    def __init__(self, grid: BevGrid, config: MfaConfig) -> None:
        super().__init__()
        if config.channels % config.heads:
            raise ValueError(f"MFA wants channels divisible by heads, found {config.channels} and {config.heads}")
        c = config.channels
        self.sizes = (config.heads, 2, config.points)
        self.where = OffsetsAndWeights(c, *self.sizes)
        self.values = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(2))
        self.output = nn.Linear(c, c)
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.feed_forward = FeedForward(c, config.hidden, config.dropout)
        x, y = grid.shape
        along_y, along_x = (torch.arange(y) + 0.5) / y, (torch.arange(x) + 0.5) / x
        centers = torch.stack([along_y.repeat(x), along_x.repeat_interleave(y)], dim=-1)  # maps end in (X, Y)
        self.register_buffer("centers", centers.reshape(1, x * y, 1, 1, 2), persistent=False)

    def forward(self, query: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
        """query (B, X * Y, C), image and radar maps (B, C, X, Y) -> (B, X * Y, C)."""
        offsets, logits = self.where(query)
        weights = logits.softmax(dim=-1).reshape(*query.shape[:2], *self.sizes)
        total = torch.zeros_like(query)
        for i, (values, bev) in enumerate(zip(self.values, maps)):
            size = offsets.new_tensor([bev.shape[3], bev.shape[2]])
            location = self.centers + offsets[..., i, :, :] / size
            total = total + deformable_attention(values(bev), location, weights[..., i, :])
        query = self.norm1(query + self.output(total))
        return self.norm2(self.feed_forward(query))


class Aggregation(nn.Module):
    """MFA: image BEV (B, Ci, X, Y) and radar BEV (B, Cr, X, Y) -> (B, channels, X, Y)."""

    def __init__(self, grid: BevGrid, image: int, radar: int, config: MfaConfig) -> None:
        super().__init__()
        c = config.channels
        self.grid = grid
        self.image, self.radar = nn.Conv2d(image, c, 1), nn.Conv2d(radar, c, 1)
        self.image_norm, self.radar_norm = nn.LayerNorm(c), nn.LayerNorm(c)
        self.query = nn.Linear(2 * c, c)
        self.layers = nn.ModuleList(AggregationLayer(grid, config) for _ in range(config.layers))

    def forward(self, image: Tensor, radar: Tensor) -> Tensor:
        maps = self.image(image), self.radar(radar)
        rows = self.image_norm(as_rows(maps[0])), self.radar_norm(as_rows(maps[1]))
        query = self.query(torch.cat(rows, dim=-1))
        for layer in self.layers:
            query = layer(query, maps)
        return as_map(query, self.grid)


class Crn(nn.Module):
    """A detector as training.models.detector describes, for a spec with cameras and radars (either radar format).

    features: "lift" (image after the radar-assisted view transform), "radar", "fused", "encoder1" ..., "neck".
    """

    training_only: tuple[str, ...] = ()

    def __init__(self, spec: ModelSpec, config: CrnConfig = CrnConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.bins
        self.image_size = spec.image.height, spec.image.width
        features, context, bins = config.image.channels, config.context, config.bins
        self.image = ImageBranch(spec.image, config.image)
        self.depth = depth_network(features, bins.count, context, config.depth_net)
        self.radar = RadarBev(spec, config.radar)
        self.frustum = RadarFrustum(spec.grid, bins, self.radar.channels, *config.frustum)
        self.view = nn.Sequential(conv_bn_relu(2 * context, context), conv_bn_relu(context, context))
        self.lift = ColumnLift(spec.grid, bins)
        self.fuse = Aggregation(spec.grid, context, self.radar.channels, config.mfa)
        self.tail = BevTail(config.mfa.channels, spec, config.temporal, config.encoder, config.head)
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        maps, logits = self._maps(inputs)
        prediction = self.tail(maps["fused"], memory, {"depth": logits})
        prediction.features |= maps
        return prediction

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self._maps(inputs)[0]["fused"], memory)

    def _maps(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The BEV maps by name, and the depth logits (B, N, D, h, w)."""
        img_from_ego, valid, width = inputs["img_from_ego"], inputs["camera_valid"], self.image_size[1]
        radar = self.radar(inputs)
        logits, context = self.depth(self.image(inputs["images"]), img_from_ego, valid, self.image_size)
        by_depth = depth_plane(context, logits.float().softmax(dim=2).to(context.dtype))
        occupancy = self.frustum(radar, img_from_ego, valid, context.shape[-1], width).sigmoid()
        by_radar = context.mean(dim=3, keepdim=True) * occupancy.to(context.dtype)  # (B, N, C, D, w)
        plane = self.view(torch.cat([by_depth, by_radar], dim=2).flatten(0, 1)).unflatten(0, valid.shape)
        image, _ = self.lift.read(plane, img_from_ego, valid, width)
        image = image.to(radar.dtype)
        return {"lift": image, "radar": radar, "fused": self.fuse(image, radar)}, logits
