"""Ways to say what detections are worth: each against slow definitions, and on made-up errors whose truth is known."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("scipy", reason="needs scipy")
pytest.importorskip("sklearn", reason="needs scikit-learn")

from scipy import stats
from sklearn import isotonic
from test_calibrate import drawn

from bev_perception.evaluation.objects import make_objects
from bev_perception.model_spec import CLASSES
from bev_perception.spread import METRIC_CHANNELS
from bev_perception.uncertainty import CHANNELS, LEVELS, LOGIT, OLDER_CHANNELS, Estimator
from training import compare_uncertainty
from training.uncertainty import ways
from training.uncertainty.driving import Frame
from training.uncertainty.fitting import Use, fit
from training.uncertainty.measures import Claim, claim_of, coverage, log_loss
from training.uncertainty.members import LEAST, dropout, fused
from training.uncertainty.pairs import Pairs
from training.uncertainty.ways import (
    OF_HEAD,
    OF_TABLE,
    USES,
    best_uses,
    chosen_within,
    everywhere,
    folds_of,
    held_out,
    measured,
    ways_of,
)


def saying(count: int, seed: int = 0, factor: float = 3.0, exact: bool = True) -> Pairs:
    """Errors that the network knows but for a factor; where it does not, it says what has nothing to do with them."""
    pairs, rng = drawn(count, seed), np.random.default_rng(seed + 50)
    true = np.exp(rng.normal(-1.0, 0.8, (count, len(CHANNELS))))
    pairs.errors[:] = np.where(pairs.right[:, None], rng.normal(size=true.shape) * true, np.nan)
    pairs.said[:, :-1] = true / factor if exact else np.exp(rng.normal(-1.0, 0.8, true.shape))
    pairs.said[:, -1] = 0.3
    return pairs


def measured_ways(pairs: Pairs) -> dict:
    ways = ways_of(CLASSES, {name: everywhere(use) for name, use in USES.items()})
    fold = folds_of(pairs, 4)
    return {name: measured(held_out(pairs, way, fold), pairs) for name, way in ways.items()}


def test_what_the_network_knows_is_taken_and_scaled() -> None:
    pairs = saying(12_000)
    rows = measured_ways(pairs)
    best = best_uses(rows)
    assert all(best[channel].power == 1.0 for channel in CHANNELS)
    head, table = rows[OF_HEAD]["coverage"]["along"], rows[OF_TABLE]["coverage"]["along"]
    assert head["nll"] < table["nll"] - 0.3
    assert head["0.9"] == pytest.approx(0.9, abs=0.02)
    fitted = fit(pairs, CLASSES, "", 10, best)
    fresh = saying(4_000, seed=3)
    said = Estimator(fitted, CLASSES).deviations(fresh.metres, fresh.scores, fresh.labels, fresh.said)
    np.testing.assert_allclose(np.median(said["yaw"] / fresh.said[:, 3]), 3.0, rtol=0.05)
    assert fitted.intervals["along"] == pytest.approx((0.674, 1.645, 1.96), rel=0.06)


def test_what_it_does_not_know_is_left_to_the_table() -> None:
    best = best_uses(measured_ways(saying(12_000, exact=False)))
    assert all(best[channel] == USES[OF_TABLE] for channel in CHANNELS)


def test_a_channel_that_is_not_asked_of_a_class_gets_what_is_known_without_looking() -> None:
    pairs = saying(5_000)
    cone = CLASSES.index("traffic_cone")
    pairs.errors[pairs.labels == cone, 3] = np.nan
    fitted = fit(pairs, CLASSES, "", 10, {"yaw": Use(1.0)})
    found = Estimator(fitted, CLASSES).deviations(pairs.metres, pairs.scores, pairs.labels, pairs.said)["yaw"]
    assert found[pairs.labels == cone].mean() == pytest.approx(np.pi / np.sqrt(3), rel=0.01)


def test_what_is_chosen_is_chosen_without_the_drives_it_is_judged_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is to be learnt, the best of many by luck is no better than any of them."""
    pairs, seen = saying(600), []
    monkeypatch.setattr(ways, "best_uses", lambda rows: seen.append(rows) or {})
    monkeypatch.setattr(ways, "measured", lambda claim, own: set(own.scenes))
    fold = folds_of(pairs, 4)
    held_out(pairs, chosen_within(CLASSES, {"a": Use(), "b": Use(1.0)}, 4), fold)
    asked = [set(pairs.scenes[fold != number]) for number in range(4)]
    assert seen == [{"a": scenes, "b": scenes} for scenes in asked]
    with pytest.raises(ValueError, match="2 scenes: to choose on others than it is judged on, three are wanted"):
        alone = pairs.select(pairs.scenes < 2)
        held_out(alone, chosen_within(CLASSES, {"a": Use()}, 2), folds_of(alone, 2))


def test_the_best_of_each_channel_is_that_of_what_the_network_knows() -> None:
    pairs = saying(3_000)
    claims = dict(compare_uncertainty.compare(pairs, CLASSES, 4))
    rows = {name: measured(claim, pairs)["coverage"]["along"]["nll"] for name, claim in claims.items()}
    least = min(nll for name, nll in rows.items() if name != compare_uncertainty.OWN)
    assert rows[compare_uncertainty.OWN] == pytest.approx(least, abs=0.01)
    assert least < rows[OF_TABLE] - 0.3
    assert list(dict(compare_uncertainty.compare(pairs, CLASSES, 4, "ensemble"))) == ["ensemble"]


def test_isotonic_regression_is_sklearns() -> None:
    pairs = drawn(4_000)
    others, own = pairs.select(pairs.scenes < 6), pairs.select(pairs.scenes >= 6)
    found = ways_of(CLASSES, {})["isotonic by class"](others, own).probability
    for label in range(len(CLASSES)):
        there, here = others.labels == label, own.labels == label
        model = isotonic.IsotonicRegression(out_of_bounds="clip").fit(others.scores[there], others.right[there])
        np.testing.assert_allclose(found[here], model.predict(own.scores[here]), atol=1e-9)


def test_no_fold_sees_its_own_drives() -> None:
    pairs = drawn(2_000)
    fold = folds_of(pairs, 3)
    seen: list[tuple[set, set]] = []

    def way(others: Pairs, own: Pairs) -> Claim:
        seen.append((set(others.scenes), set(own.scenes)))
        return Claim(own.scores, np.ones((len(own.scores), 9)), np.ones((len(own.scores), 9, 3)))

    np.testing.assert_array_equal(held_out(pairs, way, fold).probability, pairs.scores)
    assert len(seen) == 3 and not any(others & own for others, own in seen)
    assert set().union(*(own for _, own in seen)) == set(pairs.scenes)
    with pytest.raises(ValueError, match="12 scenes cannot be shared by 13 folds"):
        folds_of(pairs, 13)


def test_tables_that_cannot_answer_say_so() -> None:
    pairs = saying(300)
    own = Estimator(fit(pairs, CLASSES, "", 10, {"along": Use(1.0), LOGIT: Use(1.0)}), CLASSES)
    for asked in (own.deviations, own.probabilities):
        with pytest.raises(ValueError, match="multiplies what the network says of along, logit, and nothing is said"):
            asked(pairs.metres, pairs.scores, pairs.labels)
    older = fit(pairs, CLASSES, "", 10)
    classes = {name: dataclasses.replace(t, deviation={c: t.deviation[c] for c in OLDER_CHANNELS})
               for name, t in older.classes.items()}  # fmt: skip
    intervals = {channel: older.intervals[channel] for channel in OLDER_CHANNELS}
    with pytest.raises(ValueError, match="says nothing of length, width, height: it is of an older version"):
        claim_of(dataclasses.replace(older, classes=classes, intervals=intervals), pairs, CLASSES)


def test_likelihoods_and_coverage_are_scipys() -> None:
    pairs = saying(500)
    deviations = np.exp(np.random.default_rng(1).normal(size=(500, len(CHANNELS))))
    limits = stats.norm.ppf(0.5 + np.array(LEVELS) / 2)
    claim = Claim(pairs.scores, deviations, deviations[:, :, None] * limits)
    found = coverage(claim, pairs)
    for i, channel in enumerate(CHANNELS):
        known = np.flatnonzero(pairs.right)
        expected = [-stats.norm.logpdf(pairs.errors[k, i], scale=deviations[k, i]) for k in known]
        assert found[channel]["nll"] == pytest.approx(np.mean(expected))
        for level in LEVELS:
            low, high = stats.norm.interval(level, scale=deviations[known, i])
            inside = np.mean([a <= e <= b for a, e, b in zip(low, pairs.errors[known, i], high, strict=True)])
            assert found[channel][f"{level:g}"] == pytest.approx(inside)
        assert found[channel]["deviation"] == pytest.approx(deviations[known, i].mean())
    right = np.array([True, False, False])
    assert log_loss(np.array([0.9, 0.2, 0.5]), right) == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.5])))
    assert math.isnan(log_loss(np.zeros(0), np.zeros(0, dtype=bool)))


# ---- several networks


def frame(rows: list[tuple[str, float, list[float]]]) -> Frame:
    boxes = np.array([row[2] for row in rows]).reshape(-1, 7)
    objects = make_objects(boxes, np.zeros((len(rows), 2)), [row[1] for row in rows], tuple(row[0] for row in rows))
    return Frame(objects, np.full((len(rows), len(METRIC_CHANNELS)), 0.3))


def test_members_agree_on_an_object_by_class_and_place() -> None:
    first = frame([("car", 0.9, [10, 0, 1, 4, 2, 1.5, 3.1]), ("bus", 0.3, [10, 0.5, 1, 9, 3, 3, 0])])
    second = frame([("car", 0.5, [11, 0, 1, 4, 2, 1.5, -3.1]), ("car", 0.4, [10, 5, 1, 4, 2, 1.5, 0])])
    found = fused([first, second])
    assert found.objects.names == ("car", "car", "bus")
    np.testing.assert_allclose(found.objects.scores, [0.7, 0.2, 0.15])
    np.testing.assert_allclose(found.objects.boxes[0, :2], [10.5, 0])
    assert abs(found.objects.boxes[0, 6]) == pytest.approx(np.pi, abs=1e-6), "headings meet behind"
    said = dict(zip(METRIC_CHANNELS, found.said[0], strict=True))
    assert said["along"] == pytest.approx(math.hypot(0.3, 0.5)) and said["across"] == pytest.approx(0.3)
    assert said["yaw"] == pytest.approx(math.hypot(0.3, np.pi - 3.1))
    assert said[LOGIT] == pytest.approx(math.hypot(0.3, math.log(9) / 2))
    nothing = fused([frame([]), frame([])])
    assert len(nothing.objects) == 0 and nothing.said.shape == (0, len(METRIC_CHANNELS))
    silent = Frame(first.objects, np.zeros_like(first.said))
    assert fused([silent, frame([])]).said.min() == LEAST


def test_dropout_is_drawn_again_from_its_seed_and_ends() -> None:
    import tiny_students
    import torch

    student = tiny_students.student("camera_radar")
    inputs, memory = tiny_students.batch(student.spec, (0,))
    with torch.no_grad():
        plain = student(inputs, memory).heatmap
        found = []
        for seed in (1, 1, 2):
            with dropout(student, 0.5, seed):
                found.append(student(inputs, memory).heatmap)
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
        assert not torch.equal(found[0], plain) and torch.equal(student(inputs, memory).heatmap, plain)


def test_members_are_driven_by_their_own_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace as Some

    command = compare_uncertainty
    members = {name: Some(spec=Some(classes=CLASSES, sensors=name), detector=name) for name in ("own", "other")}
    driven = []
    monkeypatch.setattr(command, "load_network", lambda path, device: members[path.name])
    monkeypatch.setattr(command, "TorchEngine", lambda detector: detector)
    monkeypatch.setattr(command, "drive", lambda engine, keyframes: driven.append((engine, keyframes)) or [])
    found = list(command.drives(members["own"], [Path("other")], lambda spec: spec.sensors, 0.1, 0))
    assert driven == [("own", "own"), ("other", "other")] and [title for title, *_ in found] == ["", "ensemble of 2"]


# ---- the command


def test_the_command_writes_what_the_page_is_made_of(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from training.compare_uncertainty import COVERAGE, RELIABILITY, WAYS, main
    from training.train import main as train
    from training.world.generate import Rates
    from training.world.nuscenes_writer import DatasetSettings, write_dataset

    run = ["training.experiments.uncertainty:heads", "--data", str(tiny_dataset), "--init", str(tiny_checkpoint)]
    run += ["--workers", "0", "--out", str(tmp_path / "run"), "--set", "optim.steps=1", "batch_size=1"]
    assert train(run) == 0
    three = tmp_path / "three"
    settings = DatasetSettings(seed=8, duration_s=1.0, scale=0.1, rates=Rates(camera=2, lidar=2, radar=13))
    write_dataset(three, 3, settings, workers=1)
    scenes = [f"scene-{number:04d}" for number in range(3)]
    (three / "splits.json").write_text(json.dumps({"train": scenes, "val": scenes, "two": scenes[:2]}))
    arguments = ["--data", str(three), "--folds", "3", "--out", str(tmp_path / "out")]
    assert main([str(tiny_checkpoint), *arguments]) == 1
    assert "has no head for the spread: train one upon it" in capsys.readouterr().err
    heads = str(tmp_path / "run" / "last.ckpt")
    assert main([heads, *arguments, "--split", "two", "--folds", "2"]) == 1
    assert "2 scenes: to choose on others than it is judged on, three are wanted" in capsys.readouterr().err
    assert main([heads, *arguments, "--ensemble", str(tiny_checkpoint), "--passes", "1"]) == 0
    found = {n: rows_of(tmp_path / "out" / n) for n in (WAYS, COVERAGE, RELIABILITY)}
    ways = [row["way"] for row in found[WAYS]]
    assert ways[:3] == ["score", "temperature", "isotonic by class"]
    assert ways[-2:] == ["ensemble of 2", "dropout 0.1, 1 passes"]
    assert [row["runs"] for row in found[WAYS]][-2:] == ["2", "1"]
    assert len({row["mAP"] for row in found[WAYS][:-2]}) == 1, "what is said of boxes changes none"
    assert {row["channel"] for row in found[COVERAGE]} == set(CHANNELS)
    binned = [int(row["detections"]) for row in found[RELIABILITY] if row["way"] == "score"]
    assert sum(binned) == int(found[WAYS][0]["detections"])


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))
