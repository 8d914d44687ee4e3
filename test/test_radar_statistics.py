"""What radars are compared by: against closed forms and slow references."""

from __future__ import annotations

import numpy as np
import pytest

from training.world.radar import DTYPE
from training.world.radar_statistics import (
    PROBABILITIES,
    beside_boxes,
    clustered_mean,
    depths,
    in_boxes,
    kolmogorov_smirnov,
    nearest,
    over_ground,
    passes,
)
from training.world.statistic import Statistic, distribution, mean, read, share, write

BOX = np.array([10.0, 0.0, 1.0, 4.0, 2.0, 2.0, 0.0])  # from x = 8 to 12, y = -1 to 1, z = 0 to 2


def quantiles(values):
    return np.quantile(values, PROBABILITIES)


def test_points_are_counted_in_the_box_and_not_around_it():
    points = np.array([[8.0, 1.0, 0.5], [7.99, 0.0, 0.5], [10, 0, 2.01], [10, 0, 0.5]])
    assert in_boxes(points, BOX[None]).tolist() == [[True, False, False, True]]
    assert beside_boxes(points, BOX[None])[0] == pytest.approx([0, 0.01, 0, 0])
    turned = BOX.copy()
    turned[6] = np.pi / 2  # now from x = 9 to 11
    assert in_boxes(points, turned[None]).tolist() == [[False, False, False, True]]
    assert beside_boxes(np.array([[14.0, 6.0, 0.0]]), turned[None])[0, 0] == pytest.approx(5.0)  # 3 and 4 away


def test_depth_is_measured_along_the_ray_from_the_near_side():
    behind, aside = depths(np.array([[9.0, 0.0], [7.5, 0.0], [9.0, 9.0]]), BOX, np.zeros(2))
    assert behind[:2] == pytest.approx([1.0, -0.5])
    assert np.isnan(behind[2])  # its ray passes the box
    # The sensor sees the box between its near corners, at atan(1 / 8) to either side.
    assert aside == pytest.approx([0.0, 0.0, np.arctan(1.0) / np.arctan(1 / 8)])
    oblique, _ = depths(np.array([[10.0, 0.5]]), BOX, np.zeros(2))
    assert oblique[0] == pytest.approx(np.hypot(10, 0.5) * (1 - 8 / 10))


def test_the_error_of_a_mean_counts_clusters_and_not_values():
    """Values that repeat within a cluster tell no more than one: the error is that of the clusters' means."""
    means = np.array([1.0, 2.0, 3.0, 6.0])
    once = clustered_mean(means, range(4))
    assert once[:2] == pytest.approx((3.0, means.std(ddof=1) / 2)) and once[2] == 4
    assert clustered_mean(np.repeat(means, 50), np.repeat(range(4), 50))[:2] == pytest.approx(once[:2])
    assert np.isnan(clustered_mean([1.0, 2.0], ["a", "a"])[1])
    with pytest.raises(ValueError, match="at least one"):
        clustered_mean([], [])


def test_kolmogorov_and_smirnovs_distance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5000), rng.normal(0.5, 1.5, 5000)
    at = np.concatenate([a, b])
    slow = np.abs((a[:, None] <= at[None, ::20]).mean(0) - (b[:, None] <= at[None, ::20]).mean(0)).max()
    assert kolmogorov_smirnov(quantiles(a), quantiles(b)) == pytest.approx(slow, abs=0.02)
    assert kolmogorov_smirnov(quantiles(a), quantiles(a)) == 0
    assert kolmogorov_smirnov(quantiles(a), quantiles(a + 99)) == 1
    # Uniform on 0..1 and on 0..2: the functions are x and x / 2, furthest apart at 1.
    assert kolmogorov_smirnov(PROBABILITIES, 2 * PROBABILITIES) == pytest.approx(0.5)
    assert kolmogorov_smirnov(np.zeros(21), quantiles([0] * 30 + [1] * 10)) == pytest.approx(0.25, abs=0.06)


def test_the_default_filter_and_the_speed_over_ground():
    returns = np.zeros(4, DTYPE)
    returns["ambig_state"], returns["x"], returns["y"] = 3, 3.0, 4.0
    returns["invalid_state"][1], returns["ambig_state"][2], returns["dyn_prop"][3] = 4, 1, 7
    assert passes(returns).tolist() == [True, False, False, False]
    returns["vx_comp"], returns["vy_comp"] = -0.6, -0.8
    assert over_ground(returns) == pytest.approx(-1.0)  # towards the sensor


def test_nearest():
    assert nearest(np.array([[0.0, 0], [5, 5]]), np.array([[3.0, 4], [5, 6]])) == pytest.approx([5, 1])
    assert nearest(np.zeros((2, 2)), np.zeros((0, 2))).tolist() == [np.inf, np.inf]


def test_a_table_of_statistics_comes_back_as_it_was_written(tmp_path):
    made = [
        share("s", "g, h", [np.array([True, False]), np.array([True])], ["a", "b"]),
        mean("m", "g", "1", [1.0, 2.0, 6.0], ["a", "b", "c"]),
        distribution("d", "g", "m", [[0.0, 1.0], [4.0]], ["a", "b"]),
        mean("none", "g", "1", [], []),
    ]
    assert made[0].value == pytest.approx(2 / 3) and made[1].value == 3 and made[2].value == 1
    assert made[2].quantiles[0] == 0 and made[2].quantiles[-1] == 4 and made[3].count == 0
    (tmp_path / "t.csv").write_text(write(made))
    found = read(tmp_path / "t.csv")
    assert write(found) == write(made) and [s.key for s in found] == [s.key for s in made]
    assert isinstance(found[2], Statistic) and found[2].quantiles == pytest.approx(made[2].quantiles, rel=1e-4)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no table of radar statistics"):
        read(tmp_path / "t.csv")
