"""Networks of teachers: what students learn from. Trained and evaluated as students are, then frozen."""

from training.models.bevdet import BevDet
from training.models.detector import Family, camera_targets
from training.teachers.bevdepth_large import BevDepthLargeConfig
from training.teachers.centerpoint import CenterPoint, CenterPointConfig
from training.teachers.lidar_transformer import LidarTransformer, LidarTransformerConfig
from training.teachers.mvp import MVP, MVPConfig
from training.teachers.pillarnet import PillarNet, PillarNetConfig
from training.teachers.voxelnet import VoxelNet, VoxelNetConfig

TEACHERS: dict[str, Family] = {
    "centerpoint": Family(CenterPoint, CenterPointConfig),
    "centerpoint_voxel": Family(VoxelNet, VoxelNetConfig),  # needs spconv
    "pillarnet": Family(PillarNet, PillarNetConfig),
    "mvp": Family(MVP, MVPConfig),
    "lidar_transformer": Family(LidarTransformer, LidarTransformerConfig),
    "bevdepth_large": Family(BevDet, BevDepthLargeConfig, camera_targets),
}
