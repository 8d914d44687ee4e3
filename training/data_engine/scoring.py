"""Every drive of a pool through the networks, as far as the store does not have it yet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bev_perception.evaluation.spread import Done, spread
from bev_perception.files import sha256_of
from training.data.index import open_index
from training.data.source import Source
from training.data_engine.looking import Look, Networks, look_at
from training.data_engine.store import Store, digest_of


def open_store(folder: Path, source: Source, networks: Networks, views: Sequence[str]) -> Store:
    """Where the views of these networks on this data are."""
    data = open_index(source.root, source.version, source.classes).digest
    shas = [sha256_of(path) for path in networks.checkpoints]
    made_from = {
        "base": [shas[0]], "flips": [shas[0]], "sensors": [shas[0]], "loss": [shas[0]], "ensemble": shas,
        "teacher": [shas[0], networks.teacher and sha256_of(networks.teacher)],
    }  # fmt: skip
    return Store(folder, {view: digest_of({"data": data, "networks": made_from[view]}) for view in views})


def _here(work: Sequence[Look]) -> Iterator[Done[int]]:
    """As `spread`, in this process: another one would take longer to begin than a small pool takes."""
    begun = time.monotonic()
    for index, look in enumerate(work):
        result = error = None
        try:
            result = look_at(look)
        except Exception as raised:
            error = raised
        left_s = (time.monotonic() - begun) / (index + 1) * (len(work) - index - 1)
        yield Done(index, result, error, index + 1, left_s)


def fill(
    store: Store, source: Source, drives: Sequence[str], networks: Networks, workers: int = 1, ray: str = "",
    batch: int = 4,
) -> int:  # fmt: skip
    """Look at what is lacking -> frames that were looked at. Progress goes to stderr; what is done stays done.

    Raises ValueError for a drive that could not be looked at, after all others.
    """
    lacking = {drive: tuple(views) for drive in drives if (views := store.lacking(drive))}
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    work = [Look(networks, source, drive, views, store, batch, threads) for drive, views in lacking.items()]
    if len(work) < len(drives):
        print(f"{len(drives) - len(work)} of {len(drives)} drives are in {store.folder} already", file=sys.stderr)
    frames, failed = 0, {}
    for done in spread(look_at, work, workers, ray) if ray or workers > 1 else _here(work):
        if done.error is not None:
            failed[work[done.index].drive] = done.error
            continue
        frames += done.result or 0
        print(f"[{done.count}/{len(work)}] {work[done.index].drive}: {done.result} frames; {done.left_s:.0f} s left",
              file=sys.stderr, flush=True)  # fmt: skip
    if failed:
        drive, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} drives could not be looked at; {drive}: {error}") from error
    return frames
