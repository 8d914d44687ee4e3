"""Whether sensors are as usual: smoothed statistics against their table, and an alarm that has been calibrated.

A multivariate exponentially weighted moving average (Lowry et al., Technometrics 1992): statistics are smoothed over
some seconds, their difference from the usual is whitened, and its length is held against a threshold. What is very far
off is told within a frame or two, what is a little off once it has lasted.
"""

from __future__ import annotations

import math

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.fault import Fault
from bev_perception.model_spec import ModelSpec
from bev_perception.sync_config import NS
from bev_perception.usual.reading import Reading
from bev_perception.usual.returns import LOGARITHMS
from bev_perception.usual.statistics import IMAGES, RETURNS, Glimpse, names_of, sensors_of, statistics_of
from bev_perception.usual.table import HealthTable, UsualPart, read_health

UNUSUAL = "unusual"  # the reason under which an alarm is counted
OVER = 0.8  # an alarm ends when the score is below this share of its threshold
FIRST_S = 0.1  # a first frame counts as if another had been so long before
LONGEST_S = 3.0  # without a frame: what was smoothed before says nothing any more


class Smoothed:
    """One part: the exponential mean of what each sensor gives. It begins at the usual: innocent until shown."""

    def __init__(self, part: UsualPart, sensors: tuple[str, ...], names: tuple[str, ...]) -> None:
        self.threshold, self.names = part.threshold, names
        self.usual = np.array([part.mean[name] for name in sensors])
        self.deviation = np.array(part.deviation)
        self._whitening = np.array(part.whitening).T
        self.clear()

    def clear(self) -> None:
        self.off = np.zeros_like(self.usual)
        self.seen = np.zeros(len(self.usual), dtype=bool)
        self.distance = np.zeros(len(self.usual))

    def add(self, values: np.ndarray, share: float) -> None:
        """values (S, D); what is not known of a sensor that was used counts as usual, of one that was not it begins
        anew."""
        difference = values - self.usual
        unknown = ~np.isfinite(difference)
        difference[unknown] = 0.0
        self.seen = ~unknown.all(axis=1)
        self.off = (self.off + share * (difference - self.off)) * self.seen[:, None]
        self.distance = np.sqrt(((self.off @ self._whitening) ** 2).sum(axis=1))


class HealthMonitor:
    """Give it every step's glimpse, in stamp order. One thread adds; `readings` may be asked in another."""

    def __init__(self, table: HealthTable, spec: ModelSpec) -> None:
        self._spec, self._seconds = spec, table.seconds
        self._parts = {
            name: Smoothed(part, sensors_of(name, spec), names_of(name, len(part.deviation)))
            for name, part in table.parts.items()
        }
        self._rows = _rows_by_sensor(table, spec)
        self._last_ns: int | None = None
        self._since: dict[str, int] = {}
        self._readings: tuple[Reading, ...] = ()

    def look(self, glimpse: Glimpse) -> dict[str, Fault]:
        """-> sensor -> what is unusual about it, for those with an alarm; the scene is none."""
        return self.add(glimpse.frame.stamp_ns, statistics_of(glimpse, self._spec))

    def add(self, stamp_ns: int, found: dict[str, np.ndarray]) -> dict[str, Fault]:
        """As `look`, of statistics (part -> (S, D)) that are made already."""
        step_s = FIRST_S if self._last_ns is None else (stamp_ns - self._last_ns) / NS
        if not 0 < step_s <= LONGEST_S:
            self._clear()
            step_s = FIRST_S
        self._last_ns = stamp_ns
        share = 1.0 - math.exp(-step_s / self._seconds)
        for name, smoothed in self._parts.items():
            smoothed.add(found[name], share)
        readings = tuple(self._read(sensor, stamp_ns) for sensor in self._rows)
        self._readings = readings
        return {r.name: Fault(UNUSUAL, r.text) for r in readings if r.alarm and r.name in self._sensors()}

    def readings(self) -> tuple[Reading, ...]:
        """Of the newest frame, of each sensor the score of the part that is nearest to its threshold; empty before the
        first."""
        return self._readings

    def forget(self, why: str) -> None:
        """The next look begins at the usual; until then readings know nothing, and say why."""
        self._clear()
        self._last_ns = None
        self._readings = tuple(Reading(sensor, math.nan, math.nan, text=why) for sensor in self._rows)

    def _sensors(self) -> tuple[str, ...]:
        return self._spec.cameras + self._spec.radars

    def _clear(self) -> None:
        self._since = {}
        for smoothed in self._parts.values():
            smoothed.clear()

    def _read(self, sensor: str, stamp_ns: int) -> Reading:
        known = [(self._parts[p], row) for p, row in self._rows[sensor] if self._parts[p].seen[row]]
        if not known:
            self._since.pop(sensor, None)
            return Reading(sensor, math.nan, math.nan)
        part, row = max(known, key=lambda item: float(item[0].distance[item[1]]) / item[0].threshold)
        score = float(part.distance[row])
        if score > part.threshold:
            self._since.setdefault(sensor, stamp_ns)
        elif score < OVER * part.threshold:
            self._since.pop(sensor, None)
        since_ns = self._since.get(sensor)
        return Reading(sensor, score, part.threshold, since_ns, worst_words(part, row) if since_ns else "")


def worst_words(part: Smoothed, row: int) -> str:
    """The statistic that is most of its deviations off, as a factor where it is a logarithm."""
    units = part.off[row] / part.deviation
    worst = int(np.abs(units).argmax())
    name, off, usual = part.names[worst], part.off[row, worst], part.usual[row, worst]
    if len(set(part.names)) == 1:
        return f"{name} are {np.abs(units[worst]):.1f} deviations from the usual"
    if is_factor(name, part.names):
        return f"{name}: {math.exp(min(off, 20.0)):.2g} of the usual"
    return f"{name}: {usual + off:.3g}, usually {usual:.3g}"


def is_factor(name: str, names: tuple[str, ...]) -> bool:
    """Whether a statistic is a logarithm: all of images, some of radars."""
    return names == names_of(IMAGES, 0) or (names == names_of(RETURNS, 0) and name in LOGARITHMS)


def monitor_of(bundle: Bundle) -> HealthMonitor | None:
    """None where the bundle has no table. Raises as `read_health`."""
    table = read_health(bundle)
    return None if table is None else HealthMonitor(table, bundle.spec)


def _rows_by_sensor(table: HealthTable, spec: ModelSpec) -> dict[str, list[tuple[str, int]]]:
    """Sensor -> the parts and rows that are about it."""
    rows: dict[str, list[tuple[str, int]]] = {}
    for name in table.parts:
        for row, sensor in enumerate(sensors_of(name, spec)):
            rows.setdefault(sensor, []).append((name, row))
    return rows
