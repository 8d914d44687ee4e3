"""Which channels of a detector can only be cut together, by torch-pruning's dependency graph, and the cut itself.

DepGraph (Fang et al., CVPR 2023) follows the autograd graph of a forward pass: here of two frames, so that the state
ties what makes it to what reads it in the next frame, and of what only training adds. `_Followed` shows it three things
that it cannot see by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from training.models.detector import Detector
from training.models.radar_branch import PointLayer
from training.models.widths import Convolution, Cut, Norm, width_of, widths
from training.pruning.frames import Frames, answers, state_channels
from training.run import with_state

SOFTMAX = (torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax)
DETECTOR, SPREAD = "detector.", ".spread."


@dataclass(frozen=True, order=True)
class Sampling:
    """A bilinear look-up (grid_sample) of channels: (maps, height, width) of what is read and of the result."""

    read: tuple[int, int, int]
    made: tuple[int, int, int]


Indices = Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Group:
    """So many channels of which each can only be cut in several layers together.

    name: of a layer that makes them. outputs, inputs: layer that makes or reads them -> for each channel its indices
    there; batch norms are among the outputs. samplings: look-ups of these channels between layers.
    """

    name: str
    channels: int
    outputs: Indices
    inputs: Indices
    samplings: tuple[Sampling, ...] = ()


class _Network(nn.Module):
    """The detector, and a layer for each constant part of a concatenation that it makes."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector)
        self.constants = nn.ModuleList()
        assert isinstance(self.detector, nn.Module)
        for parameter in self.detector.parameters():
            parameter.requires_grad_(True)  # frozen layers are layers, too


class _Followed(TorchFunctionMode):
    """Within: every part of a concatenation of channels has a layer that made it, as coverage and the memory's age have
    none, and all indices behind them would be shifted; a softmax ties nothing, as its weights' indices mean other
    things than those of the channels that they weigh; and what is weighed in a product of matrices keeps its channels.
    """

    def __init__(self, constants: nn.ModuleList) -> None:
        super().__init__()
        self.constants, self.used = constants, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.cat and _along_channels(args, kwargs):
            return func([part if part.requires_grad else self._made(part) for part in args[0]], *args[1:], **kwargs)
        result = func(*args, **kwargs)
        if func in SOFTMAX:
            return result.detach()
        if func is torch.matmul and args[0].requires_grad != args[1].requires_grad:
            weighed = args[0] if args[0].requires_grad else args[1]
            return result.detach() + 0 * weighed.sum()
        return result

    def _made(self, part: Tensor) -> Tensor:
        if self.used == len(self.constants):
            self.constants.append(nn.Conv2d(part.shape[1], part.shape[1], 1))
        self.used += 1
        made: Tensor = self.constants[self.used - 1](part.float())
        return made


def _along_channels(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return dim == 1 and all(part.ndim == 4 for part in args[0])


def find_groups(detector: Detector, frames: Frames) -> tuple[list[Group], dict[str, str]]:
    """The groups of its convolutions and linear layers; and of each other layer with channels why it cannot be cut.

    Whether a network without some of a group's channels answers right is `proof.py`'s to say. Raises ImportError where
    torch-pruning is not installed.
    """
    graph, network = _graph(detector, frames)
    groups: list[Group] = []
    fixed: dict[str, str] = {}
    seen: set[str] = set()
    for name, layer in network.detector.named_modules():
        if not isinstance(layer, Convolution | nn.Linear) or name in seen:
            continue
        if layer not in graph.module2node:
            fixed[name] = "no answer depends on it by a way that can be followed"
            continue
        group, reason = _read(graph, network, layer)
        seen.update(group.outputs)
        if reason:
            fixed |= dict.fromkeys((n for n in group.outputs if not _is_norm(network, n)), reason)
        else:
            groups.append(group)
    return groups, fixed


def cut(detector: Detector, frames: Frames, groups: Iterable[Group], dropped: Mapping[str, Sequence[int]]) -> Detector:
    """A copy of the detector in eval mode without the channels `dropped` of each group, by name; its spec has the
    state that is left. Raises whatever its first pass stumbles over."""
    graph, network = _graph(detector, frames)
    layers = dict(network.detector.named_modules())
    for group in groups:
        channels = sorted(dropped.get(group.name, ()))
        if channels:
            _tied(graph, layers[group.name], channels).prune()
    made: Detector = network.detector
    made.eval()
    for (_, before), (_, after) in zip(detector.named_parameters(), made.named_parameters()):
        after.requires_grad_(before.requires_grad)
        after.grad = None
    made.spec = with_state(detector.spec, state_channels(made, frames))
    return made


def cut_of(dense: Detector, narrower: Detector) -> Cut:
    """The table that makes the one from the other."""
    before, after = widths(dense), widths(narrower)
    return Cut({n: after[n] for n in before if after[n] != before[n]}, dense.spec.temporal.state_channels)


def _graph(detector: Detector, frames: Frames) -> tuple[Any, _Network]:
    """torch-pruning's graph, and the copy of the detector that it is of."""
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError("pruning needs the package torch-pruning: pip install torch-pruning") from error

    network = _Network(detector)

    def follow(whole: _Network, inputs: Frames) -> list[Tensor]:
        _as_in_training(whole)
        with _Followed(whole.constants):
            # Each ends in an operator of its own.
            return [1.0 * tensor for tensor in answers(whole.detector, inputs).values()]

    follow(network, frames)  # finds the constants
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(network, frames, forward_fn=follow, verbose=False)
    return graph, network


def _as_in_training(network: nn.Module) -> None:
    """With the branches that only training has; statistics and random numbers stay out of it."""
    for module in network.modules():
        module.training = not isinstance(module, Norm | nn.Dropout | PointLayer)


def _tied(graph: Any, layer: nn.Module, channels: Sequence[int]) -> Any:
    """All that goes with these output channels of a layer, as torch-pruning has it."""
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(channels))


def _read(graph: Any, network: _Network, layer: nn.Module) -> tuple[Group, str]:
    """The group of a layer's output channels, and why it cannot be cut, or ""."""
    names = {module: name.removeprefix(DETECTOR) for name, module in network.named_modules()}
    channels = graph.get_pruner_of_module(layer).get_out_channels(layer)
    outputs: dict[str, tuple[tuple[int, ...], ...]] = {}
    inputs: dict[str, tuple[tuple[int, ...], ...]] = {}
    samplings: set[Sampling] = set()
    reasons: list[str] = []
    for item in _tied(graph, layer, range(channels)):
        node = item.dep.target
        module, name = node.module, names.get(node.module)
        if type(module).__name__ == "_OutputOp":
            reasons.append(f"its channels are an answer of the network, {tuple(module.shape)} in all")
        elif "GridSampler2D" in str(node.grad_fn):
            samplings.add(_sampling(node.grad_fn))
        if name is None or name.startswith("constants."):
            continue
        if width_of(module) is None:
            reasons.append(f"it is tied to {name}, a {type(module).__name__} of another kind than what can be cut")
            continue
        makes = isinstance(module, Norm) or graph.is_out_channel_pruning_fn(item.dep.handler)
        where: list[list[int]] = [[] for _ in range(channels)]
        for index, channel in zip(item.idxs, item.root_idxs):
            where[channel].append(index)
        (outputs if makes else inputs)[name] = tuple(map(tuple, where))
    if not inputs:
        reasons.append("what reads its channels cannot be followed")
    if any(SPREAD in name for name in outputs):
        reasons.append("it is a part of what says how far boxes may be off, which costs no time")
    outputs.setdefault(names[layer], ())
    group = Group(names[layer], channels, outputs, inputs, tuple(sorted(samplings)))
    return group, reasons[0] if reasons else ""


def _is_norm(network: _Network, name: str) -> bool:
    return isinstance(network.get_submodule(f"{DETECTOR}{name}"), Norm)


def _sampling(grad_fn: Any) -> Sampling:
    read, grid = grad_fn._saved_input.shape, grad_fn._saved_grid.shape
    return Sampling((read[0], *read[2:]), (grid[0], *grid[1:3]))
