"""What is said of a sensor whose data cannot be used, or should be looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """reason: the short name that is counted and explained in docs/reasons.md. detail: what was found."""

    reason: str
    detail: str
