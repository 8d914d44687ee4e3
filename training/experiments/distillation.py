"""What distillation gives on the synthetic set: each student alone and taught, their teachers, and ablations.

    python -m training.study training.experiments.distillation:study --data DATA --out runs/distillation \
        --seeds 0 1 2 --backbone runs/near/backbone/last.ckpt --teacher-cache runs/cache \
        --teacher centerpoint=runs/near/centerpoint/0/last.ckpt ...

Networks are those of `near:family`, and teachers are best taken from its runs; otherwise the study trains its own with
the same seed. `--only` names what to do now; teachers come first in the order of the study. Students see few drives
often: twelve, twenty times, as published students see theirs 24 times. Alone and taught they have the same steps,
batches and data. Results: docs/distillation.md; what happens with many drives
seen seldom: docs/lab_notes/distillation_obstacles.md.
"""

from __future__ import annotations

import dataclasses

from training.data.config import DataConfig, VirtualConfig
from training.distill.config import DistillConfig, Term
from training.distill.distillbev import DistillBevConfig
from training.distill.radardistill import PfdConfig
from training.experiments import near
from training.experiments.distillbev import COMPACT_LAYERS, taught, with_neck_norm
from training.experiments.mvp import VIRTUAL
from training.experiments.near import SWEEPS
from training.models import STUDENTS
from training.recipes import camera
from training.recipes.distillation import (
    LAYERS,
    RELEASED,
    distillbev,
    distillbev_bevformer,
    lgkd,
    radardistill,
    together,
)
from training.run import Run

TEACHERS = ("centerpoint", "mvp", "lidar_transformer", "pillarnet", "bevdepth_large")
# How hard the terms of a teacher together pull beside detection, from `search` (docs/lab_notes/distillation_search.md).
# BEVFormer from the LiDAR transformer has a single term, which hinders detection sooner.
PULL = 1.0
RADAR_PULL = 3.0
BEVFORMER_PULL = 0.3
PULLS = (0.3, 1.0, 3.0)
# Teacher and student are one network here, as in the paper: no adapters, and the student starts as its teacher.
RADAR = radardistill(source="pillarnet", start=True)
# DistillBEV on the compact student's maps and RadarDistill on its radar branch.
BOTH = together(
    distillbev(COMPACT_LAYERS, source="centerpoint", inherit=False),
    radardistill(("radar",), (("radar", "high"),), adapter="conv1x1", source="pillarnet"),
)
DRIVES, HOLDOUT = 12, 12  # that students see; that `search` keeps back
CONVOLUTIONAL = ("bevdet", "bevdet4d", "bevdepth", "camera_radar")
FITTED = ("bevdet", "bevdet4d", "bevdepth", "bevformer")  # students that may inherit a teacher's head
IMAGE_AUGMENTATION = ("image_scale", "image_rotation_deg", "image_flip", "brightness", "contrast")
# All cells of all maps alike; no adaptive scaling; and an attention that tells cells of the study's maps apart
# (docs/lab_notes/distillation_search.md).
PLAIN = DistillBevConfig(regions=False, attention="none", scaling="none", imitation="none")
UNIFORM = dataclasses.replace(RELEASED, scaling="uniform")
SHARP = dataclasses.replace(RELEASED, temperature=0.1)
LONGER = 1.5  # times the steps: at least what a teacher costs (docs/lab_notes/training_cost.md)
SHORTER = 1 / 1.5  # for students that learn their few drives by heart


def study() -> dict[str, Run]:
    """Teachers, students alone, every pair; then the ablations."""
    return pairs(family()) | ablations()


def family(holdout: int = 0) -> dict[str, Run]:
    """`near:family` with students on few drives; `holdout` drives of the training split are for scoring alone.

    As published, camera students have the widths of their teachers' heads, and BEVDet's map before the head ends in
    norm and ReLU; alone and taught.
    """

    def data(name: str, run: Run) -> DataConfig:
        return dataclasses.replace(run.data, holdout=holdout, train_scenes=DRIVES if name in STUDENTS else 0)

    runs = {name: dataclasses.replace(run, data=data(name, run)) for name, run in near.family().items()}
    for name in FITTED:
        config = dataclasses.replace(runs[name].config, head=camera.SMALL_HEAD)
        runs[name] = with_neck_norm(dataclasses.replace(runs[name], config=config))
    return runs


def search() -> dict[str, Run]:
    """How hard teachers may pull, scored on drives of the training split that are kept back."""
    runs = family(HOLDOUT)
    names = ("centerpoint", "pillarnet", "bevdet", "bevdepth", "bevformer", "camera_radar", "radar_pillarnet")
    study = {name: runs[name] for name in names}
    output = logits("centerpoint")
    for student in ("bevdet", "bevdepth", "camera_radar"):
        layers = COMPACT_LAYERS if student == "camera_radar" else LAYERS
        inherit = student != "camera_radar"
        every = distillbev(layers, source="centerpoint", inherit=inherit)
        plain = _without_false_positives(distillbev(layers, PLAIN, source="centerpoint", inherit=inherit))
        uniform = distillbev(layers, UNIFORM, source="centerpoint", inherit=inherit)
        sharp = distillbev(layers, SHARP, source="centerpoint", inherit=inherit)
        neck = distillbev(layers[-1:], source="centerpoint", inherit=inherit)
        recipes = {"all": every, "plain": plain, "uniform": uniform, "sharp": sharp, "neck": neck, "logits": output}
        recipes |= {"both": together(neck, output), "all_logits": together(every, output)}
        study[f"{student}_published"] = taught(runs[student], every, sweeps=SWEEPS)
        for pull in PULLS:
            for name, recipe in recipes.items():
                study[f"{student}_{name}_{pull:g}"] = taught(runs[student], pulled(recipe, pull), sweeps=SWEEPS)
    study["radar_pillarnet_published"] = taught(runs["radar_pillarnet"], RADAR, sweeps=SWEEPS)
    study["radar_pillarnet_no_cma"] = without_cma(runs["radar_pillarnet"])
    for radar in ("radar_pillarnet", "radar_pillarnet_no_cma"):
        for name, recipe in (("", RADAR), ("_logits", together(RADAR, logits("pillarnet")))):
            for pull in (*PULLS, 10.0):
                study[f"{radar}{name}_{pull:g}"] = taught(study[radar], pulled(recipe, pull), sweeps=SWEEPS)
    neck = distillbev_bevformer("centerpoint", inherit=True)
    own_head = distillbev_bevformer("centerpoint")
    for pull in (0.1, 0.3, 1.0):
        for name, recipe in (
            ("", neck),
            ("_own_head", own_head),
            ("_logits", output),
            ("_both", together(neck, output)),
        ):
            study[f"bevformer{name}_{pull:g}"] = taught(runs["bevformer"], pulled(recipe, pull), sweeps=SWEEPS)
    for pull in (PULL, 5 / 3):  # at the second DistillBEV's three of five terms pull as hard as they do alone
        study[f"camera_radar_two_teachers_{pull:.2g}"] = taught(runs["camera_radar"], pulled(BOTH, pull), sweeps=SWEEPS)
    for name in ("bevdet", "bevdet_all_1"):
        study[f"{name}_many"] = many_drives(study[name])
    return study


def many_drives(run: Run) -> Run:
    """The same with all drives but the holdout, images that are augmented as by the small experiments, more steps."""
    assert run.optim.steps is not None
    image = {name: getattr(camera.SMALL_AUGMENTATION, name) for name in IMAGE_AUGMENTATION}
    augmentation = dataclasses.replace(run.data.augmentation, **image)
    data = dataclasses.replace(run.data, train_scenes=0, augmentation=augmentation)
    return dataclasses.replace(run, data=data, optim=dataclasses.replace(run.optim, steps=3 * run.optim.steps))


def pulled(distill: DistillConfig, pull: float = PULL) -> DistillConfig:
    """The same terms, each pulling as hard as told."""
    return dataclasses.replace(distill, pull=pull)


def pairs(runs: dict[str, Run]) -> dict[str, Run]:
    """Every pair of teacher and student that is published, and the camera + radar students'."""
    students = (*CONVOLUTIONAL, "bevformer", "radar_pillarnet")
    study = {name: runs[name] for name in (*TEACHERS, *students)}

    sweeps = runs["centerpoint"].data.lidar
    assert sweeps is not None

    def add(
        student: str, source: str, distill: DistillConfig, virtual: VirtualConfig | None = None, pull: float = PULL
    ) -> None:
        study[f"{student}_from_{source}"] = taught(runs[student], pulled(distill, pull), virtual, sweeps)

    for student in CONVOLUTIONAL:
        add(student, "centerpoint", bev_recipe(student, "centerpoint"))
        add(student, "mvp", bev_recipe(student, "mvp"), VIRTUAL)
    # Camera students gain more from CenterPoint's last map and logits than from its three maps (`search`).
    for student in ("bevdet", "bevdet4d", "bevdepth"):
        neck = distillbev(LAYERS[-1:], source="centerpoint")
        add(student, "centerpoint_logits", together(neck, logits("centerpoint")))
    # Ours has a heatmap head, so CenterPoint itself can teach it, too, and its head fits. The map alone taught nothing:
    # it is of another kind than a convolutional teacher's. With the logits beside it, it does (`search`).
    add("bevformer", "lidar_transformer", distillbev_bevformer("lidar_transformer"), pull=BEVFORMER_PULL)
    add("bevformer", "centerpoint", together(distillbev_bevformer("centerpoint", inherit=True), logits("centerpoint")))
    add("bevformer", "mvp", together(distillbev_bevformer("mvp", inherit=True), logits("mvp")), VIRTUAL)
    add("radar_pillarnet", "pillarnet", RADAR, pull=RADAR_PULL)
    study["bevdepth_from_bevdepth_large"] = taught(
        runs["bevdepth"], pulled(lgkd("bevdepth_large")), sweeps=dataclasses.replace(sweeps, sweeps=1)
    )
    add("camera_radar", "both", BOTH)
    # RadarDistill's camera + radar model: its radar branch starts as the student that PillarNet has taught.
    study["bevfusion_pillarnet"] = with_pillarnet(runs["bevfusion"], runs["radar_pillarnet"])
    learned = "radar_pillarnet_from_pillarnet"
    study[f"bevfusion_pillarnet_from_{learned}"] = taught(
        study["bevfusion_pillarnet"], DistillConfig(start_from=learned, start_into="radar"), sweeps=SWEEPS
    )
    study |= {f"{name}_longer": with_steps(runs[name], LONGER) for name in students}
    return study | {f"{name}_shorter": with_steps(runs[name], SHORTER) for name in students}


def with_pillarnet(fusion: Run, radar: Run) -> Run:
    """The fusion student with the radar student's network for a branch."""
    config = dataclasses.replace(fusion.config, pillarnet=radar.config.backbone)
    spec = dataclasses.replace(fusion.spec, name=f"{fusion.spec.name}_pillarnet", radar=radar.spec.radar)
    return dataclasses.replace(fusion, config=config, spec=spec)


def without_cma(run: Run) -> Run:
    """RadarDistill's own baseline: the radar student without CMA."""
    return dataclasses.replace(run, config=dataclasses.replace(run.config, cma=False))


def with_steps(run: Run, times: float) -> Run:
    """So many times the steps; the schedule stretches with them."""
    assert run.optim.steps is not None
    return dataclasses.replace(run, optim=dataclasses.replace(run.optim, steps=round(run.optim.steps * times)))


def ablations() -> dict[str, Run]:
    """Of DistillBEV on the compact student, which gains most from it, in the order of the paper's table; of its layers;
    other methods beside it; and of RadarDistill's parts."""
    runs = family()
    student, radar_student = runs["camera_radar"], runs["radar_pillarnet"]
    study = {name: runs[name] for name in ("centerpoint", "camera_radar", "pillarnet", "radar_pillarnet")}
    for name, distill in (distillbev_ablations() | other_methods()).items():
        study[f"camera_radar_{name}"] = taught(student, pulled(distill), sweeps=SWEEPS)
    bare = study["radar_pillarnet_no_cma"] = without_cma(radar_student)
    study["radar_pillarnet_no_cma_taught"] = taught(bare, pulled(RADAR, RADAR_PULL), sweeps=SWEEPS)
    for name, run in (("radar_pillarnet_start", radar_student), ("radar_pillarnet_no_cma_start", bare)):
        study[name] = taught(run, DistillConfig(start_from="pillarnet"), sweeps=SWEEPS)
    for name, distill in radardistill_ablations().items():
        study[f"radar_pillarnet_{name}"] = taught(radar_student, pulled(distill, RADAR_PULL), sweeps=SWEEPS)
    return study


def logits(source: str) -> DistillConfig:
    """The teacher's heatmap and boxes, where both have heads of one kind."""
    return DistillConfig((Term("logits", "heatmap", "heatmap", source=source),))


def bev_recipe(student: str, teacher: str) -> DistillConfig:
    """DistillBEV for a student of CONVOLUTIONAL; the compact student has two stages and a head of its own."""
    if student == "camera_radar":
        return distillbev(COMPACT_LAYERS, source=teacher, inherit=False)
    return distillbev(source=teacher)


def distillbev_ablations() -> dict[str, DistillConfig]:
    """Name -> what is left of the method; no head is inherited, so that the terms alone are compared.

    `plain` to `scaling` add one part at a time, as the paper's ablation on BEVDet4D does, up to the whole without false
    positives (the whole is among `pairs`); then its choice of layers, also without false positives. Terms are scaled to
    one pull altogether (DistillConfig.pull), so that what is compared is where they pull and not how hard.
    """
    regions = dataclasses.replace(PLAIN, regions=True, scaling="uniform")
    attention = dataclasses.replace(regions, attention="teacher_student", imitation="mean_conv")
    steps = {"plain": PLAIN, "regions": regions, "attention": attention, "scaling": DistillBevConfig()}
    study = {name: _without_false_positives(_distillbev(COMPACT_LAYERS, config)) for name, config in steps.items()}
    stage1, stage2, neck = COMPACT_LAYERS
    return study | {
        "neck_only": _without_false_positives(_distillbev((neck,))),
        "stage2_neck": _without_false_positives(_distillbev((stage2, neck))),
        "early": _without_false_positives(_distillbev((("fused", "encoder1"), stage1, stage2, neck))),
    }


def other_methods() -> dict[str, DistillConfig]:
    """What DistillBEV is compared with, from the same teacher."""

    def at_neck(loss: str) -> DistillConfig:
        return DistillConfig((Term(loss, "neck", "neck", adapter="conv1x1", source="centerpoint"),))

    unidistill = (
        Term("unidistill_feature", "fused", "encoder1", adapter="upsample_conv1x1", source="centerpoint"),
        Term("unidistill_relation", "neck", "neck", source="centerpoint"),
        Term("unidistill_response", "heatmap", "heatmap", source="centerpoint"),
    )
    return {
        "mse": at_neck("plain_feature"),
        "fitnet": at_neck("foreground_feature"),
        "logits": logits("centerpoint"),
        "unidistill": DistillConfig(unidistill),
        "bevdistill": at_neck("bevdistill_dense"),
    }


def radardistill_ablations() -> dict[str, DistillConfig]:
    """AFD alone, PFD alone, both without the softmax over channels."""
    bare = PfdConfig(softmax=False)
    terms = {
        "afd": [t for t in RADAR.terms if t.loss == "radardistill_afd"],
        "pfd": [t for t in RADAR.terms if t.loss == "radardistill_pfd"],
        "no_softmax": [dataclasses.replace(t, config=bare) if t.loss == "radardistill_pfd" else t for t in RADAR.terms],
    }
    return {name: dataclasses.replace(RADAR, terms=tuple(kept)) for name, kept in terms.items()}


def _distillbev(layers: tuple[tuple[str, str], ...], config: DistillBevConfig = RELEASED) -> DistillConfig:
    return distillbev(layers, config, source="centerpoint", inherit=False)


def _without_false_positives(whole: DistillConfig) -> DistillConfig:
    terms = (dataclasses.replace(t, config=t.config | {"false_positives": False}) for t in whole.terms)
    return dataclasses.replace(whole, terms=tuple(terms))
