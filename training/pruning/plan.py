"""How many channels each group keeps: importance and latency together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.pruning.dependencies import Group
from training.pruning.knapsack import choose, make_blocks
from training.pruning.latency import Table, key_of
from training.pruning.pieces import Piece


@dataclass(frozen=True)
class Plan:
    """dropped: group -> channels to cut, rising; steps: group -> width of its blocks; the rest in ms of the whole
    network. rest_ms: what no table has, which the prediction leaves as it is. shown: as of `make_plan`."""

    dropped: Mapping[str, Sequence[int]]
    steps: Mapping[str, int]
    budget_ms: float
    predicted_ms: float
    rest_ms: float
    shown: float


def make_plan(
    groups: Sequence[Group],
    pieces: Sequence[Piece],
    table: Table,
    importance: Mapping[str, np.ndarray],
    budget: float,
    shown: float = 1.0,
) -> Plan:
    """The channels of the largest importance at `budget` of the dense network's measured latency.

    shown: share of what the table's layers save that shows in the whole network; layers by themselves are measured with
    what changes the layout of their maps, which engines leave out between layers. A group's blocks are as wide as the
    widest step of the layers that make it. Raises ValueError for a budget that is no share or cannot be met.
    """
    if not 0 < budget < 1:
        raise ValueError(f"--budget is a share of the latency before, above 0 and below 1, found {budget:g}; take 0.55")
    steps = {
        group.name: max([table.curves[key_of(p)].step for p in pieces if group.name in p.makes], default=1)
        for group in groups
    }
    rest = table.network_ms - shown * table.predict(pieces, {})

    def predict(dropped: Mapping[str, int]) -> float:
        return rest + shown * table.predict(pieces, dropped)

    blocks = [make_blocks(group.name, importance[group.name], steps[group.name]) for group in groups]
    kept = choose(blocks, predict, budget * table.network_ms)
    dropped = {of.name: of.dropped(count) for of, count in zip(blocks, kept)}
    predicted = predict({name: len(channels) for name, channels in dropped.items()})
    return Plan(dropped, steps, budget * table.network_ms, predicted, rest, shown)
