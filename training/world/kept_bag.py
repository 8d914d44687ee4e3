"""A drive that is rendered again only when its settings or the world's sources have changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from bev_perception import geometry
from bev_perception.files import write_atomic
from training.world.bag_writer import BagSettings, write_bag


def keep_bag(out: Path, settings: BagSettings, workers: int) -> dict[str, Any]:
    """As `write_bag`, replacing what is there; {} where OUT is what these settings and sources give already."""
    stamp_file, stamp = out.with_name(out.name + ".stamp"), drive_stamp(settings)
    if out.is_dir() and stamp_file.is_file() and stamp_file.read_text() == stamp:
        return {}
    rates = write_bag(out, settings, workers, overwrite=True)
    write_atomic(stamp_file, stamp)
    return rates


def drive_stamp(settings: BagSettings) -> str:
    """Hash of everything that the drive's bytes depend on: settings and sources."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(settings)).encode())
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def sources() -> list[Path]:
    """All code that draws: both worlds', and the geometry."""
    return [*sorted(Path(__file__).parent.rglob("*.py")), Path(geometry.__file__)]
