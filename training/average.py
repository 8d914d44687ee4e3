"""Half-way between two checkpoints: `python -m training.average BEFORE AFTER --out CHECKPOINT`.

A student that goes on from BEFORE, on other data or taught by a teacher, forgets some of what it knew while it learns;
the mean of the weights before and after is often better than either (Wortsman et al., Robust fine-tuning of zero-shot
models, CVPR 2022, whose recommendation without a search is one half each). It costs nothing on the vehicle. AFTER must
have been trained from BEFORE: means of networks that were trained apart are worth nothing.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor

from training.command_line import errors_as_text
from training.run import run_to_plain
from training.trainer.checkpoint import load_network, read_checkpoint, weights_of


def average(before: Path, after: Path, out: Path, half: bool = False) -> None:
    """Write a checkpoint with the mean of two networks' weights and buffers and the run of `before`, to be evaluated,
    exported or begun with (--init); half: in half precision, for a repository.

    Raises ValueError when one is no checkpoint, when the networks differ, or when half precision cannot hold a weight.
    """
    network, other = load_network(before), load_network(after)
    weights, others = weights_of(network.detector), weights_of(other.detector)
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in others.items()}:
        raise ValueError(
            f"{before} and {after} are different networks ({network.run.model}, {other.run.model}, or of other sizes); "
            "give a checkpoint and one that was trained from it"
        )
    mean = {name: _mean(weight, others[name], half) for name, weight in weights.items()}
    broken = sorted(name for name, weight in mean.items() if not weight.isfinite().all())
    if broken:
        raise ValueError(f"weights that are not finite: {', '.join(broken[:5])}; leave out --half, or look at the runs")
    steps = read_checkpoint(after).get("global_step", 0)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    torch.save({"state_dict": mean, "run": run_to_plain(network.run), "global_step": steps}, part)
    os.replace(part, out)


def _mean(a: Tensor, b: Tensor, half: bool) -> Tensor:
    if not a.is_floating_point():  # counters
        return b
    return ((a + b) / 2).to(torch.float16 if half else a.dtype)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.average", description=__doc__)
    parser.add_argument("before", type=Path, help="checkpoint that training began with (--init)")
    parser.add_argument("after", type=Path, help="checkpoint of that training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", action="store_true", help="half precision: half the size")
    args = parser.parse_args(argv)
    average(args.before, args.after, args.out, args.half)
    print(f"checkpoint: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
