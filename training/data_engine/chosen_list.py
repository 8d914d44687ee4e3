"""The file of chosen frames: what was asked, what came of it, and the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception.files import read_text, write_atomic
from bev_perception.plain import from_plain, parse_json, to_plain
from training.data_engine.choosing import Chosen, Picked, Request

FORMAT, LIMIT = 1, 2**31  # bytes


@dataclass(frozen=True)
class ChosenList:
    """pool: the data set's root, version: its tables. asked: the request, in plain values. counts: of the pool."""

    pool: str
    version: str
    asked: dict[str, Any]
    counts: dict[str, int]
    drives: dict[str, float]
    frames: tuple[Picked, ...]
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, this version reads {FORMAT}")


def list_of(pool: Path, version: str, request: Request, chosen: Chosen) -> ChosenList:
    counts = {
        "frames": chosen.frames_of_pool,
        "labelled": chosen.labelled,
        "near_duplicates": chosen.near_duplicates,
        "chosen": len(chosen.frames),
    }
    return ChosenList(str(pool.resolve()), version, to_plain(request), counts, dict(chosen.drives), chosen.frames)


def write_list(path: Path, chosen: ChosenList) -> None:
    write_atomic(path, json.dumps(to_plain(chosen), indent=1) + "\n")


def read_list(path: Path) -> ChosenList:
    """Raises ValueError for what is no list of training.select, OSError."""
    try:
        found: ChosenList = from_plain(ChosenList, parse_json(read_text(path, LIMIT)), f"{path}:")
    except ValueError as error:
        raise ValueError(f"{path}: no list of training.select ({error})") from error
    return found


def by_drive(lists: Iterable[ChosenList]) -> dict[str, set[str]]:
    """Drive -> tokens of all lists together."""
    found: dict[str, set[str]] = {}
    for one in lists:
        for frame in one.frames:
            found.setdefault(frame.drive, set()).add(frame.token)
    return found
