"""Read a training checkpoint back into its network; nothing is unpickled beyond tensors and plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from training.lightning_module import DetectorModule
from training.run import run_from_plain


def load_module(path: str | Path) -> DetectorModule:
    """Checkpoint -> DetectorModule in eval mode, float32. Raises ValueError when the file is no checkpoint of ours."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    absent = {"state_dict", "run"} - set(checkpoint)
    if absent:
        raise ValueError(f"{path}: not a checkpoint of training.train, it lacks {sorted(absent)}")
    module = DetectorModule(run_from_plain(checkpoint["run"], str(path)))
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval()
