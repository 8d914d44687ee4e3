"""BEVDepth (Li et al., AAAI 2023): depth from a camera-aware network that LiDAR supervises, refined along the rays."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from bev_perception.model_spec import CLASSES, ModelSpec
from training.models.bev_encoder import BevDepthEncoder, BevDepthEncoderConfig
from training.models.bev_tail import BevTail
from training.models.camera_bev import CameraBev, CameraBevConfig
from training.models.center_head import HeadConfig
from training.models.depth_net import DepthNetConfig
from training.models.detector import Memory, Prediction
from training.models.image_branch import ImageConfig
from training.models.temporal_fusion import TemporalConfig
from training.models.view.depth_bins import DepthBins


def bevdepth_camera() -> CameraBevConfig:
    """BEVDepth-R50: all four maps at stride 16, 112 bins of 0.5 m from 2 m, 80 channels."""
    image = ImageConfig("resnet50", neck="second", stride=16, channels=512)
    return CameraBevConfig(image, DepthBins(2.0, 0.5, 112), 80, DepthNetConfig(), refine=True, aux=("depth",))


@dataclass(frozen=True)
class BevDepthConfig:
    """BEVDepth-R50 with two keyframes by default."""

    camera: CameraBevConfig = field(default_factory=bevdepth_camera)
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig("concat"))
    encoder: BevDepthEncoderConfig = field(default_factory=BevDepthEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


class BevDepth(nn.Module):
    """A detector as training.models.detector describes."""

    training_only = ("camera.semantic",)

    def __init__(self, spec: ModelSpec, config: BevDepthConfig = BevDepthConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.camera.bins
        self.camera = CameraBev(spec, config.camera)
        self.tail = BevTail(
            self.camera.channels, spec, config.temporal, lambda c: BevDepthEncoder(c, config.encoder), config.head
        )
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        lifted = self.camera(inputs)
        return self.tail(lifted.bev, memory, lifted.aux)

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self.camera(inputs).bev, memory)


def tiny() -> BevDepthConfig:
    """For tests."""
    image = ImageConfig("resnet18", width=8, neck="second", stride=16, channels=16)
    depth_net = DepthNetConfig(mid=16, aspp=8, blocks=1, dilations=(1, 2), deform_groups=2, dropout=0.0)
    camera = CameraBevConfig(image, DepthBins(1.0, 1.0, 12), 8, depth_net, refine=True, aux=("depth",))
    return BevDepthConfig(camera, encoder=BevDepthEncoderConfig(8, (1, 1, 1), 4), head=HeadConfig((CLASSES,), 16, 16))
