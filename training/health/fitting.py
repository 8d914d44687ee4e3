"""What clean drives usually give, and thresholds that they pass as rarely as is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import genpareto

from bev_perception.model_spec import ModelSpec
from bev_perception.sync_config import NS
from bev_perception.usual.monitor import FIRST_S, Smoothed
from bev_perception.usual.statistics import names_of, sensors_of
from bev_perception.usual.table import HealthTable, UsualPart
from training.health.collecting import Drive

KEPT = 0.995  # share of the variance that the directions which are looked at hold
MOST = 24  # directions
SHRINKAGE = 0.1  # of variances to their mean: none is believed to be as small as a few drives say
LEAST = 1e-4  # deviation
TAIL = 0.3  # of the drives' largest distances, which the tail is fitted to
SHAPES = (0.0, 0.5)  # of the tail: from exponential to heavy
RESAMPLES = 200
SURE = 0.9  # of resampled thresholds, that which is taken
HOUR_S = 3600.0


@dataclass(frozen=True)
class Tail:
    """What the largest distances of B clean drives say: threshold, and the range in which 80 % of resampled ones lie.
    hours: of one sensor that were looked at."""

    threshold: float
    range: tuple[float, float]
    hours: float


def fit_part(part: str, drives: Sequence[Drive], spec: ModelSpec, seconds: float) -> UsualPart:
    """Means by sensor, and the whitening of what smoothing leaves of the differences, all sensors together."""
    sensors = sensors_of(part, spec)
    values = np.concatenate([drive.found[part] for drive in drives])  # (F, S, D)
    if np.isnan(values).all(axis=0).any():
        raise ValueError(f"{part}: a sensor has no usable frame in the drives that are fitted to; give more scenes")
    mean = np.nanmean(values, axis=0)
    width = mean.shape[1]
    flat = UsualPart(
        {name: tuple(row.tolist()) for name, row in zip(sensors, mean)}, (1.0,) * width, ((0.0,) * width,), 1.0
    )
    off = np.concatenate([smoothed_off(flat, part, drive, spec, seconds) for drive in drives])
    off = off[~np.isnan(off).any(axis=-1)]  # (M, D)
    deviation = np.maximum(off.std(axis=0), LEAST)
    units = off / deviation
    variances, directions = np.linalg.eigh(units.T @ units / len(units))
    order = np.argsort(variances)[::-1]
    variances, directions = variances[order], directions[:, order]
    kept = min(MOST, int(np.searchsorted(np.cumsum(variances) / variances.sum(), KEPT)) + 1)
    shrunk = (1 - SHRINKAGE) * variances[:kept] + SHRINKAGE * variances[:kept].mean()
    whitening = directions[:, :kept].T / np.sqrt(shrunk)[:, None] / deviation
    return replace(
        flat,
        mean={name: rounded(row) for name, row in zip(sensors, mean)},
        deviation=rounded(deviation),
        whitening=tuple(rounded(row) for row in whitening),
    )


def rounded(row: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in row)


def smoothed_off(usual: UsualPart, part: str, drive: Drive, spec: ModelSpec, seconds: float) -> np.ndarray:
    """(F', S, D) smoothed differences from the usual, once the first seconds are over; NaN where a sensor was not."""
    rows = [(s.off, s.seen) for s in run(usual, part, drive, spec, seconds)]
    off = np.stack([np.where(seen[:, None], off, np.nan) for off, seen in rows])
    return off[settled(drive, seconds)]


def distances(usual: UsualPart, part: str, drive: Drive, spec: ModelSpec, seconds: float) -> np.ndarray:
    """(F, S) of every frame; NaN where a sensor was not used."""
    return np.stack([np.where(s.seen, s.distance, np.nan) for s in run(usual, part, drive, spec, seconds)])


def run(usual: UsualPart, part: str, drive: Drive, spec: ModelSpec, seconds: float):  # type: ignore[no-untyped-def]
    """The vehicle's own smoothing (usual.monitor), frame by frame."""
    smoothed = Smoothed(usual, sensors_of(part, spec), names_of(part, len(usual.deviation)))
    before = None
    for stamp_ns, values in zip(drive.stamps_ns, drive.found[part]):
        step_s = FIRST_S if before is None else (stamp_ns - before) / NS
        before = stamp_ns
        smoothed.add(values, 1.0 - np.exp(-step_s / seconds))
        yield smoothed


def settled(drive: Drive, seconds: float) -> np.ndarray:
    """(F,) bool: frames that are late enough for the smoothed to be what it would be in a long drive."""
    age_s = (drive.stamps_ns - drive.stamps_ns[0]) / NS
    return age_s >= min(2 * seconds, age_s[-1] / 2)


def tail_of(tops: np.ndarray, block_s: float, alarms_an_hour: float, rng: np.random.Generator) -> Tail:
    """tops (D, S): the largest distance of each sensor in each of D clean drives, each of block_s seconds.

    The squares beyond their upper TAIL are given a generalised Pareto distribution (peaks over threshold: Pickands,
    1975) by its moments (Hosking and Wallis, 1987), and the threshold is where all S sensors together pass
    `alarms_an_hour` times an hour. Drives are resampled; that which SURE of the resamples stay below is taken.
    """
    sensors = tops.shape[1]
    allowed = alarms_an_hour * block_s / (HOUR_S * sensors)
    found = [_level(tops[rng.integers(0, len(tops), len(tops))], allowed) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, (0.1, 0.9))
    threshold = float(max(np.quantile(found, SURE), np.nanmax(tops)))
    return Tail(threshold, (float(low), float(high)), tops.size * block_s / HOUR_S)


def _level(tops: np.ndarray, allowed: float) -> float:
    """The distance that a block of one sensor passes with the probability `allowed`."""
    squares = np.sort(tops[np.isfinite(tops)] ** 2)
    edge = float(np.quantile(squares, 1.0 - TAIL))
    excess = squares[squares > edge] - edge
    if len(excess) < 3 or allowed >= TAIL:
        return float(np.sqrt(np.quantile(squares, 1.0 - min(allowed, 1.0))))
    mean, ratio = float(excess.mean()), float(excess.mean() ** 2 / max(excess.var(ddof=1), 1e-12))
    shape = float(np.clip(0.5 * (1.0 - ratio), *SHAPES))
    scale = mean * (1.0 - shape)
    return float(np.sqrt(edge + genpareto.ppf(1.0 - allowed / TAIL, shape, scale=scale)))


def fit_table(
    fitted_to: Sequence[Drive],
    set_on: Sequence[Drive],
    spec: ModelSpec,
    parts: Sequence[str],
    seconds: float,
    alarms_an_hour: float,
) -> tuple[HealthTable, Mapping[str, Tail]]:
    """The usual of the first drives, thresholds by the second; the alarms are shared by the parts."""
    rng = np.random.default_rng(0)
    usual: dict[str, UsualPart] = {}
    tails: dict[str, Tail] = {}
    for part in parts:
        fitted = fit_part(part, fitted_to, spec, seconds)
        tails[part] = tail_of(*tops_of(fitted, part, set_on, spec, seconds), alarms_an_hour / len(parts), rng)
        usual[part] = replace(fitted, threshold=float(f"{tails[part].threshold:.5g}"))
    counts = (sum(len(d.stamps_ns) for d in fitted_to), sum(len(d.stamps_ns) for d in set_on))
    return HealthTable(spec.onnx_sha256, seconds, alarms_an_hour, counts, usual), tails


def tops_of(
    usual: UsualPart, part: str, drives: Sequence[Drive], spec: ModelSpec, seconds: float
) -> tuple[np.ndarray, float]:
    """((D, S) largest distances once settled, seconds of a drive that they are of, the mean)."""
    tops, lengths = [], []
    for drive in drives:
        late = settled(drive, seconds)
        tops.append(np.nanmax(distances(usual, part, drive, spec, seconds)[late], axis=0))
        stamps = drive.stamps_ns[late]
        lengths.append((stamps[-1] - stamps[0]) / NS * len(stamps) / max(len(stamps) - 1, 1))
    return np.stack(tops), float(np.mean(lengths))
