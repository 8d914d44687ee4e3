"""Student, frozen teachers, adapters and terms as one module: what learns, what is stored, what fits together."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from tiny_distill import (
    BEV,
    BOTH,
    SPEC,
    Student,
    Taught,
    batch_of,
    both,
    centerpoint,
    pillarnet,
    single_frame,
    student,
    total,
)
from tiny_networks import CONFIGS
from torch import Tensor

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ImageSpec
from bev_perception.plain import to_plain
from training.distill import DISTILL_LOSSES, DistillConfig, Distiller, Term
from training.distill.distillbev import DistillBevConfig
from training.models.center_head import HeadConfig
from training.models.detector import Prediction
from training.recipes.distillation import together
from training.teachers.centerpoint import CenterPoint
from training.teachers.frozen import FrozenTeacher


def test_two_methods_and_two_teachers_at_once_reach_student_and_adapters_only() -> None:
    module, batch = both(), batch_of()
    teachers = [t.detector for t in module.distiller._teachers.values()]
    before = [copy.deepcopy(t.state_dict()) for t in teachers]
    module.train()
    for teacher in teachers:
        teacher.train()  # even on purpose
    optimizer = torch.optim.SGD(module.parameters(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        _, losses, _ = module(batch)
        total(losses).backward()
        optimizer.step()
    assert {name.split("/")[0] for name in losses} == {
        "distillbev_encoder1", "distillbev_encoder2", "distillbev_neck", "radardistill_afd_radar",
        "radardistill_pfd_radar", "radardistill_pfd_neck",
    }  # fmt: skip
    assert "distillbev_neck/false_positive" in losses and "distillbev_encoder1/false_positive" not in losses
    silent = [n for n, p in module.named_parameters() if p.grad is None]
    assert silent and all(n.startswith("student.head.") for n in silent)  # features do not reach the head
    reached = {n.split(".")[1] for n, p in module.student.named_parameters(prefix="s") if p.grad is not None}
    assert reached == {"stem", "encoder1", "encoder2", "radar", "neck"}
    for teacher, old in zip(teachers, before, strict=True):
        assert not teacher.training
        assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
        assert all(torch.equal(t, old[n]) for n, t in teacher.state_dict().items())  # statistics too


def test_parameters_and_state_dict_hold_no_teacher() -> None:
    module = both()
    names = set(module.state_dict())
    assert {n.split(".")[0] for n in names} == {"student", "distiller"}
    assert {n.split(".")[1] for n in names if n.startswith("distiller")} == {"adapters", "parts", "scales"}
    held = {p.data_ptr() for p in module.parameters()} | {b.data_ptr() for b in module.buffers()}
    for teacher in module.distiller._teachers.values():
        assert not held & {p.data_ptr() for p in teacher.detector.parameters()}
    stored = io.BytesIO()
    torch.save(module.state_dict(), stored)
    sizes = [sum(t.numel() for t in m.state_dict().values()) for m in (module.student, module.distiller)]
    assert sum(t.numel() for t in module.state_dict().values()) == sum(sizes)
    # The student is what it is without distillation, byte for byte.
    plain = student()
    assert list(plain.state_dict()) == list(module.student.state_dict())
    assert [t.shape for t in plain.state_dict().values()] == [t.shape for t in module.student.state_dict().values()]
    untouched = Taught(student(), {"lidar": centerpoint()}, dataclasses.replace(BEV, inherit_head="")).student
    assert all(torch.equal(t, untouched.state_dict()[n]) for n, t in plain.state_dict().items())


def test_training_does_not_end_the_teachers_eval_mode_and_moves_take_them_along() -> None:
    module = both().train()
    detectors = [t.detector for t in module.distiller._teachers.values()]
    assert not any(m.training for d in detectors for m in d.modules())
    module.double()
    assert {p.dtype for d in detectors for p in d.parameters()} == {torch.float64}


def test_resume_keeps_the_adapters() -> None:
    batch, module = batch_of(), both().train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)

    def step(m: Taught, o: torch.optim.Optimizer) -> float:
        o.zero_grad()
        loss = total(m(batch)[1])
        loss.backward()
        o.step()
        return float(loss.detach())

    step(module, optimizer)
    stored = io.BytesIO()
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, stored)
    stored.seek(0)
    checkpoint = torch.load(stored, weights_only=True)
    goes_on = [step(module, optimizer) for _ in range(2)]
    torch.manual_seed(99)  # other fresh weights
    again = Taught(Student(), {"lidar": centerpoint(), "pillars": pillarnet()}, BOTH).train()
    other = torch.optim.AdamW(again.parameters(), 1e-3)
    again.load_state_dict(checkpoint["model"])
    other.load_state_dict(checkpoint["optimizer"])
    assert [step(again, other) for _ in range(2)] == goes_on


def test_the_student_predicts_as_it_does_alone() -> None:
    module, batch = both().eval(), batch_of()
    with torch.no_grad():
        prediction, _, _ = module(batch)
        alone = module.student(batch, None)
    assert torch.equal(prediction.heatmap, alone.heatmap) and torch.equal(prediction.regression, alone.regression)


def test_predict_runs_the_student_and_the_teachers_its_own_way() -> None:
    seen: list[str] = []

    def predict(detector: Any, batch: dict[str, Tensor]) -> Prediction:
        seen.append(type(detector).__name__)
        prediction: Prediction = detector(batch, None)
        return prediction

    both(predict=predict)(batch_of())
    assert sorted(seen) == ["CenterPoint", "PillarNet", "Student"]  # each teacher once, whatever the number of terms


def test_weights_and_configs_of_terms() -> None:
    batch = batch_of()
    plain = Term("plain_feature", "neck", "neck", adapter="upsample_conv1x1", source="lidar")

    def value(term: Term) -> dict[str, float]:
        torch.manual_seed(5)
        module = Taught(student(), {"lidar": centerpoint()}, DistillConfig((term,)))
        return {n: float(v.detach()) for n, v in module(batch)[1].items()}

    one = value(plain)
    assert list(one) == ["plain_feature_neck/feature"]
    doubled = value(dataclasses.replace(plain, weight=2.0, config={"weight": 3.0}, name="mine"))
    assert doubled == {"mine/feature": pytest.approx(6 * one["plain_feature_neck/feature"])}
    # A config read back from JSON is the same config.
    term = BEV.terms[-1]
    data = json.loads(json.dumps(to_plain(term)))
    assert value(Term(**data)) == value(term)
    with pytest.raises(ValueError, match="foregrund"):
        value(dataclasses.replace(term, config={"foregrund": 1.0}))
    with pytest.raises(ValueError, match="must be an object"):
        value(dataclasses.replace(term, config=3))


def test_responses_need_no_adapter_and_bring_six_tasks_to_one() -> None:
    torch.manual_seed(6)
    config = dataclasses.replace(CONFIGS["centerpoint"], head=HeadConfig(shared=8, hidden=8))
    six = FrozenTeacher(CenterPoint(SPEC, config))
    terms = tuple(Term(n, "heatmap", "heatmap") for n in ("logits", "lgkd_response", "unidistill_response"))
    module = Taught(student(), {"teacher": six}, DistillConfig(terms))
    losses = module(batch_of())[1]
    assert all(torch.isfinite(v) for v in losses.values()) and len(losses) == 4
    total(losses).backward()
    assert all(p.grad is not None for p in module.student.head.parameters())
    assert list(module.distiller.state_dict()) == ["scales"]


def test_clear_words_for_terms_that_do_not_exist() -> None:
    def build(term: Term) -> Distiller:
        return Distiller(student(), {"teacher": centerpoint()}, DistillConfig((term,)), single_frame)

    good = Term("plain_feature", "neck", "neck", adapter="conv1x1")
    for change, word in (
        ({"loss": "fitnet"}, "plain_feature"),
        ({"adapter": "linear"}, "upsample_3layer"),
        ({"source": "mvp"}, "teacher"),
        ({"student": "nek"}, "encoder1"),
        ({"teacher": "conv4"}, "encoder3"),
    ):
        with pytest.raises(ValueError, match=word):
            build(dataclasses.replace(good, **change))
    with pytest.raises(ValueError, match="inherit_head: there is no teacher 'mvp'"):
        Taught(student(), {"teacher": centerpoint()}, DistillConfig((good,), inherit_head="mvp"))
    with pytest.raises(ValueError, match="one name"):
        Distiller(student(), {"teacher": centerpoint()}, DistillConfig((good, good)), single_frame)
    with pytest.raises(KeyError, match=r"aux\.depth"):
        build(dataclasses.replace(good, student="aux.depth", adapter="identity"))(
            student()(batch_of(), None), batch_of()
        )
    with pytest.raises(ValueError, match="inherit=False"):
        together(BEV, BEV)


def test_a_teacher_of_another_range_or_other_classes_is_refused() -> None:
    far = dataclasses.replace(SPEC, grid=BevGrid(-16, 16, -16, 16, 1.0))
    few = dataclasses.replace(SPEC, classes=("car", "truck"))
    fine = dataclasses.replace(SPEC, grid=BevGrid(-8, 8, -8, 8, 0.5))
    term = Term("plain_feature", "neck", "neck", adapter="upsample_conv1x1")
    for spec, word in ((far, "range"), (few, "classes")):
        head = HeadConfig((spec.classes,), 8, 8)
        teacher = FrozenTeacher(CenterPoint(spec, dataclasses.replace(CONFIGS["centerpoint"], head=head)))
        with pytest.raises(ValueError, match=word):
            Distiller(student(), {"teacher": teacher}, DistillConfig((term,)), single_frame)
    larger = Student(dataclasses.replace(SPEC, cameras=("a",), image=ImageSpec(64, 128)))
    with pytest.raises(ValueError, match="cameras"):
        Distiller(
            Student(dataclasses.replace(SPEC, cameras=("a",))),
            {"teacher": FrozenTeacher(larger)},
            DistillConfig((term,)),
            single_frame,
        )
    teacher = FrozenTeacher(CenterPoint(fine, CONFIGS["centerpoint"]))
    module = Taught(student(), {"teacher": teacher}, DistillConfig((term,)))
    assert torch.isfinite(total(module(batch_of())[1]))


def test_mixed_precision_and_empty_scenes_stay_finite() -> None:
    module, empty = both().train(), batch_of()
    empty |= {
        "lidar": torch.zeros(0, 6),
        "lidar_counts": torch.zeros(2, dtype=torch.int64),
        "gt_valid": torch.zeros(2, 1),
    }
    empty["heatmap"] = torch.zeros_like(empty["heatmap"])
    for batch in (empty, batch_of()):
        with torch.autocast("cpu", torch.bfloat16):
            _, losses, _ = module(batch)
        assert all(torch.isfinite(v) and v.dtype == torch.float32 for v in losses.values())
        total(losses).backward()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_batch_order_does_not_matter() -> None:
    module, batch = both().eval(), batch_of()
    turned = {n: v.flip(0) for n, v in batch.items()}
    turned["lidar"] = batch["lidar"].clone()
    turned["lidar"][:, 0] = 1 - turned["lidar"][:, 0]
    batch["gt_boxes"] = batch["gt_boxes"] + torch.tensor([0.0, 1.0])[:, None, None]
    turned["gt_boxes"] = batch["gt_boxes"].flip(0)
    one, other = module(batch)[1], module(turned)[1]
    for name, value in one.items():
        assert float(value.detach()) == pytest.approx(float(other[name].detach()), rel=1e-4)


def test_the_table_names_every_method() -> None:
    for prefix in ("plain", "foreground", "logits", "distillbev", "lgkd", "radardistill", "unidistill", "bevdistill"):
        assert any(name.startswith(prefix) for name in DISTILL_LOSSES)
    for loss in DISTILL_LOSSES.values():
        config = loss.config()
        assert dataclasses.is_dataclass(config) and loss.settings(to_plain(config), "config") == config
    assert DISTILL_LOSSES["distillbev"].config is DistillBevConfig
