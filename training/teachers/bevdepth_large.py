"""BEVDepth with a large image backbone: the camera teacher of BEV-LGKD (2022, IEEE T-IV 2023), ConvNeXt-B.

The network is the student's (training.models.bevdet); the paper's grid is 256 x 256 cells of 0.4 m.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from training.models.bevdet import BevDepthConfig, bevdepth_camera
from training.models.camera_bev import CameraBevConfig


def convnext_base_camera() -> CameraBevConfig:
    """BEVDepth's image branch with ConvNeXt-B."""
    camera = bevdepth_camera()
    return dataclasses.replace(camera, image=dataclasses.replace(camera.image, backbone="convnext_base"))


@dataclass(frozen=True)
class BevDepthLargeConfig(BevDepthConfig):
    """BEVDepth's configuration with other defaults."""

    camera: CameraBevConfig = field(default_factory=convnext_base_camera)
