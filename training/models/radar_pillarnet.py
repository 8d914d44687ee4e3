"""The radar student: PillarNet-18 on radar pillars with Cross-Modality Alignment.

RadarDistill (Bang et al., CVPR 2024): the teacher is PillarNet-18 on LiDAR, the student the same network on radar with
CMA between conv4 and the neck. conv5 comes from conv4 as in the released code, or from what CMA makes of it as in the
paper's text (conv5_from).
Not in the paper: an optional memory of earlier frames over the neck's map, and a learned vector that tells the neck
which share of the radars is dead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.models.center_head import CenterHead, HeadConfig
from training.models.cma import CrossModalityAlignment
from training.models.detector import Memory, Prediction
from training.models.frame import EGO, Frame, Turn, spec_in
from training.models.pillar_backbone import PillarBackbone, PillarBackboneConfig, PillarNeck
from training.models.pillar_encoder import Z_RANGE
from training.models.radar_branch import RadarPillars, deafness
from training.models.temporal_fusion import TemporalConfig, fusion_over

CONV5_FROM = ("conv4", "low2")


@dataclass(frozen=True)
class RadarPillarNetConfig:
    """The paper's by default: grid cells of 0.6 m over 54 m, spec.radar.pillar_step 0.075 m, an IoU branch. cma:
    without it, as in the paper's baseline, F^l1 and F^l2 are conv4 itself. conv5_from: "conv4" (the released code) or
    "low2", the densified F^l2 (the paper's text). frame: what it computes in, z_range too."""

    backbone: PillarBackboneConfig = field(default_factory=PillarBackboneConfig)
    z_range: tuple[float, float] = Z_RANGE
    head: HeadConfig = field(default_factory=lambda: HeadConfig(iou=True))
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    cma: bool = True
    conv5_from: str = "conv4"
    frame: Frame = EGO

    def __post_init__(self) -> None:
        if self.conv5_from not in CONV5_FROM:
            raise ValueError(f"conv5_from must be one of {CONV5_FROM}, found {self.conv5_from!r}")


class RadarPillarTrunk(nn.Module):
    """Radar pillars -> maps on the spec's grid, without a head: RadarPillarNet's, and fusion students' radar branch.

    maps(inputs): "conv4", "conv5", "low1", "low2" (F^l1, F^l2: what CMA makes of conv4), "high1" (F^h1: conv5 on the
    head's grid), "high2" (F^h2: the neck's map, also "neck"). Raises ValueError for a spec that does not fit.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backbone: PillarBackboneConfig,
        z_range: tuple[float, float] = Z_RANGE,
        cma: bool = True,
        conv5_from: str = "conv4",
    ) -> None:
        super().__init__()
        if not spec.radars or spec.radar.format != "pillars":
            raise ValueError(
                f'RadarPillarNet wants radars and spec.radar.format "pillars", found {spec.radars}, {spec.radar.format}'
            )
        if spec.pillar_grid().shape != tuple(side * backbone.stride for side in spec.grid.shape):
            raise ValueError(
                f"RadarPillarNet with strides {backbone.strides} wants spec.radar.pillar_step = grid.step / "
                f"{backbone.stride} = {spec.grid.step / backbone.stride}, found {spec.radar.pillar_step}"
            )
        if any(side % 4 for side in spec.grid.shape):
            raise ValueError(f"CMA halves the grid twice: its sides must be multiples of 4, found {spec.grid.shape}")
        self.channels = low = backbone.channels[3]
        self.pillars = RadarPillars(spec.pillar_grid(), backbone.channels[:1], z_range)
        self.backbone, self.conv5_from = PillarBackbone(backbone), conv5_from
        self.cma = CrossModalityAlignment(low) if cma else None
        self.deaf = nn.Parameter(torch.zeros(1, low, 1, 1))
        self.neck = PillarNeck(backbone)

    def maps(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        pillars = self.pillars(inputs["radar_points"], inputs["radar_counts"], inputs["radar_cells"])
        maps = {"conv4": self.backbone.sparse(*pillars)["conv4"]}
        maps["low1"], maps["low2"] = self.cma(maps["conv4"]) if self.cma else (maps["conv4"], maps["conv4"])
        maps["conv5"] = self.backbone.conv5(maps[self.conv5_from])
        low = maps["low2"] + self.deaf * deafness(inputs["radar_valid"]).to(maps["low2"].dtype)
        maps["high1"] = self.neck.up(maps["conv5"])
        maps["high2"] = self.neck.join(low, maps["high1"])
        return maps | {"neck": maps["high2"]}


class RadarPillarNet(RadarPillarTrunk):
    """inputs: radar_points, radar_counts, radar_cells, radar_valid of a spec whose radar.format is "pillars".

    features: the trunk's maps. The LiDAR teacher's counterparts of low1, low2, high1, high2 are conv4, conv4, high,
    neck. The trunk is a base, not a part, so that weights have the names of the teacher's.
    Raises ValueError for a spec that does not fit.
    """

    bins: None = None
    training_only: tuple[str, ...] = ()

    def __init__(self, spec: ModelSpec, config: RadarPillarNetConfig = RadarPillarNetConfig()) -> None:
        own = spec_in(config.frame, spec)
        super().__init__(own, config.backbone, config.z_range, config.cma, config.conv5_from)
        self.spec, self.config, self.turn = spec, config, Turn(config.frame, spec)
        self.temporal = fusion_over(self.neck.out_channels, config.temporal, own)
        self.head = CenterHead(self.temporal.out_channels, spec.classes, config.head)
        self.tasks = self.head.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Prediction:
        maps = self.maps(self.turn.inputs(inputs))
        fused, state = self.temporal(maps["neck"], self.turn.memory(memory))
        heatmap, regression, aux = self.head(fused)
        return self.turn.prediction(Prediction(heatmap, regression, state, aux, maps))

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> Tensor | None:
        return self.temporal(self.maps(self.turn.inputs(inputs))["neck"], self.turn.memory(memory))[1]
