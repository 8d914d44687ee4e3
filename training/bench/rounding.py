"""An ONNX graph with FP16 in it as a graph in FP32 that rounds every tensor which is in FP16.

ONNX Runtime has no convolutions in FP16 on a CPU: it computes them in FP32 and leaves out the roundings between two of
them. This graph has them all, so it gives what an engine gives that keeps tensors in FP16 and sums in FP32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bev_perception.inference.half import tensor_types


def every_rounding(onnx_bytes: bytes) -> bytes:
    """The graph without FP16 but for pairs of casts there and back. Inputs and outputs must not be in FP16."""
    model = onnx.load_model_from_string(onnx_bytes)
    types, graph = tensor_types(model), model.graph
    for tensor in graph.initializer:
        _widen(tensor, tensor.name)
    nodes: list[Any] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:  # of Constant
                _widen(attribute.t, attribute.t.name)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for i, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT16:
                node.output[i] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _widen(tensor: Any, name: str) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
