"""Matched detections of a drive in a file, so that drives are put together and compared without their boxes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from bev_perception.evaluation.matching import CLASS_RANGE, DISTANCES, ERRORS, Matched
from bev_perception.evaluation.metrics import RANGES, Tally
from bev_perception.files import read_bytes

LIMIT = 2**30  # bytes: an hour with all boxes down to a score of 0.03 has a tenth of it


def tally_bytes(tally: Tally) -> bytes:
    """As `read_tally` reads it (numpy's .npz)."""
    arrays = {"frames": np.array(tally.frames)}
    for part, rows in _parts(tally).items():
        for name, matched in rows.items():
            arrays[f"{part}/{name}/scores"] = matched.scores
            arrays[f"{part}/{name}/true"] = matched.true
            arrays[f"{part}/{name}/errors"] = matched.errors
            arrays[f"{part}/{name}/wanted"] = np.array(matched.wanted)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # of numpy's stub: a keyword of its own
    return buffer.getvalue()


def read_tally(path: Path) -> Tally:
    """Raises ValueError for what is no such file, OSError where it cannot be read."""
    data = read_bytes(path, LIMIT)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        parts = [{name: _matched(arrays, f"{part}/{name}") for name in CLASS_RANGE} for part in _names()]
        return Tally(int(arrays["frames"]), parts[0], dict(zip(RANGES, parts[1:])))
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        raise ValueError(f"{path} is no tally of this version ({error}); evaluate that drive again") from error


def is_tally(path: Path) -> bool:
    """Whether a file can be replaced as one of these."""
    try:
        read_tally(path)
    except (ValueError, OSError):
        return False
    return True


def _matched(arrays: dict[str, np.ndarray], key: str) -> Matched:
    scores, true, errors = (arrays[f"{key}/{name}"] for name in ("scores", "true", "errors"))
    count = len(scores)
    if true.shape != (count, len(DISTANCES)) or true.dtype != bool or errors.shape != (count, len(ERRORS)):
        raise ValueError(f"{key}: arrays of {count}, {true.shape} and {errors.shape}")
    return Matched(scores, true, errors, int(arrays[f"{key}/wanted"]))


def _names() -> list[str]:
    return ["whole", *(f"{low:g}-{high:g}" for low, high in RANGES)]


def _parts(tally: Tally) -> dict[str, dict[str, Matched]]:
    return dict(zip(_names(), [tally.whole, *(tally.ranges[limits] for limits in RANGES)]))
