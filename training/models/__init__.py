"""Networks of students: plain nn.Module, torch only."""

from training.models.bevdet import BevDepthConfig, BevDet, BevDet4DConfig, BevDetConfig
from training.models.bevformer import BevFormer, BevFormerConfig
from training.models.bevfusion import BevFusion, BevFusionConfig
from training.models.camera_radar import CameraRadarStudent, StudentConfig
from training.models.crn import Crn, CrnConfig
from training.models.detector import Family, camera_targets
from training.models.fbbev import FbBev, FbBevConfig
from training.models.radar_pillarnet import RadarPillarNet, RadarPillarNetConfig

STUDENTS = {
    "camera_radar": Family(CameraRadarStudent, StudentConfig, lambda config: ("depth", "semantic")),
    "bevdet": Family(BevDet, BevDetConfig, camera_targets),
    "bevdet4d": Family(BevDet, BevDet4DConfig, camera_targets),
    "bevdepth": Family(BevDet, BevDepthConfig, camera_targets),
    "bevformer": Family(BevFormer, BevFormerConfig),
    "fbbev": Family(FbBev, FbBevConfig, camera_targets),
    "radar_pillarnet": Family(RadarPillarNet, RadarPillarNetConfig),
    "bevfusion": Family(BevFusion, BevFusionConfig, camera_targets),
    "crn": Family(Crn, CrnConfig, lambda config: ("depth",)),
}
