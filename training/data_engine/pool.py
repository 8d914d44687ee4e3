"""The pool as a whole, looked at drive by drive: what single frames are compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.uncertainty import Estimator
from training.data_engine.store import Frames, Store

REFERENCE = 4096  # frames that stand for the pool where every other one would be too many
RANGES_M, SPEEDS_MPS = (15.0, 30.0), (0.7, 5.0)  # where the bands of a detection's distance and speed end
FOUND = 0.3  # detections of less do not count for rarity and variance


@dataclass(frozen=True)
class Pool:
    """mean, deviation (D,): of the embeddings. frequency (classes, 3, 3): share of the detections by class, band of
    distance, band of speed. reference (R, D) embeddings in units of the deviations, with of_drive (R,) names: frames
    drawn evenly, or those that are labelled. estimator: of a bundle, with mean and deviation of the logarithms of its
    deviations (C,) over the pool's detections; None without."""

    count: int
    mean: np.ndarray
    deviation: np.ndarray
    frequency: np.ndarray
    reference: np.ndarray
    of_drive: np.ndarray
    estimator: Estimator | None = None
    log_mean: np.ndarray | None = None
    log_deviation: np.ndarray | None = None

    def units(self, embedding: np.ndarray) -> np.ndarray:
        """(n, D) in units of the pool's deviations."""
        return ((embedding - self.mean) / self.deviation).astype(np.float32)


def survey(
    store: Store,
    drives: Sequence[str],
    classes: int,
    labelled: Mapping[str, Collection[str]],
    estimator: Estimator | None = None,
    seed: int = 0,
) -> Pool:
    """One pass over the stored drives. labelled: drive -> tokens. Memory is that of a drive and of the reference.

    Raises ValueError for a pool without a frame.
    """
    rng = np.random.default_rng(seed)
    moments, logs = _Moments(), _Moments()
    counts = np.ones((classes, len(RANGES_M) + 1, len(SPEEDS_MPS) + 1))
    held: list[tuple[float, str, np.ndarray]] = []  # key of the draw, drive, embedding
    known: list[tuple[str, np.ndarray]] = []
    for drive in drives:
        frames = store.read(drive, ("embedding", "label", "score", "metres", "speed"))
        embedding = frames.array("embedding")
        moments.add(embedding)
        strong = frames.lists("score").values >= FOUND
        np.add.at(counts, tuple(part[strong] for part in cells_of(frames)), 1.0)
        if estimator is not None:
            logs.add(log_deviations(frames, estimator)[strong])
        tokens = labelled.get(drive, ())
        known += [(drive, embedding[i].copy()) for i, token in enumerate(frames.tokens) if token in tokens]
        held += [(float(rng.random()), drive, row.copy()) for row in embedding]
        if len(held) > 2 * REFERENCE:
            held = sorted(held, key=lambda item: item[0])[:REFERENCE]
    if not moments.count:
        raise ValueError("the pool has no frame")
    drawn = known or [(drive, row) for _, drive, row in sorted(held, key=lambda item: item[0])[:REFERENCE]]
    mean, deviation = moments.mean, moments.deviation
    reference = ((np.array([row for _, row in drawn]) - mean) / deviation).astype(np.float32)
    names = np.array([drive for drive, _ in drawn]) if not known else np.full(len(known), "")
    return Pool(
        moments.count, mean, deviation, counts / counts.sum(), reference, names, estimator,
        logs.mean if estimator is not None else None, logs.deviation if estimator is not None else None,
    )  # fmt: skip


def cells_of(frames: Frames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) each, of every detection: class, band of distance, band of speed (of an unknown one the first)."""
    label = frames.lists("label").values.astype(np.int64)
    speed = np.nan_to_num(frames.lists("speed").values)
    return label, np.searchsorted(RANGES_M, frames.lists("metres").values), np.searchsorted(SPEEDS_MPS, speed)


def log_deviations(frames: Frames, estimator: Estimator) -> np.ndarray:
    """(K, C) logarithms of each detection's deviations, of all channels that the table has. It must be one without
    `head`: what the network itself says of its errors is not stored."""
    metres, scores = frames.lists("metres").values, frames.lists("score").values
    of = estimator.deviations(metres, scores, frames.lists("label").values.astype(np.int64))
    return np.log(np.stack(list(of.values()), axis=1))


class _Moments:
    """Mean and standard deviation of rows that come in parts (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        mean, count = rows.mean(axis=0), self.count + len(rows)
        step = mean - self.mean
        self._squares = self._squares + ((rows - mean) ** 2).sum(axis=0) + step**2 * self.count * len(rows) / count
        self.mean = self.mean + step * len(rows) / count
        self.count = count

    @property
    def deviation(self) -> np.ndarray:
        """Of a value that never changes 1: it tells nothing."""
        found = np.sqrt(self._squares / max(self.count, 1))
        return np.where(found > 1e-9, found, 1.0)
