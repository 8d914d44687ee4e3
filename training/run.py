"""What defines a training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bev_perception.model_spec import ModelSpec, parse_spec
from training.data.config import DataConfig
from training.losses import LossConfig
from training.models import STUDENTS
from training.models.detector import Family
from training.plain import from_plain, to_plain


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to zero over `steps`."""

    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    steps: int = 1000
    clip_norm: float = 35.0


@dataclass(frozen=True)
class Run:
    """An experiment. model: a key of STUDENTS or TEACHERS; config: that family's. Length is OptimConfig.steps.

    checkpoint_every: steps between two checkpoints; what a killed run loses at most.
    """

    model: str
    config: Any
    spec: ModelSpec
    optim: OptimConfig = OptimConfig()
    losses: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch_size: int = 4
    seed: int = 0
    precision: str = "bf16-mixed"
    checkpoint_every: int = 200


def family_of(model: str) -> Family:
    """Raises ValueError naming the models that there are."""
    if model not in STUDENTS:
        raise ValueError(f"there is no model {model!r}; there are {sorted(STUDENTS)}")
    return STUDENTS[model]


def build_detector(run: Run) -> Any:
    """The run's network with fresh weights."""
    family = family_of(run.model)
    if not isinstance(run.config, family.config):
        raise ValueError(f"{run.model} takes a {family.config.__name__}, found {type(run.config).__name__}")
    return family.module(run.spec, run.config)


def run_to_plain(run: Run) -> dict[str, Any]:
    """What a checkpoint and run.json hold."""
    plain: dict[str, Any] = to_plain(dataclasses.replace(run, spec=None))  # type: ignore[arg-type]
    return plain | {"spec": run.spec.to_json()}


def run_from_plain(data: dict[str, Any], where: str) -> Run:
    """The reverse of `run_to_plain`. Raises ValueError naming keys that this version does not have."""
    known = {f.name for f in dataclasses.fields(Run)}
    if set(data) != known:
        raise ValueError(f"{where}: a run has {sorted(known)}, found {sorted(data)}; train it again with this version")
    kinds = {"optim": OptimConfig, "losses": LossConfig, "data": DataConfig}
    values = {n: from_plain(kinds[n], v, f"{where}: {n}") if n in kinds else v for n, v in data.items()}
    values["config"] = from_plain(family_of(data["model"]).config, data["config"], f"{where}: config")
    values["spec"] = parse_spec(data["spec"], where)
    return Run(**values)
