"""Read a training checkpoint back into its network; nothing is unpickled beyond tensors and plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from training.run import run_from_plain
from training.trainer.lightning_module import DetectorModule


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The file's content. Raises ValueError when it is no checkpoint of ours, or damaged."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path}: not a checkpoint, or cut off ({str(error).splitlines()[0]}); copy it again, or take another one"
        ) from error
    absent = {"state_dict", "run"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if absent:
        raise ValueError(f"{path}: not a checkpoint of training.train, it lacks {sorted(absent)}")
    return checkpoint  # type: ignore[no-any-return]


def load_module(path: str | Path) -> DetectorModule:
    """Checkpoint -> DetectorModule in eval mode, float32, with the averaged weights where the run kept some.

    Raises ValueError when the file is no checkpoint of ours, or of a version with other networks.
    """
    checkpoint = read_checkpoint(path)
    module = DetectorModule(run_from_plain(checkpoint["run"], str(path)))
    try:
        weights = checkpoint["state_dict"]  # adapters, "distiller.*", serve training alone
        module.load_state_dict({name: value for name, value in weights.items() if not name.startswith("distiller.")})
        if "ema" in checkpoint:
            module.detector.load_state_dict(checkpoint["ema"])
    except RuntimeError as error:
        raise ValueError(f"{path}: weights of another version of {module.run.model}: {error}") from error
    return module.eval()


def training_minutes(path: str | Path) -> float:
    """What a run took until this checkpoint, however often it was resumed."""
    return float(read_checkpoint(path)["callbacks"]["Stopwatch"]["seconds"]) / 60
