"""Bundles in 8 bits: what the quantiser makes, how engines agree on it, and the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("lightning", reason="training needs lightning")
import onnx
import onnxruntime
import tiny_bundle
from onnx import numpy_helper
from onnx.parser import parse_model

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.frame_proof import open_proven
from bev_perception.inference.backend import open_backend
from bev_perception.inference.builder import build_serialized
from bev_perception.inference.proof import largest_kept, rounding
from bev_perception.inference.tensorrt_api import import_builder
from bev_perception.model_spec import BundleError, parse_spec
from training import quantize
from training.bundling.calibration import IN_A_ROW, calibration_rows, network_inputs
from training.bundling.card_metadata import split_card
from training.bundling.gate import Reached, counts, pass_gate
from training.bundling.int8 import Quantizer
from training.bundling.sensitivity import answer_error, rank_convolutions
from training.data.config import PLAIN
from training.data.source import Source
from training.trainer.loading import open_keyframes

CELLS = int(np.prod(tiny_bundle.SPEC.grid.shape))
SPOILT = "radar_features"  # the convolution of GRAPH that reads the radar


def spoilt_inputs(seed: int) -> dict[str, np.ndarray]:
    """One channel of the radar is so large that 8 bits leave nothing of the others."""
    inputs = tiny_bundle.make_inputs(seed=seed)
    inputs["radar_bev"][0] *= 1e4
    return inputs


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, whose radar convolution does not look at that channel."""
    model = tiny_bundle.make_model()
    for tensor in model.graph.initializer:
        if tensor.name == "w_radar":
            weights = numpy_helper.to_array(tensor).copy()
            weights[:, 0] = 0
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("spoilt"), model)


@pytest.fixture(scope="module")
def frames() -> list[dict[str, np.ndarray]]:
    return [spoilt_inputs(seed) for seed in range(3)]


@pytest.fixture
def quantizer(spoilt: Bundle, frames: list[dict[str, np.ndarray]], tmp_path: Path) -> Quantizer:
    folder = tmp_path / "quantizer"
    folder.mkdir()
    return Quantizer(spoilt.model(), frames, folder)


def answers(bundle: Bundle, frames: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    engine = open_backend(bundle, threads=1)
    return [engine.infer(inputs) for inputs in frames]


def score_by_answers(source: Bundle, frames: list[dict[str, np.ndarray]]) -> Any:
    """mAP is what is left of 1 after the error of the answers; NDS stays."""
    expected = answers(source, frames)

    def score(bundle: Bundle, what: str, in_float: int) -> Reached:
        found = answers(bundle, frames)
        error = np.mean([answer_error(*pair, CELLS) for pair in zip(found, expected, strict=True)])
        return Reached(what, in_float, 1.0 - float(error), 0.5, 0.001, 1000)

    return score


# ---- the graph ------------------------------------------------------------------------------------------------------


def test_all_is_symmetric_and_answers_keep_their_bits(quantizer: Quantizer) -> None:
    model = onnx.load_model_from_string(quantizer.quantized(quantizer.convolutions))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    steps = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[2]].dtype.name for node in steps} == {"int8"}
    assert not any(constants[node.input[2]].any() for node in steps)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == len(quantizer.convolutions) == 4
    for node in convolutions:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        assert constants[makers[node.input[1]].input[1]].shape == constants[makers[node.input[1]].input[0]].shape[:1]
    rounded = {node.input[0] for node in steps if node.op_type == "QuantizeLinear"}
    assert not rounded & {"logits", "maps"} and "mixed" in rounded


def test_what_is_not_named_stays_as_it_was(spoilt: Bundle, quantizer: Quantizer, frames: Any) -> None:
    """With a head alone in 8 bits, the other's answers and the state are those of the bundle, bit for bit."""
    session = onnxruntime.InferenceSession(quantizer.quantized(["maps"]), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, frames[0]), strict=True))
    (before,) = answers(spoilt, frames[:1])
    same = {name for name, array in before.items() if np.array_equal(found[name], array)}
    assert same == {"scores", "labels", "cells", "bev"}


def test_two_products_of_weights_of_7_bits_fit_16_bits(spoilt: Bundle, frames: Any, tmp_path: Path) -> None:
    largest = {}
    for bits in (8, 7):
        (tmp_path / str(bits)).mkdir()
        quantizer = Quantizer(spoilt.model(), frames, tmp_path / str(bits), bits)
        model = onnx.load_model_from_string(quantizer.quantized(quantizer.convolutions))
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weights = [
            constants[n.input[0]]
            for n in model.graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] in constants
        ]
        largest[bits] = max(int(np.abs(array.astype(np.int32)).max()) for array in weights if array.ndim == 4)
    assert largest[8] > 120 and 60 <= largest[7] <= 64 and 2 * largest[7] * 255 < 2**15
    with pytest.raises(ValueError, match=r"weights of 6 bits; choose one of \(8, 7\)"):
        Quantizer(spoilt.model(), frames, tmp_path, 6)


@pytest.mark.skipif(
    "vnni" not in Path("/proc/cpuinfo").read_text(),
    reason="a processor without 8-bit dot products saturates sums of pairs, each engine in its own way",
)
@pytest.mark.parametrize("bits", [8, 7])
def test_engines_agree_behind_a_concat_of_what_has_a_sign(bits: int, tmp_path: Path) -> None:
    """Before, OpenVINO made 0 of all that was negative."""
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    rng = np.random.default_rng(0)
    model = parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,8,8] a, float[1,4,8,8] b) => (float[1,8,8,8] y) {
          ab = Concat <axis = 1> (a, b)
          x = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (ab, w)
          r = Relu (x)
          y = Conv <kernel_shape = [1, 1]> (r, v)
        }""")
    for name, shape in (("w", (8, 8, 3, 3)), ("v", (8, 8, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    inputs = {name: rng.normal(size=(1, 4, 8, 8)).astype(np.float32) for name in "ab"}
    quantizer = Quantizer(model.SerializeToString(), [inputs], tmp_path, bits)
    data = quantizer.quantized(quantizer.convolutions)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    (one,) = onnxruntime.InferenceSession(data).run(None, inputs)
    compiled = openvino.Core().compile_model(openvino.Core().read_model(data), "CPU")
    (other,) = compiled(inputs).values()
    size = np.abs(expected).max()
    assert 0 < np.abs(one - expected).max() < 0.05 * size
    assert np.abs(other - one).max() < 0.02 * size


def test_a_model_without_convolutions_is_refused(tmp_path: Path) -> None:
    model = parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[2] a) => (float[2] y) { y = Relu (a) }')
    with pytest.raises(ValueError, match="no convolution of constant weights"):
        Quantizer(model.SerializeToString(), [], tmp_path)


# ---- what costs accuracy, and the gate ------------------------------------------------------------------------------


def test_error_of_answers_in_closed_form() -> None:
    expected = {
        "scores": np.float32([0.8, 0.4, 0.2]), "labels": np.array([0, 0, 1]), "cells": np.array([3, 4, 3]),
        "boxes": np.zeros((3, 10), np.float32),
    }  # fmt: skip
    assert answer_error(expected, expected, 10) == 0
    found = {name: array.copy() for name, array in expected.items()}
    found["scores"][0] = 0.7  # off by 0.1
    found["boxes"][1] = 0.5  # 0.4 * 0.5
    found["cells"][2] = 5  # is not found: 0.2
    assert answer_error(found, expected, 10) == pytest.approx((0.1 + 0.2 + 0.2) / 1.4)
    found["boxes"][1] = 100.0  # no more than all of it
    assert answer_error(found, expected, 10) == pytest.approx((0.1 + 0.4 + 0.2) / 1.4)


def test_tries_double_and_never_leave_all_in_32_bits() -> None:
    assert [list(counts(n)) for n in (1, 2, 4, 5, 47)] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 4], [0, 1, 2, 4, 8, 16, 32],
    ]  # fmt: skip


def test_the_gate_keeps_out_the_layer_that_is_bad(spoilt: Bundle, quantizer: Quantizer, frames: Any, tmp_path, capsys):
    ranked = rank_convolutions(spoilt, quantizer, frames, "onnxruntime")
    assert ranked[0][0] == SPOILT and ranked[0][1] > 5 * ranked[1][1]
    score = score_by_answers(spoilt, frames)
    passed = pass_gate(spoilt, quantizer, frames, score, 15.0, "onnxruntime", tmp_path)
    assert [name for name, _ in passed.in_float] == [SPOILT]
    assert [step.in_float for step in passed.steps] == [4, 0, 1]
    assert passed.steps[1].loss(passed.steps[0]) > 15.0 >= passed.steps[2].loss(passed.steps[0])
    assert load_bundle(passed.bundle.path).spec.precision == "int8"
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[:2] for row in rows[2:]] == [["| fp32", "4"], ["| int8", "0"], ["| int8", "1"]]


def test_a_gate_that_cannot_be_met_is_refused(spoilt: Bundle, quantizer: Quantizer, frames: Any, tmp_path: Path):
    score = score_by_answers(spoilt, frames)
    with pytest.raises(ValueError, match=r"gate of 0 points cannot be met: with 2 of 4 convolutions .* still"):
        pass_gate(spoilt, quantizer, frames, score, 0.0, "onnxruntime", tmp_path)


def test_either_loss_counts() -> None:
    before, after = Reached("a", 0, 0.5, 0.5, 0, 0), Reached("b", 0, 0.6, 0.49, 0, 0)
    assert after.loss(before) == pytest.approx(1.0)


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_calibration_takes_the_beginnings_of_scenes_that_lie_evenly() -> None:
    scenes = [name for name in "abcdef" for _ in range(10)]
    assert calibration_rows(scenes, 8) == [[0, 1, 2, 3], [30, 31, 32, 33]]
    assert calibration_rows(scenes, 6) == [[0, 1, 2, 3], [30, 31]]
    assert calibration_rows(["a", "a", "b"], 100) == [[0, 1], [2]]
    assert sum(map(len, calibration_rows(scenes, 1000))) == 6 * IN_A_ROW
    with pytest.raises(ValueError, match="--frames 0"):
        calibration_rows(scenes, 0)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tiny_checkpoint: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """From a checkpoint to a bundle in 8 bits."""
    out = tmp_path_factory.mktemp("quantized") / "bundle"
    arguments = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--out", str(out), "--frames", "4"]
    assert quantize.main(arguments) == 0
    assert [path.name for path in out.parent.iterdir()] == ["bundle"], "nothing is left behind"
    yield load_bundle(out)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_it_proves_itself_in_every_engine(written: Bundle, name: str) -> None:
    pytest.importorskip(name, reason=f"needs {name}")
    engine, figures = open_proven(written, name, threads=1)
    assert rounding(engine) == engine.details["precision"] == written.spec.precision == "int8"
    assert figures["frame_detections"] > 0
    assert (figures["scores"] == 0) == (name == "onnxruntime"), "its answers are ONNX Runtime's"
    engine.close()


def test_its_card_says_what_was_measured(written: Bundle) -> None:
    metadata, card = split_card((written.path / "MODEL_CARD.md").read_text())
    assert card.startswith("# tiny") and "## In 8 bits" in card
    (result,) = metadata["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["mAP", "NDS"], "of the network in 8 bits, no other"
    assert "calibrated on 4 keyframes, the first of scene-0000" in card and "with onnxruntime; the gate was 0.2" in card
    assert [line.split(" | ")[0] for line in card.splitlines() if line.startswith(("| fp32", "| int8"))] == [
        "| fp32", "| int8",
    ]  # fmt: skip


def test_tensorrt_builds_it(written: Bundle) -> None:
    try:
        trt = import_builder("tensorrt_rtx")
    except ImportError as error:
        pytest.skip(str(error))
    built = build_serialized(trt, written.model(), written.spec, log=lambda line: None)
    assert built.engine and built.share > 0.5, "most convolutions take what was in 8 bits"
    with pytest.raises(ValueError, match="is in int8; ask for int8"):
        build_serialized(trt, written.model(), written.spec, "fp32", log=lambda line: None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--gate", "nan"], "a gate of nan points, expected a number within [-100, 100]"),
        (["--frames", "0"], "0 frames to calibrate on, expected one at least"),
        ([], "is there and is no bundle (it holds no model_spec.json)"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(written, tmp_path, capsys, given, told):
    (tmp_path / "thesis.txt").write_text("mine")
    arguments = [str(written.path), "--data", str(tmp_path / "none"), "--out", str(tmp_path), *given]
    assert quantize.main(arguments) == 1
    assert told in capsys.readouterr().err


def test_nothing_is_written_where_the_gate_cannot_be_met(written, tiny_checkpoint, tiny_dataset, tmp_path, capsys):
    out = tmp_path / "bundle"
    command = ["--data", str(tiny_dataset), "--out", str(out), "--frames", "1", "--gate", "-1"]
    assert quantize.main([str(tiny_checkpoint), *command]) == 1
    assert "gate of -1 points cannot be met" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert quantize.main([str(written.path), *command]) == 1
    assert "is int8 already" in capsys.readouterr().err


def test_the_memory_in_calibration_is_the_networks_own(written: Bundle, tiny_dataset: Path) -> None:
    keyframes = open_keyframes(written.spec, PLAIN, Source(tiny_dataset), "train", image_targets=())
    engine = open_backend(written, threads=1)
    first, second = islice(network_inputs(engine, keyframes, [[0, 1]]), 2)
    assert not first["prev_valid"].any() and second["prev_valid"].all()
    assert np.array_equal(second["prev_bev"], engine.infer(first)["bev"])


# ---- the fact -------------------------------------------------------------------------------------------------------


def test_older_bundles_are_in_32_bits_and_others_are_refused() -> None:
    text = tiny_bundle.SPEC.to_json()
    assert parse_spec(text.replace('  "precision": "fp32",\n', "")).precision == "fp32"
    with pytest.raises(BundleError, match="precision must be one of"):
        parse_spec(text.replace('"precision": "fp32"', '"precision": "int4"'))


def test_only_graphs_in_8_bits_are_allowed_what_8_bits_do(spoilt: Bundle) -> None:
    engine = open_backend(spoilt, threads=1)
    assert rounding(engine) == "fp32"
    engine.details["precision"] = "fp16"  # as TensorRT says of its engine
    assert rounding(engine) == "fp16"
    engine.spec = dataclasses.replace(spoilt.spec, precision="int8")
    assert rounding(engine) == "int8"


def test_the_share_that_may_differ() -> None:
    differences = np.array([0.1, 9.0, 0.2, 0.3])
    assert largest_kept(differences, 0.0) == 9.0
    assert largest_kept(differences, 0.25) == 0.3
    assert largest_kept(differences, 0.49) == 0.3
    assert largest_kept(differences[:0], 0.5) == 0.0
