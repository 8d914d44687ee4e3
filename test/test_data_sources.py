"""Several sources of different costs: laws that are known, plans against every plan there is."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="laws are fitted with scipy")

from training.data_need import sources
from training.data_need.sources import (
    Law,
    SourcePlan,
    bounds,
    draw_laws,
    fit_law,
    main,
    on_bounds,
    plan_sources,
    told_of_bounds,
)

TRUTH = Law(np.array([1000.0, 4000.0]), np.array([0.6, 0.3, 0.8, 0.2, 0.5]))
TRIED = np.array(list(itertools.product([100.0, 300.0, 1000.0, 2000.0], [0.0, 1000.0, 4000.0, 10000.0])))


def test_a_law_is_found_again() -> None:
    scores = TRUTH(TRIED)
    found = fit_law(TRIED, scores)
    np.testing.assert_allclose(found(TRIED), scores, atol=1e-3)
    beyond = np.array([[4000.0, 20000.0], [2000.0, 40000.0]])
    np.testing.assert_allclose(found(beyond), TRUTH(beyond), atol=0.01)
    assert (np.diff(found(np.stack([np.geomspace(1, 1e5, 30), np.full(30, 500.0)], axis=1))) > 0).all()


def test_the_plan_is_the_best_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "STATES", 25)
    laws = draw_laws(TRIED, TRUTH(TRIED) + np.random.default_rng(0).normal(0, 0.01, len(TRIED)), draws=12)
    have, costs, target, penalty = [1000.0, 4000.0], [1.0, 0.05], 0.45, 20_000.0
    plan = plan_sources(laws, have, costs, target, 2, penalty, most=5.0)
    axes = [h + np.concatenate([[0.0], np.geomspace(0.02, 5.0, 4)]) * u for h, u in zip(have, laws[0].unit)]
    states = [np.array(state) for state in itertools.product(*axes)]

    def missing(state: np.ndarray) -> float:
        return 1.0 if (state == have).all() else 1.0 - float(np.mean([law(state) >= target for law in laws]))

    best = min(
        (one - have) @ costs + (two - one) @ costs * missing(one) + penalty * missing(two)
        for one in states
        for two in states
        if (two >= one).all()
    )
    assert plan.cost == pytest.approx(best) and len(plan.sizes) == 2
    assert plan.failing == pytest.approx(missing(np.array(plan.sizes[-1])))


def test_the_cheap_source_is_collected_where_it_does_as_well() -> None:
    alike = Law(np.array([1000.0, 1000.0]), np.array([0.6, 0.2, 0.7, 0.2, 0.7]))

    def at(costs: list[float]) -> SourcePlan:
        return plan_sources([alike], [1000.0, 1000.0], costs, 0.46, 1, 1e6)

    (dear_first,), (dear_second,) = at([10.0, 1.0]).sizes, at([1.0, 10.0]).sizes
    assert dear_first[0] < dear_first[1] and dear_second == dear_first[::-1]
    assert at([1.0, 1.0]).failing == 0.0


def test_more_rounds_never_cost_more() -> None:
    laws = draw_laws(TRIED, TRUTH(TRIED) + np.random.default_rng(1).normal(0, 0.01, len(TRIED)), draws=20)
    costs = [plan_sources(laws, [1000.0, 4000.0], [1.0, 0.1], 0.47, n, 50_000.0).cost for n in (1, 2, 3)]
    assert costs[0] >= costs[1] >= costs[2]


def test_what_lies_on_a_bound_is_told() -> None:
    low, high = bounds(2)
    inside = np.array([0.6, 0.3, 0.8, 0.2, 0.5])
    cases = [(inside, 0)]
    for place, value, count in ((0, high[0], 1), (2, high[2], 1), (4, low[4], 1), (1, high[1], 1), (1, 0.0, 0)):
        cases.append((np.where(np.arange(5) == place, value, inside), count))
    cases.append((np.array([0.6, 0.0, low[2], 0.2, 0.5]), 0))  # a source that brings nothing has no exponent
    for theta, count in cases:
        assert on_bounds([Law(TRUTH.unit, theta)]) == count, theta
    assert on_bounds([Law(TRUTH.unit, theta) for theta, _ in cases]) == sum(count for _, count in cases)
    dear = plan_sources([TRUTH], [1000.0, 4000.0], [1.0, 0.01], 0.45, 1, 1e6, most=0.1)
    assert dear.ends == (1100.0, 4400.0)
    told = told_of_bounds([TRUTH], dataclasses.replace(dear, sizes=((1000.0, 4400.0),)), ["real", "synthetic"])
    assert told[0].startswith("from 1 laws") and told[1].startswith("the plan has all of synthetic that was tried")
    assert (
        len(told_of_bounds([TRUTH], dataclasses.replace(dear, sizes=((1000.0, 4100.0),)), ["real", "synthetic"])) == 1
    )
    with pytest.raises(ValueError, match="7 sources at most, found 8"):
        plan_sources([TRUTH], [0.0] * 8, [1.0] * 8, 0.4, 1, 1.0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curve.csv"
    rows = [f"{a:g},{b:g},{score:.5f}" for (a, b), score in zip(TRIED, TRUTH(TRIED))]
    path.write_text("\n".join(["real,synthetic,score", *rows]))
    assert main([str(path), "--target", "0.45", "--cost", "real=1", "synthetic=0.02", "--rounds", "2"]) == 0
    told = capsys.readouterr().out
    assert told.count("round ") == 2 and " real, " in told and "missed with a probability" in told
    assert "from 60 laws fitted to draws of the measurements, of which " in told
    assert main([str(path), "--target", "0.45", "--cost", "real=1"]) == 1
    assert "SOURCE=COST for each of real, synthetic" in capsys.readouterr().err
    path.write_text("real,score\n1,0.2\n")
    assert main([str(path), "--target", "0.45", "--cost", "real=1"]) == 1
    assert "3 different trainings are wanted for 1 sources" in capsys.readouterr().err
