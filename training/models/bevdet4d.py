"""BEVDet4D (Huang & Huang, arXiv 2203.17054): BEVDet with the earlier frame's map aligned and concatenated."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models import bevdet
from training.models.backbones.resnet import make_layer
from training.models.bev_encoder import BevEncoder, BevEncoderConfig
from training.models.bev_tail import BevTail
from training.models.camera_bev import CameraBev, CameraBevConfig
from training.models.center_head import HeadConfig
from training.models.detector import Memory, Prediction
from training.models.temporal_fusion import TemporalConfig


@dataclass(frozen=True)
class BevDet4DConfig:
    """BEVDet4D-R50 by default. before_blocks: residual blocks between the lift and the alignment."""

    camera: CameraBevConfig = field(default_factory=CameraBevConfig)
    before_blocks: int = 2
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig("concat"))
    encoder: BevEncoderConfig = field(default_factory=BevEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


class BevDet4D(nn.Module):
    """A detector as training.models.detector describes.

    The residual blocks see both frames before they are joined: the state is what they give. Velocity is regressed in
    m/s; the original regresses the displacement between its two frames, whose interval here is an input instead.
    """

    training_only = ("camera.semantic",)

    def __init__(self, spec: ModelSpec, config: BevDet4DConfig = BevDet4DConfig()) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.camera.bins
        self.camera = CameraBev(spec, config.camera)
        channels = self.camera.channels
        self.before = make_layer(channels, channels, config.before_blocks, 1)
        self.tail = BevTail(channels, spec, config.temporal, lambda c: BevEncoder(c, config.encoder), config.head)
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        lifted = self.camera(inputs)
        return self.tail(self.before(lifted.bev), memory, lifted.aux)

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self.before(self.camera(inputs).bev), memory)


def tiny() -> BevDet4DConfig:
    """For tests."""
    base = bevdet.tiny()
    return BevDet4DConfig(base.camera, before_blocks=1, encoder=base.encoder, head=base.head)
