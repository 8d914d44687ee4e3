r"""Heads that say how far boxes may be off, upon any trained student, whose own weights stay as they are.

    python -m training.train training.experiments.uncertainty:heads --init STUDENT --data DATA --out runs/heads
    python -m training.export runs/heads/last.ckpt BUNDLE
    python -m training.calibrate BUNDLE --data DATA

Network, spec and data are those of the checkpoint; a pruned one stays as narrow. Ten minutes of one core. On drives
that the student has learnt from it errs less than on others: what the head says is scaled by `training.calibrate`.
"""

from __future__ import annotations

import dataclasses

from training.experiments import demo
from training.models.spread_head import SpreadConfig
from training.run import OptimConfig, Run


def heads() -> Run:
    """Gaussian: what covariances of messages are. The boxes stay, so that nothing has to be weighed by beta."""
    return _run(SpreadConfig("gaussian", beta=0.0, alone=True, weight=1.0))


def laplace() -> Run:
    """Errors with longer tails."""
    return _run(SpreadConfig("laplace", beta=0.0, alone=True, weight=1.0))


def mixture() -> Run:
    """AL-MDN (Choi et al., ICCV 2021): aleatoric and epistemic parts."""
    return _run(SpreadConfig("mixture", beta=0.0, alone=True, weight=1.0))


def _run(spread: SpreadConfig) -> Run:
    run = demo.full()
    optim = OptimConfig(lr=2e-3, warmup_steps=20, steps=250, clip_norm=10.0)
    spec = dataclasses.replace(run.spec, spread=spread.parts)
    return dataclasses.replace(
        run, spec=spec, spread=spread, optim=optim, precision="32-true", checkpoint_every=100, validate_every=0
    )
