"""The tiny data set as its datasets see it, shared by the tests of loading."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, TemporalSpec
from training.data.clips import ClipDataset
from training.data.config import PLAIN, DataConfig, LidarConfig
from training.data.lidar import sweep_clouds
from training.data.nuscenes import Keyframe, open_nuscenes
from training.data.source import Source
from training.experiments.demo import CAMERAS, RADARS

SPEC = ModelSpec(
    "tiny", CAMERAS, RADARS, dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 0.0), image=ImageSpec(64, 128)
)
RADAR_SPEC = dataclasses.replace(SPEC, cameras=())
LIDAR_SPEC = dataclasses.replace(SPEC, cameras=(), temporal=TemporalSpec(0))
SCENES = ["scene-0000", "scene-0001"]


def open_set(root: Path, spec: ModelSpec = SPEC, config: DataConfig = PLAIN):
    return open_nuscenes(Source(root), SCENES, spec, config)


def gather_sweeps(keyframe: Keyframe, config: LidarConfig) -> np.ndarray:
    """(P, 5) float32 of all sweeps, newest first."""
    return np.concatenate([np.zeros((0, 5), dtype=np.float32), *sweep_clouds(keyframe, config)])


def item_of(dataset: ClipDataset, index: int) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in dataset[index].items()}
