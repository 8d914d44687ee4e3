"""The frames of a data set that are labelled, where not all are: DATA/frames.json, split -> tokens of samples.

A run learns from these alone; the others are only what came before them. A token that stands there twice counts twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bev_perception.files import read_text
from bev_perception.plain import parse_json
from training.data.index import open_index
from training.data.nuscenes import Keyframes
from training.data.source import Source
from training.processes import rank_and_world

FRAMES, LIMIT = "frames.json", 2**31  # bytes


def labelled_frames(root: Path, split: str) -> list[str] | None:
    """Tokens of a split, None where all of it is labelled. Raises ValueError for a file that says anything else."""
    path = root / FRAMES
    if not path.is_file():
        return None
    try:
        found = parse_json(read_text(path, LIMIT)).get(split)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: expected split -> tokens of samples ({error})") from error
    if found is not None and (not isinstance(found, list) or {type(token) for token in found} != {str}):
        raise ValueError(f"{path}: {split} must list the token of one sample at least; choose some, or delete the file")
    return found


def rows_to_learn(source: Source, keyframes: Keyframes, split: str = "train") -> np.ndarray | None:
    """Rows of the keyframes that a run learns from, None for all. Prints, in the first process, how many samples are of
    other scenes than these (data.holdout and data.train_scenes leave some out). Raises ValueError where all are."""
    tokens = labelled_frames(source.root, split)
    if tokens is None:
        return None
    row_of = {token: row for row, token in enumerate(keyframes.tokens())}
    rows = [row_of[token] for token in tokens if token in row_of]
    if not rows:
        raise ValueError(f"{source.root / FRAMES}: none of its {len(tokens)} samples is in the scenes of {split!r}")
    if len(rows) < len(tokens) and rank_and_world()[0] == 0:
        left_out = f"{len(tokens) - len(rows)} of its {len(tokens)} samples are not in the scenes that are opened"
        print(f"{source.root / FRAMES}: {left_out}, and are not learnt from", flush=True)
    return np.array(rows, dtype=np.int64)


def data_digest(source: Source) -> str:
    """Of the tables, the class names and the frames that are labelled: what a run is shown."""
    digest, path = open_index(source.root, source.version, source.classes).digest, source.root / FRAMES
    if not path.is_file():
        return digest
    labelled = json.dumps(parse_json(read_text(path, LIMIT)), sort_keys=True)
    return hashlib.sha256(f"{digest}/{labelled}".encode()).hexdigest()


def frames_json(splits: Mapping[str, Sequence[str]]) -> str:
    """What the file holds."""
    return json.dumps({split: list(tokens) for split, tokens in splits.items()}, indent=0) + "\n"
