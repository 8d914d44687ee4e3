"""A LiDAR detector with BEVFormer's query head: BEVFormer's teacher in DistillBEV (Wang et al., ICCV 2023).

The paper's encoder is a 3-D sparse one on voxels of 0.064 m; here it is PillarNet-18's on pillars of that size
(0.064 m under cells of 0.512 m), which needs no compiled library. Decoder and branches are BEVFormer's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from bev_perception.model_spec import ModelSpec
from training.losses.queries import QueryLossConfig, query_losses
from training.models.center_head import conv_bn_relu
from training.models.detector import Candidates, Memory, Prediction
from training.models.pillar_backbone import PillarBackbone, PillarBackboneConfig, PillarNeck
from training.models.pillar_encoder import Z_RANGE, PillarEncoder
from training.models.query_head import QueryHead, QueryHeadConfig, query_candidates, query_maps
from training.teachers.centerpoint import POINT_CHANNELS
from training.teachers.clouds import LidarDetector, batch_size, pillar_grid


@dataclass(frozen=True)
class LidarTransformerConfig:
    """Pillars are 1 / backbone.stride of the spec's cell."""

    backbone: PillarBackboneConfig = field(default_factory=PillarBackboneConfig)
    z_range: tuple[float, float] = Z_RANGE
    head: QueryHeadConfig = field(default_factory=QueryHeadConfig)
    losses: QueryLossConfig = field(default_factory=QueryLossConfig)


class LidarTransformer(LidarDetector):
    """inputs: lidar (P, 6), lidar_counts (B,) -> Prediction with the last layer's queries drawn into the maps.

    aux: query_logits (L, B, Q, classes), query_boxes (L, B, Q, 10) as `QueryHead`. features: "conv4", "high", and
    "neck", the map that the queries read. It is a SetDetector: the maps are for distillation.
    """

    def __init__(self, spec: ModelSpec, config: LidarTransformerConfig = LidarTransformerConfig()) -> None:
        super().__init__(spec)
        if any(side % 2 for side in spec.grid.shape):
            raise ValueError(f"LidarTransformer halves the grid once: its sides must be even, found {spec.grid.shape}")
        if spec.top_k > config.head.queries * len(spec.classes):
            raise ValueError(f"{config.head.queries} queries cannot give the spec's top_k = {spec.top_k} detections")
        self.config, self.tasks = config, (spec.classes,)
        grid = pillar_grid(spec.grid, config.backbone.stride)
        self.pillars = PillarEncoder(POINT_CHANNELS, grid, config.backbone.channels[:1], config.z_range)
        self.backbone = PillarBackbone(config.backbone)
        self.neck = PillarNeck(config.backbone)
        self.embed = conv_bn_relu(self.neck.out_channels, config.head.channels, kernel=1)
        self.head = QueryHead(spec.grid, len(spec.classes), config.head)

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Prediction:
        maps = self.backbone(*self.pillars(inputs["lidar"], batch_size(inputs)))
        high = self.neck.up(maps["conv5"])
        bev = self.embed(self.neck.join(maps["conv4"], high))
        logits, boxes = self.head(bev)
        heatmap, regression = query_maps(logits[-1], boxes[-1], self.spec.grid)
        aux = {"query_logits": logits, "query_boxes": boxes}
        return Prediction(heatmap, regression, aux=aux, features=maps | {"high": high, "neck": bev})

    def losses(self, prediction: Prediction, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The set losses instead of those on maps."""
        aux = prediction.aux
        return query_losses(aux["query_logits"], aux["query_boxes"], batch, self.spec.grid, self.config.losses)

    def candidates(self, prediction: Prediction) -> Candidates:
        """The last layer's queries instead of the maps' cells."""
        logits, boxes = prediction.aux["query_logits"][-1], prediction.aux["query_boxes"][-1]
        return query_candidates(logits.float(), boxes.float(), self.spec.grid, self.spec.top_k)
