"""The smallest sizes of every network, shared by the tests: name in STUDENTS or TEACHERS -> config."""

from __future__ import annotations

from typing import Any

from training.models.bev_encoder import BevDepthEncoderConfig, BevEncoderConfig, SecondConfig
from training.models.bevdet import BevDepthConfig, BevDet4DConfig, BevDetConfig
from training.models.bevformer import BevFormerConfig
from training.models.bevfusion import BevFusionConfig
from training.models.camera_bev import CameraBevConfig
from training.models.camera_radar import StudentConfig
from training.models.center_head import HeadConfig
from training.models.crn import CrnConfig, MfaConfig
from training.models.depth_net import DepthNetConfig
from training.models.detector import ONE_TASK
from training.models.fbbev import BackwardConfig, FbBevConfig
from training.models.image_branch import ImageConfig
from training.models.pillar_backbone import PillarBackboneConfig
from training.models.query_head import QueryHeadConfig
from training.models.radar_pillarnet import RadarPillarNetConfig
from training.models.temporal_fusion import TemporalConfig
from training.models.view.depth_bins import DepthBins
from training.teachers.bevdepth_large import BevDepthLargeConfig
from training.teachers.centerpoint import CenterPointConfig
from training.teachers.lidar_transformer import LidarTransformerConfig
from training.teachers.mvp import MVPConfig
from training.teachers.pillarnet import PillarNetConfig
from training.teachers.voxelnet import VoxelNetConfig

BINS = DepthBins(1.0, 1.0, 12)
DEPTH_NET = DepthNetConfig(mid=16, aspp=8, blocks=1, dilations=(1, 2), deform_groups=2, dropout=0.0)
ENCODER, DEPTH_ENCODER = BevEncoderConfig((8, 8, 16), 1, 16), BevDepthEncoderConfig(8, (1, 1, 1), 4)
HEAD, WIDE_HEAD = HeadConfig(ONE_TASK, 16, 16), HeadConfig(ONE_TASK, 32, 32)
CONCAT = TemporalConfig("concat")
LIFTED = CameraBevConfig(ImageConfig("resnet18", width=8, stride=16, channels=16), BINS, 8, aux=("semantic",))
# Pillars of half a cell.
RADAR_PILLARS = PillarBackboneConfig((8, 8, 16, 16, 24), (2, 1, 1), (1, 1, 1, 1, 1), 1)
LIDAR_PILLARS = PillarBackboneConfig((8, 16, 32, 32, 48), (2, 1, 1), (1, 1, 1, 1, 1), 1)
SECOND = SecondConfig((1, 2, 2), (2, 2, 2), (16, 32, 64), (1.0, 2.0, 4.0), 24)


def with_depth(width: int = 8, refine: bool = False) -> CameraBevConfig:
    """BEVDepth's depth network, which LiDAR supervises."""
    image = ImageConfig("resnet18", width=width, neck="second", stride=16, channels=16)
    return CameraBevConfig(image, BINS, 8, DEPTH_NET, refine, aux=("depth",))


def fused() -> CameraBevConfig:
    """A fusion student's camera branch."""
    image = ImageConfig("resnet18", width=8, neck="second", stride=8, channels=16)
    return CameraBevConfig(image, BINS, 8, aux=("depth", "semantic"))


CONFIGS: dict[str, Any] = {
    "camera_radar": StudentConfig((1, 1, 1, 1), 8, 16, 8, 16, 16, BINS, 8),
    "bevdet": BevDetConfig(LIFTED, encoder=ENCODER, head=HEAD),
    "bevdet4d": BevDet4DConfig(LIFTED, 1, CONCAT, ENCODER, HEAD),
    "bevdepth": BevDepthConfig(with_depth(refine=True), CONCAT, DEPTH_ENCODER, HEAD),
    "bevformer": BevFormerConfig(
        ImageConfig("resnet18", width=8, stride=16, channels=16, levels=2), 2, 4, 4, 2, 32, 0.0, (0.0, 1.5), HEAD
    ),
    "fbbev": FbBevConfig(
        with_depth(), BackwardConfig(2, 4, 16, 0.0, (0.0, 1.5)), TemporalConfig("history", 2, 12), ENCODER, HEAD
    ),
    "radar_pillarnet": RadarPillarNetConfig(RADAR_PILLARS, head=HeadConfig(ONE_TASK, 16, 16, iou=True)),
    "bevfusion": BevFusionConfig(
        fused(), (8, 8), 12, encoder=BevEncoderConfig((8, 12, 16), 1, 16, (2, 2, 1)), head=HEAD
    ),
    "crn": CrnConfig(
        fused().image, BINS, 8, DEPTH_NET, (8, 8), (8, 2), MfaConfig(16, 2, 4, 2, 16, 0.0),
        TemporalConfig("recurrent"), DEPTH_ENCODER, HEAD,
    ),
    "centerpoint": CenterPointConfig((16,), second=SECOND, head=WIDE_HEAD),
    "centerpoint_voxel": VoxelNetConfig(
        (8, 8, 16, 16), 1, 0.25, second=SecondConfig((1, 1), (1, 2), (16, 32), (1.0, 2.0), 16), head=WIDE_HEAD
    ),
    "pillarnet": PillarNetConfig(LIDAR_PILLARS, head=HeadConfig(ONE_TASK, 32, 32, iou=True)),
    "mvp": MVPConfig(CenterPointConfig((12,), second=SECOND, head=WIDE_HEAD), (12,)),
    "lidar_transformer": LidarTransformerConfig(LIDAR_PILLARS, head=QueryHeadConfig(100, 32, 2, 4, 4, 64, 0.0)),
    "bevdepth_large": BevDepthLargeConfig(with_depth(16, refine=True), CONCAT, DEPTH_ENCODER, HEAD),
}  # fmt: skip
# Channels of their state; the others have none.
STATES = {"camera_radar": 8, "bevdet4d": 8, "bevdepth": 8, "bevformer": 16, "fbbev": 20, "crn": 16, "bevdepth_large": 8}
