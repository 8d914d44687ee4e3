"""What the experiments share: sensors of nuScenes, grids, image sizes, LiDAR sweeps, and the recipes of small runs.

Paper size is each paper's own; small is for the synthetic set on two cores; tiny is for tests and training.overfit.
"""

from __future__ import annotations

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, NmsGroup, RadarSpec, TemporalSpec
from training.data.augment import Augmentation
from training.data.config import LidarConfig
from training.losses.detection import LossConfig
from training.models.detector import SIX_TASKS
from training.models.pillar_encoder import Z_RANGE
from training.schedules import OptimConfig

# nuScenes channel names in the order of the LiDAR's sweep; the last camera is the anchor on the vehicle.
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
# Metres between the centres of two objects of one class. PAPER: the roots of CenterPoint's 4, 12, 10, 1, 0.85, 0.175,
# which its code compares with squares (Yin et al., CVPR 2021; det3d's configuration with circular NMS). Small networks
# on cells of 0.8 m score a little more with wider ones (docs/lab_notes/town_student.md).
NMS_RADIUS = {
    "car": 2.0, "truck": 3.0, "construction_vehicle": 3.0, "bus": 4.0, "trailer": 4.0,
    "barrier": 1.0, "motorcycle": 1.0, "bicycle": 1.0, "pedestrian": 0.6, "traffic_cone": 0.5,
}  # fmt: skip
PAPER_NMS_RADIUS = {
    "car": 2.0, "truck": 3.464, "construction_vehicle": 3.464, "bus": 3.162, "trailer": 3.162,
    "barrier": 1.0, "motorcycle": 0.922, "bicycle": 0.922, "pedestrian": 0.418, "traffic_cone": 0.418,
}  # fmt: skip

# Cells: 128 x 128 of 0.8 m (BEVDet, BEVDepth, CenterPoint on pillars), 180 x 180 of 0.6 m (PillarNet, RadarDistill).
GRID = BevGrid()
GRID_54 = BevGrid(-54.0, 54.0, -54.0, 54.0, 0.6)
# Tiny runs see the nearest 25.6 m: a quarter of the cells, and all the kinds of things that can go wrong.
TINY_GRID = BevGrid(-25.6, 25.6, -25.6, 25.6, 0.8)
PAPER_IMAGE = ImageSpec(256, 704)
SMALL_IMAGE = ImageSpec(128, 352)
TINY_IMAGE = ImageSpec(64, 192)
RADAR_MAP = RadarSpec()
# Candidates: at paper size 500 of each of six tasks. NMS over all classes of a task together, of which 83 boxes stay:
# six times that is the most that nuScenes scores in a sample.
TOP_K, PAPER_TOP_K = 500, 500 * len(SIX_TASKS)
# Circles: BEVDepth, CRN. Overlaps: CenterPoint, MVP, PillarNet, RadarDistill. Scaled overlaps: BEVDet, BEVDet4D,
# FB-BEV; and BEVFusion, whose released row has circles for cars, too.
CIRCLES = tuple(NmsGroup(task, most=83) for task in SIX_TASKS)
OVERLAPS = tuple(NmsGroup(task, iou=0.2, most=83) for task in SIX_TASKS)
SCALED_OVERLAPS = tuple(
    NmsGroup(task, iou, scale, most=83)
    for task, iou, scale in zip(
        SIX_TASKS,
        (0.2, 0.2, 0.2, 0.0, 0.2, 0.5),
        ((1.0,), (0.7, 0.7), (0.4, 0.55), (), (1.0, 1.0), (4.5, 9.0)),
        strict=True,
    )
)
# Boxes count four times as much as usual: what is learnt by heart must be exact, and soon.
TINY_LOSSES = LossConfig(box=1.0, velocity=1.0, velocity_beta=1.0, depth=0.3, depth_form="cross_entropy", semantic=0.3)

# BEV augmentation of a network that sees no image: the image ranges have nothing to act on.
POINTS_ONLY = Augmentation(
    image_scale=(1.0, 1.0), image_rotation_deg=0.0, image_flip=0.0, brightness=0.0, contrast=0.0,
    drop_camera=0.0, drop_all_cameras=0.0, drop_radar=0.0, drop_all_radars=0.0, drop_prev=0.0,
)  # fmt: skip


def spec(
    name: str,
    *,
    cameras: tuple[str, ...] = (),
    radars: tuple[str, ...] = (),
    state: int = 0,
    grid: BevGrid = GRID,
    image: ImageSpec = PAPER_IMAGE,
    radar: RadarSpec = RADAR_MAP,
    nms: tuple[NmsGroup, ...] = (),
    max_age_s: float = TemporalSpec.max_age_s,
) -> ModelSpec:
    """Facts of a model on nuScenes' vehicle; state: channels of its memory, 0 for none, max_age_s: the oldest used.
    nms: as published, with as many candidates as that is for."""
    radius, top_k = (PAPER_NMS_RADIUS, PAPER_TOP_K) if nms else (NMS_RADIUS, TOP_K)
    return ModelSpec(
        name, cameras, radars, dict.fromkeys(CLASSES, 0.25), radius, grid=grid, image=image, radar=radar,
        temporal=TemporalSpec(state_channels=state, max_age_s=max_age_s), nms=nms,
        top_k=top_k,
    )  # fmt: skip


def lidar_over(grid: BevGrid) -> LidarConfig:
    """Ten sweeps over the grid's range and the papers' heights, -5 to 3 m in the LiDAR's frame."""
    return LidarConfig(bounds=(grid.x_min, grid.y_min, Z_RANGE[0], grid.x_max, grid.y_max, Z_RANGE[1]))


def small_optim(lr: float = 1.5e-3, steps: int = 1000) -> OptimConfig:
    """For the synthetic set: one cosine, about three epochs of it."""
    return OptimConfig(lr=lr, steps=steps, clip_norm=10.0)


def tiny_optim(lr: float = 4e-3, steps: int = 300) -> OptimConfig:
    """For learning a few keyframes by heart: no weight decay holds the weights back."""
    return OptimConfig(lr=lr, steps=steps, warmup_steps=20, weight_decay=0.0, clip_norm=10.0)
