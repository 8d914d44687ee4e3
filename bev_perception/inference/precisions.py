"""Which precision an engine really has, by its own account, and whether that is the one that was asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bev_perception.inference.tensorrt_api import BuildError, type_words
from bev_perception.model_spec import ModelSpec

AS_BUNDLE = "bundle"
PRECISIONS = ("fp32", "fp16", "int8")
CHOICES = (AS_BUNDLE, *PRECISIONS)

# Words of the inspector -> precision. Wider names first: "uint8" has "int8" in it.
WORDS = {
    "uint8": "uint8", "int8": "int8", "fp8": "fp8", "int4": "int4", "fp4": "fp4", "bfloat16": "bf16", "bf16": "bf16",
    "fp16": "fp16", "half": "fp16", "fp32": "fp32", "float": "fp32", "int64": "int64", "int32": "int32", "bool": "bool",
}  # fmt: skip
# Asked for -> what no layer may have.
FORBIDDEN = {
    "fp32": {"fp16", "bf16", "int8", "fp8", "int4", "fp4"},
    "fp16": {"bf16", "int8", "fp8", "int4", "fp4"},
    "int8": {"fp16", "bf16", "fp8", "int4", "fp4"},
}
LEAST_SHARE = 0.9  # of the network's convolutions in that precision: two may become one, or one be taken apart


def wanted(asked: str, spec: ModelSpec) -> str:
    """The precision of the engine. Raises ValueError for an unknown one, and for what the bundle's graph has not."""
    if asked not in CHOICES:
        raise ValueError(f"precision {asked!r}: choose one of {CHOICES}")
    if asked == AS_BUNDLE:
        return spec.precision
    if asked == "int8" and spec.precision != "int8":
        raise ValueError(
            f"precision int8: the graph of {spec.name!r} is in {spec.precision}; quantise it first "
            "(docs/inference.md, 8 bits), they come from its Q/DQ nodes alone"
        )
    if asked != "int8" and spec.precision == "int8":
        raise ValueError(
            f"precision {asked}: the graph of {spec.name!r} is in int8; ask for int8, or take the bundle that it was "
            "made from"
        )
    return asked


@dataclass(frozen=True)
class Counts:
    """Precision -> layers, and those of them that convolve."""

    layers: Counter[str] = field(default_factory=Counter)
    convolutions: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        def told(counted: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counted.most_common()) or "none"

        return f"{told(self.layers)}; of these convolutions: {told(self.convolutions)}"


def count_precisions(layers: Iterable[Mapping[str, Any]]) -> Counts:
    """layers: as the engine's inspector gives them. A layer computes in the type of its first input; one without
    inputs, or with a type that is not known, counts by its outputs and else as "unknown"."""
    counts = Counts()
    for layer in layers:
        tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
        precision = next((p for p in (_precision(tensor) for tensor in tensors) if p), "unknown")
        counts.layers[precision] += 1
        kind = f"{layer.get('ParameterType', '')} {layer.get('LayerType', '')}"
        if re.search(r"(?i)convolution", kind):
            counts.convolutions[precision] += 1
    return counts


def _precision(tensor: Mapping[str, Any]) -> str:
    words = type_words(tensor).lower()
    return next((precision for word, precision in WORDS.items() if word in words), "")


def require(found: Counts, asked: str, share: float) -> None:
    """Raise BuildError unless the engine is what was asked for.

    share: of the network's convolutions that were to be in the precision asked for.
    """
    total = found.layers.total()
    reasons = [f"{found.layers[p]} layers are in {p}" for p in sorted(FORBIDDEN[asked]) if found.layers[p]]
    if asked != "fp32" and not found.layers[asked]:
        reasons.append(f"none of its {total} layers is in {asked}")
    convolutions = found.convolutions.total()
    if convolutions and found.convolutions[asked] < LEAST_SHARE * share * convolutions:
        reasons.append(
            f"{found.convolutions[asked]} of {convolutions} convolutions are in {asked}, "
            f"the network has {share:.0%} of them in it"
        )
    if reasons:
        raise BuildError(f"the engine is not the {asked} that was asked for: {'; '.join(reasons)}")
