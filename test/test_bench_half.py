"""The comparison of FP16 conversions measures what it says, and AutoCast stays in a folder of its own."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

import onnx
import onnxruntime
import tiny_bundle
from onnx.parser import parse_model
from test_packaging import pinned

from bev_perception.grid import BevGrid
from bev_perception.inference.half import halve
from training.bench import autocast, half
from training.bench.candidate_errors import errors
from training.bench.rounding import every_rounding

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[64] x) => (float[64] y)
<float16[64] w, float16[64] b>
{
  a = Cast <to = 10> (x)
  scaled = Mul (a, w)
  root = Mul (scaled, scaled)
  half = Add (root, b)
  y = Cast <to = 1> (half)
}
"""


def chain() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=64).astype(np.float16) for name in ("w", "b")}
    model = parse_model(CHAIN)
    del model.graph.value_info[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    return model, arrays | {"x": rng.normal(size=64).astype(np.float32)}


def test_every_tensor_is_rounded_as_numpy_rounds_it() -> None:
    """numpy's float16 arithmetic rounds after each operation: the same bits."""
    model, arrays = chain()
    graph = every_rounding(model.SerializeToString())
    found, _ = half.answers(graph, {"x": arrays["x"]}, repeats=1, optimise=False)
    scaled = arrays["x"].astype(np.float16) * arrays["w"]
    expected = (scaled * scaled + arrays["b"]).astype(np.float32)
    np.testing.assert_array_equal(found["y"], expected)
    exact = (arrays["x"] * arrays["w"].astype(np.float32)) ** 2 + arrays["b"].astype(np.float32)
    assert (exact != expected).mean() > 0.9


def test_shares_count_floating_nodes_without_casts_and_elements_of_weights() -> None:
    model, _ = chain()
    assert half.share_of(model.SerializeToString()) == half.Share(1.0, 1.0)
    model.graph.node.append(onnx.helper.make_node("Neg", ["y"], ["z"]))  # in FP32
    model.graph.node.append(onnx.helper.make_node("Add", ["i", "i"], ["j"]))  # no floating point at all
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(128, np.int64), "i"))
    assert half.share_of(model.SerializeToString()) == half.Share(3 / 4, 1 / 2)


def test_errors_are_of_candidates_that_both_have() -> None:
    reference = {
        "scores": np.array([0.9, 0.8, 0.7]), "labels": np.array([1, 1, 0]), "cells": np.array([2, 3, 2]),
        "boxes": np.array([[4.0, 0.5], [0.0, 0.0], [1.0, 1.0]]), "bev": np.array([-4.0, 1.0, 2.0]),
    }  # fmt: skip
    found = {
        "scores": np.array([0.92, 0.7, 0.1]), "labels": np.array([1, 0, 0]), "cells": np.array([2, 2, 3]),
        "boxes": np.array([[5.0, 0.6], [1.0, 1.0], [9.0, 9.0]]), "bev": np.array([-4.0, 1.5, 2.0]),
    }  # fmt: skip
    off, lost = errors(found, reference, BevGrid(0.0, 2.0, 0.0, 2.0, 0.5))
    assert lost == 1
    assert (off["scores"].largest, off["scores"].median) == (pytest.approx(0.02), pytest.approx(0.01))
    assert (off["boxes"].largest, off["boxes"].median) == (pytest.approx(0.25), pytest.approx(0.05))
    assert (off["bev"].largest, off["bev"].median) == (pytest.approx(0.125), 0.0)
    off, lost = errors(found | {"cells": np.array([7, 7, 7])}, reference, BevGrid(0.0, 2.0, 0.0, 2.0, 0.5))
    assert lost == 3 and np.isnan(off["scores"].largest) and off["bev"].largest == pytest.approx(0.125)


def test_the_command_compares_both_and_lists_what_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "tiny")
    monkeypatch.setattr(half, "installed", lambda folder: folder)
    monkeypatch.setattr(half, "autocast", lambda model, inputs, packages: model)  # one that converts nothing
    assert half.main([str(bundle.path), "--out", str(tmp_path / "out"), "--repeats", "1"]) == 0
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "|" in line]
    ours, theirs = ([row for row in rows if row[0] == name] for name in ("half.py", "AutoCast"))
    assert [row[2:4] for row in theirs] == [["0 %", "0.0 %"]] * 2
    assert theirs[1][5:9] == ["0.0e+00, 0e+00"] * 3 + ["0"]
    assert all(0 < float(row[7].split(",")[0]) < 5e-3 for row in ours)
    kept = list(csv.DictReader((tmp_path / "out" / "kept.csv").open()))
    assert [tuple(row.values()) for row in kept] == [(k.node, k.op, k.reason) for k in halve(bundle.model()).kept]


def test_packages_are_installed_once_for_each_list_of_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], environment: dict[str, str]) -> None:
        calls.append(command)
        Path(command[command.index("--target") + 1]).mkdir(exist_ok=True)

    monkeypatch.setattr(autocast, "_run", run)
    for _ in range(2):
        assert autocast.installed(tmp_path / "there") == tmp_path / "there"
    assert len(calls) == 1 and "--no-deps" in calls[0] and calls[0][0] == sys.executable
    (tmp_path / "pins.txt").write_text("other==1\n")
    monkeypatch.setattr(autocast, "PINS", tmp_path / "pins.txt")
    autocast.installed(tmp_path / "there")
    assert len(calls) == 2


def test_autocast_is_pinned() -> None:
    assert "nvidia-modelopt" in pinned(autocast.PINS.name)


def test_what_autocast_says_when_it_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="modelopt"):
        autocast.autocast(b"no model", {}, tmp_path)


def test_onnxruntime_leaves_roundings_out() -> None:
    """Why `every_rounding` is needed; were ONNX Runtime to round on CPUs one day, it could go."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    two (float[1,8,8,8] x) => (float[1,8,8,8] y)
    {
      a = Conv <kernel_shape = [1, 1]> (x, w)
      b = Conv <kernel_shape = [1, 1]> (a, w)
      y = Conv <kernel_shape = [1, 1]> (b, w)
    }
    """
    rng = np.random.default_rng(0)
    model = parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=(8, 8, 1, 1)).astype(np.float32), "w"))
    graph, inputs = halve(model.SerializeToString()).onnx, {"x": rng.normal(size=(1, 8, 8, 8)).astype(np.float32)}
    plain, _ = half.answers(graph, inputs, 1, optimise=True)
    rounded, _ = half.answers(every_rounding(graph), inputs, 1, optimise=False)
    if np.array_equal(plain["y"], rounded["y"]):
        pytest.fail(f"ONNX Runtime {onnxruntime.__version__} rounds between convolutions")
    np.testing.assert_allclose(plain["y"], rounded["y"], rtol=0.02, atol=0.1)
