"""Fitted probabilities and deviations are those that made-up detections were drawn with; the command writes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from bev_perception.evaluation.objects import make_objects
from bev_perception.evaluation.reliability import reliability
from bev_perception.model_spec import CLASSES
from bev_perception.spread import METRIC_CHANNELS
from bev_perception.uncertainty import CHANNELS, Estimator
from training.uncertainty.fitting import fit
from training.uncertainty.measures import (
    brier,
    claim_of,
    cooled,
    coverage,
    temperature,
    worst_gaps,
)
from training.uncertainty.pairs import Pairs, pairs_of

SCENES = 12


def true_probability(labels: np.ndarray, scores: np.ndarray, metres: np.ndarray) -> np.ndarray:
    """A score promises more than it holds, more so far away and for every second class."""
    return np.clip(scores**1.5 * np.where(labels % 2, 0.9, 0.6) * (1.1 - metres / 100), 0, 1)


def drawn(count: int, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), count)
    scores, metres = rng.uniform(0.03, 1.0, count), rng.uniform(2, 50, count)
    right = rng.random(count) < true_probability(labels, scores, metres)
    deviation = np.stack([0.2 + metres / 50, 0.1 + metres / 100, np.full(count, 0.2), 1.2 - scores, 1.5 - scores,
                          *np.full((4, count), 2.0)], axis=1)  # fmt: skip
    errors = np.where(right[:, None], rng.normal(0, 1, (count, len(CHANNELS))) * deviation, np.nan)
    said = np.zeros((count, len(METRIC_CHANNELS)))
    return Pairs(labels, scores, metres, right, errors, rng.integers(0, SCENES, count), said)


@pytest.fixture(scope="module")
def fitted():
    return fit(drawn(60_000), CLASSES, "", 100)


def test_probabilities_are_those_that_were_drawn(fitted) -> None:
    fresh = drawn(40_000, seed=1)
    found = Estimator(fitted, CLASSES).probabilities(fresh.metres, fresh.scores, fresh.labels)
    expected = true_probability(fresh.labels, fresh.scores, fresh.metres)
    assert np.abs(found - expected).mean() < 0.03
    assert reliability(found, fresh.right).error() < 0.012 < 0.2 < reliability(fresh.scores, fresh.right).error()
    assert brier(found, fresh.right) < brier(fresh.scores, fresh.right) - 0.05


def test_a_rising_score_never_promises_less(fitted) -> None:
    for table in fitted.classes.values():
        assert (np.diff(np.array(table.probability), axis=1) >= -1e-9).all()


def test_deviations_are_those_that_were_drawn_and_intervals_hold_what_they_say(fitted) -> None:
    fresh = drawn(40_000, seed=2)
    found = Estimator(fitted, CLASSES).deviations(fresh.metres, fresh.scores, fresh.labels)
    np.testing.assert_allclose(np.median(found["along"] / (0.2 + fresh.metres / 50)), 1.0, atol=0.1)
    np.testing.assert_allclose(np.median(found["speed_across"]), 2.0, rtol=0.05)
    assert fitted.intervals["along"] == pytest.approx((0.674, 1.645, 1.96), rel=0.06)
    assert max(worst_gaps(coverage(claim_of(fitted, fresh, CLASSES), fresh)).values()) < 0.03


def test_rare_classes_lean_on_the_others() -> None:
    many = drawn(20_000)
    rare = many.labels == 3
    few = np.flatnonzero(rare)[4:]
    mask = np.ones(len(many.labels), dtype=bool)
    mask[few] = False
    table = fit(many.select(mask), CLASSES, "", 10)
    general = np.array(table.classes[CLASSES[1]].probability)
    assert np.abs(np.array(table.classes[CLASSES[3]].probability) - general).mean() < 0.15
    none = fit(many.select(~rare), CLASSES, "", 10)
    assert np.isfinite(np.array(none.classes[CLASSES[3]].probability)).all()


def test_headings_of_cones_are_unknown_and_nothing_at_all_can_be_fitted() -> None:
    pairs = drawn(5_000)
    pairs.errors[pairs.labels == CLASSES.index("traffic_cone"), 3:] = np.nan
    table = fit(pairs, CLASSES, "", 10)
    assert np.array(table.classes["traffic_cone"].deviation["yaw"]).min() == pytest.approx(np.pi / np.sqrt(3), rel=1e-3)
    nothing = fit(pairs.select(np.zeros(5_000, dtype=bool)), CLASSES, "", 0)
    assert np.array(nothing.classes["car"].probability)[0, -1] == pytest.approx(0.95)


def test_temperature_is_found() -> None:
    rng = np.random.default_rng(4)
    true = rng.uniform(0.02, 0.98, 50_000)
    right, said = rng.random(50_000) < true, cooled(true, 0.5)  # over-confident by two
    assert temperature(said, right) == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(cooled(said, 2.0), true, atol=1e-9)


def test_calibration_error_in_closed_form() -> None:
    right = np.array([1, 0, 0, 0], dtype=bool)
    assert reliability(np.full(4, 0.26), right).error() == pytest.approx(0.01)
    assert reliability(np.array([0.9, 0.1, 0.1, 0.1]), right).error() == pytest.approx(0.1)
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, dtype=bool)).error())


def test_calibration_error_is_netcals() -> None:
    netcal = pytest.importorskip("netcal.metrics", reason="needs netcal")
    pairs = drawn(5_000)
    expected = netcal.ECE(bins=20, detection=True).measure(pairs.scores, pairs.right.astype(int))
    assert reliability(pairs.scores, pairs.right).error() == pytest.approx(float(expected), abs=1e-9)


def test_a_detection_is_right_once_and_its_errors_are_in_the_line_of_sight() -> None:
    wanted = make_objects([[0, 20, 1, 4, 2, 2, 0.0]], [[0, 5]], [-1], ("car",), num_points=np.array([3]))
    found = make_objects(
        [[0.5, 21, 1.2, 4, 2, 2, 6.2], [0, 20.5, 1, 4, 2, 2, 0], [0, 60, 1, 4, 2, 2, 0]], [[1, 5], [0, 0], [0, 0]],
        [0.9, 0.5, 0.8], ("car",) * 3,
    )  # fmt: skip
    pairs = pairs_of(wanted, found, CLASSES, 7)
    assert pairs.right.tolist() == [True, False] and set(pairs.scenes) == {7}  # 60 m is beyond what counts
    np.testing.assert_allclose(pairs.errors[0], [1.0, -0.5, 0.2, 6.2 - 2 * np.pi, 0.0, -1.0, 0, 0, 0], atol=0.08)
    assert np.isnan(pairs.errors[1]).all()
    unseen = make_objects(wanted.boxes, wanted.velocity, [-1], ("car",), num_points=np.array([0]))
    assert not pairs_of(unseen, found, CLASSES, 0).right.any()


def test_each_fold_is_measured_with_the_fit_of_the_others() -> None:
    from training.calibrate import compare, report

    pairs = drawn(20_000)
    ways = compare(pairs, CLASSES)
    table = ways["class, distance and score"]
    assert table["ece"] < 0.03 < ways["temperature"]["ece"] < ways["score"]["ece"]
    assert table["ece"] < ways["isotonic by class"]["ece"] < ways["score"]["ece"]
    assert set(ways) == {"score", "temperature", "isotonic by class", "class, distance and score"}, "nothing is said"
    assert table["worst"]["0.9"] < 0.03 and "| along |" in report(pairs, 240, ways, {})
    assert table["coverage"]["along"]["nll"] < ways["score"]["coverage"]["along"]["nll"] - 0.05


def test_the_command_writes_into_a_bundle_what_the_node_reads(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bev_perception.bundle import load_bundle
    from bev_perception.uncertainty import read_uncertainty
    from training.calibrate import main
    from training.export import main as export

    bundle = tmp_path / "bundle"
    assert export([str(tiny_checkpoint), str(bundle)]) == 0
    arguments = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--bundle", str(bundle)]
    assert main([*arguments, "--folds", "5"]) == 1
    assert "1 scenes cannot be shared by 5 folds" in capsys.readouterr().err
    assert read_uncertainty(load_bundle(bundle)) is None
    assert main([*arguments, "--split", "train", "--folds", "0"]) == 0
    table = read_uncertainty(load_bundle(bundle))
    assert table is not None and table.frames == 4
    shutil.copy(bundle / "model_spec.json", bundle / "model.sig")
    assert main([*arguments, "--split", "train", "--folds", "0"]) == 1
    assert "is signed: write uncertainty.json before signing" in capsys.readouterr().err
