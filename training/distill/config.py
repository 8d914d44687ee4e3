"""What a run learns from teachers, as plain data: a list of terms, and what the student starts with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bev_perception.plain import to_plain


@dataclass(frozen=True)
class Term:
    """One loss on one pair of tensors.

    loss: a key of DISTILL_LOSSES. student, teacher: what of the two predictions, a name of `features`, or "heatmap",
    "regression", "state", "aux.<name>". config: the loss's own, None for the published one; weight: a factor
    on top of the weights in it. adapter: see Adapter. source: which teacher. name: of its parts in logs and of its
    adapter in checkpoints.
    """

    loss: str
    student: str
    teacher: str
    weight: float = 1.0
    config: Any = None
    adapter: str = "identity"
    source: str = "teacher"
    name: str = ""

    def __post_init__(self) -> None:
        if dataclasses.is_dataclass(self.config):  # one form, which survives JSON
            object.__setattr__(self, "config", to_plain(self.config))

    @property
    def key(self) -> str:
        return (self.name or f"{self.loss}_{self.student}").replace(".", "_")


@dataclass(frozen=True)
class DistillConfig:
    """terms: all losses, any number of methods and teachers at once. inherit_head: the teacher whose head the student's
    starts from, "" for none. start_from: the teacher whose weights the student starts from wherever names and shapes
    agree (RadarDistill), "" for none; start_into: the submodule of the student that does so instead of the whole, such
    as "radar". pull: scale the terms so that together they pull this much as hard as detection,
    each its share by weight, measured as training goes by the gradients on what of the student a term reaches; 0 takes
    the losses as they are, as published."""

    terms: tuple[Term, ...] = ()
    inherit_head: str = ""
    start_from: str = ""
    start_into: str = ""
    pull: float = 0.0

    def __post_init__(self) -> None:
        if not self.pull >= 0:
            raise ValueError(f"distill.pull must be 0 (losses as they are) or a share above it, found {self.pull}")
