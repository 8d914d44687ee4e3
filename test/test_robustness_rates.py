"""mCE and mRR are those that RoboBEV publishes, and the times of reaction those of made-up scenes."""

from __future__ import annotations

import math

import pytest

from training.robustness.rates import DETR3D, corruption_errors, mean_percent, resilience_rates

pytest.importorskip("onnxruntime", reason="the benchmark drives the vehicle's own step")

from bev_perception.evaluation.objects import make_objects
from training.experiments.demo import demo_spec
from training.robustness.lost import Loss
from training.robustness.reaction import interruptions, matched_share, reaction_times

# model: mCE, mRR, clean NDS, then the mean NDS of each corruption, in the order of DETR3D.
PUBLISHED_ORDER = (
    "camera_crash", "frame_lost", "colour_quant", "motion_blur", "brightness", "low_light", "fog", "snow",
)  # fmt: skip
PUBLISHED = {
    "DETR3D": (100.00, 70.77, 0.4224, 0.2859, 0.2604, 0.3177, 0.2661, 0.4002, 0.2786, 0.3912, 0.1913),
    "BEVFormer-S": (102.40, 59.07, 0.4787, 0.2771, 0.2459, 0.3275, 0.2570, 0.3741, 0.2413, 0.3583, 0.1809),
    "PETR R50": (111.01, 61.26, 0.3665, 0.2320, 0.2166, 0.2472, 0.2299, 0.2841, 0.1571, 0.2876, 0.1417),
    "BEVDet R50": (115.12, 51.83, 0.3770, 0.2486, 0.1924, 0.2408, 0.2061, 0.2565, 0.1102, 0.2461, 0.0625),
    "BEVDepth R50": (110.02, 56.82, 0.4058, 0.2638, 0.2141, 0.2751, 0.2513, 0.2879, 0.1757, 0.2903, 0.0863),
    "PolarFormer R101": (96.06, 70.88, 0.4602, 0.3133, 0.2808, 0.3509, 0.3221, 0.4304, 0.2554, 0.4262, 0.2304),
    "SOLOFusion fusion": (92.86, 64.53, 0.5381, 0.3806, 0.3464, 0.4058, 0.3642, 0.4329, 0.2626, 0.4480, 0.1376),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_rows_come_out(model: str) -> None:
    mce, mrr, clean, *values = PUBLISHED[model]
    assert tuple(DETR3D) == PUBLISHED_ORDER
    nds = {name: [value - 0.01, value, value + 0.01] for name, value in zip(DETR3D, values, strict=True)}
    assert mean_percent(corruption_errors(nds, DETR3D)) == pytest.approx(mce, abs=0.011)
    assert mean_percent(resilience_rates(nds, clean)) == pytest.approx(mrr, abs=0.011)


def test_a_condition_without_reference_has_no_error_and_nothing_is_kept_of_nothing() -> None:
    assert corruption_errors({"clutter": [0.3]}, DETR3D) == {}
    assert math.isnan(resilience_rates({"fog": [0.0]}, 0.0)["fog"])


def test_sensors_are_lost_in_the_middle_third() -> None:
    losses = [Loss(1, 0), Loss(2, 0), Loss(6, 0), Loss(0, 1), Loss(0, 5), Loss(6, 1)]
    planned = interruptions(9, losses)
    assert [plan.loss for plan in planned] == [Loss(2, 0), Loss(6, 0), Loss(0, 5)]
    assert [i for i in range(9) if planned[0].lost(i)] == [3, 4, 5]
    assert interruptions(2, losses) == [] and interruptions(9, []) == []


def test_times_run_from_the_first_frame_without_and_the_first_with_again() -> None:
    def rows(shares: list[float]) -> list[dict[str, object]]:
        lost = [False, True, True, True, False, False]
        return [
            {"loss": "2 cameras, 0 radars", "index": i, "stamp_ns": i * 100_000_000, "lost": off, "share": share}
            for i, (off, share) in enumerate(zip(lost, shares, strict=True))
        ]

    at_once, later, never = rows([1, 1, 1, 1, 1, 1]), rows([1, 0, 0, 0.96, 0.5, 0.95]), rows([1, 0, 0, 0, 0, 0])
    assert reaction_times([at_once]) == {"2 cameras, 0 radars": {"lost_ms": 0.0, "back_ms": 0.0}}
    assert reaction_times([later]) == {"2 cameras, 0 radars": {"lost_ms": 200.0, "back_ms": 100.0}}
    assert reaction_times([at_once, later, never])["2 cameras, 0 radars"] == {"lost_ms": 200.0, "back_ms": 100.0}
    assert math.isnan(reaction_times([never, never, later])["2 cameras, 0 radars"]["back_ms"])


def test_a_share_counts_objects_that_are_found_at_the_vehicles_thresholds() -> None:
    spec = demo_spec()
    wanted = make_objects([[x, 0, 0, 4, 2, 2, 0] for x in (5, 15, 25)], [[0, 0]] * 3, [-1] * 3, ("car",) * 3)
    all_three = make_objects(wanted.boxes, wanted.velocity, [0.9, 0.8, 0.7], wanted.names)
    weak = make_objects(wanted.boxes, wanted.velocity, [0.9, 0.8, 0.1], wanted.names)
    twice = make_objects(wanted.boxes[[0, 0, 0]], wanted.velocity, [0.9, 0.8, 0.7], wanted.names)
    assert matched_share(wanted, all_three, all_three, spec) == 1.0
    assert matched_share(wanted, weak, all_three, spec) == pytest.approx(2 / 3)
    assert matched_share(wanted, twice, all_three, spec) == pytest.approx(1 / 3)
    nothing = make_objects(np_empty(7), np_empty(2), [], ())
    assert matched_share(wanted, nothing, nothing, spec) == 1.0


def np_empty(columns: int):
    import numpy as np

    return np.zeros((0, columns))
