"""Bundles that are whole and must not come into service: what shadow and watch are for.

    python -m training.circle.spoilt damaged BUNDLE OUT     its convolutions are in disorder
    python -m training.circle.spoilt slow BUNDLE OUT        it finds the same, by far more work

BUNDLE is one in 8 bits (training.quantize). Facts, golden sample and golden frame of OUT are true, so that it proves
itself; the scores that it states are those of BUNDLE, which for a damaged one are not. Neither shows before it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bev_perception.bundle import Bundle, load_bundle, replace_bundle
from bev_perception.files import work_folder, write_atomic
from bev_perception.stated_scores import SCORES, read_scores
from training.bundling.requantized import requantized_bundle
from training.command_line import errors_as_text

LAYERS, CHANNELS = 24, 16  # of superfluous convolutions over the images, several times the shipped network's work
NEXT_TO_NOTHING = 1e-30  # added to scores it changes no bit of them
NEVER = "not_needed"  # what the names of the added nodes begin with


def damaged(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with the output channels of every convolution in reverse order, as of weights that were read for
    another layout."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    for tensor in spoilt.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    return spoilt


def slow(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with LAYERS convolutions over its images, whose result is added to the scores as next to nothing."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    graph, rng = spoilt.graph, np.random.default_rng(0)

    def constant(name: str, array: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), f"{NEVER}_{name}"))
        return f"{NEVER}_{name}"

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, inputs, [f"{NEVER}_{name}"], f"{NEVER}_{name}_node", **attributes))
        return f"{NEVER}_{name}"

    scores = next(n for n in graph.node if "scores" in n.output)  # the graph's output keeps its name
    scores.output[list(scores.output).index("scores")] = f"{NEVER}_scores"
    for later in graph.node:
        for place, name in enumerate(later.input):
            if name == "scores":
                later.input[place] = f"{NEVER}_scores"
    value = node("Cast", ["images"], "pixels", to=onnx.TensorProto.FLOAT)
    value = node("Transpose", [value], "planes", perm=[0, 3, 1, 2])
    for layer in range(LAYERS):
        inputs = CHANNELS if layer else 3
        weight = rng.normal(size=(CHANNELS, inputs, 3, 3)) / np.sqrt(9 * inputs)
        value = node("Conv", [value, constant(f"weight_{layer}", weight)], f"conv_{layer}", pads=[1, 1, 1, 1])
        value = node("Relu", [value], f"relu_{layer}")
    value = node("GlobalAveragePool", [value], "mean")
    flat = numpy_helper.from_array(np.array([-1], np.int64), f"{NEVER}_flat")
    graph.initializer.append(flat)
    value = node("Reshape", [value, flat.name], "values")
    first = numpy_helper.from_array(np.array([0], np.int64), f"{NEVER}_first")
    graph.initializer.append(first)
    value = node("Gather", [value, first.name], "value", axis=0)
    value = node("Mul", [value, constant("next_to_nothing", np.array([NEXT_TO_NOTHING]))], "nothing")
    graph.node.append(helper.make_node("Add", [f"{NEVER}_scores", value], ["scores"], f"{NEVER}_add"))
    onnx.checker.check_model(spoilt)
    return spoilt


WAYS = {"damaged": damaged, "slow": slow}


def spoil(way: str, source: Bundle, out: Path) -> Bundle:
    """Write the spoilt bundle to `out`. Raises ValueError where `source` is not in 8 bits, BundleError where the spoilt
    network cannot be opened."""
    if source.spec.precision != "int8":
        raise ValueError(f"{source.path} is {source.spec.precision}, expected a bundle of training.quantize")
    with work_folder(out) as work:
        model = WAYS[way](onnx.load_model_from_string(source.model()))
        spoilt = requantized_bundle(source, model.SerializeToString(deterministic=True), work)
        if stated := read_scores(source):
            claimed = dataclasses.replace(stated, onnx_sha256=spoilt.spec.onnx_sha256)
            write_atomic(work / SCORES, claimed.to_json())
        replace_bundle(work, out)
    return load_bundle(out)


@errors_as_text
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.circle.spoilt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    spoil(args.way, load_bundle(args.bundle), args.out)
    print(f"bundle: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
