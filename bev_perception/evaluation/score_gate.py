"""What an evaluation must reach: a small YAML file of figures with their bounds.

scores.mean_ap: {min: 0.55}
gain.nds: {min: -0.01}              # against --baseline
latency_ms.total.p95: {max: 120}
consistency.flicker: {max: 0.02}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bev_perception.yaml_file import parse_yaml_text

TEXT_LIMIT = 64 * 1024
BOUNDS = ("min", "max")
COUNTED = ("lost.", "used.")  # groups of figures that are 0 where they are not there


@dataclass(frozen=True)
class Bound:
    """One line: figure `name` may not be below `low` nor above `high`."""

    name: str
    low: float = -math.inf
    high: float = math.inf

    def fault(self, figures: Mapping[str, float]) -> str:
        """What is wrong, in words, or "". A figure that is not there, or NaN, does not hold."""
        found = figures.get(self.name, 0.0 if self.name.startswith(COUNTED) else math.nan)
        if self.low <= found <= self.high:
            return ""
        asked = f"at least {self.low:g}" if found < self.low else f"at most {self.high:g}"
        if math.isnan(found):
            asked = " and ".join(f"{word} {value:g}" for word, value in self._asked())
            return f"{self.name} could not be measured, asked for is {asked}"
        return f"{self.name} is {found:.4g}, asked for is {asked}"

    def _asked(self) -> list[tuple[str, float]]:
        sides = (("at least", self.low), ("at most", self.high))
        return [(word, value) for word, value in sides if math.isfinite(value)]


def parse_score_gate(text: str) -> tuple[Bound, ...]:
    """Raises ValueError for what is none, with the line that is wrong."""
    given: Any = parse_yaml_text(text)
    if not isinstance(given, dict) or not given:
        raise ValueError("gate: expected lines such as `scores.mean_ap: {min: 0.5}`, found none")
    return tuple(_bound(str(name), bounds) for name, bounds in given.items())


def faults_of(gate: tuple[Bound, ...], figures: Mapping[str, float]) -> list[str]:
    """One sentence for each bound that does not hold. Raises ValueError for names of no figure at all."""
    unknown = sorted({bound.name for bound in gate if not bound.name.startswith(COUNTED)} - set(figures))
    if unknown:
        raise ValueError(f"gate: there is no figure {unknown}; there are {', '.join(sorted(figures))}")
    return [fault for bound in gate if (fault := bound.fault(figures))]


def _bound(name: str, bounds: Any) -> Bound:
    if not isinstance(bounds, dict) or not bounds or set(bounds) - set(BOUNDS):
        raise ValueError(f"gate: `{name}` has {bounds!r}, expected {{min: NUMBER}}, {{max: NUMBER}} or both")
    for side, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"gate: `{name}`, {side} is {value!r}, expected a number")
    return Bound(name, float(bounds.get("min", -math.inf)), float(bounds.get("max", math.inf)))
