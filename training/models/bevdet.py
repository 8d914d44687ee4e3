"""BEVDet (Huang et al., arXiv 2112.11790): lift-splat, a BEV encoder, CenterPoint's head; one frame by default."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from bev_perception.model_spec import CLASSES, ModelSpec
from training.models.bev_encoder import BevEncoder, BevEncoderConfig
from training.models.bev_tail import BevTail
from training.models.camera_bev import CameraBev, CameraBevConfig
from training.models.center_head import HeadConfig
from training.models.detector import Memory, Prediction
from training.models.image_branch import ImageConfig
from training.models.temporal_fusion import TemporalConfig
from training.models.view.depth_bins import DepthBins


@dataclass(frozen=True)
class BevDetConfig:
    """BEVDet-R50 by default: 59 bins of 1 m, 64 channels lifted, encoder 128, 256, 512, neck 256."""

    camera: CameraBevConfig = field(default_factory=CameraBevConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    encoder: BevEncoderConfig = field(default_factory=BevEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


class BevDet(nn.Module):
    """A detector as training.models.detector describes."""

    training_only = ("camera.semantic",)

    def __init__(self, spec: ModelSpec, config: BevDetConfig = BevDetConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.camera.bins
        self.camera = CameraBev(spec, config.camera)
        self.tail = BevTail(
            self.camera.channels, spec, config.temporal, lambda c: BevEncoder(c, config.encoder), config.head
        )
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        lifted = self.camera(inputs)
        return self.tail(lifted.bev, memory, lifted.aux)

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self.camera(inputs).bev, memory)


def tiny() -> BevDetConfig:
    """For tests."""
    image = ImageConfig("resnet18", width=8, stride=16, channels=16)
    camera = CameraBevConfig(image, DepthBins(1.0, 1.0, 12), context=8, aux=("semantic",))
    return BevDetConfig(camera, encoder=BevEncoderConfig((8, 8, 16), 1, 16), head=HeadConfig((CLASSES,), 16, 16))
