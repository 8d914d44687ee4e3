"""What makes a frame worth a label: each strategy is one function of a drive's frames, and one row in STRATEGIES."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import euclidean_distances

from training.data_engine.pool import FOUND, Pool, cells_of, log_deviations
from training.data_engine.store import Frames, Ragged

TOP = 3
NEIGHBOURS = 5


def _spread(values: Ragged, reduce: Callable[[np.ndarray], float]) -> np.ndarray:
    return np.array([reduce(values[i]) if values.counts[i] else 0.0 for i in range(len(values))])


# From one value for each peak or detection to one for the frame; a frame without any has 0, as in AL-SSL's code.
AGGREGATES: dict[str, Callable[[Ragged], np.ndarray]] = {
    "max": lambda values: _spread(values, lambda v: float(v.max())),
    "sum": lambda values: np.bincount(values.rows, values.values, len(values)),
    "mean": lambda values: np.bincount(values.rows, values.values, len(values)) / np.maximum(values.counts, 1),
    "top3": lambda values: _spread(values, lambda v: float(np.sort(v)[-TOP:].mean())),
}


def random(frames: Frames, pool: Pool, seed: int) -> np.ndarray:
    """Chance: a number of the token and the seed alone."""
    return random_of(frames.tokens, seed)


def random_of(tokens: Sequence[str], seed: int) -> np.ndarray:
    """(n,) even between 0 and 1."""
    drawn = [hashlib.sha256(f"{seed}/{token}".encode()).digest()[:7] for token in tokens]
    return np.array([int.from_bytes(digits, "big") / 2**56 for digits in drawn])


def alike(frames: Frames, pool: Pool, seed: int) -> np.ndarray:
    """All are worth the same: what decides is the sampler."""
    return np.ones(len(frames))


def entropy(frames: Frames, pool: Pool, seed: int) -> Ragged:
    """Entropy of each peak of the heatmap, one pass (Haussmann et al., arXiv 2004.04699, with one network)."""
    return frames.lists("entropy")


def ensemble(frames: Frames, pool: Pool, seed: int) -> Ragged:
    """Mutual information of an ensemble at each peak (Haussmann et al.)."""
    return frames.lists("ensemble")


def ensemble_entropy(frames: Frames, pool: Pool, seed: int) -> Ragged:
    """Entropy of the ensemble's mean at each peak (Haussmann et al.; ADS, Chitta et al., arXiv 1905.12737)."""
    return frames.lists("ensemble_entropy")


def flips(frames: Frames, pool: Pool, seed: int) -> Ragged:
    """Disagreement with the mirror image at each peak (AL-SSL, Elezi et al., CVPR 2022, with a bounded divergence)."""
    return frames.lists("flips")


def sensors(frames: Frames, pool: Pool, seed: int) -> Ragged:
    """Disagreement of cameras and radars, each alone, at each peak."""
    return frames.lists("sensors")


def variance(frames: Frames, pool: Pool, seed: int) -> Ragged:
    """Of each detection the largest z-score of its log deviations over the pool, the largest of all channels: AL-MDN's
    aggregation (Choi et al., ICCV 2021) of the variances that a bundle states."""
    if pool.estimator is None or pool.log_mean is None:
        raise ValueError("variances come from a bundle's uncertainty.json: give --bundle")
    z = ((log_deviations(frames, pool.estimator) - pool.log_mean) / pool.log_deviation).max(axis=1, initial=-np.inf)
    strong = frames.lists("score").values >= FOUND
    return Ragged(np.where(strong, np.exp(z), 0.0), frames.lists("score").ends)  # above 0, in the same order


def novelty(frames: Frames, pool: Pool, seed: int) -> np.ndarray:
    """Mean distance of the embedding to the nearest that are labelled; where nothing is, to the nearest of a draw from
    the pool's other drives."""
    if not len(pool.reference):
        return np.ones(len(frames))
    apart = euclidean_distances(pool.units(frames.array("embedding")), pool.reference)
    apart[:, pool.of_drive == frames.drive] = np.inf
    near = np.sort(apart, axis=1)[:, :NEIGHBOURS]
    known = np.isfinite(near)
    return np.where(known, near, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def rarity(frames: Frames, pool: Pool, seed: int) -> Ragged:
    """Of each detection -log of how frequent its class, distance and speed are in the pool, times its score.

    After REM (Jiang et al., ECCV 2022), r = -log p; p is a histogram of what was detected and no normalising flow.
    """
    scores = frames.lists("score")
    bits = -np.log(pool.frequency[cells_of(frames)])
    return Ragged(np.where(scores.values >= FOUND, scores.values * bits, 0.0), scores.ends)


def missed(frames: Frames, pool: Pool, seed: int) -> np.ndarray:
    """Objects of a teacher that the student has not."""
    return frames.array("missed").astype(np.float64)


@dataclass(frozen=True)
class Strategy:
    """score: function of (frames, pool, seed) -> one value a frame, >= 0, or lists that `aggregate` (of AGGREGATES)
    makes one of. views: of looking.VIEWS, beside `base`. sampler: of SAMPLERS. distinct: near duplicates go first.
    shortlist: a strategy whose best SHORT times the budget are all that is chosen from."""

    score: Callable[[Frames, Pool, int], Ragged | np.ndarray]
    views: tuple[str, ...] = ()
    aggregate: str = "max"
    sampler: str = "top"
    distinct: bool = True
    shortlist: str = ""


STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(random, distinct=False),
    "random_distinct": Strategy(random),
    "entropy": Strategy(entropy),
    "entropy_sum": Strategy(entropy, aggregate="sum"),
    "ensemble": Strategy(ensemble, ("ensemble",)),
    "ensemble_entropy": Strategy(ensemble_entropy, ("ensemble",)),
    "ensemble_kmeans++": Strategy(ensemble, ("ensemble",), sampler="kmeans++"),
    "flips": Strategy(flips, ("flips",)),
    "al_ssl": Strategy(flips, ("flips",), shortlist="entropy"),
    "sensors": Strategy(sensors, ("sensors",)),
    "variance": Strategy(variance),
    "novelty": Strategy(novelty),
    "rarity": Strategy(rarity, aggregate="sum"),
    "missed": Strategy(missed, ("teacher",)),
    "core_set": Strategy(alike, sampler="core_set"),
    "entropy_core_set": Strategy(entropy, aggregate="sum", sampler="core_set"),
    "entropy_kmeans++": Strategy(entropy, aggregate="sum", sampler="kmeans++"),
}


def frame_scores(strategy: Strategy, frames: Frames, pool: Pool, aggregate: str = "", seed: int = 0) -> np.ndarray:
    """(n,) float32. aggregate: of AGGREGATES, instead of the strategy's. Raises ValueError for one where frames have
    one value each."""
    values = strategy.score(frames, pool, seed)
    if isinstance(values, Ragged):
        values = AGGREGATES[aggregate or strategy.aggregate](values)
    elif aggregate:
        raise ValueError("--aggregate joins the values of peaks or detections; this strategy has one value a frame")
    return values.astype(np.float32)
