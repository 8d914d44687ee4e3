"""What docs/data holds: rows of files, means with standard errors, and gains of taught over untaught networks."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.made_by import MADE_BY

Row = Mapping[str, str]

DATA = Path(__file__).resolve().parent / "data"
SCORES = ("mAP", "NDS", "mAVE")  # those that pages compare

# What `training.evaluate --sensors` calls them -> for readers.
SENSORS = {
    "camera": "cameras",
    "radar": "radars",
    "no_temporal": "cameras + radars",
    "all": "cameras + radars + memory",
}


@dataclass(frozen=True)
class Estimate:
    """The mean over `count` runs and its standard error, nan where there is one run."""

    mean: float
    error: float
    count: int

    @property
    def certain(self) -> bool:
        """Whether the mean is away from zero by more than twice its standard error."""
        return abs(self.mean) > 2 * self.error  # False for nan


@dataclass(frozen=True)
class Gain:
    """A taught network beside the same one alone: score -> mean, and differences between runs of one seed.

    over_longer: the same beside the network alone with 1.5 times the training steps; empty where that was not run.
    """

    student: str
    teacher: str
    method: str
    alone: dict[str, Estimate]
    taught: dict[str, Estimate]
    gain: dict[str, Estimate]
    over_longer: dict[str, Estimate]


@dataclass(frozen=True)
class Network:
    """A network of the comparison: its names for readers and its scores over all its seeds."""

    name: str
    sensors: str
    what: str
    scores: dict[str, Estimate]
    parameters: int


def read(name: str, folder: Path = DATA) -> Any:
    """A CSV's rows or a JSON's value. Raises FileNotFoundError with the command that makes the file."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; made by: {MADE_BY.get(name, 'hand')}")
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error. Raises ValueError without values."""
    if not values:
        raise ValueError("a mean needs at least one value")
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(statistics.fmean(values), error, len(values))


def of_run(results: Sequence[Row], run: str) -> dict[str, Row]:
    """Seed -> row of a study's results.csv. Raises ValueError for a run that is not in it."""
    found = {row["seed"]: row for row in results if row["run"] == run}
    if not found:
        raise ValueError(f"no run {run!r} among {sorted({row['run'] for row in results})}")
    return found


def differences(results: Sequence[Row], run: str, base: str) -> dict[str, Estimate]:
    """Score -> `run` less `base`, over the seeds that both have."""
    ours, theirs = of_run(results, run), of_run(results, base)
    seeds = sorted(ours.keys() & theirs.keys())
    return {name: estimate([float(ours[s][name]) - float(theirs[s][name]) for s in seeds]) for name in SCORES}


def means(results: Sequence[Row], run: str, seeds: Sequence[str] | None = None) -> dict[str, Estimate]:
    """Score -> mean over the seeds, all that the run has without `seeds`."""
    found = of_run(results, run)
    chosen = [row for seed, row in found.items() if seeds is None or seed in seeds]
    return {name: estimate([float(row[name]) for row in chosen]) for name in SCORES}


def gains(names: Sequence[Row], results: Sequence[Row]) -> list[Gain]:
    """One Gain for each row of a file of names (distillation_runs.csv), in its order."""
    found = []
    for row in names:
        taught, alone, longer = row["taught"], row["alone"], row["longer"]
        seeds = sorted(of_run(results, taught).keys() & of_run(results, alone).keys())
        found.append(
            Gain(
                row["student"],
                row["teacher"],
                row["method"],
                means(results, alone, seeds),
                means(results, taught, seeds),
                differences(results, taught, alone),
                differences(results, taught, longer) if longer else {},
            )
        )
    return found


def networks(names: Sequence[Row], results: Sequence[Row]) -> list[Network]:
    """One Network for each row of network_names.csv that has results, in its order."""
    scored = {row["run"] for row in results}
    return [
        Network(
            row["name"],
            row["sensors"],
            row["what"],
            means(results, row["run"]),
            int(next(iter(of_run(results, row["run"]).values()))["parameters"]),
        )
        for row in names
        if row["run"] in scored
    ]
