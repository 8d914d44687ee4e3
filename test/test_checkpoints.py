"""The checkpoints that come with the repository are what their cards say, and teach."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from bev_perception.bundle import load_bundle  # noqa: E402
from bev_perception.inference.proof import TOLERANCES, compare_outputs  # noqa: E402
from bev_perception.model_spec import HealthSpec  # noqa: E402
from training.experiments import demo_distilled, distillation  # noqa: E402
from training.models.exported import ExportedDetector  # noqa: E402
from training.run import build_detector  # noqa: E402
from training.trainer.checkpoint import load_network  # noqa: E402
from training.trainer.starting import start_backbone, start_network  # noqa: E402
from training.trainer.teaching import open_teachers  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "training" / "checkpoints"


def test_every_checkpoint_is_small_and_the_one_its_card_describes() -> None:
    files = sorted(FOLDER.glob("*.ckpt"))
    assert files
    for path in files:
        content = path.read_bytes()
        assert len(content) < 8 << 20
        assert f"sha256 {hashlib.sha256(content).hexdigest()}" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("student", "teacher", "millions"),
    [("bevdet", "centerpoint", 0.98), ("bevdet", "mvp", 0.99), ("radar_pillarnet", "pillarnet", 0.54)],
)
def test_teaches_the_study(student: str, teacher: str, millions: float) -> None:
    run = distillation.pairs(distillation.family())[f"{student}_from_{teacher}"]
    teachers = open_teachers(run, {teacher: FOLDER / f"{teacher}_near.ckpt"})
    assert list(teachers) == [teacher]
    found = sum(p.numel() for p in teachers[teacher].detector.parameters()) / 1e6
    assert found == pytest.approx(millions, abs=0.005)


def test_the_demos_teacher_starts_as_the_studys() -> None:
    detector = build_detector(demo_distilled.teacher())
    start_network(detector, FOLDER / "centerpoint_near.ckpt")
    weights = torch.load(FOLDER / "centerpoint_near.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[f"detector.{name}"]) for name, value in detector.state_dict().items())


def test_the_studys_students_start_with_the_backbone() -> None:
    torch.manual_seed(0)
    detector = build_detector(distillation.family()["bevdet"])
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    start_backbone(detector, FOLDER / "backbone_near.ckpt")
    changed = [name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) > 50 and all("backbone" in name for name in changed)


def test_the_shipped_student_goes_on() -> None:
    detector = load_network(FOLDER / "city_student.ckpt").detector
    bundle = load_bundle(ROOT / "bev_perception" / "bundles" / "demo")
    inputs, golden = bundle.golden()
    tensors = (torch.from_numpy(inputs[t.name]) for t in bundle.spec.inputs())
    with torch.no_grad():
        found = ExportedDetector(detector.eval())(*tensors)
    spec = dataclasses.replace(bundle.spec, health=HealthSpec())  # those outputs are of the 8-bit network's features
    arrays = {t.name: value.numpy() for t, value in zip(spec.outputs(), found, strict=True)}
    golden = {name: golden[name] for name in arrays if name in golden}
    compare_outputs(arrays, golden, spec, TOLERANCES["int8"], "the checkpoint")
