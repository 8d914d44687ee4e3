"""Pruning's choice under a budget, and the latency table that it reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("torch_pruning", reason="needs torch-pruning")

from training.pruning import engines, latency
from training.pruning.engines import engine_version, layer_ms
from training.pruning.knapsack import Blocks, choose, make_blocks, solve
from training.pruning.latency import axis, measure_curve, measure_table, staircase
from training.pruning.pieces import Piece, Shape, graph_of

CONV = Shape("conv", (1, 16, 16), (1, 16, 16), (3, 3), (1, 1), (1, 1))


def brute_force(values: list[list[float]], weights: list[list[float]], capacity: float) -> float:
    """The best sum of values over every choice of prefixes, one block each at least."""
    best = -np.inf
    for kept in itertools.product(*(range(1, len(of) + 1) for of in values)):
        if sum(sum(w[:n]) for w, n in zip(weights, kept)) <= capacity + 1e-9:
            best = max(best, sum(sum(v[:n]) for v, n in zip(values, kept)))
    return best


def dynamic_program(values: list[list[float]], weights: list[list[int]], capacity: int) -> float:
    """The best sum by HALP's table over whole capacities, a group after the other; weights are whole, none negative."""
    best = np.zeros(capacity + 1)
    for of_values, of_weights in zip(values, weights):
        after = np.full(capacity + 1, -np.inf)
        for kept in range(1, len(of_values) + 1):
            weight = sum(of_weights[:kept])
            if weight <= capacity:
                here = best[: capacity + 1 - weight] + sum(of_values[:kept])
                after[weight:] = np.maximum(after[weight:], here)
        best = after
    return float(best.max())


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_the_best_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=rng.integers(1, 5))
    values = [sorted(rng.exponential(10.0 ** rng.integers(-9, 3), n), reverse=True) for n in sizes]
    weights = [list(rng.integers(-1 if seed % 2 else 0, 8, n)) for n in sizes]
    least = sum(min(np.cumsum(w)) for w in weights)
    capacity = int(rng.integers(least, sum(map(sum, weights)) + 1)) if least < sum(map(sum, weights)) else int(least)
    kept = solve(values, weights, capacity)
    assert sum(sum(w[:n]) for w, n in zip(weights, kept)) <= capacity
    reached = sum(sum(v[:n]) for v, n in zip(values, kept))
    assert all(n >= 1 for n in kept)
    assert reached == pytest.approx(brute_force(values, weights, capacity), rel=1e-9)
    if seed % 2 == 0:
        assert reached == pytest.approx(dynamic_program(values, weights, capacity), rel=1e-9)


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no choice of blocks"):
        solve([[1.0, 1.0]], [[5.0, 1.0]], 4.0)


def test_blocks_are_of_a_step_and_the_most_important_first() -> None:
    importance = np.array([1.0, 5.0, 0.0, 3.0, 3.0])
    blocks = make_blocks("g", importance, 2)
    assert blocks.channels == ((1, 3), (4, 0), (2,)) and blocks.values == (8.0, 4.0, 0.0)
    assert blocks.dropped(1) == [0, 2, 4] and blocks.dropped(3) == []


def product(dropped: Mapping[str, int]) -> float:
    """Latency of a layer from a (4 channels) to b (4 channels)."""
    return float((4 - dropped.get("a", 0)) * (4 - dropped.get("b", 0)))


def test_the_budget_holds_where_both_sides_of_a_layer_shrink() -> None:
    """Savings of the two sides, added, would be more than there is."""
    blocks = [
        Blocks("a", ((0,), (1,), (2,), (3,)), (4.0, 3.0, 2.0, 1.0)),
        Blocks("b", ((0,), (1,), (2,), (3,)), (4.0,) * 4),
    ]
    for share in (0.9, 0.55, 0.3, 0.1):
        kept = choose(blocks, product, 16 * share)
        assert kept[0] * kept[1] <= 16 * share and min(kept) >= 1
    assert choose(blocks, product, 12.0) == [3, 4], "a's blocks are worth less"
    with pytest.raises(ValueError, match=r"takes 1\.0 of 16\.0, that is --budget 0\.07"):
        choose(blocks, product, 0.5)


@pytest.mark.parametrize("step", [4, 8, 16])
def test_the_step_of_a_staircase_is_found(step: int) -> None:
    rng = np.random.default_rng(step)
    found = [
        staircase({n: 3 + -(-n // step) * step * rng.uniform(0.98, 1.02) for n in range(64, 32, -4)}, 64)
        for _ in range(9)
    ]
    assert found == [step] * 9


def test_a_straight_line_has_the_finest_step_and_so_has_a_flat_one() -> None:
    assert staircase({n: float(n) for n in range(64, 32, -4)}, 64) == latency.FINEST
    assert staircase(dict.fromkeys(range(64, 32, -4), 1.0), 64) == latency.FINEST


def test_axes_are_multiples_of_the_step_and_the_widest() -> None:
    assert axis(64, 16) == [16, 32, 48, 64] and axis(72, 16) == [16, 32, 64, 72] and axis(3, 8) == [3]
    assert axis(256, 8)[-1] == 256 and len(axis(256, 8)) == latency.POINTS


def test_between_what_was_measured_lies_a_plane() -> None:
    piece = Piece("x", CONV, 64, 32, {"a": 2.0}, {"b": 1.0})
    curve = measure_curve(piece, lambda i, o: 2.0 + 0.1 * i * o)
    assert curve.at(64, 32) == pytest.approx(2 + 0.1 * 64 * 32) and curve.at(20, 12) == pytest.approx(2 + 0.1 * 20 * 12)
    assert piece.widths({"a": 8, "b": 4}) == (48, 28)


def test_a_table_goes_on_and_is_of_one_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def measured(engine: str, threads: int, shape: Shape, inputs: int, outputs: int) -> float:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append((inputs, outputs))
        return float(inputs * outputs)

    monkeypatch.setattr(latency, "_measured", measured)
    monkeypatch.setattr(latency, "engine_version", lambda engine: "1.0")
    pieces = [
        Piece("a", CONV, 8, 8, {}, {"g": 1.0}),
        Piece("b", CONV, 8, 5, {"g": 1.0}, {}),
        Piece("c", CONV, 16, 5, {"g": 1.0}, {}),
    ]
    file = tmp_path / "latency.json"
    with pytest.raises(KeyboardInterrupt):
        measure_table(
            [*pieces, Piece("d", CONV, 32, 16, {"g": 1.0}, {"h": 1.0})], "n", lambda: 9.0, "openvino", 1, file
        )
    before = list(asked)
    table = measure_table(pieces, "n", lambda: 9.0, "openvino", 1, file)
    assert asked == before, "what was measured is not measured again"
    assert table.network_ms == 9.0 and table.where["engine"] == "openvino" and table.where["machine"]
    assert table.predict(pieces, {"g": 4}) == 8 * 4 + 8 * 5 + 12 * 5
    assert measure_table(pieces, "n", lambda: 1.0, "openvino", 1, file).network_ms == 9.0
    with pytest.raises(ValueError, match="measured with engine openvino, wanted is onnxruntime"):
        measure_table(pieces, "n", lambda: 1.0, "onnxruntime", 1, file)
    monkeypatch.setattr(latency, "machine", lambda: "another")
    assert measure_table(pieces, "n", lambda: 1.0, "openvino", 1, file).network_ms == 9.0, (
        "a whole one may be from there"
    )
    with pytest.raises(ValueError, match=r"its machine is .*, here it is 'another'"):
        measure_table(pieces, "other", lambda: 1.0, "openvino", 1, file)
    file.write_text("{")
    with pytest.raises(ValueError, match="no table of latencies"):
        measure_table(pieces, "n", lambda: 1.0, "openvino", 1, file)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "shape",
    [CONV, Shape("transposed", (1, 8, 8), (1, 16, 16), (2, 2), (2, 2)), Shape("sampling", (2, 8, 8), (2, 4, 4))],
)
def test_engines_run_each_kind_of_layer(engine: str, shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(engine, reason=f"needs {engine}")
    monkeypatch.setattr(engines, "LEAST_MS", 0.0)
    assert layer_ms(engine, *graph_of(shape, 8, 8), 1) > 0 and engine_version(engine)


def test_without_tensorrt_its_latency_is_not_measured() -> None:
    try:
        engine_version("tensorrt")
    except ImportError as error:
        assert "tensorrt" in str(error)
