"""Instance masks of images: COCO JSON, one file per image, DATA/masks/<channel>/<image's name without suffix>.json.

    {"images": [{"id": 1, "file_name": ..., "width": ..., "height": ...}],
     "categories": [{"id": 1, "name": "car"}, ...],
     "annotations": [{"category_id": 1, "score": 0.93, "segmentation": POLYGONS | RLE}, ...]}

Category names are the benchmark's ten; others are left out. POLYGONS: [[u0, v0, u1, v1, ...], ...];
RLE: {"size": [h, w], "counts": numbers or COCO's compressed string}. Without a score: 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_perception.model_spec import CLASSES


@dataclass(frozen=True)
class Masks:
    """masks (K, H, W) bool, labels (K,) int64 into CLASSES, scores (K,) float64 in [0, 1]."""

    masks: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def mask_path(folder: Path, image: str | Path) -> Path:
    """Of the image .../<channel>/<name>.jpg."""
    image = Path(image)
    return folder / image.parent.name / f"{image.stem}.json"


def read_masks(folder: Path, image: str | Path, size: tuple[int, int]) -> Masks:
    """Masks of an image of (height, width).

    Raises FileNotFoundError without a file and ValueError naming one that cannot be read or is of another size.
    """
    path = mask_path(folder, image)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no masks of this image; write them with an instance segmenter in COCO format (an image without "
            "objects has an empty list), or make synthetic data with --masks"
        )
    try:
        document = json.loads(path.read_text())
        names = {row["id"]: row["name"] for row in document["categories"]}
        kept = [row for row in document["annotations"] if names[row["category_id"]] in CLASSES]
        masks = [decode(row["segmentation"], size) for row in kept]
        labels = [CLASSES.index(names[row["category_id"]]) for row in kept]
        scores = [float(row.get("score", 1.0)) for row in kept]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not COCO instance masks of a {size[1]}x{size[0]} image ({error!r})") from error
    shape = (len(masks), *size)
    return Masks(np.array(masks, dtype=bool).reshape(shape), np.array(labels, dtype=np.int64), np.array(scores))


def decode(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """COCO polygons or run lengths -> (H, W) bool. Raises ValueError for another size."""
    if isinstance(segmentation, list):
        canvas = np.zeros(size, dtype=np.uint8)
        # COCO's corners count from the image's corner, OpenCV's pixels from their centres.
        shapes = [np.round(np.array(p, dtype=np.float64).reshape(-1, 2) - 0.5).astype(np.int32) for p in segmentation]
        cv2.fillPoly(canvas, shapes, (1,))
        return canvas.astype(bool)
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"run lengths of size {segmentation['size']}, the image has {list(size)}")
    counts = segmentation["counts"]
    runs = uncompress(counts) if isinstance(counts, str) else counts
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(runs)} pixels, the image has {size[0] * size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")  # runs go down the columns


def uncompress(text: str) -> list[int]:
    """COCO's compressed run lengths (cocoapi, maskApi.c, rleFrString): 5 bits a character, low ones first, with sign;
    from the fourth on the difference to the run before the last."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            bits = ord(text[position]) - 48
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            position, shift = position + 1, shift + 5
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> COCO's uncompressed run lengths."""
    flat = np.concatenate([[False], mask.reshape(-1, order="F")])
    changes = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": runs.tolist()}
