"""A network's convolutions in 8 bits: explicit QuantizeLinear and DequantizeLinear in one ONNX that every engine takes.

ONNX Runtime's quantiser does it: weights symmetric in 8 bits for each output channel (Jacob et al., CVPR 2018; Wu et
al. 2020, arXiv:2004.09602, section 3), what flows into a convolution symmetric in 8 bits for the whole tensor, its
range the mean over calibration's frames of each one's least and largest value. The zero point is 0 throughout, the only
one that TensorRT takes. What else there is (geometry, sampling, softmax, biases, top-K, the state) stays in 32 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

Arrays = Mapping[str, np.ndarray]
# The mean, not the extremes of all frames, which changed the shipped network's answers more (`answer_error` 0.117, the
# mean 0.096; 0.8 and 0.6 of the extremes 0.097 and 0.098).
OPTIONS = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, "CalibMovingAverage": True}
LOWEST = -128
# With 7 the sum of two products fits the 16 bits in which processors without 8-bit dot products take it: 2 * 64 * 255.
WEIGHT_BITS = (8, 7)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Inputs, one after the other, as the quantiser wants them."""

    def __init__(self, inputs: Iterator[Arrays]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next((dict(arrays) for arrays in self._inputs), None)


class Quantizer:
    """A model of which any convolutions can be quantised; it is calibrated once.

    model: ONNX in 32 bits; inputs: what calibration sees, named as the model's; folder: an empty one for files on the
    way; weight_bits: one of WEIGHT_BITS. Raises ValueError for a model without convolutions of constant weights, for no
    inputs, and for other bits.
    """

    def __init__(self, model: bytes, inputs: Iterable[Arrays], folder: Path, weight_bits: int = 8) -> None:
        if weight_bits not in WEIGHT_BITS:
            raise ValueError(f"weights of {weight_bits} bits; choose one of {WEIGHT_BITS}")
        self._reduce_range = weight_bits == 7
        whole = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model))
        del whole.metadata_props[:]  # the facts of the bundle that it was in
        constants = {tensor.name for tensor in whole.graph.initializer}
        convolutions = [node for node in whole.graph.node if node.op_type == "Conv" and node.input[1] in constants]
        if not convolutions:
            raise ValueError("the model has no convolution of constant weights: there is nothing to quantise")
        for node in convolutions:
            node.name = node.name or node.output[0]  # the quantiser goes by names
        self.convolutions = tuple(node.name for node in convolutions)  # in the graph's order
        self._model, self._ranges, self._result = (folder / name for name in ("float.onnx", "ranges.json", "int8.onnx"))
        onnx.save_model(whole, self._model)
        self._quantize(self.convolutions, _Reader(iter(inputs)))

    def quantized(self, names: Sequence[str]) -> bytes:
        """The ONNX with the convolutions of these names, one at least, in 8 bits and all others in 32."""
        self._quantize(names, None)
        model = onnx.load_model(self._result)
        _exact_where_it_can_be(model)
        _saturated(model)
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _quantize(self, names: Sequence[str], reader: CalibrationDataReader | None) -> None:
        """Write `_result`; without a reader, of the ranges that an earlier call found."""
        logging.getLogger().addFilter(_wanted)
        try:
            quantize_static(
                self._model,
                self._result,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=list(names),
                per_channel=True,
                reduce_range=self._reduce_range,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options=OPTIONS,
                calibration_cache_path=self._ranges,
            )
        finally:
            logging.getLogger().removeFilter(_wanted)


def _wanted(record: logging.LogRecord) -> bool:
    """The quantiser advises to let ONNX Runtime rewrite the model first: an exported one is folded already."""
    return not record.getMessage().startswith("Please consider")


def _exact_where_it_can_be(model: onnx.ModelProto) -> None:
    """The quantiser lets all that read a value read it rounded. Rounded reads who computes in 8 bits, or leads to who
    does (sums and activations between convolutions: engines then keep 8 bits in memory). Exactly read convolutions in
    32 bits, and what no later convolution reads: the answers of the heads, for whose boxes a step would be 0.2 m/s, and
    the state, which would be rounded again in every frame.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    before = {  # a value once it is rounded -> it before
        node.output[0]: makers[node.input[0]].input[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in makers
    }
    outputs = {output.name for output in graph.output}
    names: dict[str, str] = {}  # where a rounded value is an output of the graph, the exact one takes its name
    for name in before.keys() & outputs:
        names |= {before[name]: name, name: f"{name}_rounded"}
    leading: set[str] = set()  # values that a later convolution depends on
    read = set(outputs)
    nodes = []
    for node in reversed(graph.node):
        leads = any(name in leading for name in node.output)
        if node.op_type == "Conv":
            rounded = makers.get(node.input[1], node).op_type == "DequantizeLinear"
        else:
            rounded = leads
        if not rounded:
            node.input[:] = [before.get(name, name) for name in node.input]
        if node.op_type == "Conv" or leads:
            leading.update(node.input)
        node.input[:], node.output[:] = ([names.get(n, n) for n in side] for side in (node.input, node.output))
        if any(name in read for name in node.output):
            read.update(node.input)
            nodes.append(node)
    _replace_nodes(graph, nodes[::-1])


def _saturated(model: onnx.ModelProto) -> None:
    """The same numbers, with Max(x, least value that 8 bits hold) between a Concat and its QuantizeLinear.

    OpenVINO moves a quantiser that follows a Concat before it and makes it an unsigned one (2026.4). What is negative
    becomes 0 then: scores are off by 0.7, the state by as much as it is. Where nothing is, what else it merges on the
    way costs accuracy all the same: the answers' error was 0.17 instead of 0.09. It moves none over a Max.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    concatenated = {name for node in graph.node if node.op_type == "Concat" for name in node.output}
    nodes = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in concatenated:
            name, scale = node.input[0], numpy_helper.to_array(constants[node.input[1]])
            lowest, raised = f"{name}_lowest", f"{name}_raised"
            graph.initializer.append(numpy_helper.from_array(np.asarray(LOWEST * scale, np.float32), lowest))
            nodes.append(helper.make_node("Max", [name, lowest], [raised], name=raised))
            node.input[0] = raised
        nodes.append(node)
    _replace_nodes(graph, nodes)


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """The graph with these nodes, and without the constants that none of them reads."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    read = {name for node in copies for name in node.input}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(kept)
