"""FP16: what half.py halves, what it leaves in FP32 and the reason that it gives for each node."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from bev_perception.bundle import Bundle
from bev_perception.inference.backend import open_backend
from bev_perception.inference.half import (
    AFTER_CONVOLUTIONS,
    LAST_CONVOLUTION,
    NEVER,
    OTHER_OPERATOR,
    READS_SINGLE,
    TOO_LARGE,
    WEIGHTS_COMPUTED,
    Halved,
    Kept,
    halve,
)
from bev_perception.inference.proof import TOLERANCES, compare_outputs

pytest.importorskip("onnx")
import onnx
import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))


def test_halved_model_keeps_interface_and_answers(bundle, tmp_path):
    halved = halve(bundle.onnx_path.read_bytes())
    data = halved.onnx
    assert halved.convolutions == 2  # radar and mixing; the two heads stay in fp32
    (tmp_path / "model.onnx").write_bytes(data)
    spec = dataclasses.replace(bundle.spec, onnx_sha256=hashlib.sha256(data).hexdigest())
    inputs = tiny_bundle.make_inputs()
    found = open_backend(Bundle(tmp_path, spec), threads=1).infer(inputs)  # checks the interface too
    figures = compare_outputs(found, tiny_bundle.reference(inputs), spec, TOLERANCES["fp16"], "halved")
    assert 1e-6 < figures["bev"] < 5e-3  # about 11 bits: neither unchanged nor broken


def test_geometry_and_heads_stay_in_fp32(bundle):
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(halve(bundle.onnx_path.read_bytes()).onnx))
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {i.name: i.data_type for i in model.graph.initializer}
    half = onnx.TensorProto.FLOAT16
    inputs_of = {node.op_type: [] for node in model.graph.node}
    for node in model.graph.node:
        inputs_of[node.op_type].append([types[name] for name in node.input])
    assert [half in inputs for inputs in inputs_of["Conv"]] == [True, True, False, False]
    for operator in ("GridSample", "MatMul", "Sigmoid", "TopK", "Tanh"):
        assert all(half not in inputs for inputs in inputs_of[operator])
    assert [inputs.count(half) for inputs in inputs_of["Conv"]] == [2, 2, 0, 0]  # data and weights together


def test_operators_between_halved_convolutions_are_carried_along():
    """Conv -> Relu -> MaxPool -> Add (residual) -> Conv -> Conv: casts only at the two ends."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    chain (float[1,4,8,8] x) => (float[1,4,8,8] y)
    {
      a = Conv <kernel_shape = [1, 1]> (x, w)
      b = Relu (a)
      c = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b)
      d = Add (b, c)
      e = Conv <kernel_shape = [1, 1]> (d, w)
      y = Conv <kernel_shape = [1, 1]> (e, w)
    }
    """
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    halved = halve(model.SerializeToString())
    operators = [node.op_type for node in onnx.load_model_from_string(halved.onnx).graph.node]
    assert operators == ["Cast", "Conv", "Relu", "MaxPool", "Add", "Conv", "Cast", "Conv"]
    assert (halved.convolutions, halved.others) == (2, 3)
    assert halved.kept == (Kept("y", "Conv", LAST_CONVOLUTION),)
    weights[0, 0] = 1e5  # beyond FP16: those convolutions stay
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    halved = halve(model.SerializeToString())
    assert halved.convolutions == halved.others == 0
    assert "Cast" not in {node.op_type for node in onnx.load_model_from_string(halved.onnx).graph.node}
    assert [kept.reason for kept in halved.kept] == [TOO_LARGE, *3 * [READS_SINGLE], TOO_LARGE, LAST_CONVOLUTION]


def test_every_node_in_fp32_has_one_reason_that_fits_it():
    """By hand, for the tiny student: node by node in the graph's order, named by its first output."""
    found = {kept.node: kept.reason for kept in halve(tiny_bundle.make_model().SerializeToString()).kept}
    matrices, coordinates, sums = NEVER
    expected = {
        OTHER_OPERATOR: "pixels normalised yx_grid state",
        sums: "brightness projected light",
        READS_SINGLE: "scaled seen both masked radar xy flow prev weight memory sum lit features",
        matrices: "moved",
        coordinates: "warped",
        LAST_CONVOLUTION: "logits maps",
        AFTER_CONVOLUTIONS: "heat highest is_peak peaks flat scores rows columns boxes bev",
    }
    assert found == {node: reason for reason, nodes in expected.items() for node in nodes.split()}


def test_computed_weights_are_a_reason():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    chain (float[1,4,8,8] x, float[4,4,1,1] w) => (float[1,4,8,8] y, int64[4] size)
    {
      size = Shape (x)
      a = Conv <kernel_shape = [1, 1]> (x, w)
      y = Conv <kernel_shape = [1, 1]> (a, w)
    }
    """
    halved = halve(onnx.parser.parse_model(text).SerializeToString())
    assert halved.kept[1:] == (Kept("a", "Conv", WEIGHTS_COMPUTED), Kept("y", "Conv", LAST_CONVOLUTION))


def test_nodes_without_floating_point_are_in_neither_list():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    whole (int64[4] i, float[4] x) => (int64[4] j, float[4] y)
    {
      j = Add (i, i)
      y = Add (x, x)
    }
    """
    halved = halve(onnx.parser.parse_model(text).SerializeToString())
    assert halved.kept == (Kept("y", "Add", AFTER_CONVOLUTIONS),)


def test_the_summary_counts_each_reason_once_the_largest_first():
    kept = (Kept("a", "Mul", "is x"), Kept("b", "Sub", "is y"), Kept("c", "Sub", "is y"), Kept("d", "Add", "is y"))
    assert Halved(b"", 3, 2, kept).summary() == [
        "3 convolutions, 2 nodes between them in fp16; in fp32 4:",
        "  3, each is y (Sub 2, Add 1)",
        "  1, each is x (Mul 1)",
    ]
