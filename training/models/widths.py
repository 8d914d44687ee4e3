"""Networks narrower than their config says: a plain table of widths, applied after construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from training.models.detector import Module

Convolution = nn.Conv2d | nn.ConvTranspose2d
Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class Cut:
    """What was cut out of a network. layers: name of each layer that is narrower than the run's config says -> its
    (input, output) channels, for a batch norm twice the same; state: channels of the state before, 0 without memory
    (those that are left are in the spec)."""

    layers: dict[str, tuple[int, int]]
    state: int = 0


def widths(network: Module) -> dict[str, tuple[int, int]]:
    """Name -> (input, output) channels of each convolution of one group, linear layer and batch norm."""
    found = ((name, width_of(layer)) for name, layer in network.named_modules())
    return {name: width for name, width in found if width is not None}


def width_of(layer: nn.Module) -> tuple[int, int] | None:
    """(input, output) channels; None for what has no weights of its own, or others than these."""
    if isinstance(layer, Convolution) and layer.groups == 1:
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Norm):
        return layer.num_features, layer.num_features
    return None


def narrow(network: Module, layers: Mapping[str, tuple[int, int]]) -> None:
    """Give these layers so many (input, output) channels, with the weights of their first ones.

    Raises ValueError for a layer that is not there or of another kind, and for more channels than it has, or none.
    """
    there = dict(network.named_modules())
    for name, (wanted_in, wanted_out) in layers.items():
        layer = there.get(name)
        width = None if layer is None else width_of(layer)
        if layer is None or width is None:
            raise ValueError(f"cut.layers: {name!r} is no convolution, linear layer or batch norm of this network")
        if not (1 <= wanted_in <= width[0] and 1 <= wanted_out <= width[1]):
            raise ValueError(
                f"cut.layers: {name} has {width} channels, of which {(wanted_in, wanted_out)} cannot be left"
            )
        _narrow(layer, wanted_in, wanted_out)


def _narrow(layer: nn.Module, inputs: int, outputs: int) -> None:
    ins, outs = slice(inputs), slice(outputs)
    if isinstance(layer, nn.ConvTranspose2d):
        layer.weight = _part(layer.weight, (ins, outs))
        layer.in_channels, layer.out_channels = inputs, outputs
    elif isinstance(layer, nn.Conv2d):
        layer.weight = _part(layer.weight, (outs, ins))
        layer.in_channels, layer.out_channels = inputs, outputs
    elif isinstance(layer, nn.Linear):
        layer.weight = _part(layer.weight, (outs, ins))
        layer.in_features, layer.out_features = inputs, outputs
    elif isinstance(layer, Norm):
        layer.weight = _part(layer.weight, (outs,))
        layer.num_features = outputs
        for name in ("running_mean", "running_var"):
            statistics: Tensor = getattr(layer, name)
            setattr(layer, name, statistics[outs].clone())
    if getattr(layer, "bias", None) is not None:
        layer.bias = _part(layer.bias, (outs,))  # type: ignore[arg-type]


def _part(parameter: Tensor, kept: tuple[slice, ...]) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[kept].clone(), requires_grad=parameter.requires_grad)
