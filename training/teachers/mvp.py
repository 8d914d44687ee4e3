"""MVP (Yin et al., NeurIPS 2021): CenterPoint on real LiDAR points and on virtual ones from instance masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bev_perception.model_spec import ModelSpec
from training.data.virtual_points import VIRTUAL_CHANNELS
from training.models.bev_encoder import SecondEncoder
from training.models.center_head import CenterHead
from training.models.detector import Memory, Prediction
from training.models.frame import EGO
from training.models.pillar_encoder import PillarEncoder
from training.teachers.centerpoint import POINT_CHANNELS, CenterPointConfig
from training.teachers.clouds import LidarDetector, batch_size, pillar_grid


@dataclass(frozen=True)
class MVPConfig:
    """CenterPoint's sizes; virtual_layers: widths of the PointNet layers of virtual and painted points."""

    base: CenterPointConfig = field(default_factory=CenterPointConfig)
    virtual_layers: tuple[int, ...] = (64, 64)


class MVP(LidarDetector):
    """inputs: lidar (P, 6), lidar_counts (B,), virtual (Q, 16): batch index and the columns of `virtual_points`.

    Real and virtual points have pillar encoders of their own, as their features mean different things; the canvases
    are joined before SECOND. Features as CenterPoint's.
    """

    def __init__(self, spec: ModelSpec, config: MVPConfig = MVPConfig()) -> None:
        super().__init__(spec)
        self.config = config
        base = config.base
        if base.frame != EGO:
            raise ValueError(f"MVP computes in the ego frame, found {base.frame}: no published weights of it are read")
        self.encoder = SecondEncoder(base.point_layers[-1] + config.virtual_layers[-1], base.second)
        grid = pillar_grid(spec.grid, round(self.encoder.strides["neck"]))
        self.pillars = PillarEncoder(POINT_CHANNELS, grid, base.point_layers, base.z_range, base.room)
        self.virtual_pillars = PillarEncoder(VIRTUAL_CHANNELS, grid, config.virtual_layers, base.z_range)
        self.head = CenterHead(self.encoder.channels["neck"], spec.classes, base.head)
        self.tasks = self.head.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Prediction:
        count = batch_size(inputs)
        real, _ = self.pillars(inputs["lidar"], count)
        virtual, _ = self.virtual_pillars(inputs["virtual"], count)
        maps = self.encoder(torch.cat([real, virtual], dim=1))
        heatmap, regression, aux = self.head(maps["neck"])
        return Prediction(heatmap, regression, aux=aux, features=maps)
