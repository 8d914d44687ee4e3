"""From which checkpoint a run goes on: the last one, or the one before where the last cannot be used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.models.weights_file import fitting_weights
from training.trainer.checkpoint import read_checkpoint
from training.trainer.checkpoint_files import LAST, PREVIOUS
from training.trainer.lightning_module import DetectorModule

# What Lightning goes on from, beside the weights: path of keys -> type of what is there.
LOOPS = ("loops", "fit_loop")
COUNTS = tuple((*LOOPS, "epoch_loop.batch_progress", part) for part in ("total", "current"))
STATE: dict[tuple[str, ...], type] = {
    ("global_step",): int,
    ("epoch",): int,
    ("callbacks",): dict,
    ("callbacks", "Stopwatch"): dict,
    ("optimizer_states",): list,
    ("lr_schedulers",): list,
    (*LOOPS, "epoch_loop.state_dict"): dict,
    **dict.fromkeys(COUNTS, dict),
    **{(*path, name): int for path in COUNTS for name in ("ready", "started", "processed", "completed")},
}


@dataclass(frozen=True)
class Found:
    """Where a run goes on. remark: what to say about a last checkpoint that could not be used, else empty."""

    path: Path
    step: int
    remark: str = ""


def find_resumable(out: Path, module: DetectorModule) -> Found | None:
    """The newest checkpoint in the folder of a run that `module` can go on from; None where none was written yet.

    Raises ValueError with all reasons when there are some and none can be used.
    """
    refused: list[str] = []
    for path in (out / LAST, out / PREVIOUS):
        try:
            step = resumable_step(read_checkpoint(path), module, path)
        except FileNotFoundError:
            if path.name == LAST and (out / PREVIOUS).is_file():
                refused.append(f"there is no {path}")
            continue
        except (OSError, ValueError) as error:
            refused.append(str(error))
            continue
        remark = f"{'; '.join(refused)}\nGoing on from the checkpoint before it, {path} of step {step}"
        return Found(path, step, remark if refused else "")
    if not refused:
        return None
    reasons = "\n".join(refused)
    raise ValueError(f"{out} has no checkpoint to go on from; move these away to begin anew:\n{reasons}")


def newest_whole(out: Path) -> tuple[Path, int] | None:
    """The newest checkpoint in `out` that can be read, and its step."""
    for path in (out / LAST, out / PREVIOUS):
        try:
            return path, int(read_checkpoint(path)["global_step"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def resumable_step(checkpoint: dict[str, Any], module: DetectorModule, path: Path) -> int:
    """The step of a checkpoint. Raises ValueError naming what is missing or does not fit, for `module` to go on."""
    for keys, kind in STATE.items():
        value: Any = checkpoint
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            name = ".".join(keys)
            raise ValueError(f"{path}: {name} must be a {kind.__name__}, found {value!r:.60}; it was altered")
    fitting_weights(checkpoint["state_dict"], module.state_dict(), f"{path}: state_dict")
    if module.run.optim.ema:
        fitting_weights(checkpoint.get("ema"), module.detector.state_dict(), f"{path}: ema")
    seconds = checkpoint["callbacks"]["Stopwatch"].get("seconds")
    if not isinstance(seconds, float) or not math.isfinite(seconds):
        raise ValueError(f"{path}: callbacks.Stopwatch.seconds is {seconds!r:.60}; it was altered")
    _check_optimizer(checkpoint["optimizer_states"], module, path)
    return int(checkpoint["global_step"])


def _check_optimizer(states: list[Any], module: DetectorModule, path: Path) -> None:
    """AdamW's moments must be those of the parameters: torch itself finds out in the first step."""
    configured = module.configure_optimizers()["optimizer"].state_dict()["param_groups"]
    groups = states[0].get("param_groups") if len(states) == 1 and isinstance(states[0], dict) else None
    moments = states[0].get("state") if groups is not None else None
    if (
        not isinstance(groups, list)
        or not isinstance(moments, dict)
        or not all(isinstance(group, dict) and set(group) == set(own) for group, own in zip(groups, configured))
        or [group["params"] for group in groups] != [group["params"] for group in configured]
    ):
        raise ValueError(f"{path}: optimizer_states are of another network or version, or altered")
    parameters = [p for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]]
    for number, state in moments.items():
        if not isinstance(number, int) or not 0 <= number < len(parameters) or not isinstance(state, dict):
            raise ValueError(f"{path}: optimizer_states has an entry {number!r:.40} that belongs to no parameter")
        for name in ("exp_avg", "exp_avg_sq", "step"):
            shape = torch.Size() if name == "step" else parameters[number].shape
            moment = state.get(name)
            if not isinstance(moment, Tensor) or moment.shape != shape or not bool(torch.isfinite(moment).all()):
                raise ValueError(f"{path}: optimizer_states: {name} of parameter {number} is no finite {tuple(shape)}")
