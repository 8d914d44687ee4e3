"""Checkpoints on disk: at every moment of a save, and after it, there is a whole one."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bev_perception.files import open_atomic

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its target, syncs it and then replaces the target by it.

    The `last.ckpt` that is replaced stays as `previous.ckpt`, unless `last_is_damaged`: then the one that is kept
    already is better than it. A save needs room for three checkpoints. Raises OSError, with the target untouched, when
    the disk is full or cannot be written.
    """

    def __init__(self, last_is_damaged: bool = False) -> None:
        self.last_is_damaged = last_is_damaged

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)  # into memory first: an error of the disk then comes as what it is
        with open_atomic(path) as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())  # before the one before is touched
            if path.name == LAST and path.is_file() and not self.last_is_damaged:
                keep_before(path)
        if path.name == LAST:
            self.last_is_damaged = False


def keep_before(last: Path) -> None:
    """Give `last` the name of the one before it, too; it loses its own where the file system knows no second names."""
    link = last.with_name(f".{PREVIOUS}.{os.getpid()}.part")
    link.unlink(missing_ok=True)
    try:
        os.link(last, link)
    except OSError:
        link = last
    os.replace(link, last.with_name(PREVIOUS))
    if link != last:
        link.unlink(missing_ok=True)  # after a kill both may be names of one file: then replace does nothing


def remove_parts(out: Path) -> None:
    """What killed saves have left in the folder of a run that nobody else is at work in."""
    for part in out.glob(".*.ckpt.*.part"):
        part.unlink()
