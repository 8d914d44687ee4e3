"""From the channels of a head to metres and radians: against draws, and in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_bundle
from test_decode import SPEC, random_outputs

from bev_perception.decode import decode
from bev_perception.model_spec import BOX_CHANNELS, SPREAD_CHANNELS
from bev_perception.spread import METRIC_CHANNELS, metric_variances, softened
from bev_perception.uncertainty import LOGIT, ClassTable, Estimator, UncertaintyTable, read_uncertainty

SAYING = dataclasses.replace(SPEC, spread=("aleatoric", "epistemic"))


def with_spread(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed + 100)
    log_std = rng.normal(-1.0, 0.3, (SPEC.top_k, 2, len(SPREAD_CHANNELS))).astype(np.float32)
    return random_outputs(seed) | {"log_std": log_std}


def test_variances_are_those_of_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    channels = np.array([[0.5, 0.5, 1.0, 1.4, 0.6, 0.4, 0.6, -0.9, 3.0, 4.0]])
    std = rng.uniform(0.01, 0.05, (1, 1, len(SPREAD_CHANNELS)))
    found = dict(zip(METRIC_CHANNELS, metric_variances(np.log(std), channels)[0, 0], strict=True))
    drawn = {name: std[0, 0, i] * rng.normal(size=400_000) for i, name in enumerate(SPREAD_CHANNELS)}
    box = dict(zip(BOX_CHANNELS, channels[0], strict=True))
    yaw = np.arctan2(box["sin_yaw"] + drawn["sin_yaw"], box["cos_yaw"] + drawn["cos_yaw"])
    assert found["yaw"] == pytest.approx(yaw.var(), rel=0.02)
    for size, name in (("length", "log_l"), ("width", "log_w"), ("height", "log_h")):
        assert found[size] == pytest.approx(np.exp(box[name] + drawn[name]).var(), rel=0.02)
    for name in ("along", "across", "z", "speed_along", "speed_across", "logit"):
        assert found[name] == pytest.approx(drawn[name].var(), rel=0.02)


def test_a_unit_heading_errs_by_its_sine_at_zero_and_by_its_cosine_at_a_right_angle() -> None:
    log_std = np.zeros((2, 1, len(SPREAD_CHANNELS)))
    log_std[..., SPREAD_CHANNELS.index("sin_yaw")], log_std[..., SPREAD_CHANNELS.index("cos_yaw")] = np.log([0.1, 0.3])
    channels = np.zeros((2, len(BOX_CHANNELS)))
    channels[0, 7] = channels[1, 6] = 1.0
    found = metric_variances(log_std, channels)[:, 0, METRIC_CHANNELS.index("yaw")]
    np.testing.assert_allclose(found, [0.01, 0.09])


def test_decoding_keeps_the_row_of_each_box_and_changes_no_box() -> None:
    outputs = with_spread(0)
    without, found = decode(outputs, SPEC), decode(outputs, SAYING)
    for name in ("boxes", "velocity", "scores", "labels"):
        np.testing.assert_array_equal(getattr(without, name), getattr(found, name))
    assert without.variances.shape == (len(without.scores), 0, 10)
    rows = [int(np.flatnonzero(outputs["scores"] == score)[0]) for score in found.scores]
    expected = metric_variances(outputs["log_std"][rows], outputs["boxes"][rows])
    np.testing.assert_array_equal(found.variances, expected)


def test_a_candidate_of_which_nothing_is_known_is_dropped_and_counted() -> None:
    outputs = with_spread(1)
    outputs["log_std"][3, 1, 2] = np.nan
    assert decode(outputs, SAYING).not_finite == 1 and decode(outputs, SPEC).not_finite == 0


def test_softened_scores_go_to_the_middle_and_no_further() -> None:
    scores = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(softened(scores, np.zeros(3)), scores)
    once, twice = softened(scores, np.full(3, 1.0)), softened(scores, np.full(3, 3.0))
    assert 0.1 < once[0] < twice[0] < 0.5 < twice[2] < once[2] < 0.9 and once[1] == pytest.approx(0.5)
    draws = 1 / (1 + np.exp(-(np.log(9.0) + np.random.default_rng(0).normal(size=200_000))))
    assert once[2] == pytest.approx(draws.mean(), abs=0.005)


# ---- a table in units of what the network says


def table_of(head: dict[str, float]) -> UncertaintyTable:
    channels = METRIC_CHANNELS[:-1]
    deviation = {c: ((2.0, 2.0), (2.0, 2.0)) for c in channels}
    classes = {name: ClassTable(((0.0, 1.0), (0.0, 1.0)), deviation) for name in tiny_bundle.SPEC.classes}
    intervals = dict.fromkeys(channels, (0.7, 1.6, 2.0))
    return UncertaintyTable("", (10.0, 20.0), (0.0, 1.0), classes, intervals, 5, head)


def test_deviations_are_the_tables_times_a_power_of_the_networks() -> None:
    estimator = Estimator(table_of({"along": 1.0, "yaw": 0.5, LOGIT: 1.0}), tiny_bundle.SPEC.classes)
    boxes, label = np.array([[10.0, 0, 0, 4, 2, 2, 0]]), np.array([0])
    variances = np.full((1, 2, len(METRIC_CHANNELS)), 0.02)
    found = estimator(boxes, np.array([0.9]), label, variances)
    np.testing.assert_allclose(found.pose[0, 0, 0], 4 * 0.04)
    np.testing.assert_allclose(found.pose[0, 3, 3], 4 * 0.2)
    np.testing.assert_allclose(found.pose[0, 1, 1], 4.0)
    np.testing.assert_allclose(found.size, [[4.0, 4.0, 4.0]])
    np.testing.assert_allclose(found.epistemic, 0.5)
    np.testing.assert_allclose(found.probability, softened(np.array([0.9]), np.array([0.2])))


def test_tables_of_before_are_read_and_wrong_powers_are_not(tmp_path) -> None:
    import json

    from bev_perception.model_spec import BundleError

    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    table = dataclasses.replace(table_of({}), onnx_sha256=bundle.spec.onnx_sha256)
    data = json.loads(table.to_json())
    del data["head"]
    for name in METRIC_CHANNELS[6:9]:
        del data["intervals"][name]
        for of_class in data["classes"].values():
            del of_class["deviation"][name]
    (bundle.path / "uncertainty.json").write_text(json.dumps(data))
    older = read_uncertainty(bundle)
    assert older is not None and older.head == {}
    found = Estimator(older, bundle.spec.classes)(np.array([[10.0, 0, 0, 4, 2, 2, 0]]), np.array([0.5]), np.array([0]))
    assert found.size is None and found.epistemic is None
    (bundle.path / "uncertainty.json").write_text(dataclasses.replace(table, head={"along": 1.0}).to_json())
    with pytest.raises(BundleError, match="counts on what the network says of along, and this one says nothing"):
        read_uncertainty(bundle)
    for head in ({"along": 1.5}, {"colour": 1.0}):
        with pytest.raises(ValueError, match="head has powers from 0 to 1"):
            dataclasses.replace(table, head=head)
