"""When a drive is worth keeping: each trigger is a function of the moment, and one row in TRIGGERS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

ASKED = "asked"  # by the service
LEAST = 3  # detections that a frame must have to be called unsure
WINDOW_NS = 500_000_000  # over which a deceleration is told
UNCERTAINTY, BRAKING_MPS2 = 0.6, 4.0  # limits, unless the parameters say otherwise


@dataclass(frozen=True)
class Moment:
    """What the node's status knows. probabilities (M,): of the newest frame's detections, their scores where the model
    was not calibrated. faults: sensor -> why it cannot contribute. deceleration: m/s2, NaN where it is not known.
    signals: alarms of the model's health, name -> value in units of its limit (novelty, disagreement).
    asked: by the service, with its reason, or "". The limits are those of RingConfig."""

    probabilities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    faults: Mapping[str, str] = field(default_factory=dict)
    deceleration: float = float("nan")
    signals: Mapping[str, float] = field(default_factory=dict)
    asked: str = ""
    uncertainty: float = UNCERTAINTY
    braking_mps2: float = BRAKING_MPS2


def uncertainty(moment: Moment) -> str:
    """The mean entropy of what was detected, in nats, at least `uncertainty` (0.69 is a coin's)."""
    p = np.clip(moment.probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    if len(p) < LEAST:
        return ""
    mean = float(np.mean(-p * np.log(p) - (1 - p) * np.log1p(-p)))
    return f"mean entropy {mean:.2f} of {len(p)} detections" if mean >= moment.uncertainty else ""


def health(moment: Moment) -> str:
    """An alarm of the model's health, as long as it says that it lasts: its score may be back below the limit."""
    return ", ".join(f"{name} {value:.2f} times its limit" for name, value in moment.signals.items())


def sensor_fault(moment: Moment) -> str:
    """A sensor that is silent, or sends what cannot be used; one that is late is not meant."""
    return "; ".join(f"{name} {reason}" for name, reason in moment.faults.items())


def hard_braking(moment: Moment) -> str:
    """By odometry."""
    hard = moment.deceleration >= moment.braking_mps2  # False of NaN
    return f"{moment.deceleration:.1f} m/s2" if hard else ""


def asked(moment: Moment) -> str:
    """By the service `~/keep`."""
    return moment.asked


# Name -> function of the moment: why it fires, or "". A trigger fires when its text begins, not as long as it lasts.
TRIGGERS: dict[str, Callable[[Moment], str]] = {
    "uncertainty": uncertainty,
    "health": health,
    "sensor_fault": sensor_fault,
    "hard_braking": hard_braking,
    ASKED: asked,
}


class Edges:
    """Which of the triggers begin at a moment."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names, self._held = names, frozenset[str]()

    def look(self, moment: Moment) -> dict[str, str]:
        """Trigger -> why, of those that did not hold at the moment before."""
        told = {name: why for name in self._names if (why := TRIGGERS[name](moment))}
        began = {name: why for name, why in told.items() if name not in self._held}
        self._held = frozenset(told)
        return began


class Braking:
    """Speeds as they come -> the deceleration over the last WINDOW_NS."""

    def __init__(self) -> None:
        self._speeds: deque[tuple[int, float]] = deque(maxlen=256)

    def add(self, stamp_ns: int, speed_mps: float) -> float:
        """m/s2, above 0 where the vehicle slows down; NaN until the window is full, and where time went back."""
        if self._speeds and stamp_ns < self._speeds[-1][0]:
            self._speeds.clear()
        if not self._speeds or stamp_ns > self._speeds[-1][0]:
            self._speeds.append((stamp_ns, speed_mps))
        while len(self._speeds) > 2 and stamp_ns - self._speeds[1][0] >= WINDOW_NS:
            self._speeds.popleft()
        first_ns, first = self._speeds[0]
        passed = self._speeds[-1][0] - first_ns
        return (first - self._speeds[-1][1]) / passed * 1e9 if passed >= WINDOW_NS else float("nan")
