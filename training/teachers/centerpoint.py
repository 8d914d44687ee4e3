"""CenterPoint on pillars (Yin et al., CVPR 2021): PointNet pillars -> SECOND and its neck -> six center heads."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from bev_perception.model_spec import ModelSpec
from training.models.bev_encoder import SecondConfig, SecondEncoder
from training.models.center_head import CenterHead, HeadConfig
from training.models.detector import Memory, Prediction
from training.models.frame import EGO, Frame, Turn, grid_in
from training.models.pillar_encoder import Z_RANGE, PillarEncoder
from training.teachers.clouds import LidarDetector, batch_size, pillar_grid

POINT_CHANNELS = 5  # x, y, z, intensity, age


@dataclass(frozen=True)
class CenterPointConfig:
    """point_layers: widths of the PointNet layers (the official code has two). Pillars are as large as it takes for
    the neck to have the spec's grid: with SECOND's defaults a quarter of its cell, 0.2 m under 0.8 m.

    room: see PillarEncoder; frame: what it computes in, z_range too. Both are for published weights."""

    point_layers: tuple[int, ...] = (64, 64)
    z_range: tuple[float, float] = Z_RANGE
    second: SecondConfig = field(default_factory=SecondConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    room: int = 0
    frame: Frame = EGO


class CenterPoint(LidarDetector):
    """inputs: lidar (P, 6), lidar_counts (B,) -> Prediction; features "encoder1".."encoder3" and "neck"."""

    def __init__(self, spec: ModelSpec, config: CenterPointConfig = CenterPointConfig()) -> None:
        super().__init__(spec)
        self.config, self.turn = config, Turn(config.frame, spec)
        self.encoder = SecondEncoder(config.point_layers[-1], config.second)
        grid = pillar_grid(grid_in(config.frame, spec.grid), round(self.encoder.strides["neck"]))
        self.pillars = PillarEncoder(POINT_CHANNELS, grid, config.point_layers, config.z_range, config.room)
        self.head = CenterHead(self.encoder.channels["neck"], spec.classes, config.head)
        self.tasks = self.head.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Prediction:
        canvas, _ = self.pillars(self.turn.inputs(inputs)["lidar"], batch_size(inputs))
        maps = self.encoder(canvas)
        heatmap, regression, aux = self.head(maps["neck"])
        return self.turn.prediction(Prediction(heatmap, regression, aux=aux, features=maps))
