"""The parts of a network whose latency depends on how many channels it keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from training.models.detector import Detector
from training.models.widths import Convolution, width_of
from training.pruning.dependencies import Group, Sampling
from training.pruning.frames import Frames, answers

OPSET = 20


@dataclass(frozen=True)
class Shape:
    """What a layer does, whatever its widths. kind: "conv", "transposed" or "sampling"; read, made: (maps, height,
    width) before and after; the rest is of convolutions, in both directions of the map."""

    kind: str
    read: tuple[int, int, int]
    made: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        sides = [("x".join(map(str, side))) for side in (self.read, self.made)]
        how = f" {self.kernel[0]}x{self.kernel[1]}/{self.stride[0]}" if self.kind != "sampling" else ""
        spread = f" dilated {self.dilation[0]}" if self.dilation != (1, 1) else ""
        return f"{self.kind}{how}{spread} {sides[0]} to {sides[1]}"


@dataclass(frozen=True)
class Piece:
    """A layer of the dense network. inputs, outputs: its channels; reads, makes: group -> how many of the layer's
    channels each of the group's is."""

    name: str
    shape: Shape
    inputs: int
    outputs: int
    reads: Mapping[str, float]
    makes: Mapping[str, float]

    def widths(self, dropped: Mapping[str, int]) -> tuple[float, float]:
        """Input and output channels that are left when groups lose so many of theirs."""
        lost_in = sum(share * dropped.get(group, 0) for group, share in self.reads.items())
        lost_out = sum(share * dropped.get(group, 0) for group, share in self.makes.items())
        return self.inputs - lost_in, self.outputs - lost_out


def find_pieces(detector: Detector, frames: Frames, groups: Sequence[Group]) -> list[Piece]:
    """Convolutions that read or make channels of a group, and look-ups of such channels; once for each time that one
    frame runs through them."""
    layers = {n: m for n, m in detector.named_modules() if isinstance(m, Convolution) and width_of(m)}
    reads: dict[str, dict[str, float]] = {name: {} for name in layers}
    makes: dict[str, dict[str, float]] = {name: {} for name in layers}
    for group in groups:
        for sides, tables in ((group.inputs, reads), (group.outputs, makes)):
            for name, indices in sides.items():
                if name in layers:
                    tables[name][group.name] = sum(map(len, indices)) / group.channels
    pieces = []
    for (name, shape), times in _shapes(detector, frames, layers).items():
        if reads[name] or makes[name]:
            inputs, outputs = width_of(layers[name]) or (0, 0)
            pieces += [Piece(name, shape, inputs, outputs, reads[name], makes[name])] * times
    for group in groups:
        for i, sampling in enumerate(group.samplings):
            shape, one = _looked_up(sampling), {group.name: 1.0}
            pieces.append(Piece(f"{group.name} sampled {i}", shape, group.channels, group.channels, one, one))
    return pieces


def _shapes(detector: Detector, frames: Frames, layers: Mapping[str, nn.Module]) -> Counter[tuple[str, Shape]]:
    """Each layer at the shape of one frame -> how often it runs."""
    found: Counter[tuple[str, Shape]] = Counter()

    def note(name: str, layer: nn.Module, read: Tensor, made: Tensor) -> None:
        assert isinstance(layer, Convolution) and not isinstance(layer.padding, str)
        kind = "transposed" if isinstance(layer, nn.ConvTranspose2d) else "conv"
        sides = [(t.shape[0], t.shape[2], t.shape[3]) for t in (read, made)]
        both = [tuple(v) for v in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)]
        found[name, Shape(kind, sides[0], sides[1], *both)] += 1  # type: ignore[arg-type]

    hooks = [
        layer.register_forward_hook(lambda layer, args, made, name=name: note(name, layer, args[0], made))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            answers(detector, frames[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _looked_up(sampling: Sampling) -> Shape:
    return Shape("sampling", sampling.read, sampling.made)


def graph_of(shape: Shape, inputs: int, outputs: int) -> tuple[bytes, dict[str, np.ndarray]]:
    """A graph of this layer alone with so many channels, and inputs for it. Convolutions have a bias and a ReLU, which
    engines compute along."""
    rng = np.random.default_rng(0)
    maps, height, width = shape.read
    arrays = {"x": rng.normal(size=(maps, inputs, height, width)).astype(np.float32)}
    constants: dict[str, np.ndarray] = {}
    if shape.kind == "sampling":
        arrays["where"] = rng.uniform(-1, 1, (*shape.made, 2)).astype(np.float32)
        options: dict[str, Any] = {"mode": "linear", "padding_mode": "zeros", "align_corners": 0}
        nodes = [helper.make_node("GridSample", ["x", "where"], ["y"], **options)]
    else:
        sides = (inputs, outputs) if shape.kind == "transposed" else (outputs, inputs)
        constants["w"] = rng.normal(size=(*sides, *shape.kernel)).astype(np.float32)
        constants["b"] = np.zeros(outputs, np.float32)
        options = {
            "kernel_shape": shape.kernel, "strides": shape.stride, "dilations": shape.dilation,
            "pads": (*shape.padding, *shape.padding),
        }  # fmt: skip
        name = "ConvTranspose" if shape.kind == "transposed" else "Conv"
        nodes = [helper.make_node(name, ["x", "w", "b"], ["z"], **options), helper.make_node("Relu", ["z"], ["y"])]
    made = (shape.made[0], outputs, *shape.made[1:])
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in arrays.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data, arrays
