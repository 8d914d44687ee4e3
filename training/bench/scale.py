"""What a data set of nuScenes' size costs before the first step: its index, its database of pasted objects, pasting.

Each part runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from bev_perception.evaluation.spread import end_with_parent
from bev_perception.model_spec import CLASSES
from training.bench.large_set import write_clouds
from training.data.clips import ClipDataset
from training.data.database import open_database
from training.data.index import open_index
from training.data.nuscenes import Keyframes, open_nuscenes
from training.data.paste import without_points_in
from training.data.prepared import prepare_clouds
from training.data.source import Source
from training.experiments import load_run
from training.run import Run

RECIPE = "training.experiments.centerpoint:pillar"  # ten sweeps, pasted objects, class-balanced
KEYFRAMES_PASTED_INTO = 40
WANTED = 8  # objects of each class in a sample: about twenty are pasted
Given = TypeVar("Given")


@dataclass(frozen=True)
class Cost:
    """Wall and processor time of this and its loader processes, s; most memory that they had together (their own, and
    their share of what several have; PSS), MB, and what they had after a quarter of the time."""

    seconds: float
    processor_s: float
    memory_mb: float
    early_mb: float


@dataclass(frozen=True)
class Database:
    """cost: of building it of so many keyframes. size_mb: of its files."""

    cost: Cost
    keyframes: int
    objects: int
    size_mb: float


@dataclass(frozen=True)
class Pasting:
    """Of a sample, medians: points of its cloud, objects pasted, milliseconds of processor time for them."""

    points: float
    objects: float
    milliseconds: float


def alone(function: Callable[..., Given], *arguments: object) -> Given:
    """function(*arguments) in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with_parent) as process:
        return process.submit(function, *arguments).result()


def index_built(source: Source) -> Cost:
    return _cost_of(lambda: open_index(source.root, source.version))


def index_opened(source: Source) -> Cost:
    """By each process of a run: index, keyframes of the training split, and the class-balanced order of them."""
    run = load_run(RECIPE)

    def opened() -> None:
        keyframes = open_nuscenes(source, "train", run.spec, run.data)
        ClipDataset(keyframes, run.spec, dataclasses.replace(run.data, paste=None))

    return _cost_of(opened)


def database_built(source: Source, scenes: int, workers: int) -> Database:
    run = load_run(RECIPE)
    keyframes = _keyframes(source, run, scenes)
    paths = {file.path for keyframe in keyframes for file in keyframe.lidar}
    write_clouds(source.root, sorted(paths))
    cost = _cost_of(lambda: open_database(keyframes, run.spec, run.data, workers))
    database = open_database(keyframes, run.spec, run.data)
    size = sum(array.nbytes for array in database.arrays.values()) / 1e6
    return Database(cost, len(keyframes), len(database), size)


def pasting(source: Source, scenes: int) -> Pasting:
    """What pasting adds to a sample, its own cloud read already; as many are wanted of every class as fit somewhere."""
    run = load_run(RECIPE)
    wanted = [(name, WANTED) for name in CLASSES]
    keyframes = _keyframes(source, run, scenes)
    database = open_database(keyframes, run.spec, run.data)
    rows = []
    for index in range(KEYFRAMES_PASTED_INTO):
        keyframe, rng = keyframes[index], np.random.default_rng(index)
        cloud = prepare_clouds(keyframe, run.data).lidar
        started = time.process_time()
        pasted = database.draw(keyframe.boxes, keyframe.labels, wanted, rng)
        np.concatenate([without_points_in(cloud, pasted.boxes), pasted.lidar])
        rows.append((len(cloud), len(pasted.labels), 1e3 * (time.process_time() - started)))
    return Pasting(*(statistics.median(column) for column in zip(*rows, strict=True)))


def _keyframes(source: Source, run: Run, scenes: int) -> Keyframes:
    index = open_index(source.root, source.version)
    return Keyframes(index, index.scenes[:scenes], run.spec, run.data)


def _cost_of(work: Callable[[], object]) -> Cost:
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            seen.append(_memory_mb())

    before, started = _processor_s(), time.monotonic()
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    seconds, used = time.monotonic() - started, _processor_s() - before
    seen.append(_memory_mb())
    return Cost(seconds, used, max(seen), seen[len(seen) // 4])


def _processor_s() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def _memory_mb() -> float:
    """PSS of this process and those that it began: pages that several have are counted once."""
    children = Path("/proc/self/task").glob("*/children")
    own = [int(pid) for path in children for pid in path.read_text().split()]
    return sum(map(_pss_kb, ["self", *map(str, own)])) / 1e3


def _pss_kb(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
