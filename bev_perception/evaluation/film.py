"""Pictures after each other in a video file, in the time that lies between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from bev_perception.evaluation.gif import GifWriter
from bev_perception.files import sync, work_folder

# Ending of the file -> codec that OpenCV's wheels can write. A WebM plays in every browser, the others in players.
CODECS = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG"}
GIF = ".gif"
ENDINGS = (*CODECS, GIF)
LONGEST_S = 5.0  # that one picture stands; over a longer gap the film goes on


class Film:
    """Add pictures (H, W, 3) BGR of one size with their stamps, in order; each stands until the next, or LONGEST_S."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path, self._rate_hz = path, rate_hz
        self._writer: cv2.VideoWriter | GifWriter | None = None
        self._last: tuple[int, np.ndarray] | None = None
        self._owed = 0.0  # of a frame, so that rounding does not add up
        self.frames = 0

    def add(self, stamp_ns: int, image: np.ndarray) -> None:
        even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]  # codecs halve the colours' resolution
        if self._writer is None:
            self._writer = self._begin((even.shape[1], even.shape[0]))
        if self._last is not None:
            self._show(min((stamp_ns - self._last[0]) / 1e9, LONGEST_S))
        self._last = stamp_ns, even

    def _begin(self, size: tuple[int, int]) -> cv2.VideoWriter | GifWriter:
        if self._path.suffix == GIF:
            return GifWriter(self._path, self._rate_hz)
        writer = cv2.VideoWriter(
            str(self._path), cv2.VideoWriter.fourcc(*CODECS[self._path.suffix]), self._rate_hz, size
        )
        if not writer.isOpened():
            raise OSError(f"OpenCV could not begin a video of {size[0]}x{size[1]} in {self._path}")
        return writer

    def finish(self) -> None:
        """The last picture stands for one frame."""
        if self._last is not None and self._writer is not None:
            self._owed = 0.0
            self._show(1 / self._rate_hz)
            self._writer.release()

    def _show(self, seconds: float) -> None:
        assert self._writer is not None and self._last is not None
        self._owed += seconds * self._rate_hz
        for _ in range(round(self._owed)):
            self._writer.write(self._last[1])
            self.frames += 1
        self._owed -= round(self._owed)


@contextmanager
def open_film(path: Path, rate_hz: float) -> Iterator[Film]:
    """A film that takes its name, also from an earlier one, when the block ends; nothing of it stays when the block
    raises. Raises ValueError for an ending that is none of ENDINGS, OSError where it cannot be written or has no
    picture, ImportError for a GIF without Pillow."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    with work_folder(path) as part:
        film = Film(part / path.name, rate_hz)
        yield film
        film.finish()
        if not film.frames:
            raise OSError(f"{path} was not written: there was no frame to show")
        sync(part / path.name)
        os.replace(part / path.name, path)
