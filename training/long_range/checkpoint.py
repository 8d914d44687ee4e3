"""What a head was taught with, and how it is read back: without Lightning, which takes seconds to load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bev_perception.plain import from_plain, to_plain
from training.long_range.network import HeadConfig, InverseHead
from training.models.weights_file import fitting_weights
from training.trainer.checkpoint import read_checkpoint

OF_HEAD = "head."  # what names of its weights begin with: the head is a part of what teaches it
KIND = "long_range"


@dataclass(frozen=True)
class TeachConfig:
    """labelled_to: m, what is near. moves: how often each object is moved along its ray in a step (projection
    augmentation), to depths drawn evenly in their logarithm up to `farthest` m; 0: never. edge_px: deviation of an edge
    of the 2D boxes that are drawn. data: digest of the set's index."""

    head: HeadConfig = field(default_factory=HeadConfig)
    labelled_to: float = 25.0
    moves: int = 3
    farthest: float = 80.0
    edge_px: float = 0.3
    steps: int = 1200
    batch_size: int = 256
    lr: float = 2e-3
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if min(self.labelled_to, self.farthest, self.lr) <= 0 or min(self.steps, self.batch_size) < 1:
            raise ValueError(f"labelled_to, farthest, lr, steps and batch_size must be above 0, found {self}")
        if self.moves < 0 or self.edge_px < 0:
            raise ValueError(f"moves and edge_px must be 0 or more, found {self.moves} and {self.edge_px}")


def as_run(config: TeachConfig) -> dict[str, Any]:
    """What a checkpoint has in the place of a run."""
    return {KIND: to_plain(config)}


def config_of(checkpoint: Mapping[str, Any], path: Path) -> TeachConfig:
    """Raises ValueError for a checkpoint of another kind."""
    run = checkpoint["run"]
    if not isinstance(run, dict) or set(run) != {KIND}:
        raise ValueError(f"{path}: a checkpoint of another network; take one that was taught to find depths")
    return from_plain(TeachConfig, run[KIND], str(path))


def load_head(path: Path) -> tuple[InverseHead, TeachConfig]:
    """In eval mode. Raises ValueError for what is no such checkpoint, or was altered; OSError."""
    checkpoint = read_checkpoint(path)
    config = config_of(checkpoint, path)
    head = InverseHead(config.head)
    wanted = {f"{OF_HEAD}{name}": tensor for name, tensor in head.state_dict().items()}
    fitting = fitting_weights(checkpoint["state_dict"], wanted, f"{path}: state_dict")
    head.load_state_dict({name.removeprefix(OF_HEAD): tensor for name, tensor in fitting.items()})
    return head.eval(), config
