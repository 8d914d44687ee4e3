"""Data for training: the synthetic world, data sets and their targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _nuscenes(*arguments: Any, **named: Any) -> Any:
    from training.data.nuscenes import open_nuscenes

    return open_nuscenes(*arguments, **named)


# Data set kind -> function (dataroot, version, split or scene names, ModelSpec, DataConfig) -> sequence of Keyframe.
DATASETS: dict[str, Callable[..., Any]] = {"nuscenes": _nuscenes}
