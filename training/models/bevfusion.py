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
from training.models.bev_encoder import BevEncoder, BevEncoderConfig
from training.models.bev_tail import BevTail
from training.models.camera_bev import CameraBev, CameraBevConfig, Lifted
from training.models.center_head import HeadConfig, conv_bn_relu
from training.models.detector import ONE_TASK, Memory, Prediction
from training.models.image_branch import ImageConfig
from training.models.radar_branch import RadarBev
from training.models.temporal_fusion import TemporalConfig
from training.models.view.depth_bins import DepthBins


def bevfusion_camera() -> CameraBevConfig:
    """R50, all four maps at stride 16 (4 x 128), 59 bins of 1 m, 64 channels."""
    return CameraBevConfig(ImageConfig("resnet50", neck="second", stride=16, channels=512), DepthBins(1.0, 1.0, 59), 64)


@dataclass(frozen=True)
class BevFusionConfig:
    """The released camera + radar configuration (R50, 0.8 m cells). radar: widths of the radar branch's layers; fused:
    channels after the ConvFuser."""

    camera: CameraBevConfig = field(default_factory=bevfusion_camera)
    radar: tuple[int, ...] = (128, 128, 128, 64)
    fused: int = 64
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    encoder: BevEncoderConfig = field(default_factory=lambda: BevEncoderConfig(steps=(2, 2, 1)))
    head: HeadConfig = field(default_factory=HeadConfig)


class BevFusion(nn.Module):
    """A detector as training.models.detector describes, for a spec with cameras and radars (either radar format).

    features: "lift" (camera), "radar", "fused", "encoder1" ..., "neck".
    """

    training_only = ("camera.semantic",)

    def __init__(self, spec: ModelSpec, config: BevFusionConfig = BevFusionConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.camera.bins
        self.camera = CameraBev(spec, config.camera)
        self.radar = RadarBev(spec, config.radar)
        self.fuser = conv_bn_relu(self.camera.channels + self.radar.channels, config.fused)
        self.tail = BevTail(config.fused, spec, config.temporal, lambda c: BevEncoder(c, config.encoder), config.head)
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        lifted, radar, fused = self._fused(inputs)
        prediction = self.tail(fused, memory, lifted.aux)
        prediction.features |= {"lift": lifted.bev, "radar": radar, "fused": fused}
        return prediction

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self._fused(inputs)[2], memory)

    def _fused(self, inputs: dict[str, Tensor]) -> tuple[Lifted, Tensor, Tensor]:
        lifted, radar = self.camera(inputs), self.radar(inputs)
        return lifted, radar, self.fuser(torch.cat([lifted.bev, radar.to(lifted.bev.dtype)], dim=1))


def tiny() -> BevFusionConfig:
    """For tests."""
    image = ImageConfig("resnet18", width=8, neck="second", stride=8, channels=16)
    camera = CameraBevConfig(image, DepthBins(1.0, 1.0, 12), 8, aux=("depth", "semantic"))
    encoder = BevEncoderConfig((8, 12, 16), 1, 16, (2, 2, 1))
    return BevFusionConfig(camera, (8, 8), 12, encoder=encoder, head=HeadConfig(ONE_TASK, 16, 16))
