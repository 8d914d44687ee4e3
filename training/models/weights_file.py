"""Files of torch.save, read as what they may be: tensors and plain data, or an error that names the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_weights_file(path: str | Path) -> Any:
    """The file's content on the CPU; nothing is unpickled beyond tensors and plain data.

    Raises OSError where it cannot be read, ValueError when it is cut off, damaged or holds anything else.
    """
    with open(path, "rb") as file:  # its own errors pass as they are
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever zip and pickle stumble over in a damaged file
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{path}: not a checkpoint, or cut off ({said}); copy it again, or take another one"
            ) from error


def fitting_weights(found: Any, wanted: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """`found` as a state dict for a module whose own is `wanted`.

    Raises ValueError, beginning with `what`, unless it has each name with a tensor of the same shape, of floats where
    the module has floats and of whole numbers where it has those, and every number is finite.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"{what} is a {type(found).__name__}, expected name -> tensor")
    wrong = [f"{name}: missing" for name in wanted if name not in found]
    wrong += [f"{name!r}: the network has no such tensor" for name in found if name not in wanted]
    wrong += [f"{name}: {fault}" for name in wanted if name in found and (fault := _fault(found[name], wanted[name]))]
    if wrong:
        listed = "\n  ".join(wrong[:5] + [f"... and {len(wrong) - 5} more"] * (len(wrong) > 5))
        raise ValueError(f"{what}: weights of another network or version, or altered:\n  {listed}")
    return dict(found)


def _fault(found: Any, wanted: Tensor) -> str:
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_quantized:
        return f"is a {type(found).__name__}, expected a dense tensor"
    if found.shape != wanted.shape:
        return f"size mismatch, {tuple(found.shape)} in the file, {tuple(wanted.shape)} in the network"
    if found.is_floating_point() != wanted.is_floating_point() or found.is_complex():
        return f"is {found.dtype}, expected {wanted.dtype}"
    return "" if found.is_meta or bool(torch.isfinite(found).all()) else "has numbers that are not finite"
