"""What is said of one sensor's health, whoever found it."""

from __future__ import annotations

import math
from dataclasses import dataclass

CONTENTS, EXTRINSICS = "contents", "extrinsics"  # what a reading is of


@dataclass(frozen=True)
class Reading:
    """score, threshold: how far off, and how far it may be, in the same unit; NaN where that is not known. since_ns:
    stamp of the frame that an alarm began with, None without one. text: what is most off; of what is not known, why."""

    name: str
    score: float
    threshold: float
    since_ns: int | None = None
    text: str = ""

    @property
    def alarm(self) -> bool:
        return self.since_ns is not None

    @property
    def unknown(self) -> str:
        """Why nothing is known, though it was looked at; or ""."""
        return self.text if math.isnan(self.score) else ""
