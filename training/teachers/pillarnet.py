"""PillarNet-18 on LiDAR (Shi et al., ECCV 2022), RadarDistill's teacher (Bang et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from bev_perception.model_spec import ModelSpec
from training.models.center_head import CenterHead, HeadConfig
from training.models.detector import Memory, Prediction
from training.models.frame import EGO, Frame, Turn, grid_in
from training.models.pillar_backbone import PillarBackbone, PillarBackboneConfig, PillarNeck
from training.models.pillar_encoder import Z_RANGE, PillarEncoder
from training.teachers.centerpoint import POINT_CHANNELS
from training.teachers.clouds import LidarDetector, batch_size, pillar_grid


@dataclass(frozen=True)
class PillarNetConfig:
    """Pillars are 1 / backbone.stride of the spec's cell: 0.075 m under 0.6 m. frame: what it computes in, z_range
    too."""

    backbone: PillarBackboneConfig = field(default_factory=PillarBackboneConfig)
    z_range: tuple[float, float] = Z_RANGE
    head: HeadConfig = field(default_factory=lambda: HeadConfig(iou=True))
    frame: Frame = EGO


class PillarNet(LidarDetector):
    """inputs: lidar (P, 6), lidar_counts (B,) -> Prediction.

    features: "conv1".."conv4" (sparse: zero outside active sites), "conv5", "high" (conv5 brought to the head's grid)
    and "neck"; RadarDistill's low-level feature is conv4, its high-level ones are high and neck.
    """

    def __init__(self, spec: ModelSpec, config: PillarNetConfig = PillarNetConfig()) -> None:
        super().__init__(spec)
        if any(side % 2 for side in spec.grid.shape):
            raise ValueError(f"PillarNet halves the spec's grid once: its sides must be even, found {spec.grid.shape}")
        self.config, self.turn = config, Turn(config.frame, spec)
        grid = pillar_grid(grid_in(config.frame, spec.grid), config.backbone.stride)
        self.pillars = PillarEncoder(POINT_CHANNELS, grid, config.backbone.channels[:1], config.z_range)
        self.backbone = PillarBackbone(config.backbone)
        self.neck = PillarNeck(config.backbone)
        self.head = CenterHead(self.neck.out_channels, spec.classes, config.head)
        self.tasks = self.head.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Prediction:
        maps = self.backbone(*self.pillars(self.turn.inputs(inputs)["lidar"], batch_size(inputs)))
        maps["high"] = self.neck.up(maps["conv5"])
        maps["neck"] = self.neck.join(maps["conv4"], maps["high"])
        heatmap, regression, aux = self.head(maps["neck"])
        return self.turn.prediction(Prediction(heatmap, regression, aux=aux, features=maps))
