"""Ways to say what detections are worth, held against each other on drives that the fit of each has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from bev_perception.evaluation.reliability import reliability
from bev_perception.uncertainty import CHANNELS, LEVELS, LOGIT
from training.uncertainty.fitting import TABLE, Use, fit
from training.uncertainty.measures import (
    Claim,
    brier,
    claim_of,
    cooled,
    coverage,
    log_loss,
    temperature,
    worst_gaps,
)
from training.uncertainty.pairs import Pairs

# (others, own) -> what the fit to the others says of the own.
Way = Callable[[Pairs, Pairs], Claim]
OF_TABLE, OF_HEAD = "class, distance and score", "head"
# What a deviation may be made of where the network says something itself; the first is what it is without.
USES = {
    OF_TABLE: TABLE,
    OF_HEAD: Use(1.0, by_score=False),
    "head and score": Use(1.0),
    "half head, half score": Use(0.5),
}


def ways_of(classes: Sequence[str], uses: Mapping[str, Mapping[str, Use]]) -> dict[str, Way]:
    """Name -> way. Of scores alone, with one deviation for each class; then tables, `uses` for each channel."""
    flat: dict[str, Way] = {
        "score": lambda others, own: _per_class(others, own, own.scores, len(classes)),
        "temperature": lambda others, own: _per_class(
            others, own, cooled(own.scores, temperature(others.scores, others.right)), len(classes)
        ),
        "isotonic by class": lambda others, own: _per_class(others, own, _isotonic(others, own), len(classes)),
    }
    return flat | {name: _tabled(classes, use) for name, use in uses.items()}


def _tabled(classes: Sequence[str], uses: Mapping[str, Use]) -> Way:
    return lambda others, own: claim_of(fit(others, classes, "", 0, uses), own, classes)


def chosen_within(classes: Sequence[str], uses: Mapping[str, Use], folds: int) -> Way:
    """The table of which each channel takes the best of `uses`, chosen on the drives that it is fitted to, by folds of
    these: what it is judged on has no say in it (nested cross-validation; Cawley and Talbot, JMLR 2010).

    It raises ValueError where it is fitted to fewer than two drives.
    """

    def way(others: Pairs, own: Pairs) -> Claim:
        drives = len(np.unique(others.scenes))
        if drives < 2:
            raise ValueError(
                f"{drives + 1} scenes: to choose on others than it is judged on, three are wanted at least"
            )
        fold = folds_of(others, min(max(folds - 1, 2), drives))
        ways = {name: _tabled(classes, everywhere(use)) for name, use in uses.items()}
        rows = {name: measured(held_out(others, tried, fold), others) for name, tried in ways.items()}
        return _tabled(classes, best_uses(rows))(others, own)

    return way


def everywhere(use: Use) -> dict[str, Use]:
    """The same for every channel; a head softens scores as a whole or not at all."""
    return dict.fromkeys(CHANNELS, use) | {LOGIT: Use(float(use.power > 0))}


def _per_class(others: Pairs, own: Pairs, probability: np.ndarray, classes: int) -> Claim:
    """With the root mean square of each class's errors as deviation, and the quantiles of all as intervals."""
    known = np.isfinite(others.errors).sum(axis=0)
    whole = np.where(known > 0, np.sqrt(np.nansum(others.errors**2, axis=0) / np.maximum(known, 1)), 1.0)
    table = np.tile(whole, (classes, 1))
    for label in range(classes):
        errors = others.errors[others.labels == label]
        for i in np.flatnonzero(np.isfinite(errors).any(axis=0)):
            table[label, i] = np.sqrt(np.nanmean(errors[:, i] ** 2)).clip(1e-3)
    units = np.abs(others.errors) / table[others.labels]
    limits = np.stack([_quantiles(units[:, i]) for i in range(len(CHANNELS))])
    deviations = table[own.labels]
    return Claim(probability, deviations, deviations[:, :, None] * limits)


def _quantiles(units: np.ndarray) -> np.ndarray:
    known = units[np.isfinite(units)]
    return np.quantile(known, LEVELS) if len(known) else np.ones(len(LEVELS))


def _isotonic(others: Pairs, own: Pairs) -> np.ndarray:
    """(N,) by each class's own isotonic regression of right on score; of a class without detections the score."""
    found = own.scores.copy()
    for label in np.unique(own.labels):
        there = others.labels == label
        if there.any():
            order = np.argsort(others.scores[there], kind="stable")
            scores = others.scores[there][order]
            fitted = isotonic_regression(others.right[there][order].astype(float)).x
            chosen = own.labels == label
            found[chosen] = np.interp(own.scores[chosen], scores, fitted)
    return found


def folds_of(pairs: Pairs, folds: int) -> np.ndarray:
    """(N,) number of the fold that each detection's drive is in.

    Raises ValueError where there are fewer drives than folds, or fewer folds than two.
    """
    scenes = np.unique(pairs.scenes)
    if not 2 <= folds <= len(scenes):
        raise ValueError(f"{len(scenes)} scenes cannot be shared by {folds} folds; give more scenes, or other --folds")
    return np.asarray(np.searchsorted(scenes, pairs.scenes) % folds)


def held_out(pairs: Pairs, way: Way, fold: np.ndarray) -> Claim:
    """What a way says of each detection, fitted to the drives of all other folds."""
    count = len(pairs.scores)
    said = Claim(np.zeros(count), np.ones((count, len(CHANNELS))), np.ones((count, len(CHANNELS), len(LEVELS))))
    for number in np.unique(fold):
        own = fold == number
        found = way(pairs.select(~own), pairs.select(own))
        for field in fields(Claim):
            getattr(said, field.name)[own] = getattr(found, field.name)
    return said


def measured(claim: Claim, pairs: Pairs) -> dict[str, Any]:
    """ece, brier and log_loss of the probability; `coverage` by channel, and its `worst_gaps`."""
    covered = coverage(claim, pairs)
    return {
        "ece": reliability(claim.probability, pairs.right).error(),
        "brier": brier(claim.probability, pairs.right),
        "log_loss": log_loss(claim.probability, pairs.right),
        "coverage": covered,
        "worst": worst_gaps(covered),
    }


def best_uses(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Use]:
    """Of what was measured of each of USES: for each channel the one of the least negative log likelihood, and whether
    scores are softened."""
    best: dict[str, Use] = {}
    for channel in CHANNELS:
        least = {name: rows[name]["coverage"][channel]["nll"] for name in USES if name in rows}
        best[channel] = USES[min(least, key=lambda name: np.nan_to_num(least[name], nan=np.inf))]
    softer = rows[OF_HEAD]["log_loss"] < rows[OF_TABLE]["log_loss"] if OF_HEAD in rows else False
    return best | {LOGIT: Use(float(softer))}
