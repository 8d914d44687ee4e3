"""Read a training checkpoint back into its network; nothing is unpickled beyond tensors and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.models.weights_file import fitting_weights, read_weights_file
from training.run import run_from_plain
from training.trainer.lightning_module import DetectorModule


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The file's content. Raises ValueError when it is no checkpoint of ours, or damaged."""
    checkpoint = read_weights_file(path)
    absent = {"state_dict", "run"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if absent:
        raise ValueError(f"{path}: not a checkpoint of training.train, it lacks {sorted(absent)}")
    return checkpoint  # type: ignore[no-any-return]


def load_module(path: str | Path) -> DetectorModule:
    """Checkpoint -> DetectorModule in eval mode, float32, with the averaged weights where the run kept some.

    Raises ValueError when the file is no checkpoint of ours, is of a version with other networks, or was altered.
    """
    checkpoint = read_checkpoint(path)
    module = _network_of(checkpoint, path)
    weights, where = checkpoint["state_dict"], f"{path}: state_dict"
    if isinstance(weights, Mapping):  # adapters, "distiller.*", serve training alone
        weights = {name: value for name, value in weights.items() if not str(name).startswith("distiller.")}
    module.load_state_dict(fitting_weights(weights, module.state_dict(), where))
    if "ema" in checkpoint:
        own = module.detector.state_dict()
        module.detector.load_state_dict(fitting_weights(checkpoint["ema"], own, f"{path}: ema"))
    return module.eval()


def _network_of(checkpoint: dict[str, Any], path: str | Path) -> DetectorModule:
    """With fresh weights."""
    run = run_from_plain(checkpoint["run"], str(path))
    try:
        return DetectorModule(run)
    except Exception as error:  # sizes that no training had: any part of the network may stumble
        raise ValueError(f"{path}: its run is of no network that can be built ({error}); take another copy") from error


def training_minutes(path: str | Path) -> float:
    """What a run took until this checkpoint, however often it was resumed. Raises ValueError where it does not say."""
    checkpoint = read_checkpoint(path)
    try:
        return float(checkpoint["callbacks"]["Stopwatch"]["seconds"]) / 60
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: does not say how long it was trained; take a checkpoint of training.train"
        ) from error
