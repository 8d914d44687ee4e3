"""What a bundle says of its detections' worth: read, refused, interpolated, and in every message that carries it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
import tiny_drive

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.drive import read_drive
from bev_perception.evaluation.evaluate import main as evaluate_main
from bev_perception.evaluation.result_folder import WORTH
from bev_perception.evaluation.worth import PUBLISHED, read_worth
from bev_perception.frame_proof import open_proven
from bev_perception.model_spec import BundleError
from bev_perception.pipeline import BevPipeline
from bev_perception.replay import main as replay_main
from bev_perception.replay import strong_only
from bev_perception.structures import Detections
from bev_perception.uncertainty import (
    CHANNELS,
    NOT_ESTIMATED,
    UNCERTAINTY,
    ClassTable,
    Estimator,
    UncertaintyTable,
    estimator_of,
    in_line_of_sight,
    message_covariances,
    read_uncertainty,
)

SPEC = tiny_bundle.SPEC
RANGES, SCORES = (10.0, 20.0), (0.2, 0.6)
DEVIATIONS = dict(zip(CHANNELS, (2.0, 0.5, 0.3, 0.2, 1.0, 3.0, 0.4, 0.6, 0.7), strict=True))


def table_of(onnx_sha256: str = SPEC.onnx_sha256, classes: tuple[str, ...] = SPEC.classes) -> UncertaintyTable:
    """Probability grows with the score, deviations with the distance."""
    deviation = {c: ((d, d), (2 * d, 2 * d)) for c, d in DEVIATIONS.items()}
    tables = {name: ClassTable(((0.1, 0.5), (0.0, 0.3)), deviation) for name in classes}
    return UncertaintyTable(onnx_sha256, RANGES, SCORES, tables, dict.fromkeys(CHANNELS, (0.7, 1.6, 2.0)), 40)


def estimate(x: float, y: float, score: float = 0.4):
    boxes = np.array([[x, y, 1.0, 4, 2, 2, 0.3]])
    return Estimator(table_of(), SPEC.classes)(boxes, np.array([score]), np.array([0]))


@pytest.fixture
def bundle(tmp_path: Path):
    return tiny_bundle.write_bundle(tmp_path / "bundle")


def state(bundle, table: UncertaintyTable):
    (bundle.path / UNCERTAINTY).write_text(table.to_json())
    return load_bundle(bundle.path)


# ---- the table


def test_between_the_knots_it_is_bilinear_and_beyond_them_constant() -> None:
    assert estimate(10.0, 0.0, 0.2).probability[0] == pytest.approx(0.1)
    assert estimate(15.0, 0.0, 0.4).probability[0] == pytest.approx((0.1 + 0.5 + 0.0 + 0.3) / 4)
    assert estimate(0.0, 12.5, 0.6).probability[0] == pytest.approx(0.75 * 0.5 + 0.25 * 0.3)
    assert estimate(1.0, 0.0, 0.99).probability[0] == pytest.approx(0.5)
    assert estimate(90.0, 0.0, 0.01).probability[0] == pytest.approx(0.0)


def test_deviations_follow_the_line_of_sight() -> None:
    ahead, left = estimate(10.0, 0.0), estimate(0.0, 10.0)
    np.testing.assert_allclose(ahead.pose[0], np.diag([4.0, 0.25, 0.09, 0.04]), atol=1e-12)
    np.testing.assert_allclose(left.pose[0], np.diag([0.25, 4.0, 0.09, 0.04]), atol=1e-12)
    np.testing.assert_allclose(left.velocity[0], np.diag([9.0, 1.0]), atol=1e-12)
    slanting = estimate(10.0 * math.cos(0.6), 10.0 * math.sin(0.6))
    along = np.array([math.cos(0.6), math.sin(0.6)])
    assert along @ slanting.pose[0, :2, :2] @ along == pytest.approx(4.0)
    assert np.linalg.eigvalsh(slanting.pose[0, :2, :2]) == pytest.approx([0.25, 4.0])


def test_errors_are_split_along_and_across() -> None:
    boxes = np.array([[0.0, 5.0, 0, 1, 1, 1, 0], [3.0, 3.0, 0, 1, 1, 1, 0]])
    found = in_line_of_sight(boxes, np.array([[1.0, 2.0], [1.0, 1.0]]))
    np.testing.assert_allclose(found, [[2.0, -1.0], [math.sqrt(2), 0.0]], atol=1e-12)


def test_no_detections_have_no_worth() -> None:
    found = Estimator(table_of(), SPEC.classes)(np.zeros((0, 7)), np.zeros(0), np.zeros(0, dtype=np.int64))
    assert found.probability.shape == (0,) and found.pose.shape == (0, 4, 4)
    assert message_covariances(found)[0].shape == (0, 36)


def test_a_message_has_the_covariance_in_its_places() -> None:
    pose, twist = (a[0].reshape(6, 6) for a in message_covariances(estimate(6.0, 8.0)))
    assert pose[0, 1] == pose[1, 0] != 0 and pose[5, 5] == pytest.approx(0.04)
    assert pose[3, 3] == pose[4, 4] == -1.0 and twist[2, 2] == -1.0
    assert twist[0, 0] + twist[1, 1] == pytest.approx(10.0)
    assert not pose[:3, 3:5].any() and not pose[3:5, 5].any()


# ---- the file


def test_a_bundle_without_the_file_has_no_estimate(bundle) -> None:
    assert read_uncertainty(bundle) is None and estimator_of(bundle) is None


def test_what_is_written_is_read(bundle) -> None:
    table = table_of(bundle.spec.onnx_sha256)
    assert read_uncertainty(state(bundle, table)) == table


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"onnx_sha256": "0" * 64}, "is about the ONNX 000000000000"),
        ({"format": 9}, "format 9, this version reads 1"),
        ({"ranges_m": [20.0, 10.0]}, "ranges_m must rise"),
        ({"scores": []}, "scores must rise"),
        ({"intervals": {}}, "intervals are of along"),
        ({"classes": {}}, "the model others"),
        ({"frames": "many"}, "frames"),
        ({"more": 1}, "more"),
    ],
)
def test_a_file_that_says_something_else_is_refused(change: dict, text: str, bundle) -> None:
    data = json.loads(table_of(bundle.spec.onnx_sha256).to_json()) | change
    (bundle.path / UNCERTAINTY).write_text(json.dumps(data))
    with pytest.raises(BundleError, match=text):
        read_uncertainty(bundle)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[0.1, 1.5], [0.0, 0.3]], "probability must be from 0 to 1"),
        ([[0.1, -0.5], [0.0, 0.3]], "probability must be from 0 to 1"),
        ([[0.1], [0.0, 0.3]], "probability wants 2 rows of 2 numbers"),
        ([[0.1, 0.2]], "probability wants 2 rows of 2 numbers"),
        ([[0.1, math.inf], [0.0, 0.3]], "."),
    ],
)
def test_tables_that_are_none_are_refused(rows: list, text: str, bundle) -> None:
    data = json.loads(table_of(bundle.spec.onnx_sha256).to_json())
    data["classes"][SPEC.classes[0]]["probability"] = rows
    (bundle.path / UNCERTAINTY).write_text(json.dumps(data))
    with pytest.raises(BundleError, match=text):
        read_uncertainty(bundle)


def test_such_a_bundle_is_not_used(bundle) -> None:
    (bundle.path / UNCERTAINTY).write_text("{")
    with pytest.raises(BundleError, match="take the file out of the bundle"):
        open_proven(bundle, "onnxruntime")


def test_an_upgrade_keeps_it(bundle, tmp_path: Path) -> None:
    from bev_perception.upgrade_bundle import upgrade_bundle

    state(bundle, table_of(bundle.spec.onnx_sha256))
    new = upgrade_bundle(bundle.path, tmp_path / "new")
    kept = read_uncertainty(new)
    assert kept is not None and dataclasses.replace(kept, onnx_sha256="") == table_of("")


# ---- the pipeline and the messages


@pytest.fixture
def calibrated(bundle) -> Detections:
    bundle = state(bundle, table_of(bundle.spec.onnx_sha256))
    backend, _ = open_proven(bundle, "onnxruntime")
    from bev_perception.golden_pattern import pattern_frames

    return BevPipeline(bundle.spec, backend, estimator=estimator_of(bundle)).step(pattern_frames(bundle.spec)[0])


def test_the_pipeline_says_what_its_detections_are_worth_and_changes_nothing_else(calibrated, bundle) -> None:
    backend, _ = open_proven(load_bundle(bundle.path), "onnxruntime")
    from bev_perception.golden_pattern import pattern_frames

    plain = BevPipeline(bundle.spec, backend).step(pattern_frames(bundle.spec)[0])
    assert len(plain) and plain.uncertainty is None and calibrated.uncertainty is not None
    for name in ("boxes", "velocity", "scores", "labels"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(calibrated, name))
    expected = Estimator(table_of(), SPEC.classes)(plain.boxes, plain.scores, plain.labels)
    np.testing.assert_array_equal(calibrated.uncertainty.pose, expected.pose)


def test_every_message_carries_it(calibrated) -> None:
    pytest.importorskip("bev_perception_msgs", reason="needs the built messages")
    from bev_perception.messages import Context, detection_array, message_class, vision_detections

    context = Context(SPEC, "base_link", 1.0)
    worth = calibrated.uncertainty
    pose, twist = message_covariances(worth)
    for i, ours in enumerate(detection_array(calibrated, context).detections):
        assert ours.existence_probability == pytest.approx(worth.probability[i], abs=1e-6)
        np.testing.assert_array_equal(ours.pose.covariance, pose[i])
        np.testing.assert_array_equal(ours.twist.covariance, twist[i])
    plain = detection_array(dataclasses.replace(calibrated, uncertainty=None), context).detections[0]
    assert math.isnan(plain.existence_probability)
    np.testing.assert_array_equal(plain.pose.covariance, NOT_ESTIMATED)
    try:
        message_class("vision_msgs/msg/Detection3DArray")
    except ImportError:
        return
    theirs = vision_detections(calibrated, context).detections[0].results[0]
    np.testing.assert_array_equal(theirs.pose.covariance, pose[0])


def test_a_recorded_result_carries_it_too(calibrated) -> None:
    pytest.importorskip("rosbags", reason="bags want rosbags")
    from bev_perception.evaluation.message_maker import MessageMaker
    from bev_perception.evaluation.result_bag import detection_message, make_typestore

    message = detection_message(MessageMaker(make_typestore()), calibrated, SPEC, "base_link")
    first, (pose, twist) = message.detections[0], message_covariances(calibrated.uncertainty)
    assert first.existence_probability == pytest.approx(calibrated.uncertainty.probability[0])
    np.testing.assert_array_equal(first.pose.covariance, pose[0])
    np.testing.assert_array_equal(first.twist.covariance, twist[0])


def test_a_folder_may_be_copied_with_it(bundle, tmp_path: Path) -> None:
    state(bundle, table_of(bundle.spec.onnx_sha256))
    shutil.copytree(bundle.path, tmp_path / "copy")
    assert read_uncertainty(load_bundle(tmp_path / "copy")) == read_uncertainty(bundle)


def test_what_is_left_out_of_a_replay_takes_its_worth_along() -> None:
    """Thresholds of classes differ, so that what stays is not the front of what was found."""
    rng = np.random.default_rng(5)
    boxes = np.column_stack([rng.uniform(-20, 20, (30, 2)), np.ones((30, 5))])
    scores, labels = np.sort(rng.random(30))[::-1], rng.integers(0, 2, 30)
    said = Estimator(table_of(), SPEC.classes)(boxes, scores, labels)
    every = Detections(0, boxes, boxes[:, :2], scores, labels, uncertainty=said, variances=np.zeros((30, 0, 10)))
    least = dict.fromkeys(SPEC.classes, 0.8) | {SPEC.classes[1]: 0.2}
    kept = strong_only(every, least, SPEC)
    assert 3 < len(kept) < 27 and kept.variances.shape == (len(kept), 0, 10)
    again = Estimator(table_of(), SPEC.classes)(kept.boxes, kept.scores, kept.labels)
    np.testing.assert_allclose(kept.uncertainty.probability, again.probability)
    np.testing.assert_allclose(kept.uncertainty.pose, again.pose)
    np.testing.assert_allclose(kept.uncertainty.size, again.size)


def test_an_evaluation_counts_whether_it_holds_and_a_new_table_is_counted_anew(tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    params, bag = tiny_drive.write_params(tmp_path / "params.yaml"), tiny_drive.write_drive(tmp_path / "bag", frames=3)
    arguments = [str(bag), "--bundle", str(bundle.path), "--params", str(params)]

    def figures() -> dict[str, float]:
        assert evaluate_main([*arguments, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        return json.loads((tmp_path / "out" / "result.json").read_text())["figures"]

    assert not [name for name in figures() if name.startswith("calibration.")]
    assert "The bundle has no uncertainty.json" in (tmp_path / "out" / "report.html").read_text()
    state(bundle, table_of(bundle.spec.onnx_sha256))
    found = figures()
    assert 0 <= found["calibration.ece"] <= 1
    assert {f"calibration.inside_{level}.{name}" for level in (50, 90, 95) for name in PUBLISHED} <= set(found)
    assert "Does existence_probability mean what it says?" in (tmp_path / "out" / "report.html").read_text()
    assert replay_main([*arguments, "--out", str(tmp_path / "replay"), "--score-floor", "0.03"]) == 0
    counted = read_worth(tmp_path / "replay" / WORTH)
    assert counted == read_drive(tmp_path / "out" / "drives" / "bag").worth and counted.detections > 20
