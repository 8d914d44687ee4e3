"""What a frame costs outside the engine: six raw 1600x900 images and five radars, on one core, beside the usual way."""

from __future__ import annotations

import array
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from bev_perception import conversions
from bev_perception.decode import decode
from bev_perception.evaluation import stock
from bev_perception.evaluation.bench_checks import Checks
from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.measurements import Measurements
from bev_perception.model_spec import BOX_CHANNELS, ModelSpec
from bev_perception.preprocess.images import prepare_images
from bev_perception.preprocess.radar import prepare_radar
from bev_perception.sensors.odometry_messages import to_ego_pose
from bev_perception.sensors.radar_messages import RadarFields, read_radar
from bev_perception.structures import CameraCalibration, EgoPose, SensorFrame
from bev_perception.sync import FrameSynchronizer
from bev_perception.sync_config import SyncConfig

WIDTH, HEIGHT, RETURNS = 1600, 900, 100
FIELDS = (
    ("x", "f4"), ("y", "f4"), ("z", "f4"), ("dyn_prop", "i1"), ("id", "i2"), ("rcs", "f4"), ("vx", "f4"), ("vy", "f4"),
    ("vx_comp", "f4"), ("vy_comp", "f4"), ("is_quality_valid", "i1"), ("ambig_state", "i1"), ("x_rms", "i1"),
    ("y_rms", "i1"), ("invalid_state", "i1"), ("pdh0", "i1"), ("vx_rms", "i1"), ("vy_rms", "i1"),
)  # fmt: skip
DATATYPES = {code: number for number, code in conversions.POINT_TYPES.items()}
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 83_333_333


@dataclass(frozen=True)
class Arrivals:
    """The messages of one frame period as rclpy hands them over (`data` is an array.array)."""

    stamp_ns: int
    images: list[Any]
    clouds: list[Any]
    odometry: list[Any]


@contextmanager
def one_core() -> Iterator[None]:
    """Everything inside runs on one core and in one thread of OpenCV."""
    before, threads = os.sched_getaffinity(0), cv2.getNumThreads()
    os.sched_setaffinity(0, {max(before)})
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        cv2.setNumThreads(threads)


def make_arrivals(spec: ModelSpec, periods: int, seed: int = 0) -> list[Arrivals]:
    """Random pixels and returns at plausible places; four sets of pixels take turns, so that none stays in a cache."""
    rng = np.random.default_rng(seed)
    pixels = [array.array("B", rng.integers(0, 256, WIDTH * HEIGHT * 3, np.uint8).tobytes()) for _ in range(4)]
    dtype = np.dtype([(name, "<" + code) for name, code in FIELDS])
    fields = [
        SimpleNamespace(name=name, offset=dtype.fields[name][1], datatype=DATATYPES[code], count=1)  # type: ignore[index]
        for name, code in FIELDS
    ]

    def header(stamp_ns: int, frame_id: str) -> Any:
        stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return SimpleNamespace(stamp=stamp, frame_id=frame_id)

    def cloud(stamp_ns: int, frame_id: str) -> Any:
        points = np.zeros(RETURNS, dtype)
        points["x"], points["y"] = rng.uniform(1, 60, RETURNS), rng.uniform(-25, 25, RETURNS)
        points["rcs"] = rng.uniform(-5, 25, RETURNS)
        points["vx_comp"], points["vy_comp"] = rng.normal(0, 3, (2, RETURNS))
        data = array.array("B", points.tobytes())
        size = {"height": 1, "width": RETURNS, "point_step": dtype.itemsize, "row_step": dtype.itemsize * RETURNS}
        more = {"fields": fields, "is_bigendian": False, "data": data, "is_dense": True}
        return SimpleNamespace(header=header(stamp_ns, frame_id), **size, **more)

    def odometry(stamp_ns: int) -> Any:
        x = 8.0 * (stamp_ns - START_NS) * 1e-9

        def vector(**values: float) -> Any:
            return SimpleNamespace(**values)

        pose = SimpleNamespace(position=vector(x=x, y=0.0, z=0.0), orientation=vector(x=0.0, y=0.0, z=0.0, w=1.0))
        twist = SimpleNamespace(linear=vector(x=8.0, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=0.0))
        return SimpleNamespace(
            header=header(stamp_ns, "odom"),
            child_frame_id="base_link",
            pose=SimpleNamespace(pose=pose),
            twist=SimpleNamespace(twist=twist),
        )

    result = []
    for k in range(periods):
        stamp = START_NS + k * PERIOD_NS
        images = [
            SimpleNamespace(
                header=header(stamp - 5_000_000 * (len(spec.cameras) - 1 - i), name.lower()),
                height=HEIGHT, width=WIDTH, encoding="bgr8", is_bigendian=0, step=3 * WIDTH,
                data=pixels[(k * len(spec.cameras) + i) % 4],
            )
            for i, name in enumerate(spec.cameras)
        ]  # fmt: skip
        clouds = [cloud(stamp - 2_000_000 * i, name.lower()) for i, name in enumerate(spec.radars)]
        poses = [odometry(stamp - PERIOD_NS + j * PERIOD_NS // 4) for j in range(1, 6)]
        result.append(Arrivals(stamp, images, clouds, poses))
    return result


def make_synchronizer(spec: ModelSpec) -> FrameSynchronizer:
    """With the rig's calibration set."""
    count = len(spec.cameras)
    offsets = {name: -5_000_000 * (count - 1 - i) for i, name in enumerate(spec.cameras)}
    config = SyncConfig(spec.cameras, spec.radars, period_ns=PERIOD_NS, offsets_ns=offsets)
    taken = Measurements(config)
    K = np.array([[1266.0, 0, 800], [0, 1266.0, 450], [0, 0, 1]])
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    for i, name in enumerate(spec.cameras):
        turn = rotation_from_yaw(np.deg2rad(55 - 60 * i))
        ego_from_cam = make_transform(turn @ optical, np.array([1.0, 0, 1.5]))
        taken.set_camera_calibration(name, CameraCalibration(WIDTH, HEIGHT, K, ego_from_cam))
    for i, name in enumerate(spec.radars):
        turn = rotation_from_yaw(np.deg2rad(72 * i))
        taken.set_radar_extrinsics(name, make_transform(turn, np.array([2.0, 0, 0.5])))
    return FrameSynchronizer(taken)


def make_outputs(spec: ModelSpec, seed: int = 1) -> dict[str, np.ndarray]:
    """Plausible outputs of the network: top_k candidates with falling scores, a third of them above the thresholds."""
    rng = np.random.default_rng(seed)
    boxes = rng.normal(0, 0.4, (spec.top_k, len(BOX_CHANNELS))).astype(np.float32)
    return {
        "scores": np.sort(rng.beta(0.3, 2.0, spec.top_k).astype(np.float32))[::-1].copy(),
        "labels": rng.integers(0, len(spec.classes), spec.top_k),
        "cells": rng.integers(0, spec.grid.shape[0] * spec.grid.shape[1], spec.top_k),
        "boxes": boxes,
    }


@dataclass(frozen=True)
class Cost:
    """Medians in milliseconds over the frames, by stage; copy_ms: one memcpy of the six images.

    CPU time of the one thread that works: the wall time on a core of its own, whatever else the machine does.
    """

    ours: dict[str, float]
    stock: dict[str, float]
    stock_scaled: dict[str, float]
    copy_ms: float
    frames: int


def measure_cost(spec: ModelSpec, frames: int = 40) -> Cost:
    """The stages convert, sync, preprocess, decode and checks of both ways, taking turns frame by frame."""
    arrivals = make_arrivals(spec, frames + 10)
    sync, outputs, checks = make_synchronizer(spec), make_outputs(spec), Checks(spec)
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    scaled: list[float] = []
    copies: list[float] = []
    target = np.empty(len(spec.cameras) * WIDTH * HEIGHT * 3, np.uint8)
    with one_core():
        for k, arrival in enumerate(arrivals):
            frame = _our_frame(arrival, sync, spec, ours)
            if frame is None or k < 9:  # radar history and caches fill
                ours.clear()
                continue
            _timed(ours, "images", lambda f=frame: prepare_images(f, spec))  # type: ignore[misc]
            _timed(ours, "radar", lambda f=frame: prepare_radar(f, spec))  # type: ignore[misc]
            _timed(ours, "decode", lambda: decode(outputs, spec))
            _timed(ours, "checks", checks.of_frame(arrival, frame))
            _timed(theirs, "images", lambda a=arrival: stock.images_normalised_first(a.images, spec))  # type: ignore[misc]
            scaled.append(_time(lambda a=arrival: stock.images_scaled_first(a.images, spec)))  # type: ignore[misc]
            _timed(theirs, "convert", lambda a=arrival: [stock.read_points(c) for c in a.clouds])  # type: ignore[misc]
            _timed(theirs, "radar", lambda f=frame: stock.radar_map(f, spec))  # type: ignore[misc]
            _timed(theirs, "decode", lambda: stock.decode(outputs, spec))
            copies.append(_time(lambda a=arrival: _copy(a, target)))  # type: ignore[misc]
    stock_ms = {stage: float(np.median(values)) for stage, values in theirs.items()}
    return Cost(
        {stage: float(np.median(values)) for stage, values in ours.items()},
        stock_ms,
        stock_ms | {"images": float(np.median(scaled))},
        float(np.median(copies)),
        len(copies),
    )


def _our_frame(
    arrival: Arrivals, sync: FrameSynchronizer, spec: ModelSpec, times: dict[str, list[float]]
) -> SensorFrame | None:
    """Convert and synchronise one period's messages as the node does; the frame that became complete."""
    start = time.thread_time_ns()
    frames = [conversions.to_camera_frame(m, name) for m, name in zip(arrival.images, spec.cameras)]
    scans = [read_radar(m, name, RadarFields())[0] for m, name in zip(arrival.clouds, spec.radars)]
    poses: list[EgoPose] = [to_ego_pose(m, "odom", "base_link") for m in arrival.odometry]
    converted = time.thread_time_ns()
    made: list[SensorFrame] = []
    taken = sync.taken
    taken.advance(arrival.stamp_ns + 10_000_000)
    additions: list[tuple[Callable[[Any], str], Sequence[Any]]] = [
        (taken.add_pose, poses),
        (taken.add_radar, scans),
        (taken.add_camera, frames),
    ]
    for add, items in additions:
        for item in items:
            add(item)
            made += sync.poll(all_taken=False)
    done = time.thread_time_ns()
    times.setdefault("convert", []).append((converted - start) / 1e6)
    times.setdefault("sync", []).append((done - converted) / 1e6)
    return made[-1] if made else None


def _copy(arrival: Arrivals, target: np.ndarray) -> None:
    size = WIDTH * HEIGHT * 3
    for i, message in enumerate(arrival.images):
        target[i * size : (i + 1) * size] = np.frombuffer(message.data, np.uint8)


def _time(work: Callable[[], Any]) -> float:
    start = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start) / 1e6


def _timed(times: dict[str, list[float]], stage: str, work: Callable[[], Any]) -> None:
    times.setdefault(stage, []).append(_time(work))
