"""One sensor's fault is that sensor's fault: a thousand drawn calibrations, images and clouds beside good sensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from bev_perception.geometry import make_transform
from bev_perception.grid import BevGrid
from bev_perception.inference.interface import validate_inputs
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, RadarSpec, TemporalSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.preprocess import images, radar
from bev_perception.preprocess.compressed import COMPRESSED
from bev_perception.preprocess.contents import OFF, ImageChecks
from bev_perception.preprocess.encodings import RAW
from bev_perception.preprocess.undistort import DISTORTION_MODELS
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    RadarScan,
    RadarSweep,
    SensorFrame,
)

DRAWS = 1000
ABSURD = np.array([0.0, -1.0, 1e-300, 1e6, -1e6, 1e30, 1e300, np.inf, -np.inf, np.nan])
WIDTH, HEIGHT = 32, 24
K = np.array([[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]])
EGO_FROM_CAM = make_transform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([1.0, 0, 1.5]))
GOOD = CameraCalibration(WIDTH, HEIGHT, K, EGO_FROM_CAM)
EGO = EgoPose(10**9, make_transform(np.eye(3), np.array([5.0, 2.0, 0.0])), np.array([3.0, 0, 0]))
LOOK_AWAY = ImageChecks(OFF, OFF, OFF, OFF)


def spec_of(form: str, state_channels: int = 0) -> ModelSpec:
    return ModelSpec(
        "fence", ("good", "drawn"), ("near", "odd"), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0),
        grid=BevGrid(-4.0, 4.0, -4.0, 4.0, 1.0), image=ImageSpec(8, 16),
        radar=RadarSpec(format=form, pillar_step=0.5, max_pillars=20, pillar_points=3),
        temporal=TemporalSpec(state_channels=state_channels), top_k=4,
    )  # fmt: skip


class Nothing:
    """An engine that finds nothing, and is particular about what it is given."""

    name, details = "nothing", {}

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.given: dict[str, Any] = {}

    def infer(self, inputs: Any) -> dict[str, Any]:
        validate_inputs(inputs, self.spec)
        for name, value in inputs.items():
            assert np.isfinite(value).all(), name
        self.given = inputs
        return {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in self.spec.outputs()}

    def fetch(self, value: Any) -> np.ndarray:
        return value

    def close(self) -> None:
        pass


def spoiled(rng: np.random.Generator, values: Any, share: float = 0.2) -> np.ndarray:
    """Some of the values replaced by absurd ones, half of the times."""
    result = np.array(values, dtype=np.float64)
    if rng.random() < 0.5:
        chosen = rng.random(result.shape) < share
        result[chosen] = rng.choice(ABSURD, int(chosen.sum()))
    return result


def draw_pose(rng: np.random.Generator) -> EgoPose:
    pose, linear, angular = (spoiled(rng, v, 0.1) for v in (EGO.odom_from_ego, EGO.linear, EGO.angular))
    return EgoPose(EGO.stamp_ns - int(rng.integers(0, 10**8)), pose, linear, angular, int(rng.random() < 0.02))


def draw_image(rng: np.random.Generator) -> CameraFrame:
    encoding = str(rng.choice([*RAW, *COMPRESSED, "32FC1", ""]))
    width, height = (WIDTH, HEIGHT) if rng.random() < 0.7 else rng.integers(0, 40, 2)
    mosaic = str(rng.choice(["", "", "bayer_rggb8", "mono8", "rgb8"]))
    if encoding in COMPRESSED:
        grey = rng.random() < 0.5
        pixels = rng.integers(0, 256, (max(height, 1), max(width, 1)) if grey else (max(height, 1), max(width, 1), 3))
        data = cv2.imencode(".png" if encoding == "png" else ".jpg", pixels.astype(np.uint8))[1].ravel()
        if rng.random() < 0.5:  # broken somewhere, but for the first bytes
            data[rng.integers(8, len(data), 5)] = rng.integers(0, 256, 5)
        return CameraFrame("drawn", 0, encoding, data[: rng.integers(0, len(data) + 9)], 16, mosaic)
    raw = RAW.get(encoding, RAW["mono8"])
    shape = (int(height * raw.rows), width) + ((raw.channels,) if raw.channels > 1 else ())
    dtype = raw.dtype if rng.random() < 0.9 else rng.choice([np.uint8, np.uint16, np.int32, np.float64])
    data = rng.integers(0, 256, shape).astype(dtype)
    if rng.random() < 0.1:
        data = data.reshape(-1)
    return CameraFrame("drawn", 0, encoding, data, int(rng.choice([16, 12, 8, 7, 0, -1, 99])), mosaic)


def draw_calibration(rng: np.random.Generator) -> CameraCalibration:
    model = str(rng.choice([*DISTORTION_MODELS, "", "omni"]))
    D = tuple(spoiled(rng, rng.normal(0, 0.3, int(rng.integers(0, 16)))).tolist()) if rng.random() < 0.6 else ()
    if model in DISTORTION_MODELS and rng.random() < 0.7:
        length = int(rng.choice(DISTORTION_MODELS[model].lengths))
        D = tuple(spoiled(rng, rng.normal(0, 0.3, length), 0.5).tolist())
    size = (WIDTH, HEIGHT) if rng.random() < 0.9 else tuple(int(n) for n in rng.integers(-1, 40, 2))
    shape = K if rng.random() < 0.95 else K[:2]
    pose = spoiled(rng, EGO_FROM_CAM, 0.1) if rng.random() < 0.95 else np.zeros(3)
    return CameraCalibration(*size, spoiled(rng, shape, 0.1), pose, model, D)


def draw_sweeps(rng: np.random.Generator) -> tuple[RadarSweep, ...]:
    sweeps = []
    for _ in range(int(rng.integers(0, 4))):
        columns = 6 if rng.random() < 0.95 else int(rng.integers(0, 9))
        points = spoiled(rng, rng.uniform(-5, 5, (int(rng.integers(0, 9)), columns)), 0.3)
        with np.errstate(over="ignore"):
            points = points.astype(np.float32 if rng.random() < 0.9 else np.float64)
        if rng.random() < 0.03:
            points = points.reshape(-1)
        stamp = EGO.stamp_ns - int(rng.choice([0, 10**7, 10**8, 10**10, -(10**9)]))
        mount = spoiled(rng, np.eye(4), 0.1) if rng.random() < 0.95 else np.zeros((2, 2))
        sweeps.append(RadarSweep(RadarScan("odd", stamp, points, bool(rng.random() < 0.5)), mount, draw_pose(rng)))
    return tuple(sweeps)


def good_sensors(rng: np.random.Generator) -> tuple[CameraView, tuple[RadarSweep, ...]]:
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    scan = RadarScan("near", EGO.stamp_ns - 10**7, rng.uniform(-3, 3, (8, 6)).astype(np.float32))
    return CameraView(CameraFrame("good", 0, "bgr8", image), GOOD, EGO), (RadarSweep(scan, np.eye(4), EGO),)


@pytest.mark.parametrize("form", ["map", "pillars"])
def test_no_step_fails_while_another_sensor_is_good(form: str) -> None:
    """And what the good ones give the network is what they give it alone, finite, whatever stands beside it."""
    spec = spec_of(form)
    backend = Nothing(spec)
    rng = np.random.default_rng(7)
    used = {"drawn": 0, "odd": 0}
    for number in range(DRAWS // 2):
        pipeline = BevPipeline(spec, backend, image_checks=LOOK_AWAY)
        camera, sweeps = good_sensors(rng)
        odd = draw_sweeps(rng)
        view = CameraView(draw_image(rng), draw_calibration(rng), draw_pose(rng))
        with np.errstate(all="ignore"):
            found = pipeline.step(SensorFrame(EGO.stamp_ns, EGO, (camera, view), (sweeps, odd)))
        assert {"good", "near"} <= set(found.sensors_used), f"draw {number}: {found.missing}"
        assert set(found.missing) == {"drawn", "odd"} - set(found.sensors_used) - ({"odd"} if not odd else set())
        assert {name: fault.reason for name, fault in pipeline.faults.items()} == found.missing
        assert all(fault.detail for fault in pipeline.faults.values())
        pipeline.counters.pop("radar/returns_out_of_range", None)  # drawn ones that are good enough to be left out
        assert pipeline.counters == {f"{name}/{reason}": 1 for name, reason in found.missing.items()}
        both = backend.given
        for name in used:
            used[name] += name in found.sensors_used
        alone = SensorFrame(EGO.stamp_ns, EGO, (camera, None), (sweeps, ()), {"drawn": "late", "odd": "late"})
        assert pipeline.step(alone).missing == {"drawn": "late", "odd": "late"}
        assert np.array_equal(both["images"][0], backend.given["images"][0])
        assert np.array_equal(both["img_from_ego"][0], backend.given["img_from_ego"][0])
        if "drawn" in found.missing:
            assert not both["images"][1].any() and np.array_equal(both["img_from_ego"][1], np.eye(4))
    assert min(used.values()) > DRAWS // 20  # the draws are not all absurd


@pytest.mark.parametrize("form", ["map", "pillars"])
def test_no_sensors_fault_costs_the_memory(form: str) -> None:
    """One pipeline through all draws: a state of 0.2 s ago is there for each frame, whatever stood beside it."""
    spec = spec_of(form, state_channels=2)
    backend = Nothing(spec)
    pipeline = BevPipeline(spec, backend, image_checks=LOOK_AWAY)
    rng = np.random.default_rng(11)
    masked = 0
    for number in range(DRAWS // 2):
        camera, sweeps = good_sensors(rng)
        view = CameraView(draw_image(rng), draw_calibration(rng), draw_pose(rng))
        by_ns = number * 10**8
        ego = replace(EGO, stamp_ns=EGO.stamp_ns + by_ns)
        frame = SensorFrame(ego.stamp_ns, ego, (camera, view), (later(sweeps, by_ns), later(draw_sweeps(rng), by_ns)))
        with np.errstate(all="ignore"):
            found = pipeline.step(frame)
        assert found.memory_reset == "", f"draw {number}: {found.missing}"
        assert found.temporal_used == (number > 1) and len(pipeline.memory) > 0
        masked += bool(found.missing)
    assert masked > DRAWS // 20 and not any(name.startswith("memory/") for name in pipeline.counters)


def later(sweeps: tuple[RadarSweep, ...], by_ns: int) -> tuple[RadarSweep, ...]:
    """The same, measured at another time."""
    return tuple(
        replace(
            s,
            scan=replace(s.scan, stamp_ns=s.scan.stamp_ns + by_ns),
            ego=replace(s.ego, stamp_ns=s.ego.stamp_ns + by_ns),
        )
        for s in sweeps
    )


def test_what_has_no_better_name_is_the_sensors_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's own error, and an error of numpy, each in one sensor's part of the work."""
    spec = spec_of("map")
    rng = np.random.default_rng(0)
    camera, sweeps = good_sensors(rng)
    decode, accumulate = images.decode_image, radar.accumulate

    def undecodable(frame: CameraFrame, width: int) -> np.ndarray:
        return (
            cv2.cvtColor(np.zeros((3, 3, 7)), cv2.COLOR_BGR2GRAY) if frame.sensor == "drawn" else decode(frame, width)
        )

    def unusable(frame: SensorFrame, spec: ModelSpec) -> np.ndarray:
        if frame.radars[1]:
            raise IndexError("no such row")
        return accumulate(frame, spec)

    monkeypatch.setattr(images, "decode_image", undecodable)
    monkeypatch.setattr(radar, "accumulate", unusable)
    yuyv = CameraFrame("drawn", 0, "yuyv", np.zeros((HEIGHT, WIDTH, 2), np.uint8))
    frame = SensorFrame(EGO.stamp_ns, EGO, (camera, CameraView(yuyv, GOOD, EGO)), (sweeps, sweeps))
    pipeline = BevPipeline(spec, Nothing(spec), image_checks=LOOK_AWAY)
    found = pipeline.step(frame)
    assert found.missing == {"drawn": "image_failed", "odd": "radar_failed"}
    assert found.sensors_used == ("good", "near")
    assert pipeline.faults["odd"].detail == "IndexError: no such row"
    assert pipeline.faults["drawn"].detail.startswith("error: OpenCV")
    assert pipeline.counters == {"drawn/image_failed": 1, "odd/radar_failed": 1}
    for name, array in radar.prepare_radar(replace(frame, radars=(sweeps, ())), spec)[0].items():
        np.testing.assert_array_equal(radar.prepare_radar(frame, spec)[0][name], array, err_msg=name)
