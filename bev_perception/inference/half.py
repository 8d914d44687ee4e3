"""ONNX in FP32 -> the same ONNX with its convolutions in FP16, for strongly typed TensorRT networks.

Only what gains and is safe is halved: convolutions with constant weights, and the simple operators between them.
Geometry (projections, sampling grids), softmax, sampling, the last convolutions of the heads and everything after them
stay in FP32: FP16 has 11 bits, which would put pixel coordinates off by a quarter and make scores tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONVOLUTIONS = ("Conv", "ConvTranspose")
# Operators that may lie between halved convolutions -> how many leading inputs carry data (0: all of them).
CARRIERS = {
    "Relu": 1, "LeakyRelu": 1, "MaxPool": 1, "AveragePool": 1, "Resize": 1, "Reshape": 1, "Transpose": 1, "Slice": 1,
    "Squeeze": 1, "Unsqueeze": 1, "Add": 0, "Mul": 0, "Concat": 0,
}  # fmt: skip
LARGEST = float(np.finfo(np.float16).max)


# Why the others stay -> which these are. What is in no row works on single values: coordinates, comparisons, masks.
NEVER = {
    "multiplies matrices: poses and projections": ("MatMul", "Gemm", "Einsum"),
    "reads at coordinates, which 11 bits would put off": ("GridSample", "GatherElements", "GatherND"),
    "sums many values or exponentials, of which 11 bits lose the small ones": (
        "Softmax", "LogSoftmax", "ReduceSum", "ReduceMean", "CumSum", "LayerNormalization", "InstanceNormalization",
    ),
}  # fmt: skip
OTHER_OPERATOR = "is no operator of a chain of convolutions: geometry, masks and their comparisons"
LAST_CONVOLUTION = "is the last convolution on its way: its answer goes out and is rounded no further"
AFTER_CONVOLUTIONS = "comes after the last convolution: scores would tie, boxes lose digits"
WEIGHTS_COMPUTED = "has weights that the graph computes, with a range that nobody knows"
TOO_LARGE = f"has a constant beyond {LARGEST:.0f}, the largest number in FP16"
READS_SINGLE = "reads what is in FP32: it would need casts of its own and gain nothing"


@dataclass(frozen=True)
class Kept:
    """A node that computes in FP32 and stays so. node: its name, or that of its first output; op: its operator."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Halved:
    """onnx: the model with FP16 inside and the same inputs and outputs. convolutions, others: how many nodes are now in
    FP16, casts not counted. kept: those in FP32, in the graph's order. Nodes without floating point are in neither."""

    onnx: bytes
    convolutions: int
    others: int
    kept: tuple[Kept, ...]

    def summary(self) -> list[str]:
        """Lines to print: how many nodes are in FP16, and each reason for FP32 with the nodes that it holds for."""
        reasons: dict[str, Counter[str]] = {}
        for kept in self.kept:
            reasons.setdefault(kept.reason, Counter())[kept.op] += 1
        lines = [
            f"{self.convolutions} convolutions, {self.others} nodes between them in fp16; in fp32 {len(self.kept)}:"
        ]
        for reason, counted in sorted(reasons.items(), key=lambda item: -item[1].total()):
            operators = ", ".join(f"{op} {count}" for op, count in counted.most_common())
            lines.append(f"  {counted.total()}, each {reason} ({operators})")
        return lines


def halve(onnx_bytes: bytes) -> Halved:
    """Convolutions and what lies between them in FP16, and the reason for each node that stays.

    Raises ImportError when the package onnx is missing, ValueError for graphs with control flow.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ImportError(
            "precision fp16 rewrites the ONNX file and needs the package onnx: pip install onnx"
        ) from error

    model = onnx.load_model_from_string(onnx_bytes)
    graph = model.graph
    nodes: list[Any] = list(graph.node)
    for node in nodes:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise ValueError(f"node {node.name!r} ({node.op_type}) has a subgraph: such a model can only run in fp32")
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    before_conv = _tensors_before_convolutions(nodes)
    types = tensor_types(model)

    halved: set[str] = set()  # tensors that exist as <name>_fp16 ...
    restored: set[str] = set()  # ... and of these the ones that exist in FP32 too
    result: list[Any] = []
    kept: list[Kept] = []
    convolutions = others = 0

    def as_half(name: str) -> str:
        half = f"{name}_fp16"
        if name not in halved:
            halved.add(name)
            restored.add(name)
            if name in constants:
                graph.initializer.append(numpy_helper.from_array(constants[name].astype(np.float16), half))
            else:
                result.append(helper.make_node("Cast", [name], [half], name=half, to=TensorProto.FLOAT16))
        return half

    def as_float(name: str) -> None:
        if name in halved and name not in restored:
            restored.add(name)
            result.append(helper.make_node("Cast", [f"{name}_fp16"], [name], name=f"{name}_fp32", to=TensorProto.FLOAT))

    for node in nodes:
        used = [name for name in node.input if name]
        data = used if node.op_type in CONVOLUTIONS else used[: CARRIERS.get(node.op_type, 0) or None]
        reason = _why_kept(node, data, constants, before_conv, halved)
        if reason:
            for name in used:
                as_float(name)
            result.append(node)
            # What has a type that inference does not find, of an operator that is not ONNX's own, is told too.
            if any(types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT for name in (*used, *node.output)):
                kept.append(Kept(node.name or node.output[0], node.op_type, reason))
            continue
        convolutions += node.op_type in CONVOLUTIONS
        others += node.op_type not in CONVOLUTIONS
        names = {name: as_half(name) for name in data}
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [f"{name}_fp16" for name in node.output]
        halved.update(node.output)
        result.append(copy)
    for output in graph.output:
        as_float(output.name)

    del graph.node[:]
    graph.node.extend(result)
    needed = {name for node in result for name in node.input}
    used_constants = [i for i in graph.initializer if i.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(used_constants)
    del graph.value_info[:]  # states the old types
    onnx.checker.check_model(model)
    return Halved(model.SerializeToString(), convolutions, others, tuple(kept))


def _why_kept(
    node: Any, data: Sequence[str], constants: Mapping[str, np.ndarray], before_conv: set[str], halved: set[str]
) -> str:
    """The reason for which a node stays in FP32, "" for one that is to be halved. data: its inputs that would be cast;
    halved: tensors that are in FP16 so far."""

    def too_large(names: Sequence[str]) -> bool:
        return any(np.abs(constants[name]).max(initial=0.0) >= LARGEST for name in names if name in constants)

    convolution = node.op_type in CONVOLUTIONS
    if not any(name in before_conv for name in node.output):
        return LAST_CONVOLUTION if convolution else AFTER_CONVOLUTIONS
    if convolution:
        if any(name not in constants for name in data[1:]):
            return WEIGHTS_COMPUTED
        return TOO_LARGE if too_large(data[1:]) else ""
    if node.op_type not in CARRIERS or len(node.output) != 1:
        return next((why for why, operators in NEVER.items() if node.op_type in operators), OTHER_OPERATOR)
    computed = [name for name in data if name not in constants]
    if not computed or any(name not in halved for name in computed):
        return READS_SINGLE
    return TOO_LARGE if too_large(data) else ""


def tensor_types(model: Any) -> dict[str, int]:
    """Name -> TensorProto.DataType of every tensor of a ModelProto whose type ONNX's inference finds."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {i.name: i.data_type for i in graph.initializer}


def _tensors_before_convolutions(nodes: list[Any]) -> set[str]:
    """Names of the tensors from which a later convolution is reached; nodes are in topological order."""
    reaching: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in CONVOLUTIONS or any(name in reaching for name in node.output):
            reaching.update(name for name in node.input if name)
    return reaching
