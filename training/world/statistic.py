"""A statistic with its sampling error, how it is made of values, and a table of them as a file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bev_perception.files import write_atomic
from training.world.radar_statistics import PROBABILITIES, clustered_mean, kolmogorov_smirnov

Floats = NDArray[np.float64]

NEAR_ENOUGH = 0.2  # of the recorded value; for distributions, the greatest distance that passes
# Classes that a few recorded drives have little of: what shows a choice of statistics leaves them out.
RARE = ("barrier", "bus", "construction_vehicle", "motorcycle", "trailer", "truck")


@dataclass(frozen=True)
class Statistic:
    """A share, a mean or a distribution (`kind`) and how well it is known.

    value: of a distribution its median. error: the standard error of a share or a mean; of a distribution how far its
    function may be off (`_by_halves`). count: of values; groups: of the objects or stretches of a drive that they come
    from. quantiles: at PROBABILITIES, of distributions only.
    """

    name: str
    group: str
    kind: str
    unit: str
    value: float
    error: float
    count: int
    groups: int
    quantiles: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.group


Values = Sequence[NDArray] | Sequence[Sequence[float]] | Sequence[Sequence[bool]]


def share(name: str, group: str, values: Values, where: Sequence[object]) -> Statistic:
    flat, clusters = _flat(values, where)
    return Statistic(name, group, "share", "", *_with_error(flat, clusters))


def mean(name: str, group: str, unit: str, values: Sequence[float] | NDArray, where: Sequence[object]) -> Statistic:
    return Statistic(name, group, "mean", unit, *_with_error(np.asarray(values, dtype=float), np.asarray(where)))


def distribution(name: str, group: str, unit: str, values: Values, where: Sequence[object]) -> Statistic:
    flat, clusters = _flat(values, where)
    quantiles = np.quantile(flat, PROBABILITIES) if len(flat) else np.full(len(PROBABILITIES), np.nan)
    groups = len(set(clusters.tolist()))
    found = tuple(float(q) for q in quantiles)
    median = found[len(found) // 2]
    return Statistic(name, group, "distribution", unit, median, _by_halves(flat, clusters), len(flat), groups, found)


def _by_halves(values: Floats, clusters: NDArray) -> float:
    """How far the distribution function of these groups may lie from that of all there are: half of how far those of
    every other group lie apart, for they are of half as many each."""
    _, of = np.unique(clusters, return_inverse=True)
    halves = [values[of % 2 == k] for k in (0, 1)]
    if min(len(half) for half in halves) == 0:
        return float("nan")
    return kolmogorov_smirnov(*(np.quantile(half, PROBABILITIES) for half in halves)) / 2


def _with_error(values: Floats, clusters: NDArray) -> tuple[float, float, int, int]:
    if not len(values):
        return float("nan"), float("nan"), 0, 0
    mean, error, groups = clustered_mean(values, clusters)
    return mean, error, len(values), groups


def _flat(values: Values, where: Sequence[object]) -> tuple[Floats, NDArray]:
    """Values of all stretches in one array; a single entry of `where` may itself name every value."""
    parts = [np.asarray(v, dtype=float) for v in values]
    names = [np.broadcast_to(np.asarray(w), p.shape) for p, w in zip(parts, where)]
    return np.concatenate([*parts, np.zeros(0)]), np.concatenate([*names, np.zeros(0, dtype=str)])


def write(statistics: Sequence[Statistic]) -> str:
    """As CSV, five significant figures, the quantiles in one field."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([f.name for f in fields(Statistic)])
    for s in statistics:
        quantiles = " ".join(f"{q:.5g}" for q in s.quantiles)
        rows.writerow(
            [s.name, s.group, s.kind, s.unit, f"{s.value:.5g}", f"{s.error:.5g}", s.count, s.groups, quantiles]
        )
    return text.getvalue()


def write_tables(folder: str | Path, kind: str, tables: Mapping[str, Sequence[Statistic]]) -> None:
    """Each table as FOLDER/KIND_NAME.csv; the folder is made where there is none."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, statistics in tables.items():
        write_atomic(Path(folder) / f"{kind}_{name}.csv", write(statistics))


def read(path: str | Path) -> list[Statistic]:
    """What `write` wrote. Raises ValueError for a file that is none."""
    return of_rows(list(csv.DictReader(Path(path).read_text().splitlines())), str(path))


def of_rows(rows: Sequence[Mapping[str, str]], where: str) -> list[Statistic]:
    """Of a table's rows, by column. Raises ValueError naming `where` they are from."""
    try:
        return [
            Statistic(
                r["name"], r["group"], r["kind"], r["unit"], float(r["value"]), float(r["error"]), int(r["count"]),
                int(r["groups"]), tuple(float(q) for q in r["quantiles"].split()),
            )
            for r in rows
        ]  # fmt: skip
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where}: no table of radar statistics ({error!r}); expected one that the comparison of radars wrote"
        ) from error


def difference(real: Statistic, ours: Statistic) -> tuple[float, float, bool]:
    """Distance of two statistics, what sampling alone may give (two standard errors; of distributions 1.6 times the
    errors of both, which is Kolmogorov and Smirnov's 5 % level over the mean), and whether it is within that or 20 %.

    A distribution is within 20 % at a distance of 0.2.
    """
    errors = math.hypot(*(0.0 if math.isnan(s.error) else s.error for s in (real, ours)))
    if real.kind == "distribution":
        distance = kolmogorov_smirnov(real.quantiles, ours.quantiles)
        return distance, 1.6 * errors, distance <= max(NEAR_ENOUGH, 1.6 * errors)
    distance = ours.value - real.value
    return distance, 2 * errors, abs(distance) <= max(NEAR_ENOUGH * abs(real.value), 2 * errors)


def beside(tables: Mapping[str, Sequence[Statistic]]) -> list[str]:
    """Lines of text: a row for each statistic of the first table, three columns for each other, how many agree."""
    (first, wanted), *others = tables.items()
    by_key = {name: {s.key: s for s in statistics} for name, statistics in others}
    heads = "".join(f"{name:>11}{'differs by':>12}{'chance':>8}  " for name in by_key)
    lines = [f"{'statistic':52}{'of':34}{first:>16}{heads}"]
    passed = dict.fromkeys(by_key, 0)
    compared = dict.fromkeys(by_key, 0)
    for statistic in wanted:
        line = f"{statistic.name[:51]:52}{statistic.group[:33]:34}{_shown(statistic):>16}"
        for name, found in by_key.items():
            if statistic.key not in found or not min(statistic.count, found[statistic.key].count):
                line += f"{'none':>11}{'':>22}"
                continue
            distance, chance, near = difference(statistic, found[statistic.key])
            word = "" if near else " !"
            passed[name] += near
            compared[name] += 1
            line += f"{found[statistic.key].value:>11.3g}{distance:>+12.3g}{chance:>8.2g}{word:2}"
        lines.append(line)
    for name in by_key:
        lines.append(f"{name}: {passed[name]} of {compared[name]} within 20 % or what chance gives; ! marks the others")
    return lines


def _shown(statistic: Statistic) -> str:
    error = "" if math.isnan(statistic.error) or statistic.kind == "distribution" else f" ± {statistic.error:.2g}"
    return f"{statistic.value:.3g}{error}"
