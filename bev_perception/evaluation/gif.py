"""Pictures after each other in a GIF, for places that take no video. Pillow writes it; OpenCV's wheels cannot."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

TICK_S = 0.01  # GIF's unit of time
COLORS = 256


class GifWriter:
    """As OpenCV's VideoWriter is used by a Film: equal pictures after each other are shown as one that stays.

    Pictures are kept with 256 colours each until the end, a byte a pixel. Raises ImportError where Pillow is missing.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        try:
            self._pillow: Any = importlib.import_module("PIL.Image")
        except ImportError as error:
            raise ImportError(
                f"a GIF needs Pillow ({error}): `pip install pillow`, or choose another ending", name="PIL"
            ) from error
        self._path, self._frame_s = path, 1 / rate_hz
        self._last: np.ndarray | None = None
        self._pictures: list[Any] = []
        self._frames: list[int] = []  # of the film, for which each picture stands

    def write(self, image: np.ndarray) -> None:
        """(H, W, 3) BGR."""
        if image is self._last:
            self._frames[-1] += 1
            return
        self._last = image
        picture = self._pillow.fromarray(np.ascontiguousarray(image[..., ::-1]))
        self._pictures.append(picture.quantize(COLORS, dither=self._pillow.Dither.NONE))
        self._frames.append(1)

    def release(self) -> None:
        ends = np.round(np.cumsum(self._frames) * self._frame_s / TICK_S).astype(int)  # rounding does not add up
        durations_ms = [int(ticks) * 10 for ticks in np.diff(ends, prepend=0)]
        first, *others = self._pictures
        first.save(self._path, save_all=True, append_images=others, duration=durations_ms, loop=0, optimize=False)
