"""The golden frame: what a drive gave goes in, what was detected comes out, or the bundle is refused."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import tiny_bundle

from bev_perception.bundle import GOLDEN_FRAME, Bundle, load_bundle
from bev_perception.frame_proof import (
    FRAME_TOLERANCES,
    FrameTolerance,
    compare_detections,
    prove_frame,
    record_golden_frame,
)
from bev_perception.golden_frame import SIZE_GOAL, Expected, pack_frames, read_golden_frame, unpack_frames
from bev_perception.golden_pattern import pattern_frames
from bev_perception.inference.backend import open_backend
from bev_perception.inference.interface import InferenceBackend
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.preprocess import prepare_inputs
from bev_perception.preprocess.images import img_from_cam

SHIPPED = Path(__file__).resolve().parent.parent / "bev_perception" / "bundles" / "demo"
TINY = tiny_bundle.SPEC


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> InferenceBackend:
    return open_backend(bundle, threads=1)


@pytest.fixture(scope="module")
def shipped_engine() -> InferenceBackend:
    return open_backend(load_bundle(SHIPPED))


def test_the_reference_in_numpy_recorded_what_onnx_runtime_finds(engine: InferenceBackend, bundle: Bundle) -> None:
    figures = prove_frame(engine, bundle)
    assert figures["frame_detections"] >= 15 and figures["frame_published"] >= 15
    assert figures["frame_scores"] < 1e-5 and figures["frame_boxes"] < 1e-4


def test_the_shipped_frame_is_small_and_says_something(shipped_engine: InferenceBackend) -> None:
    bundle = load_bundle(SHIPPED)
    assert (SHIPPED / GOLDEN_FRAME).stat().st_size < 300_000
    frames, expected = read_golden_frame(bundle)
    encodings = {view.frame.encoding for frame in frames for view in frame.cameras if view is not None}
    assert encodings == {"jpeg", "bgr8"} and expected.temporal_used
    assert len(set(expected.classes.tolist())) >= 8 and 20 < expected.published.sum() < len(expected.published)
    figures = prove_frame(shipped_engine, bundle)
    assert figures["frame_detections"] >= 90


def changed(spec: ModelSpec, **parts: dict[str, Any]) -> ModelSpec:
    """`part={"field": value}`, or `field=value` of the spec itself."""
    new = {
        name: dataclasses.replace(getattr(spec, name), **value) if name in ("image", "radar", "temporal") else value
        for name, value in parts.items()
    }
    return dataclasses.replace(spec, **new)


OTHERS = tuple(f"other_{name}" for name in TINY.classes)
RENAMED = {
    "classes": OTHERS, "score_threshold": dict.fromkeys(OTHERS, 0.1), "nms_radius": dict.fromkeys(OTHERS, 1.0),
}  # fmt: skip
CHANNELS = load_bundle(SHIPPED).spec.radar.channels


@pytest.mark.parametrize(
    "parts",
    [
        {"image": {"color_order": "rgb"}},
        {"radar": {"channels": (CHANNELS[1], CHANNELS[0], *CHANNELS[2:])}},
        {"radar": {"sweeps": 1}},
        {"temporal": {"min_age_s": 0.55, "interval_s": 0.55}},
    ],
    ids=str,
)
def test_a_fact_that_model_and_spec_agree_on_and_that_is_wrong_is_refused(
    shipped_engine: InferenceBackend, parts: dict[str, Any]
) -> None:
    """The network's inputs have the same shapes, so that the golden sample of the engine passes."""
    wrong = Bundle(SHIPPED, changed(load_bundle(SHIPPED).spec, **parts))
    with pytest.raises(BundleError, match="golden frame of 'demo_camera_radar'"):
        prove_frame(shipped_engine, wrong)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"classes": TINY.classes[::-1]}, "recorded detections are not found"),
        ({"score_threshold": dict.fromkeys(TINY.classes, 0.999)}, r"was published, with the threshold 0\.999 it is"),
        ({"nms_radius": dict.fromkeys(TINY.classes, 50.0)}, "recorded detections are not found"),
        ({"cameras": ("cam_a", "cam_c")}, "nothing of cam_c"),
        (RENAMED, r"classes \[.* were recorded"),
    ],
)
def test_of_what_comes_after_the_engine_too(
    engine: InferenceBackend, bundle: Bundle, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        prove_frame(engine, Bundle(bundle.path, changed(bundle.spec, **parts)))


@pytest.mark.parametrize(
    "spec",
    [
        TINY,
        dataclasses.replace(TINY, radars=()),
        changed(dataclasses.replace(TINY, cameras=()), temporal={"state_channels": 0}),
        changed(TINY, radar={"format": "pillars", "pillar_step": 0.25, "max_pillars": 300}),
    ],
    ids=["all", "cameras", "radars", "pillars"],
)
def test_the_pattern_shows_every_sensor_something(spec: ModelSpec) -> None:
    frames = pattern_frames(spec)
    again = unpack_frames(pack_frames(pattern_frames(spec), spec), spec)
    for frame in (*frames, *again):
        inputs, problems, lost = prepare_inputs(frame, spec)
        assert problems == {} and frame.missing == {} and "radar/returns_out_of_range" not in lost
        for name, array in inputs.items():
            assert array.any(), name
            assert name != "images" or all(image.std() > 10 for image in array)
    apart_s = (frames[1].stamp_ns - frames[0].stamp_ns) * 1e-9
    assert apart_s == pytest.approx(spec.temporal.interval_s)


def test_packed_frames_are_the_same_frames_within_rounding() -> None:
    """Projections exactly, returns to a centimetre, images as JPEG keeps them."""
    spec = dataclasses.replace(TINY, image=dataclasses.replace(TINY.image, height=60, width=100))
    frames = pattern_frames(spec)
    large = [dataclasses.replace(f, cameras=tuple(scaled(view, 3) for view in f.cameras)) for f in frames]
    packed = pack_frames((large[0], large[1]), spec)
    assert sum(array.nbytes for name, array in packed.items() if ".image." in name) <= SIZE_GOAL
    for before, after in zip(large, unpack_frames(packed, spec)):
        assert (before.stamp_ns, before.missing) == (after.stamp_ns, after.missing)
        for one, other in zip(before.cameras, after.cameras):
            assert one is not None and other is not None
            assert other.calibration.width == 125, "a quarter wider than the network's"
            np.testing.assert_allclose(
                img_from_cam(one.calibration, spec.image), img_from_cam(other.calibration, spec.image), atol=1e-9
            )
            np.testing.assert_array_equal(one.ego.odom_from_ego, other.ego.odom_from_ego)
            assert one.calibration.D == other.calibration.D
        for sweep, read in zip(before.radars[0], after.radars[0], strict=True):
            np.testing.assert_allclose(read.scan.points, sweep.scan.points, atol=0.0051)
            assert (sweep.scan.stamp_ns, sweep.scan.compensated) == (read.scan.stamp_ns, read.scan.compensated)
            np.testing.assert_array_equal(sweep.ego.linear, read.ego.linear)
        found, _, _ = prepare_inputs(after, spec)
        wanted, _, _ = prepare_inputs(before, spec)
        assert np.abs(found["images"].astype(float) - wanted["images"]).mean() < 12


def scaled(view: Any, times: int) -> Any:
    """The same camera with so many pixels for one, and distorted."""
    image = view.frame.data.repeat(times, axis=0).repeat(times, axis=1)
    c = view.calibration
    K = np.array([[times, 0, 0.5 * times - 0.5], [0, times, 0.5 * times - 0.5], [0, 0, 1]]) @ c.K
    calibration = dataclasses.replace(
        c,
        width=c.width * times,
        height=c.height * times,
        K=K,
        distortion_model="plumb_bob",
        D=(0.01, 0.0, 0.0, 0.001, 0.0),
    )
    return dataclasses.replace(view, frame=dataclasses.replace(view.frame, data=image), calibration=calibration)


def test_frames_that_prove_too_little_are_not_recorded(engine: InferenceBackend) -> None:
    earlier, later = pattern_frames(TINY)
    with pytest.raises(ValueError, match="needs every sensor, missing are radar_a"):
        record_golden_frame(engine, (earlier, dataclasses.replace(later, radars=((),), missing={"radar_a": "late"})))
    with pytest.raises(ValueError, match="the memory is not used"):
        record_golden_frame(engine, (later, earlier))
    jumped = dataclasses.replace(later, ego=dataclasses.replace(later.ego, epoch=1))
    with pytest.raises(ValueError, match="odometry jumped"):
        record_golden_frame(engine, (earlier, jumped))


def damaged(bundle: Bundle, folder: Path, change: Any) -> Bundle:
    copy = tiny_bundle.write_bundle(folder / "copy")
    with np.load(copy.path / GOLDEN_FRAME) as data:
        arrays = dict(data)
    change(arrays)
    file = io.BytesIO()
    np.savez(file, **arrays)
    (copy.path / GOLDEN_FRAME).write_bytes(file.getvalue())
    return copy


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("later.points", None, "lacks `later.points`"),
        ("later.points", np.zeros((3, 6), np.float32), "3 returns in `later.points`"),
        ("later.counts", np.full(7, -1), "are told of"),
        ("earlier.K", np.zeros((2, 8)), r"`earlier.K` is float64 \[2, 8\], expected \[2, 9\] of f"),
        ("earlier.image.cam_b", np.zeros(9, np.uint8), "no jpeg header"),
        ("expected.boxes", np.zeros((1, 7)), r"`expected.boxes` is float64 \[1, 7\], expected \[19, 7\]"),
        ("expected.scores", np.zeros(()), r"`expected.scores` is float64 \[\]"),
        ("earlier.camera_stamps", np.zeros(0, np.int64), r"expected \[2\] of i"),
        ("earlier.ego", np.zeros(3), r"expected \[22\] of f"),
    ],
)
def test_a_damaged_golden_frame_is_a_bundle_error(
    bundle: Bundle, tmp_path: Path, engine: InferenceBackend, name: str, value: Any, message: str
) -> None:
    copy = damaged(bundle, tmp_path, lambda arrays: arrays.pop(name) if value is None else arrays.update({name: value}))
    with pytest.raises(BundleError, match=rf"{GOLDEN_FRAME}.*{message}"):
        prove_frame(engine, copy)


def test_a_bundle_whose_frame_is_of_another_drive_is_refused(
    bundle: Bundle, tmp_path: Path, engine: InferenceBackend
) -> None:
    def turn(arrays: dict[str, np.ndarray]) -> None:
        arrays["later.points"][:, 1] *= -1

    with pytest.raises(BundleError, match="golden frame of 'tiny' with onnxruntime"):
        prove_frame(engine, damaged(bundle, tmp_path, turn))


def test_no_data_set_is_evaluated_with_such_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from training.bundling.evaluation import detect_by_bundle

    def turn(arrays: dict[str, np.ndarray]) -> None:
        arrays["later.points"][:, 1] *= -1

    with pytest.raises(BundleError, match="golden frame of 'tiny' with onnxruntime"):
        detect_by_bundle(damaged(bundle, tmp_path, turn), [], ["all"])


# ---- the comparison


def detections(scores: list[float], xs: list[float] | None = None, **changes: Any) -> Expected:
    n = len(scores)
    boxes = np.zeros((n, 7))
    boxes[:, 0] = xs if xs is not None else np.arange(n) * 3.0
    boxes[:, 3:6] = 2.0
    found = Expected(
        np.array(["car"] * n), np.array(scores), boxes, np.zeros((n, 2)), np.array(scores) >= 0.1, temporal_used=True
    )
    return dataclasses.replace(found, **changes)


TOLERANCE = FrameTolerance(0.02, 0.1, 0.1)
GOLDEN_SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.12]


def compare(found: Expected, golden: Expected) -> dict[str, float]:
    return compare_detections(found, golden, TINY, TOLERANCE, "test")


def test_equal_detections_differ_by_nothing() -> None:
    golden = detections(GOLDEN_SCORES)
    assert compare(golden, golden) == {
        "frame_scores": 0.0, "frame_boxes": 0.0, "frame_detections": 10, "frame_published": 10,
    }  # fmt: skip


def test_one_in_ten_may_have_given_way_and_no_more() -> None:
    golden = detections(GOLDEN_SCORES)
    moved = golden.boxes[:, 0].copy()
    moved[3] += 1.0
    assert compare(detections(GOLDEN_SCORES, moved.tolist()), golden)["frame_detections"] == 9
    moved[4] += 1.0
    with pytest.raises(BundleError, match=r"2 of 10 recorded detections are not found, 2 are new, at most 1 may be"):
        compare(detections(GOLDEN_SCORES, moved.tolist()), golden)


@pytest.mark.parametrize("column", range(9))
def test_every_number_of_a_box_counts(column: int) -> None:
    golden = detections(GOLDEN_SCORES)
    for by, good in ((0.09, True), (0.3, False)):
        arrays = {"boxes": golden.boxes.copy(), "velocity": golden.velocity.copy()}
        (arrays["boxes"] if column < 7 else arrays["velocity"])[0, column % 7] += by
        if good:
            compare(dataclasses.replace(golden, **arrays), golden)
        else:
            with pytest.raises(BundleError, match="frame_boxes differ by 0"):
                compare(dataclasses.replace(golden, **arrays), golden)


def test_yaw_is_compared_around_the_circle() -> None:
    one, other = detections(GOLDEN_SCORES), detections(GOLDEN_SCORES)
    one.boxes[:, 6], other.boxes[:, 6] = np.pi - 0.01, -np.pi + 0.01
    assert compare(one, other)["frame_boxes"] == pytest.approx(0.02)


def test_scores_and_the_use_of_the_memory_count() -> None:
    golden = detections(GOLDEN_SCORES)
    with pytest.raises(BundleError, match="frame_scores differ by 0"):
        compare(dataclasses.replace(golden, scores=golden.scores - 0.03), golden)
    with pytest.raises(BundleError, match="the memory was not used"):
        compare(dataclasses.replace(golden, temporal_used=False), golden)


def test_fp16_is_allowed_more_than_fp32() -> None:
    for name in ("score", "box", "unmatched"):
        assert getattr(FRAME_TOLERANCES["fp16"], name) > getattr(FRAME_TOLERANCES["fp32"], name)
