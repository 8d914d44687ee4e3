"""How much the training loss would change without a channel, by its first-order Taylor term.

A channel is taken out by setting to zero what makes it, so the change is minus the sum of gradient x weight over that:
gamma and beta of its batch norms (HALP, Shen et al., NeurIPS 2022), weights and bias of convolutions without one.
Layers whose channels are tied count together, before the square (Molchanov et al., CVPR 2019), of which the mean over
batches is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.models.widths import Norm
from training.pruning.dependencies import Group
from training.trainer.network import Network


def taylor_importance(
    network: Network, batches: Iterable[dict[str, Tensor]], groups: Sequence[Group]
) -> dict[str, np.ndarray]:
    """Group -> (channels,) float64, mean over the batches of (sum of gradient x weight)^2 of the run's own losses.

    Batch norms keep their statistics. Teachers are not asked. Raises ValueError for a loss that is not finite, and for
    no batches.
    """
    detector = network.detector
    layers = dict(detector.named_modules())
    totals = {group.name: np.zeros(group.channels) for group in groups}
    seen = 0
    detector.train()
    for layer in detector.modules():
        if isinstance(layer, Norm):
            layer.eval()
    try:
        for batch in batches:
            detector.zero_grad(set_to_none=True)
            batch = {name: tensor.to(network.device) for name, tensor in batch.items()}
            loss = torch.stack(list(network.losses(network.predict(batch), batch).values())).sum()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss of batch {seen} is {float(loss)}: this network cannot be pruned")
            loss.backward()  # type: ignore[no-untyped-call]
            for group in groups:
                totals[group.name] += _changes(group, layers) ** 2
            seen += 1
    finally:
        detector.zero_grad(set_to_none=True)
        detector.eval()
    if not seen:
        raise ValueError("importance needs batches of the training split, found none; set --batches 1 or more")
    return {name: total / seen for name, total in totals.items()}


def _changes(group: Group, layers: dict[str, nn.Module]) -> np.ndarray:
    """(channels,) sum of gradient x weight of all that makes each channel."""
    change = np.zeros(group.channels)
    for name, indices in group.outputs.items():
        layer = layers[name]
        if not isinstance(layer, Norm) and getattr(layer, "bias", None) is None:
            continue  # a norm follows
        for parameter in layer.parameters():
            if parameter.grad is not None:
                of_output = _of_output(layer, parameter, parameter.grad)
                change += [of_output[list(channel)].sum() for channel in indices]
    return change


def _of_output(layer: nn.Module, parameter: Tensor, gradient: Tensor) -> np.ndarray:
    """(output channels,) sum of gradient x weight of one of a layer's parameters."""
    products = (parameter.detach() * gradient).double().cpu()
    if isinstance(layer, nn.ConvTranspose2d) and parameter.ndim > 1:
        products = products.transpose(0, 1)
    found: np.ndarray = products.reshape(len(products), -1).sum(1).numpy()
    return found
