"""ONNX in FP32 -> the same ONNX with its convolutions in FP16, for strongly typed TensorRT networks.

Only what gains and is safe is halved: convolutions with constant weights, and the simple operators between them.
Geometry (projections, sampling grids), softmax, sampling, the last convolutions of the heads and everything after them
stay in FP32: FP16 has 11 bits, which would put pixel coordinates off by a quarter and make scores tie.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CONVOLUTIONS = ("Conv", "ConvTranspose")
# Operators that may lie between halved convolutions -> how many leading inputs carry data (0: all of them).
CARRIERS = {
    "Relu": 1, "LeakyRelu": 1, "MaxPool": 1, "AveragePool": 1, "Resize": 1, "Reshape": 1, "Transpose": 1, "Slice": 1,
    "Squeeze": 1, "Unsqueeze": 1, "Add": 0, "Mul": 0, "Concat": 0,
}  # fmt: skip
LARGEST = float(np.finfo(np.float16).max)


def halve(onnx_bytes: bytes) -> tuple[bytes, int]:
    """The model with FP16 inside and the same inputs and outputs, and the number of convolutions halved.

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

    halved: set[str] = set()  # tensors that exist as <name>_fp16 ...
    restored: set[str] = set()  # ... and of these the ones that exist in FP32 too
    result: list[Any] = []
    convolutions = 0

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

    def fits(name: str) -> bool:
        return name in constants and bool(np.abs(constants[name]).max(initial=0.0) < LARGEST)

    for node in nodes:
        used = [name for name in node.input if name]
        leads_on = any(name in before_conv for name in node.output)
        if node.op_type in CONVOLUTIONS:
            data = used
            convert = leads_on and all(fits(name) for name in used[1:])
        else:
            data = used[: CARRIERS.get(node.op_type, 0) or None]
            computed = [name for name in data if name not in constants]
            convert = (
                node.op_type in CARRIERS
                and len(node.output) == 1
                and leads_on
                and bool(computed)
                and all(name in halved and name not in constants for name in computed)
                and all(fits(name) for name in data if name in constants)
            )
        if not convert:
            for name in used:
                as_float(name)
            result.append(node)
            continue
        convolutions += node.op_type in CONVOLUTIONS
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
    kept = [i for i in graph.initializer if i.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]  # states the old types
    onnx.checker.check_model(model)
    return model.SerializeToString(), convolutions


def _tensors_before_convolutions(nodes: list[Any]) -> set[str]:
    """Names of the tensors from which a later convolution is reached; nodes are in topological order."""
    reaching: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in CONVOLUTIONS or any(name in reaching for name in node.output):
            reaching.update(name for name in node.input if name)
    return reaching
