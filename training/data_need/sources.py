"""How much to collect of which source, where sources differ in what they cost and in what they bring.

    python -m training.data_need.sources CURVE.csv --target 0.4 --cost labelled=1 synthetic=0.02 --rounds 2

CURVE.csv has a column for each source, with how many samples of it a training had, and `score`. The many-source form of
LOC (Mahmood et al., "Optimizing Data Collection for Machine Learning", NeurIPS 2022): an additive power law, 60
bootstrap draws of it, and the plan of least expected cost.

Bounds, which the output tells of where they are reached: laws end at a score of at most 1, a source may bring up to 5
of it with exponents from 0.05 to 4; plans have 1,200 states over all sources together, of each source from what is
there to that and 20 times what a training had on the mean.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from training.command_line import errors_as_text

DRAWS = 60
STATES = 1200  # of the grid of plans, over all sources together
SOURCES = 7  # of which a grid of three amounts each still has about as many states
MOST = 20.0  # of a source, times its mean amount: where the grid ends
END, AMOUNT, EXPONENT = (-1.0, 1.0), (0.0, 5.0), (0.05, 4.0)  # bounds of a law's parameters
SCORE = "score"


@dataclass(frozen=True)
class Law:
    """score = end - sum over sources of amount * (1 + samples / unit) ** -exponent. unit (S,): mean samples measured;
    theta: end, then amount and exponent of each source. A source of which nothing is there yet has a finite part."""

    unit: np.ndarray
    theta: np.ndarray

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(..., S) -> (...)."""
        return _law(self.theta, np.asarray(samples, dtype=np.float64) / self.unit)


def _law(theta: np.ndarray, n: np.ndarray) -> np.ndarray:
    amount, exponent = theta[1::2], theta[2::2]
    found: np.ndarray = theta[0] - (amount * (1.0 + n) ** -exponent).sum(axis=-1)
    return found


def bounds(sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Of `theta`, (1 + 2 S,) each."""
    low, high = (np.array([END[k], *[AMOUNT[k], EXPONENT[k]] * sources]) for k in (0, 1))
    return low, high


def on_bounds(laws: Sequence[Law]) -> int:
    """How many have a parameter on a bound, where another one would fit better; a source that brings nothing (an amount
    of 0, of whichever exponent) is none."""
    low, high = bounds(len(laws[0].unit))
    theta = np.array([law.theta for law in laws])
    near = (theta <= low + 1e-6) | (theta >= high - 1e-6)
    brings = theta[:, 1::2] > 1e-6
    near[:, 1::2] &= brings
    near[:, 2::2] &= brings
    return int(near.any(axis=1).sum())


def fit_law(samples: np.ndarray, scores: np.ndarray, start: Law | None = None) -> Law:
    """samples (N, S), scores (N,). start: a law of the same measurements to begin with.

    Raises ValueError for fewer trainings than parameters, and for a source whose amount never changes.
    """
    samples, scores = np.asarray(samples, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    sources = samples.shape[1]
    if len(np.unique(samples, axis=0)) < 2 * sources + 1:
        raise ValueError(
            f"{2 * sources + 1} different trainings are wanted for {sources} sources, found {len(samples)}"
        )
    if (np.ptp(samples, axis=0) == 0).any() or (samples < 0).any():
        raise ValueError("each source must have been tried in several amounts, none below 0")
    unit = samples.mean(axis=0)
    low, high = bounds(sources)
    starts = [np.array([scores.max() + 0.1, *[0.2, power] * sources]) for power in (0.5, 1.5)]
    starts = starts if start is None else [np.clip(start.theta, low + 1e-9, high - 1e-9)]
    weights = np.sqrt(samples.sum(axis=1) / samples.sum(axis=1).max())  # what is large is what is asked about

    def residuals(theta: np.ndarray) -> np.ndarray:
        return weights * (_law(theta, samples / unit) - scores)

    tries = [
        least_squares(residuals, np.clip(s, low, high), bounds=(low, high), x_scale="jac", max_nfev=100) for s in starts
    ]
    return Law(unit, min(tries, key=lambda found: found.cost).x)


def draw_laws(samples: np.ndarray, scores: np.ndarray, seed: int = 0, draws: int = DRAWS) -> list[Law]:
    """The law fitted to draws of the measurements: a parametric bootstrap (Efron and Tibshirani, 1993) with normal
    errors as large as the best fit leaves over, each fit within `bounds` and begun at the best. What no law of this
    form says is not in its scatter."""
    best, rng = fit_law(samples, scores), np.random.default_rng(seed)
    free = max(len(scores) - len(best.theta), 1)
    noise = max(float(np.sqrt(((best(samples) - scores) ** 2).sum() / free)), 1e-4)
    return [fit_law(samples, scores + rng.normal(0.0, noise, len(scores)), best) for _ in range(draws)]


@dataclass(frozen=True)
class SourcePlan:
    """sizes: after each round, how many samples there are of each source. cost: expected, of samples and penalty.
    failing: the probability that the target is missed after the last. ends: the largest amounts that were tried."""

    sizes: tuple[tuple[float, ...], ...]
    cost: float
    failing: float
    ends: tuple[float, ...] = ()


def plan_sources(
    laws: Sequence[Law], have: Sequence[float], costs: Sequence[float], target: float, rounds: int, penalty: float,
    most: float = MOST,
) -> SourcePlan:  # fmt: skip
    """Minimises sum_t c . (q_t - q_{t-1}) (1 - F(q_{t-1})) + penalty (1 - F(q_T)) over q_1 <= ... <= q_T, where F(q) is
    the share of the laws that reach the target at q, by dynamic programming over a grid of STATES.

    most: of a source, times its mean amount. Raises ValueError for costs, rounds and penalties that are not above 0,
    and for more than SOURCES.
    """
    if len(costs) > SOURCES:
        raise ValueError(f"plans are of {SOURCES} sources at most, found {len(costs)}; take some together")
    if rounds < 1 or penalty <= 0 or min(costs) <= 0:
        raise ValueError(f"rounds, costs and penalty must be above 0, found {rounds}, {list(costs)} and {penalty}")
    steps = max(3, int(STATES ** (1 / len(costs))))
    axes = [h + np.concatenate([[0.0], np.geomspace(0.02, most, steps - 1)]) * u for h, u in zip(have, laws[0].unit)]
    grid = np.array(list(itertools.product(*axes)))  # the first is what is there
    missing = 1.0 - np.mean([law(grid) >= target for law in laws], axis=0)
    missing[0] = 1.0  # it is known not to be there yet
    more = (grid[None] - grid[:, None]) @ np.asarray(costs, dtype=np.float64)
    more = np.where((grid[None] >= grid[:, None]).all(axis=2), more, np.inf) * missing[:, None].clip(1e-12)
    to_go, chosen = penalty * missing, []
    for _ in range(rounds):
        total = more + to_go[None]
        chosen.append(total.argmin(axis=1))
        to_go = total.min(axis=1)
    at, path = 0, []
    for best in reversed(chosen):
        at = int(best[at])
        path.append(tuple(grid[at].tolist()))
    return SourcePlan(tuple(path), float(to_go[0]), float(missing[at]), tuple(float(axis[-1]) for axis in axes))


def read_sources(path: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of the sources, samples (N, S), scores (N,). Raises ValueError for another file."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    names = tuple(name for name in (rows[0] if rows else {}) if name != SCORE)
    try:
        samples = np.array([[float(row[name]) for name in names] for row in rows])
        return names, samples, np.array([float(row[SCORE]) for row in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a column for each source and `{SCORE}`, numbers all ({error})") from error


def costs_of(words: Sequence[str], names: Sequence[str]) -> list[float]:
    """`source=cost` each, of all sources. Raises ValueError for others."""
    try:
        found: Mapping[str, float] = {name: float(cost) for name, cost in (word.split("=") for word in words)}
        return [found[name] for name in names]
    except (KeyError, ValueError) as error:
        raise ValueError(f"--cost: expected SOURCE=COST for each of {', '.join(names)} ({error})") from error


def told_of_bounds(laws: Sequence[Law], plan: SourcePlan, names: Sequence[str]) -> list[str]:
    """What the figures rest on, and whether they end at a bound and not at an optimum."""
    lines = [f"from {len(laws)} laws fitted to draws of the measurements, of which {on_bounds(laws)} lie on a bound"]
    if far := [name for name, size, end in zip(names, plan.sizes[-1], plan.ends) if size >= end * (1 - 1e-9)]:
        lines.append(f"the plan has all of {', '.join(far)} that was tried: the best may be beyond")
    return lines


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data_need.sources", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("curve", type=Path)
    parser.add_argument("--target", type=float, required=True, help="score that is wanted")
    parser.add_argument("--cost", nargs="+", required=True, metavar="SOURCE=COST", help="of a sample")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--penalty", type=float, help="for missing the target (default: ten times what is there cost)")
    args = parser.parse_args(argv)
    names, samples, scores = read_sources(args.curve)
    costs = costs_of(args.cost, names)
    have = samples.max(axis=0)
    penalty = args.penalty if args.penalty is not None else 10.0 * float(have @ costs)
    laws = draw_laws(samples, scores)
    found = plan_sources(laws, have.tolist(), costs, args.target, args.rounds, penalty)
    for number, sizes in enumerate(found.sizes, 1):
        print(f"round {number}: " + ", ".join(f"{size:.0f} {name}" for name, size in zip(names, sizes)))
    print(f"expected cost {found.cost:.0f}; the target is missed with a probability of {found.failing:.0%}")
    print("\n".join(told_of_bounds(laws, found, names)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
