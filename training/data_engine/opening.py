"""What a pool can be: a data set in nuScenes' format, with labels or without, or recordings of the vehicle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bev_perception.bags.metadata import METADATA
from bev_perception.bags.recording import STORAGES
from bev_perception.ring.bag import PARAMS
from training.bag_to_nuscenes import main as bag_to_nuscenes
from training.data.nuscenes import read_split
from training.data.source import Source

SPLIT = "pool"  # of what recordings become


def open_pool(
    path: Path, version: str, split: str, work: Path, params: Path | None = None, bundle: Path | None = None
) -> tuple[Source, list[str]]:
    """-> (data set, names of its drives). Recordings become a data set below `work`, each once.

    params, bundle: of recordings, as in training.bag_to_nuscenes; None: what a vehicle's ring has put beside its bag,
    and else what is shipped. Raises ValueError for a folder that is neither.
    """
    if (path / version).is_dir():
        return (source := Source(path, version)), read_split(source, split)
    bags = recordings(path)
    if not bags:
        raise ValueError(
            f"{path} is no pool: expected a data set (tables are in {path / version}), a recording, or a folder of some"
        )
    for bag in bags:
        name = f"{bag.name.removesuffix('.mcap')}-{hashlib.sha256(str(bag.resolve()).encode()).hexdigest()[:6]}"
        words = [str(bag), str(work), "--name", name, "--split", SPLIT, "--version", version, "--no-labels"]
        own = params or (bag / PARAMS if (bag / PARAMS).is_file() else None)
        words += ["--params", str(own)] if own else []
        words += ["--bundle", str(bundle)] if bundle else []
        if bag_to_nuscenes(words):
            raise ValueError(
                f"{bag} could not be read; what to do is said above (--params names the node's parameters)"
            )
    return (source := Source(work, version)), read_split(source, SPLIT)


def recordings(path: Path) -> Sequence[Path]:
    """`path` itself where it is a recording, else those in it, by name."""
    if _is_recording(path):
        return [path]
    return sorted(entry for entry in path.iterdir() if _is_recording(entry)) if path.is_dir() else []


def _is_recording(path: Path) -> bool:
    if path.is_dir():
        return (path / METADATA).is_file()
    return path.suffix in STORAGES
