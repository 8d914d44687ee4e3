"""How the tensors of a published network become those of ours: one table for each network, and what applies it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.convert.reading import State

SHOWN = 8  # names in an error


@dataclass(frozen=True)
class Table:
    """Names are of tensors, or of modules where it says so.

    modules: their module -> ours. Whatever ours has below it is found below theirs under the same rest of the name;
    of several that fit the longest holds. changed: their tensor -> what is done with it. folded: the bias of their
    convolution, which ours lacks -> the running mean of the norm behind it, which takes it in. constant: their tensor
    -> what it must hold, because the network here has it built in. fresh: ours that theirs has nothing for, and that
    stay as a new network has them. whole: beginnings of their names below which nothing may be left over.
    """

    modules: Mapping[str, str]
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict)
    constant: Mapping[str, Tensor] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Their names: taken over, folded into others, compared with what is built in, left; and ours that began afresh."""

    used: tuple[str, ...]
    folded: tuple[str, ...]
    checked: tuple[str, ...]
    left: tuple[str, ...]
    fresh: tuple[str, ...]

    def lines(self) -> list[str]:
        lines = [f"{len(self.used)} tensors taken over, {len(self.folded)} folded, {len(self.checked)} compared"]
        for what, names in (("left in the file", self.left), ("not in the file, as in a new network", self.fresh)):
            if names:
                heads = sorted({name.split(".")[0] for name in names})
                lines.append(f"{len(names)} {what}: " + ", ".join(names if len(names) <= SHOWN else heads))
        return lines


def apply(table: Table, theirs: State, wanted: Mapping[str, Tensor]) -> tuple[State, Report]:
    """Their tensors and a new network's state dict -> the state dict to load, and what became of their names.

    Raises ValueError naming what is missing in the file, what has another shape, what is left below table.whole and
    constants that differ: a file of another network or configuration.
    """
    _refuse(_missing(table, theirs, wanted), "lacks what this network has", theirs)
    state = dict(theirs)
    for bias, mean in table.folded.items():
        state[mean] = (state[mean].double() - state[bias].double()).float()
    for name, change in table.changed.items():
        state[name] = change(state[name])
    names = {ours: _theirs(table, ours) for ours in wanted}
    ours = {own: state[name] if name in state else wanted[own].clone() for own, name in names.items()}
    differing = [
        f"{names[own]} {tuple(theirs[names[own]].shape)} for {own} {tuple(tensor.shape)}"
        for own, tensor in wanted.items()
        if ours[own].shape != tensor.shape
    ]
    _refuse(differing, "has other shapes than this network", theirs)
    used = {name for name in names.values() if name in state}
    left = sorted(set(theirs) - used - set(table.folded) - set(table.constant))
    _refuse(
        [n for n in left if n.startswith(table.whole)] if table.whole else [], "has what this network lacks", theirs
    )
    _refuse([n for n, value in table.constant.items() if _differs(theirs[n], value)], "has other constants", theirs)
    report = Report(
        tuple(sorted(used)), tuple(table.folded), tuple(table.constant), tuple(left),
        tuple(own for own, name in names.items() if name not in state and not _counts(own)),
    )  # fmt: skip
    return {own: tensor.to(wanted[own].dtype).contiguous() for own, tensor in ours.items()}, report


def _theirs(table: Table, ours: str) -> str:
    """Their name of a tensor of ours; empty where there is none."""
    fitting = [(own, their) for their, own in table.modules.items() if ours.startswith(f"{own}.")]
    if not fitting:
        return ""
    own, their = max(fitting, key=lambda pair: len(pair[0]))
    return their + ours.removeprefix(own)


def _missing(table: Table, theirs: State, wanted: Mapping[str, Tensor]) -> list[str]:
    absent = []
    for ours in wanted:
        name = _theirs(table, ours)
        if name not in theirs and ours not in table.fresh and not _counts(ours):
            absent.append(name or f"anything for {ours}")
    needed = {*table.folded, *table.folded.values(), *table.changed, *table.constant}
    return [*absent, *sorted(needed - set(theirs) - set(absent))]


def _counts(name: str) -> bool:
    """Batches that a norm has seen: of no use, and some files have none."""
    return name.endswith("num_batches_tracked")


def _differs(found: Tensor, wanted: Tensor) -> bool:
    """A file of averaged weights has averaged its constants, too: rounding carries 703 to 703.007 in 60,000 steps."""
    return found.shape != wanted.shape or not torch.allclose(found.double(), wanted.double(), rtol=1e-4, atol=1e-5)


def _refuse(names: list[str], what: str, theirs: State) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        heads = sorted({name.split(".")[0] for name in theirs})
        raise ValueError(
            f"the file {what}: {', '.join(names[:SHOWN])}{more}. It holds {len(theirs)} tensors of {heads[:12]}; take "
            "the file of the configuration that docs/checkpoints.md names, or another --as"
        )
