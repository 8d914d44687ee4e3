"""The shipped demo student: camera + radar + temporal fusion on synthetic drives."""

from __future__ import annotations

from bev_perception.model_spec import CLASSES, ModelSpec
from training.data.augment import Augmentation
from training.data.config import DataConfig
from training.losses import LossConfig
from training.models.camera_radar import StudentConfig
from training.run import OptimConfig, Run

# nuScenes channel names in the order of the LiDAR's sweep; the last camera is the anchor on the vehicle.
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
# Metres between two peaks of one class: about half a length, less for what stands in groups (CenterPoint's circle NMS).
NMS_RADIUS = {
    "car": 2.0, "truck": 3.0, "construction_vehicle": 3.0, "bus": 4.0, "trailer": 4.0,
    "barrier": 1.0, "motorcycle": 1.0, "bicycle": 1.0, "pedestrian": 0.6, "traffic_cone": 0.5,
}  # fmt: skip


# Velocity counts fully and smoothly: the run is short, and most objects stand (docs/results.md).
LOSSES = LossConfig(velocity=1.0, velocity_beta=5.0, depth=0.3, depth_form="cross_entropy", semantic=0.3)
# Earlier frames are half a second old, one in five a second.
DATA = DataConfig(Augmentation(drop_all_radars=0.3), history=1, interval=(0.35, 0.85))


def demo_spec() -> ModelSpec:
    """Facts of the demo student."""
    return ModelSpec("demo_camera_radar", CAMERAS, RADARS, dict.fromkeys(CLASSES, 0.25), NMS_RADIUS)


def full() -> Run:
    """The shipped bundle: see bev_perception/bundles/demo/MODEL_CARD.md for command, duration and scores."""
    optim = OptimConfig(lr=1.2e-3, steps=2600, clip_norm=10.0)
    return Run("camera_radar", StudentConfig(), demo_spec(), optim, LOSSES, DATA)


def finetune() -> Run:
    """The last part of the shipped bundle's training: `--init` an earlier checkpoint of `full`."""
    optim = OptimConfig(lr=8e-4, warmup_steps=50, steps=2000, clip_norm=10.0)
    return Run("camera_radar", StudentConfig(), demo_spec(), optim, LOSSES, DATA, seed=2)


def tiny() -> Run:
    """A few steps of the same network, for tests."""
    optim = OptimConfig(steps=4, warmup_steps=1)
    return Run("camera_radar", StudentConfig(), demo_spec(), optim, LOSSES, DATA, batch_size=2)
