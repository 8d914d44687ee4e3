"""Read a training checkpoint back into a student; nothing is unpickled beyond tensors and plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bev_perception.model_spec import parse_spec
from training.lightning_module import OptimConfig, StudentModule
from training.models.camera_radar import StudentConfig
from training.models.view_transform import DepthBins


def load_module(path: str | Path) -> StudentModule:
    """Checkpoint -> StudentModule in eval mode, float32. Raises ValueError when the file is no checkpoint of ours."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    absent = {"state_dict", "spec", "student_config", "optim_config"} - set(checkpoint)
    if absent:
        raise ValueError(f"{path}: not a checkpoint of training.train, it lacks {sorted(absent)}")
    sizes = checkpoint["student_config"]
    config = StudentConfig(
        **{**sizes, "bins": DepthBins(**sizes["bins"]), "backbone_blocks": tuple(sizes["backbone_blocks"])}
    )
    module = StudentModule(parse_spec(checkpoint["spec"], str(path)), config, OptimConfig(**checkpoint["optim_config"]))
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval()
