"""Statistics against slow ones, the monitor against its formula, tables that are refused, a camera that gets dirty."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
pytest.importorskip("torch", reason="tables are fitted by training")

import usual_frames  # noqa: E402

from bev_perception.bundle import Bundle, load_bundle  # noqa: E402
from bev_perception.decode import Thresholds  # noqa: E402
from bev_perception.fault import Fault  # noqa: E402
from bev_perception.frame_proof import open_proven  # noqa: E402
from bev_perception.geometry import make_transform, rotation_from_yaw  # noqa: E402
from bev_perception.model_spec import BundleError, HealthSpec  # noqa: E402
from bev_perception.pipeline import BevPipeline  # noqa: E402
from bev_perception.preprocess.contents import OFF, ImageChecks  # noqa: E402
from bev_perception.preprocess.radar import accumulate  # noqa: E402
from bev_perception.structures import Detections, EgoPose, RadarScan, RadarSweep  # noqa: E402
from bev_perception.upgrade_bundle import upgrade_bundle  # noqa: E402
from bev_perception.usual import monitor as usual_monitor  # noqa: E402
from bev_perception.usual.image_statistics import (  # noqa: E402
    COARSE,
    COLUMNS,
    HEIGHT,
    IMAGE_STATISTICS,
    LEAST,
    ROWS,
    image_statistics,
)
from bev_perception.usual.monitor import LONGEST_S, OVER, HealthMonitor, monitor_of  # noqa: E402
from bev_perception.usual.returns import RETURN_STATISTICS, newest_returns, return_statistics  # noqa: E402
from bev_perception.usual.scene_statistics import scene_statistics  # noqa: E402
from bev_perception.usual.statistics import IMAGES, RETURNS, SCENE, Glimpse, names_of  # noqa: E402
from bev_perception.usual.table import HEALTH, HealthTable, UsualPart, check_table, read_health  # noqa: E402

SPEC = tiny_bundle.SPEC
RNG = np.random.default_rng(3)
NS = 1_000_000_000


# ---- statistics


def test_of_images_are_means_over_regions() -> None:
    images = RNG.integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    found = image_statistics(images, np.array([1.0, 0.0, 1.0]))
    assert found.shape == (3, len(IMAGE_STATISTICS)) and np.isnan(found[1]).all()
    grey = images[2, :: 64 // HEIGHT, :, 1].astype(float)

    def regions(picture: np.ndarray) -> list[float]:
        parts = np.array_split(picture, ROWS, axis=0)
        return [math.log(part.mean() + LEAST) for row in parts for part in np.array_split(row, COLUMNS, axis=1)]

    expected = regions(np.abs(grey[:, 1:] - grey[:, :-1])), regions(np.abs(grey[:, COARSE:] - grey[:, :-COARSE]))
    np.testing.assert_allclose(found[2, 16:], regions(grey), atol=1e-5)
    np.testing.assert_allclose(found[2, 8:16], expected[1], atol=1e-5)
    np.testing.assert_allclose(found[2, :8], expected[0], atol=0.02)  # 95 columns cannot be shared evenly by slices


def _slow_return_statistics(points: np.ndarray) -> list[float]:
    metres = np.log(np.hypot(points[:, 0], points[:, 1]))
    bearing = np.arctan2(points[:, 1], points[:, 0])
    sectors = np.floor((np.degrees(bearing) + 180.0) / 5.0) % 72
    moving = np.hypot(points[:, 4], points[:, 5]) > 1.0
    fan = max((sectors == s).mean() for s in sectors)
    rcs = points[:, 3]
    return [
        math.log1p(len(points)),
        rcs.mean(),
        rcs.std(),
        metres.mean(),
        metres.std(),
        moving.mean(),
        fan,
        bearing.std(),
    ]


def test_of_returns_are_those_of_each_radar_alone() -> None:
    frame = usual_frames.frames(1, 5)[0]
    sweep = frame.radars[0][0]
    other = RNG.normal(0, 4, (30, 6)).astype(np.float32) + np.float32([8, 0, 0, 0, 0, 0])
    broken = np.vstack([other, np.full((1, 6), np.nan, np.float32)])
    second = dataclasses.replace(sweep, scan=dataclasses.replace(sweep.scan, points=broken))
    found = return_statistics(newest_returns(dataclasses.replace(frame, radars=((), (sweep,), (second, sweep)))))
    assert np.isnan(found[0]).all() and len(RETURN_STATISTICS) == found.shape[1]
    np.testing.assert_allclose(found[1], _slow_return_statistics(sweep.scan.points.astype(float)), atol=1e-9)
    np.testing.assert_allclose(found[2], _slow_return_statistics(other.astype(float)), atol=1e-9)


def test_relative_speeds_are_looked_at_over_ground() -> None:
    frame = usual_frames.frames(1, 6)[0]
    sweep = frame.radars[0][0]
    points = np.array([[10.0, 0, 0, 0, -7.0, 0.0], [0, 10.0, 0, 0, 0, -3.0]], np.float32)
    ego = EgoPose(frame.stamp_ns, np.eye(4), linear=np.array([7.0, 0.0, 0.0]))
    relative = dataclasses.replace(
        sweep, ego=ego, scan=dataclasses.replace(sweep.scan, points=points, compensated=False)
    )
    returns = newest_returns(dataclasses.replace(frame, radars=((relative,),)))
    assert returns.moving.tolist() == [False, True]
    np.testing.assert_allclose(returns.moving_place, [[0.0, 10.0]], atol=1e-9)


def test_returns_are_where_the_network_has_them() -> None:
    """Of turned radars on a vehicle that drives and turns, with speeds of both kinds, and one return that is none."""
    frame = usual_frames.frames(1, 6)[0]
    radars = []
    for k, name in enumerate(SPEC.radars):
        points = np.random.default_rng(k).normal(0, 9, (40, 6)).astype(np.float32)
        points[k, 2] = np.nan
        pose = make_transform(rotation_from_yaw(1.0 + k), np.array([3.0, k, 0.5]))
        ego = EgoPose(frame.stamp_ns, np.eye(4), np.array([7.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.3]))
        radars.append((RadarSweep(RadarScan(name, frame.stamp_ns, points, compensated=bool(k % 2)), pose, ego),))
    frame = dataclasses.replace(frame, radars=tuple(radars))
    returns, cloud = newest_returns(frame), accumulate(frame, SPEC)
    assert len(returns.points) == len(cloud) == 39 * len(SPEC.radars) and returns.moving.sum() > 10
    np.testing.assert_allclose(returns.moving_place, cloud[returns.moving, :2], atol=1e-4)


def test_agreement_is_the_share_of_moving_returns_with_a_detection() -> None:
    frame = usual_frames.frames(1, 6)[0]
    sweep = frame.radars[0][0]
    points = np.array([[10.0, 0, 0, 0, 5, 0], [20.0, 0, 0, 0, 5, 0], [5.0, 0, 0, 0, 0, 0]], np.float32)
    moving = dataclasses.replace(sweep, scan=dataclasses.replace(sweep.scan, points=points))
    returns = newest_returns(dataclasses.replace(frame, radars=((moving,),)))
    boxes = np.array([[11.0, 1.0, 0, 4, 2, 2, 0]])
    count, mean, doubt, agreement = scene_statistics(np.array([0.5, 0.5]), boxes, returns)[0]
    assert (count, mean, doubt, agreement) == pytest.approx((math.log(2), 0.5, 1.0, 0.5))
    assert scene_statistics(np.array([0.5]), np.empty((0, 7)), returns)[0, 3] == 0.0


# ---- the monitor


def table(threshold: float = 3.0, seconds: float = 1.0) -> HealthTable:
    """Images alone, usually 0 with deviation 1, nothing depends on anything else."""
    width = len(IMAGE_STATISTICS)
    mean = dict.fromkeys(SPEC.cameras, (0.0,) * width)
    eye = tuple(map(tuple, np.eye(width).tolist()))
    return HealthTable(
        SPEC.onnx_sha256, seconds, 1.0, (1, 1), {IMAGES: UsualPart(mean, (1.0,) * width, eye, threshold)}
    )


def given(off: float, statistic: int = 2, camera: int = 0) -> dict[str, np.ndarray]:
    values = np.zeros((len(SPEC.cameras), len(IMAGE_STATISTICS)))
    values[camera, statistic] = off
    return {IMAGES: values}


def drive(monitor: HealthMonitor, off: float, start: int, count: int) -> list[bool]:
    return [bool(monitor.add((start + i) * NS // 10, given(off))) for i in range(count)]


def test_what_is_off_is_told_when_the_smoothed_passes_the_threshold() -> None:
    monitor = HealthMonitor(table(), SPEC)
    assert not any(drive(monitor, 0.0, 1, 20))
    alarms = drive(monitor, 4.0, 21, 30)  # 4 (1 - exp(-n / 10)) > 3 from n = 14 on
    assert alarms.index(True) == 13 and all(alarms[13:])
    (cam_a, cam_b) = monitor.readings()
    assert cam_a.since_ns == 34 * NS // 10 and not cam_b.alarm and cam_b.score == 0.0
    assert cam_a.score == pytest.approx(4 * (1 - math.exp(-3.0))) and cam_a.threshold == 3.0
    assert cam_a.text == f"{IMAGE_STATISTICS[2]}: {math.exp(cam_a.score):.2g} of the usual"
    back = drive(monitor, 0.0, 51, 20)
    expected = [cam_a.score * math.exp(-(n + 1) / 10) >= OVER * 3.0 for n in range(20)]
    assert back == expected and not back[-1], "it ends when it is well below again"


def test_after_a_gap_or_a_jump_it_begins_anew_and_a_masked_camera_is_not_judged() -> None:
    monitor = HealthMonitor(table(), SPEC)
    drive(monitor, 50.0, 1, 3)
    assert monitor.readings()[0].alarm
    monitor.add(round(LONGEST_S * NS) + NS, given(0.0))
    assert monitor.readings()[0].score == 0.0 and not monitor.readings()[0].alarm
    drive(monitor, 50.0, 100, 3)
    monitor.add(1, given(0.0))
    assert not monitor.readings()[0].alarm
    drive(monitor, 50.0, 100, 3)
    masked = given(0.0)
    masked[IMAGES][0] = np.nan
    assert monitor.add(11 * NS, masked) == {} and math.isnan(monitor.readings()[0].score)


# ---- the table


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle.write_bundle(tmp_path / "bundle")


def stated(bundle: Bundle, change: Callable[[dict[str, Any]], object] = lambda data: None) -> None:
    data = json.loads(table().to_json()) | {"onnx_sha256": bundle.spec.onnx_sha256}
    change(data)
    (bundle.path / HEALTH).write_text(json.dumps(data))


def test_it_is_read_as_it_was_written_and_moves_with_an_upgrade(bundle: Bundle, tmp_path: Path) -> None:
    assert read_health(bundle) is None and monitor_of(bundle) is None
    stated(bundle)
    assert read_health(bundle) == dataclasses.replace(table(), onnx_sha256=bundle.spec.onnx_sha256)
    upgraded = upgrade_bundle(bundle.path, tmp_path / "new")
    assert read_health(load_bundle(upgraded.path)) is not None


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another model": (lambda d: d.update(onnx_sha256="0" * 64), "is about the ONNX 000000000000"),
    "another format": (lambda d: d.update(format=2), "format 2, this version reads 1"),
    "a part that there is not": (lambda d: d["parts"].update(smell=d["parts"][IMAGES]), "the parts images, smell"),
    "no part": (lambda d: d.update(parts={}), "it has the parts none"),
    "a camera too few": (lambda d: d["parts"][IMAGES]["mean"].pop("cam_a"), "means are of cam_b, the model has cam_a"),
    "a mean too short": (lambda d: d["parts"][IMAGES]["mean"].update(cam_a=[0.0]), "every mean wants 24 numbers"),
    "a threshold of 0": (lambda d: d["parts"][IMAGES].update(threshold=0.0), "must be above 0"),
    "a number beyond measure": (lambda d: d["parts"][IMAGES]["whitening"][0].__setitem__(0, 1e9), "must be finite"),
    "no time": (lambda d: d.update(seconds=0.0), "seconds must be within"),
    "another key": (lambda d: d.update(more=1), "unknown keys"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused(bundle: Bundle, change: Callable[[dict[str, Any]], object], said: str) -> None:
    stated(bundle, change)
    with pytest.raises(BundleError, match="fit it to this bundle again") as error:
        read_health(bundle)
    assert said in str(error.value)


def test_a_table_of_other_statistics_is_refused() -> None:
    narrow = UsualPart(dict.fromkeys(SPEC.cameras, (0.0,)), (1.0,), ((1.0,),), 1.0)
    with pytest.raises(ValueError, match="images: 1 statistics, this version and model have 24"):
        check_table(dataclasses.replace(table(), parts={IMAGES: narrow}), SPEC)
    with pytest.raises(ValueError, match="camera_features"):
        check_table(dataclasses.replace(table(), parts={"camera_features": narrow}), SPEC)
    check_table(
        dataclasses.replace(table(), parts={"camera_features": narrow}),
        dataclasses.replace(SPEC, health=HealthSpec(camera_width=1)),
    )


# ---- in the pipeline


def test_a_dirty_camera_is_told_and_returns_to_good(bundle: Bundle) -> None:
    fitted = usual_frames.fitted(bundle)
    (bundle.path / HEALTH).write_text(fitted.to_json())
    backend, _ = open_proven(bundle, "onnxruntime", threads=1)
    pipeline = BevPipeline(SPEC, backend, image_checks=ImageChecks(OFF, OFF, OFF, OFF), monitor=monitor_of(bundle))
    told: list[dict[str, Fault]] = []
    for index, frame in enumerate(usual_frames.frames(90, 77)):
        if 30 <= index < 60:
            frame = usual_frames.with_picture(frame, "cam_b", usual_frames.dirty)
        assert "cam_b" in pipeline.step(frame).sensors_used, "it is told, not masked"
        told.append(dict(pipeline.faults))
    assert not any(told[:30]) and not any(told[75:])
    assert all(set(found) == {"cam_b"} for found in told[36:60])
    assert told[50]["cam_b"].reason == "unusual" and "of the usual" in told[50]["cam_b"].detail
    assert pipeline.counters["cam_b/unusual"] == sum(map(bool, told))
    assert {r.name for r in pipeline.monitor.readings()} == {*SPEC.cameras, *SPEC.radars}
    backend.close()


@pytest.mark.parametrize(("stated", "least"), [(0.0, 0.99), (0.99, 0.0)])
def test_what_is_usual_does_not_ask_for_the_thresholds_of_the_vehicle(
    bundle: Bundle, stated: float, least: float
) -> None:
    class Noting:
        boxes: list[np.ndarray] = []  # noqa: RUF012

        def look(self, glimpse: Glimpse) -> dict[str, Fault]:
            self.boxes = [*self.boxes, glimpse.boxes]
            return {}

        def readings(self) -> tuple[()]:
            return ()

        def forget(self, why: str) -> None:
            pass

    own, other = Noting(), Noting()
    backend, _ = open_proven(bundle, "onnxruntime", threads=1)
    spec = dataclasses.replace(SPEC, score_threshold=dict.fromkeys(SPEC.classes, stated))
    chosen = Thresholds(dict.fromkeys(SPEC.classes, least), SPEC.nms_radius)
    pipelines = BevPipeline(spec, backend, monitor=own), BevPipeline(spec, backend, chosen, monitor=other)
    found = [[len(pipeline.step(frame).boxes) for frame in usual_frames.frames(5, 3)] for pipeline in pipelines]
    assert found[0] != found[1]
    for ours, theirs in zip(own.boxes, other.boxes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    backend.close()


class Frames:
    """A pipeline whose monitor is sure that every camera is as it never is, step by step."""

    def __init__(self, bundle: Bundle) -> None:
        self.backend, _ = open_proven(bundle, "onnxruntime", threads=1)
        self.monitor = HealthMonitor(table(threshold=0.1, seconds=0.05), SPEC)
        self.pipeline = BevPipeline(SPEC, self.backend, monitor=self.monitor)
        self._frames = iter(usual_frames.frames(9, 0))

    def step(self) -> Detections:
        return self.pipeline.step(next(self._frames))

    def known(self) -> list[bool]:
        return [not math.isnan(r.score) for r in self.monitor.readings()]


def test_a_monitor_that_fails_costs_no_frame_and_knows_nothing_then(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = Frames(bundle)
    frames.step()
    assert frames.known() == [True, True] and any(r.alarm for r in frames.monitor.readings())

    def fails(*some: object) -> None:
        raise ZeroDivisionError("by nothing")

    with monkeypatch.context() as patch:
        patch.setattr(usual_monitor, "statistics_of", fails)
        frames.step()
    assert frames.pipeline.counters["health/failed"] == 1
    assert frames.pipeline.faults["health"] == Fault("failed", "ZeroDivisionError: by nothing")
    assert frames.known() == [False, False] and not any(r.alarm for r in frames.monitor.readings())
    assert {r.unknown for r in frames.monitor.readings()} == {"failed: ZeroDivisionError: by nothing"}
    frames.step()
    assert frames.known() == [True, True] and "health" not in frames.pipeline.faults
    frames.backend.close()


@pytest.mark.parametrize("why", ["step_failed", "not_finite_output"])
def test_where_there_was_nothing_to_look_at_nothing_is_known(
    bundle: Bundle, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = Frames(bundle)
    frames.step()
    infer = frames.backend.infer

    def broken(inputs: Any) -> Any:
        if why == "step_failed":
            raise RuntimeError("the engine has a bad moment")
        return {k: np.full_like(v, np.nan) if v.dtype == np.float32 else v for k, v in infer(inputs).items()}

    with monkeypatch.context() as patch:
        patch.setattr(frames.backend, "infer", broken)
        with pytest.raises(RuntimeError) if why == "step_failed" else nullcontext():
            frames.step()
    assert frames.known() == [False, False] and {r.unknown for r in frames.monitor.readings()} == {why}
    assert frames.step().memory_reset == why and frames.known() == [True, True]
    frames.backend.close()


def test_every_statistic_has_a_name() -> None:
    assert [len(names_of(part, 7)) for part in (IMAGES, RETURNS, SCENE, "map_features")] == [24, 8, 4, 7]
