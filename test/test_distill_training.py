"""Distillation through the trainer: real tiny networks, a real tiny teacher's checkpoint, the tiny data set."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_networks import CONFIGS  # noqa: E402
from tiny_run import LIDAR, POINTS, RUN, SPEC, points_run  # noqa: E402

from bev_perception.model_spec import RadarSpec  # noqa: E402
from training.bundling.pattern import pattern_inputs  # noqa: E402
from training.command_line import TrainingStopped  # noqa: E402
from training.data.augment import NO_AUGMENTATION  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.models.exported import ExportedDetector  # noqa: E402
from training.recipes.distillation import distillbev, lgkd, radardistill, together  # noqa: E402
from training.run import OptimConfig, Run, run_from_plain, run_to_plain  # noqa: E402
from training.teachers import centerpoint  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer.checkpoint import load_network, read_checkpoint  # noqa: E402
from training.trainer.lightning_module import DetectorModule  # noqa: E402
from training.trainer.loading import open_keyframes  # noqa: E402
from training.trainer.teaching import (  # noqa: E402
    Teaching,
    fill_caches,
    held_out_agreement,
    open_caches,
    open_teachers,
    paths_of,
    seen_in_training,
    teacher_names,
)

GRID = SPEC.grid
SHORT = OptimConfig(steps=2, warmup_steps=1)
STAGES = (("encoder1", "encoder2"), ("encoder2", "encoder3"), ("neck", "neck"))
DISTILL = distillbev(STAGES, source="centerpoint", inherit=False)
STUDENT = dataclasses.replace(
    RUN, batch_size=2, optim=dataclasses.replace(RUN.optim, steps=3), checkpoint_every=2, distill=DISTILL,
    data=dataclasses.replace(RUN.data, augmentation=NO_AUGMENTATION, lidar=LIDAR),
)  # fmt: skip


@pytest.fixture(scope="module")
def lidar_teacher(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = points_run("centerpoint")
    return train(run, Source(tiny_dataset), tmp_path_factory.mktemp("centerpoint"))


@pytest.fixture(scope="module")
def pillar_teacher(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = points_run("pillarnet")
    return train(run, Source(tiny_dataset), tmp_path_factory.mktemp("pillarnet"))


@pytest.fixture(scope="module")
def distilled(tiny_dataset: Path, lidar_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distilled")
    return train(STUDENT, Source(tiny_dataset), out, teaching=Teaching({"centerpoint": lidar_teacher}))


def assert_same(found: dict, wanted: dict) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_checkpoint_holds_adapters_and_no_teacher(distilled: Path, lidar_teacher: Path) -> None:
    checkpoint, teacher = read_checkpoint(distilled), read_checkpoint(lidar_teacher)["state_dict"]
    beside = {n for n in checkpoint["state_dict"] if not n.startswith("detector.")}
    beside.remove("distiller.scales")
    assert beside and all(n.startswith(("distiller.adapters.", "distiller.parts.")) for n in beside)
    tensors = [t for t in checkpoint["state_dict"].values() if t.ndim == 4]
    for name, theirs in teacher.items():
        if theirs.ndim == 4:
            assert not any(t.shape == theirs.shape and torch.equal(t, theirs) for t in tensors), name
    assert list(checkpoint["teachers"]) == ["centerpoint"] and len(checkpoint["teachers"]["centerpoint"]) == 64


def test_adapters_and_student_learn(distilled: Path, lidar_teacher: Path) -> None:
    torch.manual_seed(STUDENT.seed)
    fresh = DetectorModule(STUDENT, 3, open_teachers(STUDENT, {"centerpoint": lidar_teacher})).state_dict()
    trained = read_checkpoint(distilled)["state_dict"]
    same = [n for n, t in trained.items() if n.endswith("weight") and torch.equal(t, fresh[n])]
    assert not [n for n in same if n.startswith("distiller.")]


@pytest.mark.parametrize("pull", [0.0, 0.5])
def test_a_resumed_run_keeps_its_adapters_and_scales(
    pull: float, lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dataclasses.replace(STUDENT, distill=dataclasses.replace(DISTILL, pull=pull))
    whole = train(run, Source(tiny_dataset), tmp_path / "whole", teaching=Teaching({"centerpoint": lidar_teacher}))
    state, out = read_checkpoint(whole)["state_dict"], tmp_path / "resumed"
    assert bool((state["distiller.scales"] > 0).all()) == bool(pull)
    step = DetectorModule.training_step

    def fail(self: DetectorModule, batch: dict, number: int) -> object:
        if self.global_step == 2:
            raise RuntimeError("power failure")
        return step(self, batch, number)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power failure"):
        patch.setattr(DetectorModule, "training_step", fail)
        train(run, Source(tiny_dataset), out, teaching=Teaching({"centerpoint": lidar_teacher}))
    resumed = train(run, Source(tiny_dataset), out, teaching=Teaching({"centerpoint": lidar_teacher}))
    assert_same(read_checkpoint(resumed)["state_dict"], state)


def test_a_run_does_not_go_on_with_another_teacher(
    distilled: Path, lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    other = torch.load(lidar_teacher, weights_only=True)
    name = next(n for n, t in other["state_dict"].items() if t.ndim == 4)
    other["state_dict"][name] += 0.1
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(TrainingStopped, match="began with the teachers"):
        train(
            STUDENT, Source(tiny_dataset), distilled.parent, teaching=Teaching({"centerpoint": tmp_path / "other.ckpt"})
        )


def test_agreement_with_the_teacher_is_measured_on_scored_keyframes(
    distilled: Path, lidar_teacher: Path, tiny_dataset: Path
) -> None:
    keyframes = open_keyframes(STUDENT.spec, STUDENT.data, Source(tiny_dataset), "val")
    teachers = {"centerpoint": lidar_teacher}
    found = held_out_agreement(distilled, teachers, keyframes, range(len(keyframes)), 0)
    kinds = {f"{kind}/{r}" for kind in ("cosine", "error") for r in ("foreground", "false_positive", "background")}
    assert set(found) == {f"{term.key}/{kind}" for term in DISTILL.terms for kind in kinds}
    assert all(-1 <= v <= 1 for n, v in found.items() if "/cosine/" in n) and any(found.values())
    # Each keyframe counts alike, whatever the batches: the mean of the halves is that of the whole.
    first, second = (held_out_agreement(distilled, teachers, keyframes, rows, 0) for rows in ((0, 1), (2, 3)))
    assert STUDENT.batch_size == 2 and len(keyframes) == 4
    for name, value in found.items():
        assert value == pytest.approx((first[name] + second[name]) / 2, abs=1e-5)


def test_the_exported_graph_is_that_of_the_student_alone(distilled: Path) -> None:
    student = load_network(distilled).detector
    alone = DetectorModule(dataclasses.replace(STUDENT, distill=None)).detector.eval()
    alone.load_state_dict(student.state_dict())
    inputs = {n: torch.from_numpy(a) for n, a in pattern_inputs(student.spec).items()}
    tensors = {t.name: inputs[t.name] for t in student.spec.inputs()}
    first, second = (torch.export.export(ExportedDetector(d).eval(), tuple(tensors.values())) for d in (student, alone))
    assert str(first.graph) == str(second.graph)
    assert first.state_dict.keys() == second.state_dict.keys() and len(first.state_dict) > 10
    for name, tensor in first.state_dict.items():
        assert torch.equal(tensor, second.state_dict[name]), name


def test_the_first_step_already_pulls_as_hard_as_it_is_told(
    lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    first, one_step = {}, dataclasses.replace(SHORT, steps=1)
    for pull in (0.0, 0.1):
        run = dataclasses.replace(STUDENT, distill=dataclasses.replace(DISTILL, pull=pull), optim=one_step)
        out = tmp_path / str(pull)
        checkpoint = train(run, Source(tiny_dataset), out, teaching=Teaching({"centerpoint": lidar_teacher}))
        rows = [row for path in out.rglob("metrics.csv") for row in csv.DictReader(path.open())]
        first[pull] = next(row for row in rows if row["train/total"])
    scales = read_checkpoint(checkpoint)["state_dict"]["distiller.scales"]
    for term, scale in zip(DISTILL.terms, scales.tolist(), strict=True):
        name = f"train/{term.key}/foreground"
        assert float(first[0.1][name]) == pytest.approx(scale * float(first[0.0][name]), rel=1e-3)
        assert float(first[0.1][f"gradient/{term.key}"]) == pytest.approx(float(first[0.0][f"gradient/{term.key}"]))


def test_a_student_learns_the_same_from_a_teacher_that_is_cached(
    lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """What fills the cache passes through half precision, too; test_teacher_cache compares it with the live teacher."""
    given, cache = {"centerpoint": lidar_teacher}, tmp_path / "cache"
    found = []
    for run in ("fills", "reads"):
        checkpoint = train(STUDENT, Source(tiny_dataset), tmp_path / run, teaching=Teaching(given, cache))
        files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
        found.append((read_checkpoint(checkpoint)["state_dict"], files))
    (filled, written), (read, kept) = found
    assert len(written) == 4 and written == kept
    # AdamW makes whole steps of a gradient that is zero but for rounding: look at layers that have one.
    heads = [name for name in filled if name.startswith("detector.head.") and name.endswith("weight")]
    assert len(heads) > 3
    for name in heads:
        torch.testing.assert_close(read[name], filled[name], rtol=1e-3, atol=1e-5, msg=name)


def test_behind_a_cache_neither_the_teacher_nor_its_points_are_touched(
    lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    forward = centerpoint.CenterPoint.forward
    monkeypatch.setattr(
        centerpoint.CenterPoint, "forward", lambda self, *a: asked.append(torch.is_grad_enabled()) or forward(self, *a)
    )
    given = {"centerpoint": lidar_teacher}
    train(STUDENT, Source(tiny_dataset), tmp_path / "a", teaching=Teaching(given, tmp_path / "cache"))
    filling = len(asked)
    train(STUDENT, Source(tiny_dataset), tmp_path / "b", teaching=Teaching(given, tmp_path / "cache"))
    building = len(asked) - filling  # channels of the adapters are asked of the network in each run
    assert filling - building == 2 and building <= 1  # four keyframes in batches of two, once
    data = seen_in_training(STUDENT, cached=True)
    assert data.lidar is None and dataclasses.replace(data, lidar=LIDAR) == STUDENT.data
    assert seen_in_training(STUDENT, cached=False) == STUDENT.data
    masked = dataclasses.replace(STUDENT, distill=lgkd("bevdepth_large"))
    assert seen_in_training(masked, cached=True).lidar == LIDAR  # its mask is made of points


@pytest.mark.parametrize("lost", ["gone", "cut"])
def test_an_entry_of_the_cache_that_is_lost_in_training_is_named(
    lost: str, lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DetectorModule.training_step

    def lose(self: DetectorModule, batch: dict, number: int) -> torch.Tensor:
        if self.global_step == 1:
            for path in (tmp_path / "cache").rglob("*.npz"):
                path.unlink() if lost == "gone" else path.write_bytes(path.read_bytes()[:100])
        return step(self, batch, number)

    monkeypatch.setattr(DetectorModule, "training_step", lose)
    said = r"nothing is stored for \['\w{32}'.*start the run again" if lost == "gone" else r"\w{32}\.npz.*delete it"
    with pytest.raises(TrainingStopped, match=said):
        teaching = Teaching({"centerpoint": lidar_teacher}, tmp_path / "cache")
        train(STUDENT, Source(tiny_dataset), tmp_path / "out", teaching=teaching)


def test_processes_fill_the_cache_however_far_apart_they_are(
    lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process looks at what lacks when the first one's share is already there."""
    keyframes = open_keyframes(SPEC, STUDENT.data, Source(tiny_dataset), "train")
    taught = open_teachers(STUDENT, {"centerpoint": lidar_teacher})
    caches = open_caches(STUDENT, taught, keyframes, tmp_path)
    module = DetectorModule(STUDENT, 3, taught, caches)
    assert module.distiller is not None
    monkeypatch.setenv("WORLD_SIZE", "2")
    stored = []
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        fill_caches(module.distiller, STUDENT, keyframes, 0)
        stored.append(len(list(tmp_path.rglob("*.npz"))))
    assert stored == [len(keyframes) // 2, len(keyframes)] == [2, 4]


def test_augmentation_of_the_scene_forbids_a_cache(lidar_teacher: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(STUDENT, data=dataclasses.replace(RUN.data, lidar=LIDAR))
    with pytest.raises(ValueError, match="cannot be cached"):
        train(run, Source(tiny_dataset), tmp_path, teaching=Teaching({"centerpoint": lidar_teacher}, tmp_path / "c"))


def test_teachers_must_be_given_and_see_what_they_know(lidar_teacher: Path) -> None:
    with pytest.raises(ValueError, match=r"learns from the teachers \['centerpoint'\], given are \[\]"):
        open_teachers(STUDENT, {})
    with pytest.raises(ValueError, match=r"was trained with data\.lidar"):
        open_teachers(dataclasses.replace(STUDENT, data=RUN.data), {"centerpoint": lidar_teacher})
    with pytest.raises(ValueError, match="NAME=CHECKPOINT"):
        paths_of(["centerpoint"])
    with pytest.raises(ValueError, match="not a checkpoint"):
        open_teachers(STUDENT, {"centerpoint": Path(__file__)})


def test_a_run_with_distillation_survives_its_json() -> None:
    plain = run_to_plain(STUDENT)
    back = run_from_plain(plain, "here")
    assert run_to_plain(back) == plain and teacher_names(back) == ("centerpoint",)
    del plain["distill"]  # of a run older than distillation
    assert run_from_plain(plain, "here").distill is None


def test_radardistill_starts_from_its_teacher_and_steps(
    pillar_teacher: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    config = CONFIGS["radar_pillarnet"]
    teacher = load_network(pillar_teacher).detector
    same = dataclasses.replace(config, backbone=teacher.config.backbone, head=teacher.config.head)
    radar = RadarSpec(format="pillars", pillar_step=GRID.step / same.backbone.stride, max_pillars=500)
    spec = dataclasses.replace(SPEC, name="radar", cameras=(), radar=radar, temporal=teacher.spec.temporal)
    run = Run(
        "radar_pillarnet", same, spec, dataclasses.replace(SHORT, steps=1, lr=1e-9), data=POINTS, batch_size=2,
        precision="32-true", distill=radardistill(mask=1.0, source="pillarnet", start=True),
    )  # fmt: skip
    last = train(run, Source(tiny_dataset), tmp_path, teaching=Teaching({"pillarnet": pillar_teacher}))
    student = load_network(last).detector
    for name in ("backbone.conv4.", "neck.block0.", "head."):
        ours = {n: t for n, t in student.state_dict().items() if n.startswith(name) and n.endswith("weight")}
        assert ours
        for n, t in ours.items():
            if "norm" not in n and t.ndim == 4:
                torch.testing.assert_close(t, teacher.state_dict()[n], rtol=0, atol=1e-6, msg=n)


def test_lgkd_steps(tiny_dataset: Path, tmp_path: Path) -> None:
    data = dataclasses.replace(POINTS, history=1, depth_stride=16)
    facts = dataclasses.replace(SPEC, radars=())
    large = Run("bevdepth_large", CONFIGS["bevdepth_large"], facts, dataclasses.replace(SHORT, steps=1), data=data,
                batch_size=2, precision="32-true")  # fmt: skip
    teacher = train(large, Source(tiny_dataset), tmp_path / "teacher")
    run = dataclasses.replace(large, model="bevdepth", config=CONFIGS["bevdepth"], distill=lgkd("bevdepth_large"))
    last = train(run, Source(tiny_dataset), tmp_path / "student", teaching=Teaching({"bevdepth_large": teacher}))
    assert read_checkpoint(last)["global_step"] == 1


def test_two_methods_and_teachers_at_once(
    lidar_teacher: Path, pillar_teacher: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    radar = radardistill(("radar",), (("radar", "high"),), adapter="conv1x1", source="pillarnet")
    run = dataclasses.replace(STUDENT, optim=SHORT, distill=together(DISTILL, radar))
    last = train(
        run,
        Source(tiny_dataset),
        tmp_path,
        teaching=Teaching({"centerpoint": lidar_teacher, "pillarnet": pillar_teacher}),
    )
    checkpoint = read_checkpoint(last)
    assert set(checkpoint["teachers"]) == {"centerpoint", "pillarnet"}
    assert any(n.startswith("distiller.adapters.radardistill_afd_radar") for n in checkpoint["state_dict"])
