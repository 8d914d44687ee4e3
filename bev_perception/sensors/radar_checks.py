"""Returns that no radar of a car can give, and radars that give none while others do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.conversions import MessageError
from bev_perception.structures import RadarScan
from bev_perception.sync_config import MS, NS

# Fewer impossible returns are noise; more than half of a scan are wrong units or a wrong map of its fields.
FEW = 4
ALL_ROUND_RAD = 2 * math.pi


@dataclass(frozen=True)
class RadarLimits:
    """What a return can be (m, m/s, dBsm either way), and for how long a radar may see nothing while another sees."""

    range_m: float = 300.0
    speed_mps: float = 100.0
    rcs_dbsm: float = 100.0
    empty_ns: int = 5000 * MS


def drop_impossible(scan: RadarScan, limits: RadarLimits, view_rad: float) -> tuple[RadarScan, list[tuple[str, str]]]:
    """(the scan without returns that it cannot have, (reason, detail) of what was left out).

    view_rad: the radar's whole horizontal field of view about its x axis; ALL_ROUND_RAD where nobody declared one.
    Raises MessageError with the same reason where that is more than half of the scan (and at least FEW returns): not
    stray returns, but the wrong unit or field.
    """
    points = scan.points
    if view_rad >= ALL_ROUND_RAD and _all_within(points, limits):
        return scan, []
    possible = np.ones(len(points), dtype=bool)
    left_out = []
    for reason, bad, found in _impossible(points, limits, view_rad):
        count = int(bad.sum())
        if not count:
            continue
        detail = f"{count} of {len(points)} returns {found}"
        if count >= FEW and 2 * count > len(points):
            mend = f"check units and fields: radars.{scan.sensor}.fields.*"
            raise MessageError(reason, f"{detail}: the scan is refused; {mend}")
        left_out.append((reason, f"{detail} were left out"))
        possible &= ~bad
    if not left_out:
        return scan, left_out
    return RadarScan(scan.sensor, scan.stamp_ns, points[possible], scan.compensated), left_out


def _all_within(points: np.ndarray, limits: RadarLimits) -> bool:
    """Whether a return with the largest coordinate on each axis is possible: then all are, which a tenth of the time
    tells."""
    return not len(points) or bool(
        math.sqrt(3) * cv2.norm(points[:, :3], cv2.NORM_INF) <= limits.range_m
        and math.sqrt(2) * cv2.norm(points[:, 4:], cv2.NORM_INF) <= limits.speed_mps
        and cv2.norm(points[:, 3:4], cv2.NORM_INF) <= limits.rcs_dbsm
    )


def _impossible(points: np.ndarray, limits: RadarLimits, view_rad: float) -> Iterator[tuple[str, np.ndarray, str]]:
    """(reason, (P,) bool, which) for each limit. points (P, 6) float32, finite."""
    squares = points * points
    far = squares[:, :3].sum(axis=1) > limits.range_m**2
    yield "return_too_far", far, f"beyond {limits.range_m:g} m (radar_limits.range_m)"
    fast = squares[:, 4:].sum(axis=1) > limits.speed_mps**2
    yield "return_too_fast", fast, f"faster than {limits.speed_mps:g} m/s (radar_limits.speed_mps)"
    loud = squares[:, 3] > limits.rcs_dbsm**2
    yield "return_rcs", loud, f"with a cross section beyond {limits.rcs_dbsm:g} dBsm (radar_limits.rcs_dbsm)"
    if view_rad < ALL_ROUND_RAD:
        aside = np.abs(np.arctan2(points[:, 1], points[:, 0])) > view_rad / 2
        yield "return_outside_view", aside, f"outside the {math.degrees(view_rad):g} degrees of its field_of_view_deg"


class EmptyRadars:
    """Finds radars that have had no return for long while another radar has. By the stamps of the scans.

    Where a radar always has some returns, of the ground and of noise, one without any is blind: covered, or not
    transmitting. It would tell the network that the road is free.
    """

    def __init__(self, limit_ns: int) -> None:
        self._limit_ns = limit_ns
        self._first_ns: dict[str, int] = {}  # first of the scans without returns that came without interruption
        self._saw_ns: dict[str, int] = {}  # newest scan with returns

    def check(self, scan: RadarScan, expects_returns: bool) -> None:
        """Raises MessageError radar_empty for a scan of a radar that must be blind; not where no return is expected."""
        name, stamp = scan.sensor, scan.stamp_ns
        if len(scan.points):
            self._saw_ns[name] = stamp
            self._first_ns.pop(name, None)
            return
        first = min(stamp, self._first_ns.get(name, stamp))
        self._first_ns[name] = first
        if not expects_returns or stamp - first <= self._limit_ns:
            return
        seeing = [other for other, at in self._saw_ns.items() if other != name and abs(stamp - at) <= NS]
        if seeing:
            raise MessageError(
                "radar_empty",
                f"no return for {(stamp - first) / NS:.1f} s while {', '.join(seeing)} sees; is it covered, or not "
                "transmitting? (radar_limits.empty_ms)",
            )
