"""How much to collect in which round: the plan of least expected cost (LOC; Mahmood et al., NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data_need.estimating import Need

GRID = 240


@dataclass(frozen=True)
class Plan:
    """sizes: how many samples there are after each round. cost: expected, of labels and penalty. failing: the
    probability that the target is missed after the last."""

    sizes: tuple[float, ...]
    cost: float
    failing: float


def plan(need: Need, have: float, rounds: int, label_cost: float, penalty: float) -> Plan:
    """Rounds end as soon as the target is reached: a label of a round costs what the chance is that it is still wanted.

    Minimises sum_t label_cost (q_t - q_{t-1}) (1 - F(q_{t-1})) + penalty (1 - F(q_T)) over q_1 <= ... <= q_T, where F
    is the chance that so many are enough (the paper's expected form), by dynamic programming over sizes that the draws
    of `need` span. Raises ValueError for no rounds and for costs that are not above 0.
    """
    if rounds < 1 or label_cost <= 0 or penalty <= 0:
        raise ValueError(f"rounds and costs must be above 0, found {rounds}, {label_cost} and {penalty}")
    finite = need.draws[np.isfinite(need.draws)]
    most = max(have * 1.01, float(finite.max()) if len(finite) else have * 1.01)
    sizes = np.concatenate([[have], np.geomspace(have, most, GRID)[1:]])
    missing = np.array([1.0 - need.likely(size) for size in sizes])
    missing[0] = 1.0  # it is known not to be there yet
    steps = label_cost * np.maximum(sizes[None, :] - sizes[:, None], 0.0) * missing[:, None]  # from row to column
    steps[np.tril_indices(len(sizes), -1)] = np.inf
    to_go, chosen = penalty * missing, []
    for _ in range(rounds):
        total = steps + to_go[None, :]
        best = total.argmin(axis=1)
        chosen.append(best)
        to_go = total[np.arange(len(sizes)), best]
    at, path = 0, []
    for best in reversed(chosen):
        at = int(best[at])
        path.append(float(sizes[at]))
    return Plan(tuple(path), float(to_go[0]), float(missing[at]))
