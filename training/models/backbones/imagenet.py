"""Loading torchvision's ImageNet weights into a backbone that keeps torchvision's parameter names."""

from __future__ import annotations

import torch
from torch import nn

from training.models.weights_file import read_weights_file


def load_torchvision(backbone: nn.Module, path: str, first_conv: str, classifier: str) -> None:
    """Load a torchvision state dict from `path`; what starts with `classifier` is left out.

    Images here are BGR, torchvision's networks were trained on RGB: the input channels of `first_conv` are reversed.

    Raises FileNotFoundError, ValueError when the file holds no state dict, RuntimeError naming the parameters whose
    presence or shape differs from the backbone's.
    """
    state = read_weights_file(path)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{path}: expected a torchvision state dict (parameter name -> tensor), found {type(state).__name__} "
            "with other values; save model.state_dict() rather than a checkpoint or a model"
        )
    state = {name: value for name, value in state.items() if not name.startswith(classifier)}
    own = backbone.state_dict()
    wrong = [f"{name}: missing in the file" for name in own.keys() - state.keys()]
    wrong += [f"{name}: not in the backbone" for name in state.keys() - own.keys()]
    wrong += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the backbone"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if wrong:
        listed = "\n  ".join(sorted(wrong)[:10])
        raise RuntimeError(
            f"{path} does not fit this {type(backbone).__name__} in {len(wrong)} of {len(own)} parameters; "
            f"ImageNet weights exist for the original depth and width only:\n  {listed}"
        )
    backbone.load_state_dict(state | {first_conv: state[first_conv].flip(1)})
