"""Data for training: data sets, and what of them is a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bev_perception.model_spec import ModelSpec
    from training.data.config import DataConfig
    from training.data.nuscenes import Keyframes

    Open = Callable[[Path, str, str | Sequence[str], ModelSpec, DataConfig], Keyframes]


def _nuscenes(
    dataroot: Path, version: str, split: str | Sequence[str], spec: ModelSpec, config: DataConfig
) -> Keyframes:
    from training.data.nuscenes import open_nuscenes

    return open_nuscenes(dataroot, version, split, spec, config)


# Data set kind -> function (dataroot, version, split or scene names, ModelSpec, DataConfig) -> sequence of Keyframe.
DATASETS: dict[str, Open] = {"nuscenes": _nuscenes}
