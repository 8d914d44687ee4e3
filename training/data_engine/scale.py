"""What choosing costs by the pool's size: `python -m training.data_engine.scale --out docs/data/choosing_scale.csv`.

Pools of made-up features are stored and chosen from, each in a process of its own: seconds of CPU, the most memory, and
bytes on the disk. What networks take to look at the frames comes before that and is not in it.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bev_perception.evaluation.spread import spread
from bev_perception.files import write_atomic
from training.command_line import errors_as_text
from training.data_engine.choosing import Request, choose
from training.data_engine.cost import WHOLE, Row, slope, to_csv
from training.data_engine.pool import survey
from training.data_engine.store import Frames, Ragged, Store

DRIVE, DIMENSIONS, CLASSES = 1000, 96, tuple("abcdefghij")
PEAKS, FOUND = 60, 40  # of a frame, about as many as a small network has in a city
BY = ("random_distinct", "entropy", "novelty", "entropy_core_set")


@dataclass(frozen=True)
class Job:
    """One pool, chosen from once."""

    folder: Path
    frames: int
    by: str
    budget: int


def made_up(number: int, count: int) -> Frames:
    """A drive: one frame in four stands where the one before stood and looks like it."""
    rng = np.random.default_rng(number)
    waits = rng.random(count) < 0.25
    moved = np.maximum.accumulate(np.where(waits, 0, np.arange(count)))  # the frame whose place each has
    embedding = rng.normal(size=(count, DIMENSIONS))[moved] + 0.05 * rng.normal(size=(count, DIMENSIONS))

    def lists(low: float, high: float, mean: int) -> Ragged:
        counts = rng.integers(mean // 2, 3 * mean // 2, count)
        return Ragged(rng.uniform(low, high, counts.sum()).astype(np.float32), np.cumsum(counts))

    found = lists(0.03, 1.0, FOUND)
    alike = {name: Ragged(rng.uniform(low, high, len(found.values)).astype(np.float32), found.ends)
             for name, low, high in (("metres", 0, 60), ("speed", 0, 15))}  # fmt: skip
    label = Ragged(rng.integers(0, len(CLASSES), len(found.values)).astype(np.float32), found.ends)
    return Frames(
        f"drive_{number:05d}",
        {
            "token": [f"{number}/{i}" for i in range(count)],
            "stamp_ns": np.arange(count, dtype=np.int64) * 500_000_000,
            "place": np.stack([3.0 * moved, np.zeros(count), np.zeros(count)], axis=1),
            "embedding": embedding.astype(np.float32),
            "entropy": lists(0.0, 0.69, PEAKS),
            "label": label,
            "score": found,
            **alike,
        },
    )


def store_of(folder: Path, frames: int) -> tuple[Store, list[str]]:
    """Made up where it is not there yet."""
    store, drives = Store(folder, {"base": "made_up"}), []
    for number in range(frames // DRIVE):
        drives.append(f"drive_{number:05d}")
        if store.lacking(drives[-1]):
            store.write("base", made_up(number, DRIVE))
    return store, drives


def measure(job: Job) -> Row:
    """In a process of its own, so that the most memory is that of this alone."""
    store, drives = Store(job.folder, {"base": "made_up"}), [f"drive_{n:05d}" for n in range(job.frames // DRIVE)]
    begun = time.process_time()
    pool = survey(store, drives, len(CLASSES), {})
    surveyed = time.process_time()
    chosen = choose(store, drives, CLASSES, pool, Request(job.by, job.budget), {})
    assert len(chosen.frames) == job.budget
    done, used = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    disk = sum(store.path("base", drive).stat().st_size for drive in drives) / 2**20
    return Row(job.by, job.frames, job.budget, surveyed - begun, done - surveyed, used, disk)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.data_engine.scale", description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--by", nargs="+", default=list(BY))
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--store", type=Path, help="folder that keeps the made-up features (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="write the rows as CSV")
    args = parser.parse_args(argv)
    if min(args.frames) < max(DRIVE, 2 * args.budget):
        parser.error(f"--frames: at least {DRIVE} and twice the budget, found {min(args.frames)}")
    folder = args.store or Path(tempfile.mkdtemp(prefix="bev_perception."))
    try:
        store_of(folder, max(args.frames))
        rows: list[Row] = []
        for by in args.by:
            for frames in sorted(args.frames):
                (done,) = spread(measure, [Job(folder, frames, by, args.budget)], 1)
                if done.result is None:
                    raise RuntimeError(f"{by} of {frames} frames failed") from done.error
                rows.append(done.result)
                print(to_csv(rows[-1:]).splitlines()[-1], flush=True)
            memory, hours = slope([row for row in rows if row.by == by])
            print(f"{by}: {memory:.0f} bytes of memory a frame, {hours:.2f} hours of CPU at {WHOLE} frames", flush=True)
    finally:
        if args.store is None:
            shutil.rmtree(folder)
    if args.out:
        write_atomic(args.out, to_csv(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
