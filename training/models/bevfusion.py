"""BEVFusion with radar (Liu et al., ICRA 2023): camera BEV and radar BEV, concatenated, convolved, decoded.

Its released camera + radar configuration, with what the engine's inputs ask for: radar points have 6 columns or come as
a rasterised map (the original has 45, one-hot states among them), the radar branch is told which share of the radars is
dead, and the PointNet's points or the map's cells pass one more convolution with it. The camera branch is lift-splat
without depth supervision unless config.camera.aux names "depth". A memory of earlier frames is not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models.bev_encoder import BevEncoderConfig
from training.models.bev_tail import BevTail
from training.models.camera_bev import CameraBev, CameraBevConfig, Lifted
from training.models.center_head import HeadConfig, conv_bn_relu
from training.models.detector import Memory, Prediction
from training.models.image_branch import ImageConfig
from training.models.pillar_backbone import PillarBackboneConfig
from training.models.radar_branch import RadarBev
from training.models.radar_pillarnet import RadarPillarTrunk
from training.models.temporal_fusion import TemporalConfig
from training.models.view.depth_bins import DepthBins

# What RadarDistill distils of a radar network.
RADAR_MAPS = ("low1", "low2", "high1", "high2")


def bevfusion_camera() -> CameraBevConfig:
    """R50, all four maps at stride 16 (4 x 128), 59 bins of 1 m, 64 channels."""
    return CameraBevConfig(ImageConfig("resnet50", neck="second", stride=16, channels=512), DepthBins(1.0, 1.0, 59), 64)


@dataclass(frozen=True)
class BevFusionConfig:
    """The released camera + radar configuration (R50, 0.8 m cells). radar: widths of the radar branch's layers; fused:
    channels after the ConvFuser. pillarnet: sizes of RadarDistill's radar network up to its neck, None for the released
    branch; such a branch can start from a trained RadarPillarNet (Bang et al., CVPR 2024, its camera + radar model)."""

    camera: CameraBevConfig = field(default_factory=bevfusion_camera)
    radar: tuple[int, ...] = (128, 128, 128, 64)
    fused: int = 64
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    encoder: BevEncoderConfig = field(default_factory=lambda: BevEncoderConfig(steps=(2, 2, 1)))
    head: HeadConfig = field(default_factory=HeadConfig)
    pillarnet: PillarBackboneConfig | None = None


class BevFusion(nn.Module):
    """A detector as training.models.detector describes, for a spec with cameras and radars (either radar format).

    features: "lift" (camera), "radar", "fused", "encoder1" ..., "neck"; with config.pillarnet "radar_low1",
    "radar_low2", "radar_high1" and "radar_high2", too.
    """

    training_only = ("camera.semantic",)

    def __init__(self, spec: ModelSpec, config: BevFusionConfig = BevFusionConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.camera.bins
        self.camera = CameraBev(spec, config.camera)
        self.radar: RadarBev | RadarPillarTrunk = (
            RadarPillarTrunk(spec, config.pillarnet) if config.pillarnet else RadarBev(spec, config.radar)
        )
        self.fuser = conv_bn_relu(self.camera.channels + self.radar.channels, config.fused)
        self.tail = BevTail(config.fused, spec, config.temporal, config.encoder, config.head)
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        lifted, radar, fused = self._fused(inputs)
        prediction = self.tail(fused, memory, lifted.aux)
        prediction.features |= {"lift": lifted.bev, "fused": fused} | radar
        return prediction

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self._fused(inputs)[2], memory)

    def _fused(self, inputs: dict[str, Tensor]) -> tuple[Lifted, dict[str, Tensor], Tensor]:
        lifted = self.camera(inputs)
        if isinstance(self.radar, RadarPillarTrunk):
            maps = self.radar.maps(inputs)
            radar = {f"radar_{name}": maps[name] for name in RADAR_MAPS} | {"radar": maps["neck"]}
        else:
            radar = {"radar": self.radar(inputs)}
        fused = self.fuser(torch.cat([lifted.bev, radar["radar"].to(lifted.bev.dtype)], dim=1))
        return lifted, radar, fused
