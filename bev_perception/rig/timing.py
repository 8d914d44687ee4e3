"""When each camera fires within a sweep, by the stamps, and which of them should be the anchor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bev_perception.rig.time_checks import FREE_RUNNING
from bev_perception.rig.times import phase_of
from bev_perception.sync_config import MS

TOLERANCE_SHARE = 0.48  # of the period; half would let two images of one camera into a frame


@dataclass(frozen=True)
class Timing:
    """offsets_ms: camera -> its stamp minus the anchor's; jitter_ms: how far nine of ten are from that. running_free:
    cameras that fire at any time; their offset is 0."""

    anchor: str
    period_ms: float
    tolerance_ms: float
    offsets_ms: Mapping[str, float]
    jitter_ms: Mapping[str, float]
    running_free: tuple[str, ...]
    reason: str


def measure_timing(stamps: Mapping[str, np.ndarray]) -> Timing | None:
    """{camera: stamps (N,) ns}, at least three of each that counts; None where there is none.

    The anchor is the last to fire before the longest pause of a sweep: then all images of a sweep are there, or nearly,
    when the frame's own has come.
    """
    known = {name: np.sort(found) for name, found in stamps.items() if len(found) >= 3}
    if not known:
        return None
    period_ns = int(np.median([np.median(np.diff(found)) for found in known.values()]))
    reference = max(known, key=lambda name: len(known[name]))
    steps = {name: _steps(found, known[reference], period_ns) for name, found in known.items()}
    phases = {name: phase_of(found.tolist(), period_ns) for name, found in steps.items()}
    free = tuple(name for name, (_, agreement) in phases.items() if agreement < FREE_RUNNING)
    together = {name: phase % period_ns for name, (phase, _) in phases.items() if name not in free}
    order = sorted(together, key=lambda name: (together[name], name))
    pauses = {
        name: (together[following] - together[name] - 1) % period_ns + 1
        for name, following in zip(order, [*order[1:], order[0]])
    }
    anchor = max(order, key=lambda name: (pauses[name], name))
    offsets = {name: -((together[anchor] - phase) % period_ns) / MS for name, phase in together.items()}
    jitter = {name: _jitter(steps[name], phases[name][0], period_ns) / MS for name in known}
    reason = "the only camera"
    if len(order) > 1:
        reason = f"the last before the longest pause of a sweep, {pauses[anchor] / MS:.0f} of {period_ns / MS:.0f} ms"
    return Timing(
        anchor=anchor,
        period_ms=period_ns / MS,
        tolerance_ms=TOLERANCE_SHARE * period_ns / MS,
        offsets_ms={name: round(offset, 1) + 0.0 for name, offset in offsets.items()} | dict.fromkeys(free, 0.0),
        jitter_ms=jitter,
        running_free=free,
        reason=reason,
    )


def _steps(stamps: np.ndarray, reference: np.ndarray, period_ns: int) -> np.ndarray:
    """From the nearest stamp of the reference to each stamp, within a period (N,) ns; where the reference is near."""
    right = np.clip(np.searchsorted(reference, stamps), 1, len(reference) - 1)
    left = right - 1
    nearest = np.where(stamps - reference[left] < reference[right] - stamps, reference[left], reference[right])
    steps = stamps - nearest
    return (steps[np.abs(steps) <= period_ns] + period_ns // 2) % period_ns - period_ns // 2


def _jitter(steps: np.ndarray, mean: int, period_ns: int) -> float:
    away = (steps - mean + period_ns // 2) % period_ns - period_ns // 2
    return float(np.percentile(np.abs(away), 90)) if len(away) else 0.0
