"""What must hold before a graph becomes a bundle."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.export import ExportedProgram

from bev_perception.inference.builder import parsed
from bev_perception.inference.tensorrt_api import BuildError, import_builder, make_logger
from training.models.detector import Detector


def check_parameters(program: ExportedProgram, detector: Detector) -> None:
    """The traced graph's outputs depend on every parameter but those of `detector.training_only`, and on none of those.

    Raises ValueError naming the parameters for which that is not so: they would be lost, or shipped for nothing.
    """
    signature = program.graph_signature
    used = {
        signature.inputs_to_parameters[node.name].removeprefix("detector.")
        for node in _before_outputs(program.graph)
        if node.name in signature.inputs_to_parameters
    }
    skip = detector.training_only
    names = {name for name, _ in detector.named_parameters()}
    lost = sorted(name for name in names - used if not name.startswith(skip))
    extra = sorted(name for name in used if name.startswith(skip))
    name = type(detector).__name__
    if lost:
        raise ValueError(
            f"{name}: no output of the exported graph depends on {len(lost)} parameters: {lost[:8]}; let the network "
            "use them, remove them or name them in training_only"
        )
    if extra:
        raise ValueError(f"{name}: the exported graph needs parameters that training_only names: {extra[:8]}")


def _before_outputs(graph: fx.Graph) -> set[fx.Node]:
    """Every node that the graph's outputs depend on."""
    waiting = [node for node in graph.nodes if node.op == "output"]
    seen = set(waiting)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


def ask_tensorrt(onnx: bytes) -> str:
    """TensorRT for RTX's parser on a graph -> what to print: its approval, or that it is not installed.

    Raises BuildError with the parser's reasons. No GPU is needed.
    """
    try:
        trt: Any = import_builder("tensorrt_rtx")
    except ImportError as error:
        return f"TensorRT's parser was not asked: {error}"
    logger = make_logger(trt, lambda _: None)
    builder = trt.Builder(logger)
    try:
        network = parsed(trt, builder, onnx, logger)
    except BuildError as error:
        raise BuildError(f"{error}\nWrite these operators with others") from error
    return f"{trt.__name__} {trt.__version__} parses the graph: {network.num_layers} layers"
