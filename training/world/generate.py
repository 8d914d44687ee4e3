"""What both writers share: which scan is taken when, how one scan is made, and how work is spread over processes.

A drive is a list of `Scan` (channel, stamp). `take` makes one scan alone from (seed, channel, stamp), so a drive can be
cut into pieces, made in any order by any number of processes, and still comes out byte for byte the same.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TextIO, TypeVar

import cv2
import numpy as np

from bev_perception.evaluation.spread import end_with_parent
from training.world.camera import CameraImage, render_camera
from training.world.lidar import LidarSweep, scan_lidar
from training.world.listed_radar import ListedRadar, scan_radar_as
from training.world.rig import NUSCENES, RIG, Rig, SensorMount, scan_rng, stamps
from training.world.styles import TOWN, Style
from training.world.world import World, make_world

NS = 1_000_000_000
EPOCH_S = 1_700_000_000
KEYFRAME_NS = NS // 2

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rates:
    """Scans per second that are kept of every sensor kind: its own rate, or an even lower one (then thinned)."""

    camera: float = 12.0
    lidar: float = 20.0
    radar: float = 13.0


@dataclass(frozen=True)
class Scan:
    """One firing of one sensor; `keyframe` is the index of the keyframe it belongs to as key scan, or -1 (a sweep)."""

    channel: str
    stamp_ns: int
    keyframe: int = -1


def epoch_ns(seed: int) -> int:
    """Absolute time (ns) of a drive's start. Drives of different seeds do not overlap in time.

    Raises ValueError where the seconds would leave the int32 of builtin_interfaces/Time.
    """
    seconds = EPOCH_S + 1000 * seed
    if seed < 0 or seconds + 1000 > np.iinfo(np.int32).max:
        raise ValueError(f"seed {seed} gives the start time {seconds} s, outside a ROS stamp; use 0 to 440000")
    return seconds * NS


def keyframe_stamps(duration_s: float) -> list[int]:
    """Stamps (ns) of the 2 Hz keyframes: 0.5, 1.0 ... up to and including the drive's end.

    The first is not at 0 so that every keyframe has sweeps before it.
    """
    return list(range(KEYFRAME_NS, round(duration_s * NS) + 1, KEYFRAME_NS))


def plan_drive(duration_s: float, rates: Rates, mounts: Mapping[str, SensorMount] = RIG) -> list[Scan]:
    """All scans in (0, duration_s], by stamp and then in the order of `mounts`.

    The key scan of a keyframe is, for every sensor, its newest scan at or before the keyframe's stamp: what a vehicle
    has at that moment. (For the cameras: the sweep that CAM_BACK_LEFT closes; for the LiDAR: the one ending there.)
    Raises ValueError for a rate that cannot be had by thinning or would lose key scans.
    """
    keyframes = keyframe_stamps(duration_s)
    if not keyframes:
        raise ValueError(f"a drive must last at least {KEYFRAME_NS / NS} s to hold a keyframe, found {duration_s} s")
    scans = []
    for channel, mount in mounts.items():
        fired = [t for t in stamps(mount, 0, round(duration_s * NS) + 1) if 0 < t <= round(duration_s * NS)]
        kept = _thin(fired, mount.rate_hz, getattr(rates, mount.kind), channel, duration_s)
        key_of = {_newest(kept, stamp, channel): index for index, stamp in enumerate(keyframes)}
        scans += [Scan(channel, t, key_of.get(t, -1)) for t in kept]
    order = {channel: index for index, channel in enumerate(mounts)}
    return sorted(scans, key=lambda scan: (scan.stamp_ns, order[scan.channel]))


def _newest(fired: list[int], stamp_ns: int, channel: str) -> int:
    before = [t for t in fired if t <= stamp_ns]
    if not before:
        raise ValueError(f"{channel} has no scan at or before {stamp_ns} ns; its first is at {fired[:1]} ns")
    return before[-1]


def _thin(fired: list[int], native_hz: float, wanted_hz: float, channel: str, duration_s: float) -> list[int]:
    """The newest scan at or before every tick of 1 / wanted_hz."""
    if abs(wanted_hz - native_hz) < 1e-9:
        return fired
    if not 0 < wanted_hz < native_hz or wanted_hz % 2 != 0:
        raise ValueError(
            f"{channel} fires at {native_hz:g} Hz; it can be kept at that rate or thinned to an even lower one "
            f"(2, 4, 6 ... Hz, so that every 2 Hz keyframe has its scan), not at {wanted_hz:g} Hz"
        )
    ticks = [round(k * NS / wanted_hz) for k in range(1, int(duration_s * wanted_hz) + 1)]
    return sorted({_newest(fired, tick, channel) for tick in ticks})


@lru_cache(maxsize=1)
def world_of(seed: int, duration_s: float, style: Style = TOWN, rig: Rig = NUSCENES) -> World:
    """The drive's world; kept for the next scan of the same drive, since a worker makes many of one."""
    return make_world(seed, duration_s, style=style, rig=rig)


def take(
    world: World, scan: Scan, seed: int, scale: float, radar: ListedRadar | None = None
) -> CameraImage | LidarSweep | np.ndarray:
    """Makes one scan: CameraImage at `scale` of 1600x900, structured radar returns (of None the radar `clear`), or
    LidarSweep (sensor frame)."""
    mount = world.rig.mounts[scan.channel]
    rng = scan_rng(seed, scan.channel, scan.stamp_ns)
    if mount.kind == "camera":
        return render_camera(world, mount, scan.stamp_ns, scale, rng)
    if mount.kind == "radar":
        return scan_radar_as(radar, world, mount, scan.stamp_ns, rng)
    return scan_lidar(world, mount, scan.stamp_ns, rng)


def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """`map` over a pool of processes: results in the order of the tasks, a few tasks ahead of the consumer and no more.

    One worker means this process. An error in a worker is raised here and drops what has not begun.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, found {workers}")
    if workers == 1:
        yield from map(function, tasks)
        return
    # spawn: a forked child would inherit the ray caster's and OpenCV's threads in an unknown state
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) >= 8 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _begin_worker() -> None:
    cv2.setNumThreads(1)
    end_with_parent()


class Progress:
    """Prints `label  12/60  3.1 keyframes/s  18.6 images/s  ETA 4:05`, at most once in `every_s` and at the end."""

    def __init__(self, label: str, total: int, every_s: float = 2.0, stream: TextIO | None = None) -> None:
        self.label, self.total, self.every_s = label, total, every_s
        self.stream = sys.stderr if stream is None else stream
        self.start = time.monotonic()
        self.last = self.start
        self.done = 0
        self.counts: dict[str, int] = {}

    def add(self, steps: int = 1, **counts: int) -> None:
        """Counts `steps` of `total` as done, and named things whose rates are shown."""
        self.done += steps
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        now = time.monotonic()
        if self.done >= self.total or now - self.last >= self.every_s:
            self.last = now
            print(self.line(now), file=self.stream, flush=True)

    def line(self, now: float) -> str:
        """The text for the moment `now` (time.monotonic)."""
        elapsed = max(now - self.start, 1e-6)
        rates = "".join(f"  {count / elapsed:.1f} {name}/s" for name, count in self.counts.items())
        left = round(elapsed * (self.total - self.done) / max(self.done, 1))
        return f"{self.label}  {self.done}/{self.total}{rates}  ETA {left // 60}:{left % 60:02d}"


def summary(progress: Progress) -> dict[str, Any]:
    """Totals and rates for a closing line or a report."""
    elapsed = max(time.monotonic() - progress.start, 1e-6)
    rates = {f"{name}_per_s": round(count / elapsed, 2) for name, count in progress.counts.items()}
    return {"seconds": round(elapsed, 1), **rates}
