"""BEVFormer (Li et al., ECCV 2022): BEV queries that look at the earlier BEV map and into the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models.bev_queries import BevQueries, FeedForward, as_map
from training.models.center_head import CenterHead, HeadConfig
from training.models.detector import Memory, Prediction
from training.models.image_branch import ImageBranch, ImageConfig
from training.models.temporal_fusion import Alignment, TemporalConfig, fusion_over
from training.models.view.attention import SpatialCrossAttention, TemporalSelfAttention
from training.models.view.projection import Projected, anchor_points, project

# The paper's four anchors, -4.5 to 2.5 m in nuScenes' LiDAR frame, which is 1.84 m above the ego frame.
HEIGHTS = (-2.66, -0.33, 2.01, 4.34)
BESIDE = ("first", "own")
MOTION = 6  # x, y (10 m), sin and cos of the turn, age (s), whether there is an earlier map


@dataclass(frozen=True)
class BevFormerConfig:
    """BEVFormer-base by default, but with ResNet-101 without deformable convolutions and three feature levels.

    temporal: a longer memory over the last layer's map, before the head (not in the paper); "none": BEVFormer's own.
    beside: a name of BESIDE, which queries temporal self-attention reads beside the earlier map. "first": in all layers
    those that the first layer was given, as the released encoder stacks them with the earlier map once, before its
    layers: what the released weights were trained with. "own": each layer's, as equation 5 can be read. Without an
    earlier map both read each layer's own, as the released code.
    """

    image: ImageConfig = field(default_factory=lambda: ImageConfig("resnet101", stride=8, channels=256, levels=3))
    layers: int = 6
    heads: int = 8
    spatial_points: int = 8
    temporal_points: int = 4
    hidden: int = 512
    dropout: float = 0.1
    heights: tuple[float, ...] = HEIGHTS
    head: HeadConfig = field(default_factory=HeadConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    beside: str = "first"

    def __post_init__(self) -> None:
        if self.beside not in BESIDE:
            raise ValueError(f"config.beside must be one of {BESIDE}, found {self.beside!r}")


class BevFormerLayer(nn.Module):
    """Temporal self-attention, spatial cross-attention, feed-forward; each with a residual and a layer norm."""

    def __init__(self, spec: ModelSpec, config: BevFormerConfig) -> None:
        super().__init__()
        c = config.image.channels
        self.temporal = TemporalSelfAttention(spec.grid, c, config.heads, config.temporal_points)
        self.spatial = SpatialCrossAttention(
            c, config.heads, config.image.levels, len(config.heights), config.spatial_points
        )
        self.feed_forward = FeedForward(c, config.hidden, config.dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(c) for _ in range(3)])
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        features: Sequence[Tensor],
        projected: Projected,
        previous: Tensor,
        valid: Tensor,
        beside: Tensor | None,
    ) -> Tensor:
        """query (B, X * Y, C), position (X * Y, C), previous (B, C, X, Y) aligned, valid (B, 1), beside as query, or
        None -> like query."""
        query = self.norms[0](query + self.dropout(self.temporal(query, previous, valid, position, beside)))
        query = self.norms[1](query + self.dropout(self.spatial(query + position, features, projected)))
        rows: Tensor = self.norms[2](self.feed_forward(query))
        return rows


class BevFormer(nn.Module):
    """A detector as training.models.detector describes.

    The state is the last layer's map; a spec without state channels makes BEVFormer-S, the paper's static variant. With
    config.temporal the state is that fusion's, which begins with the map that self-attention reads. The whole earlier
    map is warped (turn and shift) before attention. Instead of 18 numbers of the CAN bus the queries get the ego motion
    since the state. The head is CenterPoint's on the map, as for all students here: the original's decoder of 900
    queries belongs to the LiDAR transformer teacher.
    """

    bins: None = None
    training_only: tuple[str, ...] = ()
    anchors: Tensor

    def __init__(self, spec: ModelSpec, config: BevFormerConfig = BevFormerConfig()) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        c = config.image.channels
        self.fusion = None if config.temporal.kind == "none" else fusion_over(c, config.temporal, spec)
        if self.fusion is None and spec.temporal.state_channels not in (0, c):
            raise ValueError(
                f"BEVFormer's state has {c} channels, or 0 for the static variant; found "
                f"{spec.temporal.state_channels}: set spec.temporal.state_channels"
            )
        self.image_size = spec.image.height, spec.image.width
        self.image = ImageBranch(spec.image, config.image)
        self.camera_embedding = nn.Parameter(torch.randn(len(spec.cameras), c) * 0.02)
        self.level_embedding = nn.Parameter(torch.randn(config.image.levels, c) * 0.02)
        self.queries = BevQueries(spec.grid, c)
        self.align = Alignment(spec.grid)
        self.motion = nn.Sequential(
            nn.Linear(MOTION, c // 2), nn.ReLU(), nn.Linear(c // 2, c), nn.ReLU(), nn.LayerNorm(c)
        )
        self.layers = nn.ModuleList([BevFormerLayer(spec, config) for _ in range(config.layers)])
        self.head = CenterHead(c if self.fusion is None else self.fusion.out_channels, spec.classes, config.head)
        self.tasks = self.head.tasks
        self.register_buffer("anchors", anchor_points(spec.grid, config.heights), persistent=False)

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        maps = self.maps(inputs, memory)
        bev, state = self._remember(maps, memory)
        heatmap, regression, aux = self.head(bev)
        return Prediction(heatmap, regression, state, aux, maps | {"neck": bev})

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self._remember(self.maps(inputs, memory), memory)[1]

    def _remember(self, maps: dict[str, Tensor], memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        """The map that the head reads, and the state."""
        bev = maps[f"encoder{len(self.layers)}"]
        if self.fusion is not None:
            return self.fusion(bev, memory)
        return bev, bev if self.spec.temporal.state_channels else None

    def maps(self, inputs: dict[str, Tensor], memory: Memory | None) -> dict[str, Tensor]:
        """The BEV map (B, C, X, Y) after each layer: "encoder1", "encoder2", ..."""
        b, n = inputs["camera_valid"].shape
        embedding = self.camera_embedding.reshape(1, n, -1, 1, 1)
        features = [
            f + embedding + level.reshape(-1, 1, 1)
            for f, level in zip(self.image.pyramid(inputs["images"]), self.level_embedding)
        ]
        projected = project(self.anchors, inputs["img_from_ego"], inputs["camera_valid"], self.image_size)
        rows = self.queries.embedding.expand(b, -1, -1) + self.motion(motion_of(memory, features[0], b))[:, None]
        if memory is None:
            previous, valid = torch.zeros_like(as_map(rows, self.spec.grid)), rows.new_zeros(b, 1)
        else:
            previous, valid = self.align(memory)[0][:, : rows.shape[2]].to(rows.dtype), memory.valid
        position, found = self.queries.position(), {}
        beside = rows if self.config.beside == "first" else None
        for i, layer in enumerate(self.layers):
            rows = layer(rows, position, features, projected, previous, valid, beside)
            found[f"encoder{i + 1}"] = as_map(rows, self.spec.grid)
        return found


def motion_of(memory: Memory | None, like: Tensor, batch: int) -> Tensor:
    """Ego motion since the state, (B, MOTION) float32; zeros without a valid one."""
    if memory is None:
        return torch.zeros(batch, MOTION, device=like.device)
    pose = memory.from_curr.float()
    columns = [pose[:, :1, 3] / 10, pose[:, 1:2, 3] / 10, pose[:, 1:2, 0], pose[:, :1, 0], memory.dt, memory.valid]
    return torch.cat(columns, dim=1) * (memory.valid > 0)
