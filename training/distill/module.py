"""A student and what teaches it, by composition: frozen teachers, adapters, and a list of terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bev_perception.model_spec import ModelSpec
from training.distill.adapters import ADAPTERS, Adapter, Inherited, copy_weights, inherit_head
from training.distill.agreement import agreement
from training.distill.cache import TeacherCache
from training.distill.channels import feature_channels
from training.distill.config import DistillConfig
from training.distill.losses import DISTILL_LOSSES
from training.distill.scene import Pair, Scene
from training.distill.turned_head import frame_of
from training.models.detector import Detector, Prediction, task_index
from training.teachers.frozen import FrozenTeacher


def take_over(student: Detector, config: DistillConfig, teachers: Mapping[str, FrozenTeacher]) -> dict[str, Inherited]:
    """Overwrite fresh weights of the student with its teachers', as far as `config` says -> what "weights" and "head"
    were overwritten. Raises ValueError when there is no such teacher or submodule, or nothing fits."""
    for field in ("start_from", "inherit_head"):
        if getattr(config, field) and getattr(config, field) not in teachers:
            raise ValueError(f"{field}: there is no teacher {getattr(config, field)!r}; there are {sorted(teachers)}")
    found = {}
    if config.start_from:
        known = [name for name, _ in student.named_children()]
        if config.start_into and config.start_into not in known:
            raise ValueError(f"start_into: the student has no part {config.start_into!r}; it has {known}")
        frames = [frame_of(detector) for detector in (student, teachers[config.start_from].detector)]
        if frames[0] != frames[1]:
            raise ValueError(
                f"start_from: the student computes in {frames[0]}, its teacher in {frames[1]}; weights of one frame "
                "mean nothing in the other: set config.frame of the student to the teacher's"
            )
        prefix = f"{config.start_into}." if config.start_into else ""
        found["weights"] = copy_weights(student, teachers[config.start_from].detector.state_dict(), prefix)
    if config.inherit_head:
        found["head"] = inherit_head(student, teachers[config.inherit_head].detector)
    return found


class Distilled(NamedTuple):
    """losses: weighted scalars to add to the detection loss, "term/part"; diagnostics: detached, never summed."""

    losses: dict[str, Tensor]
    diagnostics: dict[str, Tensor]


Predict = Callable[[Detector, dict[str, Tensor]], Prediction]


def pick(prediction: Prediction, name: str, whose: str) -> Tensor:
    """The tensor that a term names. Raises KeyError with what there is."""
    found: Tensor | None = None
    if name in prediction.features:
        found = prediction.features[name]
    elif name in ("heatmap", "regression", "state"):
        found = getattr(prediction, name)
    elif name.startswith("aux."):
        found = prediction.aux.get(name[4:])
    if found is None:
        names = [*prediction.features, "heatmap", "regression", *(f"aux.{n}" for n in prediction.aux)]
        raise KeyError(f"the {whose} has no {name!r}; it has {names}")
    return found


class Distiller(nn.Module):
    """Teachers, adapters and terms; forward(the student's prediction, batch) -> Distilled.

    It does not own the student. Its state dict holds adapters and what losses learn; teachers are in no state dict, no
    optimiser and no gradient, and follow `.to()`. scales (terms,): factors that config.pull leads to, 0 until
    `balance` has measured. `caches` give a teacher's outputs from disk. predict(detector, batch) runs a teacher.
    diagnose: also measure how far student and teacher agree, by region.

    Raises ValueError when a term names an unknown loss, teacher or adapter, or when a teacher covers another range,
    has other classes or expects other images or radar maps than the student.
    """

    scales: Tensor

    def __init__(
        self,
        student: Detector,
        teachers: Mapping[str, FrozenTeacher],
        config: DistillConfig,
        predict: Predict,
        caches: Mapping[str, TeacherCache] | None = None,
        diagnose: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.diagnose = config, diagnose
        self.spec, self.of_class = student.spec, task_index(student.tasks, student.spec.classes)
        # A plain dict of plain objects: torch does not see the networks in it.
        self._teachers, self.caches, self._predict = dict(teachers), dict(caches or {}), predict
        for name, teacher in self._teachers.items():
            _check_teacher(name, teacher.detector, student.spec)
        _check_terms(config, self._teachers)
        own = feature_channels(student)
        theirs = {name: feature_channels(teacher.detector) for name, teacher in self._teachers.items()}
        self._settings = [DISTILL_LOSSES[t.loss].settings(t.config, f"the config of {t.key}") for t in config.terms]
        self.adapters, self.parts = nn.ModuleDict(), nn.ModuleDict()
        self.register_buffer("scales", torch.zeros(len(config.terms)))
        for term, settings in zip(config.terms, self._settings, strict=True):
            if term.adapter != "identity":
                channels = (
                    _channels(own, term.student, "student"),
                    _channels(theirs[term.source], term.teacher, "teacher"),
                )
                self.adapters[term.key] = Adapter(term.adapter, *channels)
            part = DISTILL_LOSSES[term.loss].part(settings)
            if part is not None:
                self.parts[term.key] = part

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """Teachers go where the module goes: `.to(device)`, `.half()`."""
        for teacher in self._teachers.values():
            teacher.detector._apply(fn)
        return super()._apply(fn, recurse)

    def teach(self, source: str, batch: dict[str, Tensor]) -> Prediction:
        """The teacher's prediction, from its cache where there is one; no gradient."""
        detector = self._teachers[source].detector

        def compute() -> Prediction:
            detector.eval()
            with torch.no_grad():
                return self._predict(detector, batch)

        if source in self.caches:
            return self.caches[source].predict(batch, compute, self.read_of(source))
        return compute()

    def read_of(self, source: str) -> set[str]:
        """The features of a teacher that the terms read."""
        terms = [t for t in self.config.terms if t.source == source]
        return {name for t in terms for name in (t.teacher, *DISTILL_LOSSES[t.loss].needs)}

    def forward(self, prediction: Prediction, batch: dict[str, Tensor]) -> Distilled:
        losses: dict[str, Tensor] = {}
        diagnostics: dict[str, Tensor] = {}
        scenes = {name: self._scene(name, prediction, batch) for name in {t.source for t in self.config.terms}}
        for term, settings, scale in zip(self.config.terms, self._settings, self.scales.clone(), strict=True):
            scene = scenes[term.source]
            student = pick(prediction, term.student, "student")
            teacher = pick(scene.teacher, term.teacher, "teacher").detach()
            unadapted = None
            if term.key in self.adapters:
                unadapted = student
                student = self.adapters[term.key](student, (teacher.shape[2], teacher.shape[3]))
            part = self.parts[term.key] if term.key in self.parts else None
            # Sums of squares over a map overflow half precision.
            with torch.autocast(student.device.type, enabled=False):
                parts = DISTILL_LOSSES[term.loss](Pair(student, teacher, part, unadapted), scene, settings)
                weight = term.weight * torch.where(scale > 0, scale, 1.0)
                losses |= {f"{term.key}/{name}": weight * value for name, value in parts.items()}
                if self.diagnose and student.ndim == 4 and student.shape == teacher.shape:
                    found = agreement(student, teacher, scene)
                    diagnostics |= {f"{term.key}/{name}": value for name, value in found.items()}
        return Distilled(losses, diagnostics)

    @torch.no_grad()
    def balance(self, shares: Mapping[str, float], settled: bool) -> dict[str, float]:
        """Scale the terms by how hard they pull beside detection -> by `Term.key`, by how much their losses change.

        shares: by `Term.key`, the `gradient_share` of the losses as `forward` gave them; nan leaves a term as it is.
        settled: go half of the way on a logarithmic scale and at most four times: a batch without objects says little.
        Before, all of the way: while batch norms are fresh gradients fall a thousandfold within a few steps.
        """
        changes = {term.key: 1.0 for term in self.config.terms}
        if not self.config.pull:
            return changes
        weights = sum(term.weight for term in self.config.terms)
        for i, term in enumerate(self.config.terms):
            before, share = float(self.scales[i]), shares[term.key]
            if share > 0:
                change = term.weight / weights * self.config.pull / share
                if before and settled:
                    change = min(max(change**0.5, 0.25), 4.0)
                self.scales[i] = (before or 1.0) * change
                changes[term.key] = change
        return changes

    def _scene(self, source: str, prediction: Prediction, batch: dict[str, Tensor]) -> Scene:
        detector = self._teachers[source].detector
        return Scene(
            grid=self.spec.grid,
            batch=batch,
            student=prediction,
            teacher=self.teach(source, batch),
            student_of_class=self.of_class,
            teacher_of_class=task_index(detector.tasks, detector.spec.classes),
            bins=detector.bins,
            image_height=detector.spec.image.height if detector.spec.cameras else 0,
        )


def _channels(known: dict[str, int], name: str, whose: str) -> int:
    if name not in known:
        raise ValueError(f"the {whose} has no feature {name!r} to adapt; it has {sorted(known)}")
    return known[name]


def _check_teacher(name: str, detector: Detector, spec: ModelSpec) -> None:
    ours, theirs = (dataclasses.replace(s.grid, step=s.grid.x_max - s.grid.x_min) for s in (spec, detector.spec))
    if ours != theirs:
        raise ValueError(
            f"teacher {name!r} covers {detector.spec.grid}, the student {spec.grid}: cells are not the same "
            "places; train a teacher on the student's range (the cell size may differ)"
        )
    for sensors, facts in (("cameras", "image"), ("radars", "radar")):
        found = [(getattr(one, sensors), getattr(one, facts)) for one in (detector.spec, spec)]
        if found[0][0] and found[0] != found[1]:
            raise ValueError(f"teacher {name!r} and the student read the same {sensors}, yet they expect {found}")
    if detector.spec.classes != spec.classes:
        raise ValueError(f"teacher {name!r} has the classes {detector.spec.classes}, the student {spec.classes}")


def _check_terms(config: DistillConfig, teachers: Mapping[str, FrozenTeacher]) -> None:
    for term in config.terms:
        for value, known, what in (
            (term.loss, DISTILL_LOSSES, "loss"),
            (term.source, teachers, "teacher"),
            (term.adapter, ADAPTERS, "adapter"),
        ):
            if value not in known:
                raise ValueError(f"term {term.key}: there is no {what} {value!r}; there are {sorted(known)}")
    keys = [t.key for t in config.terms]
    if len(set(keys)) != len(keys):
        raise ValueError(f"two terms have one name: {keys}; give each its own `name`")
