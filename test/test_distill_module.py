"""Student, frozen teachers, adapters and terms as one module: what learns, what is stored, what fits together."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, TemporalSpec
from training.distill import DISTILL_LOSSES, DistillConfig, Distiller, DistillModule, Term
from training.distill.adapters import Adapter, copy_weights, inherit_head
from training.distill.agreement import agreement, gradient_norms, gradient_share
from training.distill.channels import feature_channels
from training.distill.distillbev import DistillBevConfig
from training.distill.recipes import distillbev, radardistill, together
from training.distill.scene import Scene
from training.models.center_head import CenterHead, HeadConfig, conv_bn_relu
from training.models.detector import ONE_TASK, Memory, Prediction
from training.plain import to_plain
from training.teachers.centerpoint import CenterPoint, tiny
from training.teachers.frozen import FrozenTeacher
from training.teachers.pillarnet import PillarNet
from training.teachers.pillarnet import tiny as tiny_pillarnet
from training.trainer.lightning_module import gradients_due

GRID = BevGrid(-8.0, 8.0, -8.0, 8.0, 1.0)
SCORES = dict.fromkeys(CLASSES, 0.1)
SPEC = ModelSpec("tiny", (), (), SCORES, SCORES, grid=GRID, temporal=TemporalSpec(state_channels=0), top_k=5)


class Student(nn.Module):
    """A stand-in for a camera + radar student: two encoder stages, a radar branch, CenterPoint's head."""

    def __init__(self, spec: ModelSpec = SPEC) -> None:
        super().__init__()
        self.spec, self.config = spec, None
        self.stem = conv_bn_relu(2, 8)
        self.encoder1, self.encoder2 = conv_bn_relu(8, 12, stride=2), conv_bn_relu(12, 16, stride=2)
        self.radar = conv_bn_relu(2, 6)
        self.neck = conv_bn_relu(8 + 6, 10)
        self.head = CenterHead(10, spec.classes, HeadConfig(ONE_TASK, shared=32, hidden=32))
        self.tasks = self.head.tasks

    def forward(self, inputs: dict[str, Tensor], memory: Memory | None) -> Prediction:
        x = inputs.get("sensed", torch.zeros(1, 2, *self.spec.grid.shape))
        lifted, radar = self.stem(x), self.radar(x)
        half = self.encoder1(lifted)
        neck = self.neck(torch.cat([lifted, radar], dim=1))
        maps = {"lift": lifted, "radar": radar, "encoder1": half, "encoder2": self.encoder2(half), "neck": neck}
        heatmap, regression, aux = self.head(neck)
        return Prediction(heatmap, regression, None, aux, maps)


def student() -> Student:
    torch.manual_seed(0)
    return Student()


def centerpoint() -> FrozenTeacher:
    torch.manual_seed(1)
    return FrozenTeacher(CenterPoint(SPEC, tiny()))


def pillarnet() -> FrozenTeacher:
    torch.manual_seed(2)
    return FrozenTeacher(PillarNet(SPEC, tiny_pillarnet()))


def batch_of(samples: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    points = torch.rand(200 * samples, 6, generator=g) * torch.tensor([1, 16, 16, 2, 1, 0.5])
    points -= torch.tensor([0, 8.0, 8.0, 1.0, 0, 0])
    points[:, 0] = torch.arange(len(points)) // 200
    target = torch.zeros(samples, len(CLASSES), *GRID.shape)
    target[:, 0, 8:11, 8:11] = 0.4
    target[:, 0, 9, 9] = 1.0
    return {
        "sensed": torch.randn(samples, 2, *GRID.shape, generator=g),
        "lidar": points,
        "lidar_counts": torch.full((samples,), 200),
        "heatmap": target,
        "gt_boxes": torch.tensor([[[1.5, 1.5, 0.0, 4.0, 2.0, 1.5, 0.4]]]).repeat(samples, 1, 1),
        "gt_valid": torch.ones(samples, 1),
    }


LAYERS = (("encoder1", "encoder2"), ("encoder2", "encoder3"), ("neck", "neck"))
BEV = distillbev(LAYERS, source="lidar")
RADAR = radardistill(("radar",), (("radar", "high"), ("neck", "neck")), adapter="conv1x1", source="pillars")
BOTH = together(BEV, RADAR)


def both(**options: Any) -> DistillModule:
    torch.manual_seed(4)
    return DistillModule(student(), {"lidar": centerpoint(), "pillars": pillarnet()}, BOTH, **options)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def test_two_methods_and_two_teachers_at_once_reach_student_and_adapters_only() -> None:
    module, batch = both(), batch_of()
    teachers = [t.detector for t in module.distiller._teachers.values()]
    before = [copy.deepcopy(t.state_dict()) for t in teachers]
    module.train()
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
    untouched = DistillModule(student(), {"lidar": centerpoint()}, dataclasses.replace(BEV, inherit_head="")).student
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

    def step(m: DistillModule, o: torch.optim.Optimizer) -> float:
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
    again = DistillModule(Student(), {"lidar": centerpoint(), "pillars": pillarnet()}, BOTH).train()
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
        module = DistillModule(student(), {"lidar": centerpoint()}, DistillConfig((term,)))
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
    with pytest.raises(ValueError, match="mapping"):
        value(dataclasses.replace(term, config=3))


def test_responses_need_no_adapter_and_bring_six_tasks_to_one() -> None:
    torch.manual_seed(6)
    config = dataclasses.replace(tiny(), head=HeadConfig(shared=8, hidden=8))
    six = FrozenTeacher(CenterPoint(SPEC, config))
    terms = tuple(Term(n, "heatmap", "heatmap") for n in ("logits", "lgkd_response", "unidistill_response"))
    module = DistillModule(student(), {"teacher": six}, DistillConfig(terms))
    losses = module(batch_of())[1]
    assert all(torch.isfinite(v) for v in losses.values()) and len(losses) == 4
    total(losses).backward()
    assert all(p.grad is not None for p in module.student.head.parameters())
    assert list(module.distiller.state_dict()) == ["scales"]


def test_head_inheritance_copies_what_fits() -> None:
    module, teacher = both(), centerpoint().detector
    copied, kept = module.inherited["head"]
    own, theirs = module.student.state_dict(), teacher.state_dict()
    assert all(torch.equal(own[n], theirs[n]) for n in copied)
    assert {n.split(".")[1] for n in copied} == {"branches", "shared"}
    assert [n for n in kept if n.endswith("weight")] == ["head.shared.0.weight"]  # 10 channels, not 72
    assert all(p.requires_grad for p in module.student.head.parameters())
    with pytest.raises(ValueError, match="head"):
        inherit_head(nn.Sequential(nn.Conv2d(1, 1, 1)), teacher)
    with pytest.raises(ValueError, match="fits"):
        inherit_head(nn.ModuleDict({"head": nn.Linear(3, 3)}), teacher)


def test_copy_weights_under_another_prefix() -> None:
    source = {"conv.weight": torch.full((2, 2, 1, 1), 7.0), "conv.bias": torch.ones(3), "other": torch.ones(1)}
    target = nn.ModuleDict({"radar_conv": nn.Conv2d(2, 2, 1), "conv": nn.Conv2d(2, 2, 1)})
    result = copy_weights(target, source, "radar_", "")
    assert result.copied == ("radar_conv.weight",) and result.kept == ("radar_conv.bias",)  # another shape
    assert (target["radar_conv"].weight == 7).all() and not (target["conv"].weight == 7).any()


@pytest.mark.parametrize("kind", ["conv1x1", "upsample_conv1x1", "upsample_3layer"])
def test_adapters_reach_the_teachers_shape(kind: str) -> None:
    adapter = Adapter(kind, 4, 6)
    feature = torch.randn(2, 4, 8, 6)
    shape = (8, 6) if kind == "conv1x1" else (32, 24)
    assert adapter(feature, shape).shape == (2, 6, *shape)
    if kind == "upsample_3layer":
        convolutions = [m for m in adapter.modules() if isinstance(m, nn.Conv2d)]
        assert [(m.in_channels, m.out_channels, m.kernel_size) for m in convolutions] == [
            (4, 4, (1, 1)), (4, 4, (1, 1)), (4, 6, (1, 1)),
        ]  # fmt: skip
        assert float(adapter(feature, shape).detach().min()) >= 0


def test_identity_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="conv1x1"):
        Adapter("identity", 3, 4)
    with pytest.raises(ValueError, match="upsample_3layer"):
        Adapter("bilinear", 3, 4)
    assert not list(Adapter("identity", 3, 3).parameters())


def test_clear_words_for_terms_that_do_not_exist() -> None:
    def build(term: Term) -> Distiller:
        return Distiller(student(), {"teacher": centerpoint()}, DistillConfig((term,)))

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
        DistillModule(student(), {"teacher": centerpoint()}, DistillConfig((good,), inherit_head="mvp"))
    with pytest.raises(ValueError, match="one name"):
        Distiller(student(), {"teacher": centerpoint()}, DistillConfig((good, good)))
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
        teacher = FrozenTeacher(CenterPoint(spec, dataclasses.replace(tiny(), head=head)))
        with pytest.raises(ValueError, match=word):
            Distiller(student(), {"teacher": teacher}, DistillConfig((term,)))
    larger = Student(dataclasses.replace(SPEC, cameras=("a",), image=ImageSpec(64, 128)))
    with pytest.raises(ValueError, match="cameras"):
        Distiller(
            Student(dataclasses.replace(SPEC, cameras=("a",))),
            {"teacher": FrozenTeacher(larger)},
            DistillConfig((term,)),
        )
    module = DistillModule(student(), {"teacher": FrozenTeacher(CenterPoint(fine, tiny()))}, DistillConfig((term,)))
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


def test_feature_channels_leave_the_network_as_it_is() -> None:
    network = student().train()
    frozen = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    assert feature_channels(network) == {"lift": 8, "radar": 6, "encoder1": 12, "encoder2": 16, "neck": 10}
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert not frozen.training and [m.training for m in network.modules()] == modes
    assert feature_channels(centerpoint().detector)["neck"] == 72


def test_agreement_by_region() -> None:
    batch, teacher = batch_of(1), torch.randn(1, 4, *GRID.shape)
    prediction = Prediction(torch.full((1, 10, *GRID.shape), -9.0), torch.zeros(1, 1, 10, *GRID.shape))
    prediction.heatmap[0, 0, 0, 0] = 3.0
    scene = Scene(GRID, batch, prediction, prediction)
    same = agreement(teacher, teacher, scene)
    assert {n: float(v) for n, v in same.items()} == pytest.approx(
        {
            f"{kind}/{r}": float(kind == "cosine")
            for r in ("foreground", "false_positive", "background")
            for kind in ("cosine", "error")
        }
    )
    student_map = teacher.clone()
    student_map[:, :, 0, 0] *= -1  # the cell of the false positive
    changed = agreement(student_map, teacher, scene)
    assert float(changed["cosine/false_positive"]) == pytest.approx(-1)
    assert float(changed["error/false_positive"]) == pytest.approx(4)
    assert float(changed["cosine/foreground"]) == pytest.approx(1) and float(changed["error/background"]) == 0
    _, _, diagnostics = both(diagnose=True)(batch_of())
    assert "distillbev_neck/cosine/foreground" in diagnostics
    assert all(not v.requires_grad and torch.isfinite(v) for v in diagnostics.values())
    assert both()(batch_of())[2] == {}


def test_terms_pull_as_hard_as_they_are_told() -> None:
    """Together they have the share of detection's gradient that `pull` says, each by its weight; later they follow
    slowly."""
    module, batch = both(), batch_of()
    config = dataclasses.replace(
        BOTH, pull=0.2, terms=(dataclasses.replace(BOTH.terms[0], weight=0.5), *BOTH.terms[1:])
    )
    module.distiller.config = config
    keys = [term.key for term in config.terms]

    def shares(detection: float = 3.0) -> dict[str, float]:
        _, losses, _ = module(batch)
        terms = {key: total({n: v for n, v in losses.items() if n.split("/")[0] == key}) for key in keys}
        norms = gradient_norms(terms, module.student.parameters())
        return {key: float(norm.norm()) / detection for key, norm in norms.items()}

    before = shares()
    changes = module.distiller.balance(before, settled=True)  # the first time at once
    weights = sum(term.weight for term in config.terms)
    expected = {term.key: 0.2 * term.weight / weights for term in config.terms}
    assert len(set(expected.values())) == 2
    assert sum(expected.values()) == pytest.approx(0.2)
    assert shares() == pytest.approx(expected, rel=1e-3)
    assert changes == pytest.approx({key: expected[key] / before[key] for key in keys}, rel=1e-3)
    module.distiller.balance(shares(12.0), settled=True)  # four times detection: half of the way
    assert shares() == pytest.approx({key: 2 * value for key, value in expected.items()}, rel=1e-3)
    module.distiller.balance(shares(12.0), settled=False)  # early: all of it
    assert shares(12.0) == pytest.approx(expected, rel=1e-3)
    scales = module.distiller.scales.clone()
    assert module.distiller.balance(shares(1e9) | {keys[1]: math.nan}, settled=True)[keys[1]] == 1.0
    assert module.distiller.scales.tolist() == pytest.approx((scales * torch.tensor([4.0, 1.0, *[4.0] * 4])).tolist())
    assert "distiller.scales" in module.state_dict()
    untouched = both()
    assert untouched.distiller.balance(dict.fromkeys(keys, 1.0), settled=False) == dict.fromkeys(keys, 1.0)
    assert untouched.distiller.scales.tolist() == [0.0] * len(keys)


def test_gradient_norms_are_those_of_each_loss_alone() -> None:
    w, other = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    frozen, unused = torch.ones(2), torch.ones(2, requires_grad=True)
    losses = {"a": 2 * (w**2).sum() + 5 * other.sum(), "b": w.sum(), "c": torch.tensor(1.0), "d": unused.sum()}
    norms = gradient_norms(losses, [w, frozen, other])
    assert {n: v.tolist() for n, v in norms.items()} == {
        "a": [20.0, 5.0], "b": [pytest.approx(2**0.5), 0.0], "c": [0.0, 0.0], "d": [0.0, 0.0],
    }  # fmt: skip
    # "b" does not reach `other`, so what detection asks of it does not count.
    assert gradient_share(norms["b"], norms["a"]) == pytest.approx(2**0.5 / 20)
    assert math.isnan(gradient_share(norms["c"], norms["a"])) and math.isnan(gradient_share(norms["a"], norms["c"]))
    assert w.grad is None
    total({n: v for n, v in losses.items() if n != "c"}).backward()  # the graph is still there


def test_gradients_are_looked_at_often_at_first() -> None:
    assert [step for step in range(401) if gradients_due(step)] == [0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400]


def test_the_table_names_every_method() -> None:
    for prefix in ("plain", "foreground", "logits", "distillbev", "lgkd", "radardistill", "unidistill", "bevdistill"):
        assert any(name.startswith(prefix) for name in DISTILL_LOSSES)
    for loss in DISTILL_LOSSES.values():
        config = loss.config()
        assert dataclasses.is_dataclass(config) and loss.settings(to_plain(config), "config") == config
    assert DISTILL_LOSSES["distillbev"].config is DistillBevConfig
