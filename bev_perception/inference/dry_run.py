"""Whether TensorRT would take a model, without building: every node that it refuses, not only the first.

A parser stops at what it cannot take. So the node is cut out, what it would have made becomes an input, and the rest is
parsed again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from bev_perception.inference import tensorrt_api as api
from bev_perception.inference.builder import check_network, convolution_precisions, in_precision
from bev_perception.inference.precisions import wanted
from bev_perception.inference.tensorrt_api import BuildError, Log
from bev_perception.model_spec import ModelSpec

MOST = 1000  # parses; a graph with more refused nodes is not told to its end


def dry_run(trt: Any, onnx: bytes, spec: ModelSpec, precision: str, log: Log, verbose: bool = False) -> None:
    """Parse as a build would, and say what layers there would be. No GPU is needed with TensorRT for RTX.

    Raises BuildError with a line for each node that is refused, BundleError where the interface is not the spec's.
    """
    precision = wanted(precision, spec)
    onnx = in_precision(onnx, precision, log, verbose)
    refused, unseen = refused_nodes(trt, onnx, api.make_logger(trt, log if verbose else _quiet, verbose))
    if refused:
        lines = "\n  ".join([*refused, *([f"(what depends on them was not looked at: {unseen})"] if unseen else [])])
        raise BuildError(f"{trt.__name__} {trt.__version__} refuses {len(refused)} nodes of the model:\n  {lines}")
    logger = api.make_logger(trt, log)
    builder = trt.Builder(logger)
    network = api.create_network(trt, builder)
    parser = trt.OnnxParser(network, logger)
    parser.parse(onnx)
    check_network(network, spec)
    kinds = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    log(f"{network.num_layers} layers: {_told(kinds)}")
    log(f"convolutions: {_told(convolution_precisions(network))}")


def refused_nodes(trt: Any, onnx: bytes, logger: Any) -> tuple[list[str], str]:
    """-> a line for each node that the parser does not take, in the order in which it finds them; and why the graph
    could not be cut any further, "" where all of it was seen. Without the package onnx it cannot be cut at all."""
    refused: list[str] = []
    for _ in range(MOST):
        builder = trt.Builder(logger)
        network = api.create_network(trt, builder)
        parser = trt.OnnxParser(network, logger)
        if parser.parse(onnx):
            return refused, ""
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        refused += map(api.parser_error, errors)
        numbers = {error.node() for error in errors}
        try:
            onnx = _without(onnx, numbers)
        except (ImportError, ValueError) as error:
            return refused, str(error)
    return refused, f"{MOST} parses were made"


def _without(onnx_bytes: bytes, numbers: set[int]) -> bytes:
    """The graph without these nodes: their outputs are inputs. Raises ValueError where that cannot be, ImportError."""
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(onnx_bytes))
    except Exception as error:  # protobuf's own, of bytes that are no graph
        raise ValueError(f"the file is no ONNX graph ({type(error).__name__})") from error
    graph = model.graph
    if not numbers or not all(0 <= number < len(graph.node) for number in numbers):
        raise ValueError("the parser names no node")
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    nodes = [graph.node[number] for number in sorted(numbers)]
    made = [name for node in nodes for name in node.output if name]
    for name in made:
        if name not in known or not known[name].type.tensor_type.HasField("shape"):
            raise ValueError(f"the shape of `{name}` is not known")
    kept = [node for number, node in enumerate(graph.node) if number not in numbers]
    outputs = [value for value in graph.output if value.name not in made]
    graph.input.extend(known[name] for name in made)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.output[:]
    graph.output.extend(outputs)
    return model.SerializeToString()


def _told(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.most_common()) or "none"


def _quiet(message: str) -> None:
    """What a cut graph makes the parser say is of our making."""
