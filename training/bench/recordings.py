"""What evaluating recordings costs: messages to frames, the first detection, memory of a long drive, drives at once."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bev_perception.bags.recording import open_bag
from bev_perception.bundle import load_bundle
from bev_perception.evaluation.drive import Job, evaluate_drive
from bev_perception.evaluation.evaluate import evaluate_all
from bev_perception.evaluation.frames import frames_of
from bev_perception.measurements import Measurements
from bev_perception.parameters import SHIPPED_BUNDLE, SHIPPED_PARAMETERS, load_config
from bev_perception.preprocess import prepare_inputs
from bev_perception.replay import Replay
from bev_perception.sensors.intake import SensorIntake
from bev_perception.sync import FrameSynchronizer
from training.bench.scale import alone
from training.world.bag_writer import BagSettings
from training.world.kept_bag import keep_bag

SCALE = 0.1
SHORT_S, LONG_S = 10.0, 60.0
DRIVES = 4
WORKERS = (1, 2)
SEED = 930


@dataclass(frozen=True)
class Recordings:
    """realtime: seconds of recording that a second of a core opens, decodes, converts, synchronises and prepares.
    first_s: from the start of a replay of the long drive to its first detections. memory_mb: (short, long) drive.
    walls_s: of all short drives, by number of workers."""

    realtime: float
    first_s: float
    memory_mb: tuple[float, float]
    walls_s: tuple[float, ...]


def make_drives(out: Path, workers: int) -> tuple[list[Path], Path]:
    """(short drives, a long one), rendered once; the short ones are links to one."""
    settings = BagSettings(seed=SEED, duration_s=SHORT_S, scale=SCALE)
    drive, long = out / "bench_drive", out / "bench_drive_long"
    keep_bag(drive, settings, workers)
    keep_bag(long, replace(settings, duration_s=LONG_S), workers)
    short = [out / f"bench_drive_{index}" for index in range(DRIVES)]
    for path in short:
        path.unlink(missing_ok=True)
        path.symlink_to(drive.resolve())
    return short, long


def measure(short: Sequence[Path], long: Path, out: Path) -> Recordings:
    """Each in a process of its own; results in `out`, which is empty."""
    realtime = alone(frames_per_second_of_a_core, short[0])
    first = alone(first_detection_s, long)
    memory = tuple(alone(memory_mb, _job(bag, out / f"memory_{bag.name}")) for bag in (short[0], long))
    walls = []
    for count in WORKERS:
        begun = time.perf_counter()
        jobs = [_job(bag, out / f"by_{count}" / bag.name) for bag in short]
        _, failed = evaluate_all(jobs, count)
        if failed:
            raise RuntimeError(f"drives that were to be timed could not be evaluated: {failed}")
        walls.append(time.perf_counter() - begun)
    return Recordings(realtime, first, (memory[0], memory[1]), tuple(walls))


def frames_per_second_of_a_core(bag: Path) -> float:
    config, spec = load_config(SHIPPED_BUNDLE, SHIPPED_PARAMETERS), load_bundle(SHIPPED_BUNDLE).spec
    taken = Measurements(config.sync_config(spec))
    intake = SensorIntake(config, taken, lambda sensor, reason, detail: None)
    begun = time.process_time()
    with open_bag(bag) as recording:
        for _, frame in frames_of(recording, config, intake, FrameSynchronizer(taken, {}), lambda share: None):
            prepare_inputs(frame, spec)
        seconds = (recording.end_ns - recording.start_ns) / 1e9
    return seconds / (time.process_time() - begun)


def first_detection_s(bag: Path) -> float:
    config = load_config(SHIPPED_BUNDLE, SHIPPED_PARAMETERS)
    begun = time.perf_counter()
    next(iter(Replay(bag, SHIPPED_BUNDLE, config)))
    return time.perf_counter() - begun


def memory_mb(job: Job) -> float:
    """Peak of the process."""
    evaluate_drive(job)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _job(bag: Path, out: Path) -> Job:
    return Job(bag, SHIPPED_BUNDLE, SHIPPED_PARAMETERS, out)
