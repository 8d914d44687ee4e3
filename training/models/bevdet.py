"""BEVDet and what came of it: lift, memory, BEV encoder, CenterPoint's head. One network, whose configs say what the
papers differ in.

BEVDet (Huang et al., arXiv 2112.11790): one frame, whose depth nothing supervises.
BEVDet4D (Huang & Huang, arXiv 2203.17054): the earlier frame's map aligned and concatenated, after residual blocks that
see both frames before they are joined.
BEVDepth (Li et al., AAAI 2023): two frames, depth from a camera-aware network that LiDAR supervises, refined along the
rays, and an encoder of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models.backbones.resnet import make_layer, make_plain_layer
from training.models.bev_encoder import BevDepthEncoderConfig, BevEncoderConfig
from training.models.bev_tail import BevTail
from training.models.camera_bev import CameraBev, CameraBevConfig
from training.models.center_head import HeadConfig
from training.models.depth_net import DepthNetConfig
from training.models.detector import Memory, Prediction
from training.models.frame import EGO, Frame, Turn, spec_in
from training.models.image_branch import ImageConfig
from training.models.temporal_fusion import TemporalConfig
from training.models.view.depth_bins import DepthBins


@dataclass(frozen=True)
class BevDetConfig:
    """BEVDet-R50 by default: 59 bins of 1 m, 64 channels lifted, encoder 128, 256, 512, neck 256.

    before_blocks: residual blocks between the lift and the alignment of the earlier map. frame: what it computes in;
    with the encoder's plain_shortcuts and the camera's frustum "lss" the network is the one of the released weights.
    """

    camera: CameraBevConfig = field(default_factory=CameraBevConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    encoder: BevEncoderConfig = field(default_factory=BevEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    before_blocks: int = 0
    frame: Frame = EGO


@dataclass(frozen=True)
class BevDet4DConfig:
    """BEVDet4D-R50 by default: BEVDet with an earlier frame.

    Velocity is regressed in m/s, for which the interval between the two frames is an input. displacement: the last
    layer gives metres between the two frames instead, as the original's does, which are divided by the interval.
    """

    camera: CameraBevConfig = field(default_factory=CameraBevConfig)
    before_blocks: int = 2
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig("concat"))
    encoder: BevEncoderConfig = field(default_factory=BevEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    frame: Frame = EGO
    displacement: bool = False


def bevdepth_camera() -> CameraBevConfig:
    """BEVDepth-R50: all four maps at stride 16, 112 bins of 0.5 m from 2 m, 80 channels."""
    image = ImageConfig("resnet50", neck="second", stride=16, channels=512)
    return CameraBevConfig(image, DepthBins(2.0, 0.5, 112), 80, DepthNetConfig(), refine=True, aux=("depth",))


@dataclass(frozen=True)
class BevDepthConfig:
    """BEVDepth-R50 with two keyframes by default.

    The earlier frame is the keyframe before, half a second back, no sweep (key_idxes = [-1] of the released
    bev_depth_lss_r50_256x704_128x128_24e_2key.py). The released code lifts its images straight into the current frame
    and takes the current frame once more where a scene begins; here the map that was kept is warped, as the vehicle
    must, and where there is none the network is told so.
    """

    camera: CameraBevConfig = field(default_factory=bevdepth_camera)
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig("concat"))
    encoder: BevDepthEncoderConfig = field(default_factory=BevDepthEncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    before_blocks: int = 0
    frame: Frame = EGO


class BevDet(nn.Module):
    """A detector as training.models.detector describes. Its state is the map that the next frame is joined with, after
    the residual blocks."""

    training_only = ("camera.semantic",)

    def __init__(
        self, spec: ModelSpec, config: BevDetConfig | BevDet4DConfig | BevDepthConfig = BevDetConfig()
    ) -> None:
        super().__init__()
        self.spec, self.config, self.bins = spec, config, config.camera.bins
        self.turn, own = Turn(config.frame, spec), spec_in(config.frame, spec)
        self.camera = CameraBev(own, config.camera)
        channels = self.camera.channels
        plain = isinstance(config.encoder, BevEncoderConfig) and config.encoder.plain_shortcuts
        make = make_plain_layer if plain else make_layer
        self.before: nn.Module = (
            make(channels, channels, config.before_blocks, 1) if config.before_blocks else nn.Identity()
        )
        self.tail = BevTail(channels, own, config.temporal, config.encoder, config.head)
        self.tasks = self.tail.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        lifted = self.camera(self.turn.inputs(inputs))
        prediction = self.tail(self.before(lifted.bev), self.turn.memory(memory), lifted.aux)
        if isinstance(self.config, BevDet4DConfig) and self.config.displacement:
            prediction.regression = self._per_second(prediction.regression, memory)
        return self.turn.prediction(prediction)

    def _per_second(self, regression: Tensor, memory: Memory | None) -> Tensor:
        """Boxes whose last two channels are metres between two frames -> m/s; without an earlier frame the spec's
        interval is meant, as the vehicle says it."""
        boxes, displacement = regression[:, :, :-2], regression[:, :, -2:]
        if memory is None:
            return torch.cat([boxes, displacement / self.spec.temporal.interval_s], dim=2)
        return torch.cat([boxes, displacement / memory.dt.reshape(-1, 1, 1, 1, 1)], dim=2)

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.tail.state(self.before(self.camera(self.turn.inputs(inputs)).bev), self.turn.memory(memory))
