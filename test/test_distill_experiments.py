"""The distilled experiments: every run fits the teachers that it names, and survives its JSON."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from tiny_distill import Taught
from tiny_networks import CONFIGS

from bev_perception.grid import BevGrid
from bev_perception.model_spec import RadarSpec
from bev_perception.plain import to_plain
from training.convert.pillarnet import run as published_pillarnet
from training.distill.adapters import copy_weights, inherit_head
from training.distill.module import _check_teacher, take_over
from training.experiments import (
    bevdepth_large,
    centerpoint,
    demo,
    demo_distilled,
    distillation,
    lgkd,
    lidar_transformer,
    mvp,
    pillarnet,
)
from training.experiments import (
    distillbev as pairs,
)
from training.experiments import (
    radardistill as radar_runs,
)
from training.models import STUDENTS, bevdet
from training.models.bev_encoder import BevEncoder, BevEncoderConfig
from training.models.frame import LIDAR_TOP
from training.recipes.distillation import distillbev, radardistill, together
from training.run import Run, build_detector, run_from_plain, run_to_plain
from training.teachers import TEACHERS
from training.teachers.frozen import FrozenTeacher
from training.trainer.teaching import teacher_names

PAPER_TEACHERS = {
    "centerpoint": centerpoint.pillar(), "mvp": mvp.pillar(), "lidar_transformer": lidar_transformer.lidar18(),
    "pillarnet": pillarnet.lidar18(), "bevdepth_large": bevdepth_large.convnext_base(),
}  # fmt: skip
DISTILLED = {
    f"{module.__name__.rsplit('.', 1)[1]}:{name}": make()
    for module in (pairs, lgkd, radar_runs)
    for name, make in vars(module).items()
    if callable(make) and getattr(make, "__annotations__", {}) == {"return": "Run"}
}


def test_all_published_pairs_are_there() -> None:
    found = {(run.model, name) for run in DISTILLED.values() for name in teacher_names(run)}
    wanted = {(s, t) for s in ("bevdet", "bevdet4d", "bevdepth") for t in ("centerpoint", "mvp")}
    wanted |= {("bevformer", "lidar_transformer"), ("bevformer", "mvp"), ("camera_radar", "centerpoint")}
    wanted |= {("radar_pillarnet", "pillarnet"), ("bevdepth", "bevdepth_large"), ("bevfusion", "pillarnet")}
    assert found >= wanted


@pytest.mark.parametrize("name", DISTILLED)
def test_published_runs_fit_their_teachers(name: str) -> None:
    run = DISTILLED[name]
    small = {"centerpoint": centerpoint.small(), "pillarnet": pillarnet.small()} if run.model == "camera_radar" else {}
    wide = {"centerpoint": radar_runs.centerpoint_54()} if run.model == "bevfusion" else {}
    released = {"pillarnet": published_pillarnet(LIDAR_TOP)} if name.endswith("_from_published") else {}
    fit(run, PAPER_TEACHERS | small | wide | released)


def test_the_shipped_student_goes_on_as_it_would_alone() -> None:
    run, alone = demo_distilled.student(), demo.finetune()
    fit(run, {"centerpoint": demo_distilled.teacher()})
    data = dataclasses.replace(run.data, lidar=alone.data.lidar)
    optim = dataclasses.replace(run.optim, steps=alone.optim.steps)
    assert dataclasses.replace(run, distill=None, data=data, optim=optim) == alone


def test_runs_of_the_study_fit_their_teachers() -> None:
    study = distillation.study()
    for run in study.values():
        fit(run, study)
    order = list(study)
    assert all(order.index(t) < order.index(name) for name, run in study.items() for t in teacher_names(run))


def test_students_of_the_study_see_few_drives_and_search_scores_none_of_the_evaluation() -> None:
    study, search = distillation.study(), distillation.search()
    for name, run in (study | search).items():
        every = name in TEACHERS or name in ("bevdet_many", "bevdet_all_1_many")
        assert run.data.train_scenes == (0 if every else distillation.DRIVES), name
    assert {run.data.holdout for run in study.values()} == {0}
    assert {run.data.holdout for run in search.values()} == {distillation.HOLDOUT}
    for run in search.values():
        fit(run, search)


def test_heads_of_teachers_are_inherited() -> None:
    """Shapes of every head: all behind the shared convolution fits, of published runs and of the study's."""
    study = distillation.study() | distillation.search()
    runs = [(run, PAPER_TEACHERS) for run in DISTILLED.values()] + [(run, study) for run in study.values()]
    heads = {
        (run.model, json.dumps(to_plain(run.config)), teacher): (run, teachers[teacher])
        for run, teachers in runs
        if run.distill is not None and (teacher := run.distill.inherit_head)
    }
    assert len({key[0] for key in heads}) == 5 and len(heads) >= 15
    for run, teacher in heads.values():
        student, source = build_detector(run), build_detector(teacher)
        with torch.no_grad():
            for p in source.parameters():
                p.fill_(0.5)
        copied, kept = inherit_head(student, source)
        assert any(".branches." in name and name.endswith("weight") for name in copied)
        assert all(".shared." in f".{name}" for name in kept), (run.spec.name, kept)


def test_the_studys_fusion_student_takes_over_a_whole_radar_branch() -> None:
    study = distillation.study()
    run = study["bevfusion_pillarnet_from_radar_pillarnet_from_pillarnet"]
    student, radar = build_detector(run), build_detector(study["radar_pillarnet_from_pillarnet"])
    found = take_over(student, run.distill, {"radar_pillarnet_from_pillarnet": FrozenTeacher(radar)})
    assert not found["weights"].kept and len(found["weights"].copied) == len(student.radar.state_dict())
    with pytest.raises(ValueError, match=r"no part 'sonar'.*'radar'"):
        take_over(student, dataclasses.replace(run.distill, start_into="sonar"), {run.distill.start_from: radar})
    with pytest.raises(ValueError, match="start_from: there is no teacher"):
        take_over(student, run.distill, {})


def fit(run: Run, teachers: dict[str, Run]) -> None:
    assert run_to_plain(run_from_plain(run_to_plain(run), "here")) == run_to_plain(run)
    for name in teacher_names(run):
        teacher = teachers[name]
        _check_teacher(name, SimpleNamespace(spec=teacher.spec), run.spec)
        for what in ("lidar", "virtual"):
            assert getattr(teacher.data, what) in (None, getattr(run.data, what)), what


def test_the_map_before_the_head_may_end_in_norm_and_relu() -> None:
    bev = torch.randn(2, 4, 16, 16)
    plain, normed = (
        BevEncoder(4, BevEncoderConfig((8, 8, 8), 1, 8, neck_norm=on))(bev)["neck"] for on in (False, True)
    )
    assert plain.min() < 0 and normed.min() == 0 and plain.shape == normed.shape
    assert pairs.bevdet_r50_from_mvp().config.encoder.neck_norm and not bevdet.BevDetConfig().encoder.neck_norm


def fusion_with_pillarnet() -> Any:
    grid = BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8)
    radar = RadarSpec(format="pillars", pillar_step=0.4, max_pillars=60, pillar_points=4)
    spec = dataclasses.replace(
        DISTILLED["radardistill:bevfusion_r50"].spec, cameras=("a", "b"), radars=("r",), grid=grid, radar=radar, top_k=5
    )
    image = dataclasses.replace(spec.image, height=32, width=64)
    config = dataclasses.replace(CONFIGS["bevfusion"], pillarnet=CONFIGS["radar_pillarnet"].backbone)
    return STUDENTS["bevfusion"].module(dataclasses.replace(spec, image=image), config)


def test_a_fusion_student_starts_its_radar_branch_from_a_radar_student() -> None:
    fusion = fusion_with_pillarnet()
    facts = dataclasses.replace(fusion.spec, cameras=())
    radar: Any = STUDENTS["radar_pillarnet"].module(facts, CONFIGS["radar_pillarnet"])
    copied, kept = copy_weights(fusion, radar.state_dict(), "radar.")
    assert not kept and len(copied) == len(fusion.radar.state_dict())
    (points,) = (t.shape for t in facts.inputs() if t.name == "radar_points")
    inputs = {"radar_points": torch.rand(1, *points)}
    inputs["radar_counts"] = torch.full((1, 60), 2)
    inputs["radar_cells"] = torch.arange(60)[None] * 7
    inputs["radar_valid"] = torch.ones(1, 1)
    with torch.no_grad():
        ours, theirs = fusion.radar.eval().maps(inputs), radar.eval().maps(inputs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_both_methods_teach_the_fusion_student_by_their_own_features() -> None:
    fusion = fusion_with_pillarnet()
    spec = dataclasses.replace(fusion.spec, cameras=(), radars=())
    teachers = {
        "centerpoint": FrozenTeacher(TEACHERS["centerpoint"].module(spec, CONFIGS["centerpoint"])),
        "pillarnet": FrozenTeacher(TEACHERS["pillarnet"].module(spec, CONFIGS["pillarnet"])),
    }
    terms = DISTILLED["radardistill:bevfusion_r50_from_both"].distill
    module = Taught(fusion, teachers, dataclasses.replace(terms, inherit_head=""))
    assert len(module.distiller.adapters) == len(terms.terms) == 7
    assert together(distillbev(), radardistill(start=True)).start_from == "teacher"
