"""Data for training: data sets, and what of them is a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bev_perception.model_spec import ModelSpec
    from training.data.config import DataConfig
    from training.data.nuscenes import Keyframes
    from training.data.source import Source

    Open = Callable[[Source, str | Sequence[str], ModelSpec, DataConfig], Keyframes]


def _nuscenes(source: Source, split: str | Sequence[str], spec: ModelSpec, config: DataConfig) -> Keyframes:
    from training.data.nuscenes import open_nuscenes

    return open_nuscenes(source.root, source.version, split, spec, config)


# Data set kind -> function (Source, split or scene names, ModelSpec, DataConfig) -> sequence of Keyframe.
DATASETS: dict[str, Open] = {"nuscenes": _nuscenes}
