"""Learning rate and momentum over a run: pure functions of the step, so a resumed run goes on exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter, ICLR 2019) with a schedule. Weight decay spares biases and norms, unless decay_norms.

    Length: `steps` of the optimiser, or `epochs` of the training split with steps=None.
    schedule: a key of SCHEDULES. warmup_steps: linear rise at the start, from warmup_start, a fraction of lr; one_cycle
    rises by itself and wants 0 steps. beta2: of AdamW; beta1 is the schedule's momentum.
    milestones: where `step` multiplies lr by gamma, as fractions of the run. lr_end: what `cosine` ends at, as a
    fraction of lr. accumulate: batches per step of the optimiser. clip_norm: of all gradients together, 0 for no clip.
    backbone_lr: factor on lr for parameters under a module called `backbone` (BEVFormer: 0.1).
    ema: decay of the averaged weights that are evaluated and exported, 0 for none (BEVDepth: 0.999).
    """

    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    steps: int | None = 1000
    epochs: float | None = None
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (16 / 24, 22 / 24)
    gamma: float = 0.1
    lr_end: float = 0.0
    accumulate: int = 1
    clip_norm: float = 35.0
    backbone_lr: float = 1.0
    ema: float = 0.0
    beta2: float = 0.999
    decay_norms: bool = False
    warmup_start: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optim.schedule must be one of {sorted(SCHEDULES)}, found {self.schedule!r}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema must be a decay in [0, 1), found {self.ema}")
        if self.schedule == "one_cycle" and self.warmup_steps:
            raise ValueError(f"one_cycle rises by itself: set optim.warmup_steps=0, found {self.warmup_steps}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"optim.beta2 must lie in [0, 1), found {self.beta2}")
        if self.clip_norm < 0:
            raise ValueError(f"optim.clip_norm must be above 0, or 0 for no clip, found {self.clip_norm}")
        if self.accumulate < 1:
            raise ValueError(f"optim.accumulate must be 1 or more batches, found {self.accumulate}")


def total_steps(optim: OptimConfig, samples: int, batch_size: int) -> int:
    """How many steps of the optimiser a run has. Raises ValueError unless exactly one of steps and epochs is set."""
    if (optim.steps is None) == (optim.epochs is None):
        raise ValueError(
            f"set one of optim.steps and optim.epochs and the other to none, found {optim.steps} and {optim.epochs}"
        )
    steps = optim.steps
    if steps is None:
        assert optim.epochs is not None
        steps = round(optim.epochs * samples / (batch_size * optim.accumulate))
    if steps < 1:
        raise ValueError(f"a run needs a step at least; {optim.epochs} epochs of {samples} samples are {steps}")
    return steps


def cosine(optim: OptimConfig, step: int, steps: int) -> tuple[float, float]:
    """Half a cosine from 1 to lr_end (BEVFormer)."""
    return optim.lr_end + (1 - optim.lr_end) * _falling(_after_warmup(optim, step, steps)), 0.9


def step_decay(optim: OptimConfig, step: int, steps: int) -> tuple[float, float]:
    """Times gamma at each milestone (BEVDet: epochs 16 and 22 of 24)."""
    return optim.gamma ** sum(step >= milestone * steps for milestone in optim.milestones), 0.9


def one_cycle(optim: OptimConfig, step: int, steps: int) -> tuple[float, float]:
    """CenterPoint's (det3d, OneCycle): up from 1/10 over 40 % of the run, down to 1e-5; momentum 0.95, 0.85, 0.95."""
    rise, start, momentum = 0.4, 0.1, (0.95, 0.85)
    progress = step / max(1, steps)
    if progress < rise:
        up = 1 - _falling(progress / rise)
        return start + (1 - start) * up, momentum[0] + (momentum[1] - momentum[0]) * up
    down, end = _falling((progress - rise) / (1 - rise)), start * 1e-4
    return end + (1 - end) * down, momentum[0] + (momentum[1] - momentum[0]) * down


# Each: (optim, step, steps of the run) -> factor on lr, AdamW's beta1 (its momentum).
SCHEDULES: dict[str, Callable[[OptimConfig, int, int], tuple[float, float]]] = {
    "cosine": cosine,
    "one_cycle": one_cycle,
    "step": step_decay,
}


def rates(optim: OptimConfig, step: int, steps: int) -> tuple[float, float]:
    """Factor on lr and beta1 at a step (from 0), warm-up included."""
    if step < optim.warmup_steps:
        risen = optim.warmup_start + (1 - optim.warmup_start) * (step + 1) / optim.warmup_steps
        return risen, SCHEDULES[optim.schedule](optim, 0, steps)[1]
    return SCHEDULES[optim.schedule](optim, step, steps)


def _after_warmup(optim: OptimConfig, step: int, steps: int) -> float:
    return min(1.0, (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps))


def _falling(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
