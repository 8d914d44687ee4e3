"""A share of a core that must not be exceeded: who works says so, and waits or leaves out what it cannot afford."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """share: of a core, over all that was spent since the last time that nothing was owed."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = share, clock
        self._free_at = clock()

    def spend(self, cpu_s: float) -> None:
        """So much was used just now."""
        self._free_at = max(self._free_at, self._clock()) + cpu_s / self._share

    def owed_s(self) -> float:
        """How long nothing more may be spent; 0 where it may."""
        return max(0.0, self._free_at - self._clock())
