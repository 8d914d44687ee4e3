"""The model in service, listened to: how long its steps take, how its frames come, whether it finds anything."""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from statistics import median

from bev_perception.deployment.serving import Stepped
from bev_perception.deployment.shadow import WINDOW, Pace, Shadow

FIRST = 10  # frames that tell how long the model takes and how they come


class Listening:
    """note(stepped) in the pipeline's thread, the rest in the deployment's.

    A shadow that it passes frames on to gets those from then on, and steps are counted anew.
    """

    def __init__(self) -> None:
        self.boxes = 0
        self._shadow: Shadow | None = None
        self._ms: deque[float] = deque(maxlen=WINDOW)
        self._moments: list[tuple[float, int]] = []  # of the first frames: wall clock (s), stamp (ns)

    def note(self, stepped: Stepped) -> None:
        self._ms.append(stepped.ms)
        if len(self._moments) < FIRST:
            self._moments.append((time.monotonic(), stepped.frame.stamp_ns))
        if stepped.detections is not None:
            self.boxes += len(stepped.detections)
            if self._shadow is not None:
                self._shadow.offer(stepped.frame, stepped.detections)

    def __len__(self) -> int:
        return len(self._ms)

    def median_ms(self) -> float:
        """Of the steps. Raises ValueError before the first."""
        return median(tuple(self._ms))

    def pace(self) -> Pace:
        """The middle of the first frames, two at least."""
        walls, stamps = ([b - a for a, b in pairwise(values)] for values in zip(*self._moments))
        return Pace(max(1e-3, 1e3 * median(walls)), max(1e-3, median(stamps) / 1e9))

    def pass_on_to(self, shadow: Shadow) -> None:
        self._ms.append(self.median_ms())  # where no frame should come any more, the time before stands for it
        while len(self._ms) > 1:
            self._ms.popleft()
        self._shadow = shadow
