"""One step end to end with a real engine on a small bundle: masks, memory, repeatability, broken outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("onnx")
import tiny_bundle
from onnx import numpy_helper
from onnx.parser import parse_model

from bev_perception.decode import Thresholds, decode
from bev_perception.geometry import make_transform
from bev_perception.inference.backend import open_backend
from bev_perception.model_spec import RadarSpec, TemporalSpec
from bev_perception.pipeline import BevPipeline
from bev_perception.preprocess import prepare_inputs
from bev_perception.ros.telemetry import OF_A_STEP
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    Epoch,
    RadarScan,
    RadarSweep,
    SensorFrame,
)

SPEC = tiny_bundle.SPEC
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
CALIBRATION = CameraCalibration(64, 48, K, np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]]))


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    bundle = tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))
    engine = open_backend(bundle, threads=1)
    yield engine
    engine.close()


def frame_at(k, broken=()):
    """Frame k of a drive at 12 Hz; sensors named in `broken` are unusable."""
    stamp = k * 83_333_333
    rng = np.random.default_rng(k)
    ego = EgoPose(stamp, make_transform(np.eye(3), np.array([0.1 * k, 0.0, 0.0])), np.array([1.2, 0, 0]))
    views = []
    for name in SPEC.cameras:
        size = (10, 10, 3) if name in broken else (48, 64, 3)
        views.append(
            CameraView(CameraFrame(name, stamp, "bgr8", rng.integers(0, 256, size, dtype=np.uint8)), CALIBRATION, ego)
        )
    points = rng.uniform(-3, 3, (30, 6)).astype(np.float32)
    if "radar_a" in broken:
        points[:] = np.nan
    sweep = RadarSweep(RadarScan("radar_a", stamp, points), np.eye(4), ego)
    return SensorFrame(stamp, ego, tuple(views), ((sweep,),))


def test_a_step_is_preprocess_infer_decode(backend):
    pipeline = BevPipeline(SPEC, backend)
    frame = frame_at(0)
    found = pipeline.step(frame)
    x, y = SPEC.grid.shape
    inputs = prepare_inputs(frame, SPEC)[0] | {
        "prev_bev": np.zeros((6, x, y), np.float32),
        "prev_from_curr": np.eye(4, dtype=np.float32),
        "prev_valid": np.zeros(1, np.float32),
        "prev_dt": np.full(1, 0.5, np.float32),
    }
    expected = decode(tiny_bundle.reference(inputs), SPEC)
    assert len(found) == len(expected.scores) > 3
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert found.stamp_ns == frame.stamp_ns and not found.temporal_used and found.memory_reset == ""
    assert found.sensors_used == ("cam_a", "cam_b", "radar_a") and found.missing == {}
    assert list(pipeline.timings_ms) == [*OF_A_STEP, "total"], "the status has them all"
    assert pipeline.timings_ms["total"] == pytest.approx(sum(pipeline.timings_ms[stage] for stage in OF_A_STEP))


def test_memory_is_used_and_changes_the_result(backend):
    pipeline, amnesiac = BevPipeline(SPEC, backend), BevPipeline(SPEC, backend)
    for k in range(8):
        with_memory = pipeline.step(frame_at(k))
        amnesiac.memory.reset("test")
        without = amnesiac.step(frame_at(k))
    assert with_memory.temporal_used and not without.temporal_used
    assert with_memory.scores.tobytes() != without.scores.tobytes()


def test_two_runs_are_bit_identical(backend):
    runs = []
    for _ in range(2):
        pipeline = BevPipeline(SPEC, backend)
        runs.append([pipeline.step(frame_at(k)) for k in range(10)])
    for a, b in zip(*runs):
        for name in ("boxes", "velocity", "scores", "labels"):
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes()


def test_missing_and_unusable_sensors_are_masked_and_named(backend):
    frame = frame_at(0, broken=("cam_b",))
    frame = dataclasses.replace(frame, radars=((),), missing={"radar_a": "stale"})
    found = BevPipeline(SPEC, backend).step(frame)
    assert found.missing == {"radar_a": "stale", "cam_b": "size_mismatch"}
    assert found.sensors_used == ("cam_a",)
    everything = BevPipeline(SPEC, backend).step(frame_at(0, broken=("cam_a", "cam_b", "radar_a")))
    assert everything.sensors_used == () and everything.missing["radar_a"] == "nan"


def test_reset_reasons_reach_detections_and_counters(backend):
    pipeline = BevPipeline(SPEC, backend)

    def step(k):
        return pipeline.step(dataclasses.replace(frame_at(k), epoch=Epoch(1, "calibration_changed"))).memory_reset

    assert pipeline.step(frame_at(0)).memory_reset == ""
    told = ["calibration_changed", "time_backward", "gap", "", "time_backward"]
    assert [step(k) for k in (1, 0, 100, 101, 50)] == told
    counted = {reason: n for reason, n in pipeline.counters.items() if reason.startswith("memory/")}
    assert counted == {"memory/calibration_changed": 1, "memory/time_backward": 2, "memory/gap": 1}


def test_thresholds_may_change_between_steps(backend):
    pipeline = BevPipeline(SPEC, backend)
    assert len(pipeline.step(frame_at(0))) > 0
    pipeline.thresholds = Thresholds(dict.fromkeys(SPEC.classes, 0.999), SPEC.nms_radius)
    assert len(pipeline.step(frame_at(1))) == 0


class Poisoned:
    """The engine, with NaN in what it answers while `active`."""

    def __init__(self, backend):
        self.backend, self.active = backend, True
        self.name, self.spec, self.details = backend.name, backend.spec, backend.details

    def infer(self, inputs):
        outputs = self.backend.infer(inputs)
        if self.active:
            outputs = {k: np.full_like(v, np.nan) if v.dtype == np.float32 else v for k, v in outputs.items()}
        return outputs

    def fetch(self, value):
        return self.backend.fetch(value)

    def close(self):
        pass


def test_nan_from_the_engine_never_enters_the_memory(backend):
    poisoned = Poisoned(backend)
    pipeline = BevPipeline(SPEC, poisoned)
    poisoned.active = False
    pipeline.step(frame_at(0))
    poisoned.active = True
    assert len(pipeline.step(frame_at(1))) == 0
    poisoned.active = False
    after = [pipeline.step(frame_at(k)) for k in range(2, 10)]
    assert after[0].memory_reset == "not_finite_output" and all(len(d) > 0 for d in after)
    assert after[-1].temporal_used and np.isfinite(after[-1].boxes).all()


PILLAR_GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
radar_only (float[30,4,6] radar_points, int32[30] radar_counts, int32[30] radar_cells, float[1] radar_valid)
  => (float[20] scores, int64[20] labels, int64[20] cells, float[20,10] boxes)
{
  counts = Cast <to = 1> (radar_counts)
  seen = Mul (counts, radar_valid)
  where = Cast <to = 7> (radar_cells)
  rows = Unsqueeze (where, one)
  canvas = ScatterND (blank, rows, seen)
  inside = Slice (canvas, zero, area, zero)
  map = Reshape (inside, s_map)
  coarse = MaxPool <kernel_shape = [5, 5], strides = [5, 5]> (map)
  flat = Reshape (coarse, s_flat)
  raw, cells = TopK (flat, k)
  scores = Tanh (raw)
  labels = Mul (cells, zero)
  column = Unsqueeze (scores, one)
  boxes = Mul (column, half)
}
"""


def test_a_student_of_radars_alone_without_memory_runs(tmp_path):
    """A cell's score is tanh of the number of points in its fullest pillar."""
    radar = RadarSpec(format="pillars", pillar_step=0.1, max_pillars=30, pillar_points=4)
    spec = dataclasses.replace(SPEC, cameras=(), radar=radar, temporal=TemporalSpec(state_channels=0))
    x, y = spec.pillar_grid().shape
    model = parse_model(PILLAR_GRAPH)
    integers = {"zero": [0], "one": [1], "area": [x * y], "s_map": [1, 1, x, y], "s_flat": [-1], "k": [20]}
    arrays = {name: np.array(value) for name, value in integers.items()}
    arrays |= {"blank": np.zeros(x * y + 30, np.float32), "half": np.full(10, 0.5, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    engine = open_backend(tiny_bundle.write_bundle(tmp_path, model, spec), threads=1)

    pipeline = BevPipeline(spec, engine)
    points = np.zeros((42, 6), np.float32)
    points[:40, 0], points[:40, 1] = np.linspace(-3.95, 3.9, 40), 2.03  # 40 pillars for 30 places
    points[40:, :2] = 0.23, -1.17  # two points in one
    frame = dataclasses.replace(frame_at(0), cameras=())
    sweep = RadarSweep(RadarScan("radar_a", 0, points), np.eye(4), frame.ego)
    found = pipeline.step(dataclasses.replace(frame, radars=((sweep,),)))
    assert found.sensors_used == ("radar_a",) and not found.temporal_used and found.memory_reset == ""
    assert found.scores[0] == pytest.approx(np.tanh(2.0)) and found.scores[1] == pytest.approx(np.tanh(1.0))
    np.testing.assert_allclose(found.boxes[0, :2], np.array([0.0, -1.5]) + 0.25 * np.tanh(2.0), atol=1e-6)
    assert pipeline.counters == {"radar/pillars_over_limit": 11}
    assert pipeline.step(dataclasses.replace(frame, radars=((),))).sensors_used == ()
    assert len(pipeline.memory) == 0
    engine.close()
