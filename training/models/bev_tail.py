"""From a frame's BEV map to boxes: memory, BEV encoder, head. The second half of every BEV student."""

from __future__ import annotations

from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models.bev_encoder import BevDepthEncoderConfig, BevEncoderConfig, encoder_over
from training.models.center_head import CenterHead, HeadConfig
from training.models.detector import Memory, Prediction
from training.models.temporal_fusion import TemporalConfig, fusion_over


class BevTail(nn.Module):
    """(B, channels, X, Y), memory -> Prediction with features "lift", "encoder1" ..., "neck".

    The neck of both encoders has the grid's resolution.
    Raises ValueError when the spec's state is not what `temporal` makes.
    """

    def __init__(
        self,
        channels: int,
        spec: ModelSpec,
        temporal: TemporalConfig,
        encoder: BevEncoderConfig | BevDepthEncoderConfig,
        head: HeadConfig,
    ) -> None:
        super().__init__()
        self.temporal = fusion_over(channels, temporal, spec)
        self.encoder = encoder_over(self.temporal.out_channels, encoder)
        self.head = CenterHead(self.encoder.channels["neck"], spec.classes, head)
        self.tasks = self.head.tasks

    def forward(self, bev: Tensor, memory: Memory | None, aux: dict[str, Tensor]) -> Prediction:
        fused, state = self.temporal(bev, memory)
        maps = self.encoder(fused)
        heatmap, regression, head_aux = self.head(maps["neck"])
        return Prediction(heatmap, regression, state, aux | head_aux, {"lift": bev} | maps)

    def state(self, bev: Tensor, memory: Memory | None) -> Tensor | None:
        """What the next frame reads, without encoder and head."""
        return self.temporal(bev, memory)[1]
