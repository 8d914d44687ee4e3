"""What defines a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bev_perception.model_spec import ModelSpec
from training.data.config import DataConfig
from training.distill.config import DistillConfig
from training.losses.detection import LossConfig
from training.models import STUDENTS
from training.models.detector import Family
from training.plain import from_plain, to_plain
from training.schedules import OptimConfig
from training.teachers import TEACHERS

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Run:
    """An experiment. model: a key of STUDENTS or TEACHERS; config: that family's.

    batch_size: samples of a batch over all processes together, so that a run is the same on any number of them.
    checkpoint_every: steps between two checkpoints; what a killed run loses at most. validate_every: steps between
    two validations on `validate_frames` keyframes of the validation split, 0 for none; the best is kept as best.ckpt.
    distill: what is learnt from teachers; their checkpoints are given when training starts.
    """

    model: str
    config: Any
    spec: ModelSpec
    optim: OptimConfig = field(default_factory=OptimConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch_size: int = 4
    seed: int = 0
    precision: str = "bf16-mixed"
    checkpoint_every: int = 200
    validate_every: int = 0
    validate_frames: int = 40
    distill: DistillConfig | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, found {self.precision!r}")


def family_of(model: str) -> Family:
    """Raises ValueError naming the models that there are."""
    families = STUDENTS | TEACHERS
    if model not in families:
        raise ValueError(f"there is no model {model!r}; students: {sorted(STUDENTS)}, teachers: {sorted(TEACHERS)}")
    return families[model]


def build_detector(run: Run) -> Any:
    """The run's network with fresh weights."""
    family = family_of(run.model)
    if not isinstance(run.config, family.config):
        raise ValueError(f"{run.model} takes a {family.config.__name__}, found {type(run.config).__name__}")
    return family.module(run.spec, run.config)


def parameter_groups(module: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """AdamW's groups: weights and the rest (no decay), each outside and inside of a module called `backbone`.

    Raises ValueError when optim.backbone_lr is set for a network without one.
    """
    groups: list[dict[str, Any]] = []
    for inside, factor in ((False, 1.0), (True, optim.backbone_lr)):
        named = module.named_parameters()
        chosen = [p for n, p in named if p.requires_grad and _in_backbone(n.split("."), optim) == inside]
        for decay, parameters in (
            (optim.weight_decay, [p for p in chosen if p.ndim > 1]),
            (0.0, [p for p in chosen if p.ndim <= 1]),
        ):
            groups.append({"params": parameters, "weight_decay": decay, "lr": optim.lr * factor})
    if optim.backbone_lr != 1 and not groups[-1]["params"]:
        raise ValueError(f"optim.backbone_lr is {optim.backbone_lr}, but the network has no module called `backbone`")
    return [group for group in groups if group["params"]]


def _in_backbone(names: Sequence[str], optim: OptimConfig) -> bool:
    return optim.backbone_lr != 1 and "backbone" in names


def run_to_plain(run: Run) -> dict[str, Any]:
    """What a checkpoint and run.json hold."""
    plain: dict[str, Any] = to_plain(run)
    return plain


def run_from_plain(data: dict[str, Any], where: str) -> Run:
    """The reverse of `run_to_plain`. Raises ValueError naming keys that this version does not have."""
    data = {"distill": None} | data  # runs older than distillation
    known = {f.name for f in dataclasses.fields(Run)}
    if set(data) != known:
        unknown, missing = sorted(set(data) - known), sorted(known - set(data))
        raise ValueError(
            f"{where}: a run of another version: unknown keys {unknown}, missing {missing}; train it with this version"
        )
    kinds = {
        "spec": ModelSpec,
        "optim": OptimConfig,
        "losses": LossConfig,
        "data": DataConfig,
        "distill": DistillConfig | None,
    }
    values = {n: from_plain(kinds[n], v, f"{where}: {n}") if n in kinds else v for n, v in data.items()}
    values["config"] = from_plain(family_of(data["model"]).config, data["config"], f"{where}: config")
    return Run(**values)
