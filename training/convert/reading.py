"""A published .pth file -> its tensors by name. Nothing in it is run: torch's unpickler of weights alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
HOLDERS = ("state_dict", "model_state")  # of mmcv and det3d, of OpenPCDet
PREFIX = "module."  # of a network that was saved inside DistributedDataParallel
BEGINNINGS = (b"PK", b"\x80")  # of torch.save's archives, and of the pickles of torch before 1.6


def read_published(path: Path) -> State:
    """Names and tensors of a file as torch.save wrote it, without the prefix `module.`.

    Raises FileNotFoundError, and ValueError for a file that holds more than weights and plain data, is damaged, has no
    state dict or numbers in it that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; docs/checkpoints.md says where published files come from")
    with path.open("rb") as file:
        beginning = file.read(20)
    if beginning and not beginning.startswith(BEGINNINGS):
        raise ValueError(
            f"{path}: not a file of torch.save, it begins with {beginning!r}; download it again, with a browser where "
            "that is a page of the server instead of the file"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refused(path, error)) from error
    except Exception as error:
        raise ValueError(
            f"{path}: not a file of torch.save, or cut off ({_first(error)}); download it again"
        ) from error
    return _clean(_state_of(content, path), path)


def _refused(path: Path, error: Exception) -> str:
    try:
        named = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the file of an old torch, or none at all
        named = []
    if named:
        return (
            f"{path} holds more than weights and plain data: {named}. Loading that would run its author's code. "
            "Where you trust them, load it once in a sandbox and save its state dict alone with torch.save"
        )
    return f"{path}: not a file of torch.save that holds weights alone; download it again"


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _state_of(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, dict):
        for holder in HOLDERS:
            if isinstance(content.get(holder), dict):
                return dict(content[holder])
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    found = sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
    raise ValueError(f"{path}: expected a state dict, or one under {HOLDERS}, found {found}")


def _clean(state: dict[str, Any], path: Path) -> State:
    odd = [name for name, value in state.items() if not (isinstance(name, str) and _is_plain(value))]
    if odd:
        raise ValueError(f"{path}: its state dict holds what is no tensor of real numbers with a name: {odd[:8]}")
    if not state:
        raise ValueError(f"{path}: no tensors")
    if all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: numbers that are not finite in {broken[:8]}; the file is damaged, download it again")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.is_complex() or value.is_quantized:
        return False
    return value.layout is torch.strided and not value.is_meta
