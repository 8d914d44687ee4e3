"""Read a training checkpoint back into its network; nothing is unpickled beyond tensors and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.models.detector import Detector
from training.models.weights_file import fitting_weights, read_weights_file
from training.run import build_detector, run_from_plain
from training.trainer.network import Network

CPU = torch.device("cpu")
OF_DETECTOR = "detector."  # what names in a checkpoint's state_dict begin with: the network is a part of what trains it


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The file's content. Raises ValueError when it is no checkpoint of ours, or damaged."""
    checkpoint = read_weights_file(path)
    absent = {"state_dict", "run"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if absent:
        raise ValueError(f"{path}: not a checkpoint of training.train, it lacks {sorted(absent)}")
    return checkpoint  # type: ignore[no-any-return]


def load_network(path: str | Path, device: torch.device = CPU) -> Network:
    """Checkpoint -> network in eval mode, float32, with the averaged weights where the run kept some.

    Raises ValueError when the file is no checkpoint of ours, is of a version with other networks, or was altered.
    """
    checkpoint = read_checkpoint(path)
    network = _network_of(checkpoint, path)
    weights, where = checkpoint["state_dict"], f"{path}: state_dict"
    if isinstance(weights, Mapping):  # adapters, "distiller.*", serve training alone
        weights = {name: value for name, value in weights.items() if not str(name).startswith("distiller.")}
    fitting = fitting_weights(weights, weights_of(network.detector), where)
    network.detector.load_state_dict({name.removeprefix(OF_DETECTOR): value for name, value in fitting.items()})
    if "ema" in checkpoint:
        own = network.detector.state_dict()
        network.detector.load_state_dict(fitting_weights(checkpoint["ema"], own, f"{path}: ema"))
    network.detector.eval()
    network.detector.to(device)
    return network


def weights_of(detector: Detector) -> dict[str, Tensor]:
    """As `state_dict` of a checkpoint has them."""
    return {f"{OF_DETECTOR}{name}": tensor for name, tensor in detector.state_dict().items()}


def _network_of(checkpoint: dict[str, Any], path: str | Path) -> Network:
    """With fresh weights."""
    run = run_from_plain(checkpoint["run"], str(path))
    try:
        return Network(run, build_detector(run))
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
