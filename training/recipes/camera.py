"""What the camera students' experiments share: augmentation, data and image branches at each size."""

from __future__ import annotations

import dataclasses

from bev_perception.model_spec import ImageSpec
from training.data.augment import NO_AUGMENTATION, Augmentation
from training.data.config import DataConfig
from training.losses.detection import LossConfig
from training.models.bev_encoder import BevEncoderConfig
from training.models.camera_bev import CameraBevConfig
from training.models.center_head import HeadConfig
from training.models.depth_net import DepthNetConfig
from training.models.detector import ONE_TASK
from training.models.image_branch import ImageConfig
from training.models.view.depth_bins import DepthBins
from training.schedules import OptimConfig

# BEVDet (Huang et al., 2021) adds -0.06 to 0.11 to 704 / 1600, the scale of nuScenes' images; the paper's 0.38 to 0.55.
# Rotation 5.4 degrees, flips; BEV flips, 22.5 degrees, 5 % of scale. Nothing photometric and no dropout of sensors.
NUSCENES_WIDTH = 1600
BEVDET_AUGMENTATION = dataclasses.replace(
    NO_AUGMENTATION,
    image_rotation_deg=5.4, image_flip=0.5,
    bev_flip_x=0.5, bev_flip_y=0.5, bev_rotation_deg=22.5, bev_scale=(0.95, 1.05),
)  # fmt: skip
# It tests with 0.48 of the image (`resize_test`), 768 columns of which the middle 704 are kept.
BEVDET_IMAGE = ImageSpec(256, 704, zoom=768 / 704)
# BEVDet, configs/bevdet/bevdet-r50.py: AdamW 2e-4 for a batch of 64, a tenth of it after epochs 16 and 22 of 24.
BEVDET_OPTIM = OptimConfig(
    lr=2e-4, weight_decay=0.01, decay_norms=True, warmup_steps=500, warmup_start=1e-3, steps=None, epochs=24,
    schedule="step", clip_norm=0.0,
)  # fmt: skip
IMAGENET = "ImageNet (torchvision)"

# The synthetic set. A camera student always keeps a camera.
SMALL_AUGMENTATION = Augmentation(drop_all_cameras=0.0, drop_camera=0.05, drop_prev=0.1)
# Short runs: velocity counts fully and smoothly (docs/lab_notes/velocity.md).
SMALL_LOSSES = LossConfig(velocity=1.0, velocity_beta=5.0, depth=0.3, depth_form="cross_entropy", semantic=0.3)
SMALL_HEAD = HeadConfig(ONE_TASK, 48, 48)
SMALL_ENCODER = BevEncoderConfig((64, 96, 128), 1, 64)
SMALL_DEPTH_NET = DepthNetConfig(mid=64, aspp=32, blocks=1, dilations=(1, 2, 4), deform_groups=4, dropout=0.0)
SMALL_BINS = DepthBins(1.0, 1.0, 56)
SMALL_STRIDE = 8
SMALL_CHANNELS = 48  # of the BEV map

TINY_HEAD = HeadConfig(ONE_TASK, 32, 32)
TINY_ENCODER = BevEncoderConfig((32, 32, 48), 1, 32)
TINY_DEPTH_NET = DepthNetConfig(mid=32, aspp=16, blocks=1, dilations=(1, 2), deform_groups=2, dropout=0.0)
TINY_BINS = DepthBins(1.0, 2.0, 28)
TINY_CHANNELS = 24


def small_image(neck: str = "fpn") -> ImageConfig:
    """ResNet-18 of width 32 to 64 channels at stride 8."""
    return ImageConfig("resnet18", width=32, neck=neck, stride=SMALL_STRIDE, channels=64)


def tiny_image(neck: str = "fpn") -> ImageConfig:
    """ResNet-18 of width 16 to 32 channels at stride 8."""
    return ImageConfig("resnet18", width=16, neck=neck, stride=SMALL_STRIDE, channels=32)


def small_camera(depth: bool, refine: bool = False) -> CameraBevConfig:
    """depth: BEVDepth's network, which LiDAR supervises, instead of one convolution that nothing supervises."""
    net = SMALL_DEPTH_NET if depth else None
    aux = ("depth", "semantic") if depth else ("semantic",)
    return CameraBevConfig(small_image("second" if depth else "fpn"), SMALL_BINS, SMALL_CHANNELS, net, refine, aux)


def tiny_camera(depth: bool, refine: bool = False) -> CameraBevConfig:
    """As `small_camera`, for tests and training.overfit."""
    net = TINY_DEPTH_NET if depth else None
    aux = ("depth", "semantic") if depth else ("semantic",)
    return CameraBevConfig(tiny_image("second" if depth else "fpn"), TINY_BINS, TINY_CHANNELS, net, refine, aux)


def scaled(augmentation: Augmentation, image: ImageSpec, least: float, most: float) -> Augmentation:
    """With images of `least` to `most` of nuScenes' size, as published code says it; image: what the network sees."""
    seen = image.scaled_width / NUSCENES_WIDTH
    return dataclasses.replace(augmentation, image_scale=(least / seen, most / seen))


def paper_data(history: int = 0, interval: tuple[float, float] | None = None) -> DataConfig:
    """BEVDet's augmentation, class-balanced samples, image features at stride 16."""
    augmentation = scaled(BEVDET_AUGMENTATION, BEVDET_IMAGE, 0.38, 0.55)
    return DataConfig(augmentation, history, interval, cbgs=True, depth_stride=16)


def frozen(image: ImageConfig, stages: int, norms: bool = False) -> ImageConfig:
    """With a part that never learns (mmdetection's frozen_stages, norm_eval)."""
    return dataclasses.replace(image, frozen_stages=stages, fixed_norms=norms)


def small_data(history: int = 0) -> DataConfig:
    """A student is not tied to one rate: earlier frames are a tenth of a second old or more where cameras fire as
    often, and where they fire at 2 Hz most are half a second old, one in five a second."""
    interval = (0.1, 0.9) if history else None
    return DataConfig(SMALL_AUGMENTATION, history, interval, depth_stride=SMALL_STRIDE)


def tiny_data(history: int = 0) -> DataConfig:
    """No augmentation: what training.overfit learns by heart."""
    return DataConfig(NO_AUGMENTATION, history, depth_stride=SMALL_STRIDE)
