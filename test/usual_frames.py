"""Clean frames for the tiny bundle, and a table of what they usually give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import tiny_bundle

from bev_perception.bundle import Bundle
from bev_perception.frame_proof import open_proven
from bev_perception.geometry import make_transform
from bev_perception.model_spec import ModelSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.preprocess.contents import OFF, ImageChecks
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    RadarScan,
    RadarSweep,
    SensorFrame,
)
from bev_perception.usual.statistics import IMAGES, RETURNS, parts_of
from bev_perception.usual.table import HealthTable
from training.health.collecting import Drive, Recorder
from training.health.fitting import fit_table

SPEC: ModelSpec = tiny_bundle.SPEC
STEP_NS = 100_000_000
WIDTH, HEIGHT = 64, 48
LOOK_AHEAD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
CALIBRATION = CameraCalibration(
    WIDTH, HEIGHT, np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]]), make_transform(LOOK_AHEAD, np.zeros(3))
)
Picture = Callable[[np.random.Generator], np.ndarray]


def blocks(rng: np.random.Generator) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: other blocks of colour every time, what node_rig's cameras send."""
    small = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    return small.repeat(4, axis=0).repeat(4, axis=1)


def dirty(image: np.ndarray) -> np.ndarray:
    """Mud over two thirds."""
    found = image.copy()
    found[:, : WIDTH * 2 // 3] = found[:, : WIDTH * 2 // 3] // 16 + 60
    return found


def frame_at(index: int, pictures: dict[str, np.ndarray], rng: np.random.Generator) -> SensorFrame:
    """The vehicle stands; its radar has 20 returns."""
    stamp_ns = 1_700_000_000_000_000_000 + index * STEP_NS
    ego = EgoPose(stamp_ns, np.eye(4))
    views = tuple(CameraView(CameraFrame(n, stamp_ns, "bgr8", pictures[n]), CALIBRATION, ego) for n in SPEC.cameras)
    points = np.column_stack([rng.uniform(1, 4, 20), rng.uniform(-3, 3, 20), *rng.normal(0, 1, (4, 20))])
    points[:, 4:] *= 0.1
    sweep = RadarSweep(RadarScan("radar_a", stamp_ns, points.astype(np.float32)), np.eye(4), ego)
    return SensorFrame(stamp_ns, ego, views, ((sweep,),))


def frames(count: int, seed: int) -> list[SensorFrame]:
    rng = np.random.default_rng(seed)
    return [frame_at(i, {name: blocks(rng) for name in SPEC.cameras}, rng) for i in range(count)]


def with_picture(frame: SensorFrame, camera: str, change: Callable[[np.ndarray], np.ndarray]) -> SensorFrame:
    views = tuple(
        replace(v, frame=replace(v.frame, data=change(v.frame.data))) if v and v.frame.sensor == camera else v
        for v in frame.cameras
    )
    return replace(frame, cameras=views)


def clean_drives(bundle: Bundle, count: int, length: int = 40, seed: int = 0) -> list[Drive]:
    backend, _ = open_proven(bundle, "onnxruntime", threads=1)
    drives = []
    try:
        for number in range(count):
            recorder = Recorder(bundle.spec, parts_of(bundle.spec))
            pipeline = BevPipeline(bundle.spec, backend, image_checks=ImageChecks(OFF, OFF, OFF, OFF), monitor=recorder)
            own = frames(length, 1000 * seed + number)
            for frame in own:
                pipeline.step(frame)
            assert not pipeline.counters["health/failed"]
            stamps = np.array([frame.stamp_ns for frame in own], dtype=np.int64)
            drives.append(Drive(f"scene-{number}", stamps, recorder.finish()))
    finally:
        backend.close()
    return drives


def fitted(bundle: Bundle, parts: tuple[str, ...] = (IMAGES, RETURNS), seconds: float = 0.5) -> HealthTable:
    """Of eight drives, with thresholds by eight others."""
    return fit_table(
        clean_drives(bundle, 8, seed=1), clean_drives(bundle, 8, seed=2), bundle.spec, parts, seconds, 1.0
    )[0]
