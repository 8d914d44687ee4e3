"""What the pixels of each camera say of its lens and of the light: detail, contrast and brightness by region.

Dirt and drops take the detail of the regions that they cover, fog and a low sun the contrast of many, darkness the
brightness. All are logarithms, so that a difference from the usual is a factor, whatever the scene's own level.
"""

from __future__ import annotations

import cv2
import numpy as np

ROWS, COLUMNS = 2, 4  # regions of an image
HEIGHT = 16  # rows that are looked at, evenly spread
FINE, COARSE = 1, 8  # pixels of the network's image between the two whose difference is taken
LEAST = 0.25  # grey levels, below which nothing is told apart
PLACES = tuple(f"{row} {column}" for row in ("upper", "lower") for column in ("far left", "left", "right", "far right"))
KINDS = ("detail", "contrast", "brightness")
IMAGE_STATISTICS = tuple(f"{kind}, {place}" for kind in KINDS for place in PLACES)


def image_statistics(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 -> (N, 24) float64 of IMAGE_STATISTICS, natural logarithms; NaN where valid (N,) is 0.

    All cameras lie in one tall picture, so that each step is one call.
    """
    count, height, width = images.shape[:3]
    step = max(1, height // HEIGHT)
    rows = height // step // ROWS * ROWS
    tall = np.empty((count * rows, width), dtype=np.uint8)
    for i, image in enumerate(images):
        cv2.extractChannel(image[: rows * step : step], 1, tall[i * rows : (i + 1) * rows])
    size = (COLUMNS, ROWS * count)
    grey, coarse = tall.astype(np.float32), min(COARSE, width // 2)
    means = [
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for picture in (
            cv2.absdiff(grey[:, FINE:], grey[:, :-FINE]),
            cv2.absdiff(grey[:, coarse:], grey[:, :-coarse]),
            grey,
        )
    ]
    found = np.log(np.stack(means).astype(np.float64) + LEAST)
    found = found.reshape(len(KINDS), count, ROWS * COLUMNS).transpose(1, 0, 2).reshape(count, -1)
    found[np.asarray(valid) <= 0] = np.nan
    return found
