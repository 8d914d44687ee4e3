"""Which blocks of channels a network keeps under a budget of latency.

HALP (Shen et al., NeurIPS 2022): the channels of a group, sorted by importance, are parted into blocks of one step of
the latency's staircase; a block's value is its importance, its weight the latency that it adds. A knapsack takes
blocks, of each group the first ones. Weights depend on what the other groups keep: so the budget falls exponentially in
STAGES, and at each the weights are those of the network that the one before left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

STAGES = 20
SCALE = 1e6  # of all values together: far above the solver's tolerances


@dataclass(frozen=True)
class Blocks:
    """A group's channels in blocks, the most important first. values: of each block."""

    name: str
    channels: tuple[tuple[int, ...], ...]
    values: tuple[float, ...]

    def dropped(self, kept: int) -> list[int]:
        """Channels that are cut when so many blocks are kept, rising."""
        return sorted(channel for block in self.channels[kept:] for channel in block)


def make_blocks(name: str, importance: np.ndarray, step: int) -> Blocks:
    """Blocks of `step` channels, the last of what is left over: then every width but the whole is a multiple of it."""
    order = np.argsort(-importance, kind="stable")  # the same on every machine where two are alike
    parts = [order[i : i + step] for i in range(0, len(order), step)]
    blocks = tuple(tuple(int(c) for c in part) for part in parts)
    return Blocks(name, blocks, tuple(float(importance[part].sum()) for part in parts))


def solve(values: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], capacity: float) -> list[int]:
    """How many blocks of each group to keep, one at least: the largest sum of values of which the weights' sum is at
    most `capacity`. A block is kept only with all before it in its group. Weights may be negative.

    Exact, by mixed-integer linear programming (HiGHS). Raises ValueError where nothing fits.
    """
    flat_values = np.concatenate([np.asarray(v, float) for v in values])
    flat_weights = np.concatenate([np.asarray(w, float) for w in weights])
    firsts = np.cumsum([0, *(len(v) for v in values)])[:-1]
    lower = np.zeros(len(flat_values))
    lower[firsts] = 1
    rows = [i for i in range(1, len(flat_values)) if i not in set(firsts)]
    order = np.zeros((len(rows), len(flat_values)))  # x[i] - x[i - 1] <= 0
    for row, i in enumerate(rows):
        order[row, i], order[row, i - 1] = 1, -1
    constraints = [LinearConstraint(flat_weights[None], -np.inf, capacity)]
    if rows:
        constraints.append(LinearConstraint(order, -np.inf, 0))
    scale = SCALE / max(float(np.abs(flat_values).sum()), 1e-300)
    found = milp(
        -scale * flat_values,
        constraints=constraints,
        integrality=np.ones(len(flat_values)),
        bounds=Bounds(lower, 1),
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise ValueError(f"no choice of blocks has a weight of at most {capacity:g}: {found.message}")
    return [int(part.sum()) for part in np.split(found.x.round().astype(int), firsts[1:])]


def choose(blocks: Sequence[Blocks], predict: Callable[[Mapping[str, int]], float], budget: float) -> list[int]:
    """How many blocks of each group are kept so that `predict` is at most `budget`.

    predict: group -> channels that it loses -> latency of the whole network. What is cut at a stage does not come back.
    Raises ValueError, saying what can be reached, where one block of each group is too much already.
    """
    kept = [len(group.channels) for group in blocks]
    dense, least = predict(_lost(blocks, kept)), predict(_lost(blocks, [1] * len(blocks)))
    if least > budget:
        raise ValueError(
            f"a budget of {budget:.1f} cannot be met: with one block of each group the network takes {least:.1f} of "
            f"{dense:.1f}, that is --budget {math.ceil(100 * least / dense) / 100:.2f}"
        )
    for stage in range(1, STAGES + 1):
        share = stage / STAGES
        target = math.exp(share * math.log(budget) + (1 - share) * math.log(dense)) if stage < STAGES else budget
        kept = _stage(blocks, predict, kept, target)
    while predict(_lost(blocks, kept)) > budget:  # two sides of a layer were cut at once, and save less together
        before, kept = kept, _stage(blocks, predict, kept, budget)
        if kept == before:
            raise ValueError(
                f"a budget of {budget:.1f} is not met: {predict(_lost(blocks, kept)):.1f} are left, and no block less "
                "makes the network faster; take a larger --budget, or measure on a quiet machine"
            )
    return kept


def _stage(
    blocks: Sequence[Blocks], predict: Callable[[Mapping[str, int]], float], kept: list[int], target: float
) -> list[int]:
    """Fewer blocks, or as many, for a latency of about `target`."""
    now = predict(_lost(blocks, kept))
    if now <= target:
        return kept
    weights = []
    for i, count in enumerate(kept):
        at = [predict(_lost(blocks, [*kept[:i], n, *kept[i + 1 :]])) for n in range(1, count)] + [now]
        weights.append([0.0, *np.diff(at)])
    rest = now - sum(sum(of_group) for of_group in weights)
    values = [group.values[:count] for group, count in zip(blocks, kept)]
    try:
        return solve(values, weights, target - rest)
    except ValueError:  # by these weights nothing fits: cut what they say is possible
        return solve(values, weights, sum(min(0.0, *np.cumsum(of_group)) for of_group in weights))


def _lost(blocks: Sequence[Blocks], kept: Sequence[int]) -> dict[str, int]:
    return {group.name: sum(map(len, group.channels[n:])) for group, n in zip(blocks, kept)}
