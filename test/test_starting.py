"""What networks begin with: trained image backbones, from torchvision or from a run of ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN  # noqa: E402

from training.data.source import Source  # noqa: E402
from training.experiments import bevdet, bevformer  # noqa: E402
from training.export import export_bundle  # noqa: E402
from training.models.backbones import BACKBONES, FAN, ConvNeXt  # noqa: E402
from training.models.backbones.resnet import ResNet  # noqa: E402
from training.run import build_detector  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer.checkpoint import load_network, read_checkpoint  # noqa: E402
from training.trainer.starting import FRESH, Start, begin_with, start_backbone  # noqa: E402

SHORT = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, steps=1))


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(SHORT, Source(tiny_dataset), tmp_path_factory.mktemp("first"))


def test_a_run_starts_with_the_backbone_of_another_and_resumes_with_its_own(
    trained: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    fresh = build_detector(RUN)
    before = {name: t.clone() for name, t in fresh.state_dict().items()}
    start_backbone(fresh, trained)
    source = load_network(trained).detector.state_dict()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, source[name] if name.startswith("backbone.") else before[name]), name
    # In training it is where the first step begins: a rate of nearly zero leaves it there.
    still = dataclasses.replace(SHORT, seed=3, optim=dataclasses.replace(SHORT.optim, lr=1e-12, weight_decay=0.0))
    first = train(still, Source(tiny_dataset), tmp_path, Start(backbone=trained))
    state = read_checkpoint(first)["state_dict"]
    assert torch.allclose(state["detector.backbone.conv1.weight"], source["backbone.conv1.weight"], atol=1e-9)
    assert not torch.equal(state["detector.context.weight"], source["context.weight"])
    train(still, Source(tiny_dataset), tmp_path, Start(backbone=Path("is not read any more")))


def test_imagenet_weights_in_the_same_way(tmp_path: Path) -> None:
    detector = build_detector(RUN)
    weights = ResNet(RUN.config.backbone_blocks, RUN.config.backbone_width).state_dict()
    torch.save(weights | {"fc.weight": torch.zeros(3, 3)}, tmp_path / "resnet.pth")
    start_backbone(detector, tmp_path / "resnet.pth")
    assert torch.equal(detector.backbone.conv1.weight, weights["conv1.weight"].flip(1))
    assert torch.equal(detector.backbone.layer1[0].conv1.weight, weights["layer1.0.conv1.weight"])


@pytest.mark.parametrize(("backbone", "kind"), [("fan_small", FAN), ("convnext_tiny", ConvNeXt)])
def test_each_kind_of_backbone_trains_is_handed_on_and_exported(
    backbone: str, kind: type, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, backbone, lambda width: kind((1, 1, 1, 1), width))
    run = bevdet.tiny()
    image = dataclasses.replace(run.config.camera.image, backbone=backbone, width=16)
    config = dataclasses.replace(run.config, camera=dataclasses.replace(run.config.camera, image=image))
    optim = dataclasses.replace(run.optim, steps=1, warmup_steps=0)
    run = dataclasses.replace(run, config=config, optim=optim, batch_size=1, precision="32-true")
    last = train(run, Source(tiny_dataset), tmp_path / "run")
    trained, fresh = load_network(last).detector, build_detector(run)
    start_backbone(fresh, last)
    found, wanted = (dict(detector.camera.image.backbone.named_parameters()) for detector in (fresh, trained))
    torch.testing.assert_close(found, wanted)
    torch.save({}, tmp_path / "imagenet.pth")
    with pytest.raises(ValueError, match="no ImageNet file for FAN" if backbone == "fan_small" else "does not fit"):
        start_backbone(fresh, tmp_path / "imagenet.pth")
    assert (export_bundle(trained, tmp_path / "bundle") / "model.onnx").is_file()  # ONNX Runtime agrees with PyTorch


def test_what_does_not_fit_is_an_error(trained: Path) -> None:
    wide = dataclasses.replace(RUN, config=dataclasses.replace(RUN.config, backbone_width=16))
    with pytest.raises(ValueError, match=r"(?s)--backbone .*last\.ckpt does not fit.*size mismatch"):
        start_backbone(build_detector(wide), trained)
    with pytest.raises(ValueError, match="Linear has 0 image backbones"):
        start_backbone(torch.nn.Linear(2, 2), trained)


def test_what_is_frozen_is_as_it_was_after_training(tiny_dataset: Path, tmp_path: Path) -> None:
    """BEVFormer's optimiser, whose backbone has a rate of its own and, its norms fixed, nothing that is not decayed."""
    run = bevformer.tiny()
    optim = dataclasses.replace(bevformer.PAPER_OPTIM, epochs=None, steps=2, warmup_steps=1)
    image = dataclasses.replace(run.config.image, frozen_stages=1, fixed_norms=True)
    config = dataclasses.replace(run.config, image=image)
    run = dataclasses.replace(run, config=config, optim=optim, batch_size=1, precision="32-true")
    backbone = build_detector(run).image.backbone
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    last = train(run, Source(tiny_dataset), tmp_path / "run", Start(backbone=tmp_path / "backbone.pth"))
    backbone.load_imagenet(str(tmp_path / "backbone.pth"))
    before, after = backbone.state_dict(), load_network(last).detector.image.backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    convolutions = {name for name, tensor in before.items() if tensor.ndim == 4}
    assert changed == {name for name in convolutions if name.startswith(("layer2.", "layer3.", "layer4."))}


def test_a_network_of_which_a_part_never_learns_wants_weights(capsys: pytest.CaptureFixture[str]) -> None:
    run = bevdet.tiny()
    image = dataclasses.replace(run.config.camera.image, frozen_stages=0)
    config = dataclasses.replace(run.config, camera=dataclasses.replace(run.config.camera, image=image))
    frozen = dataclasses.replace(run, config=config, backbone_from="ImageNet")
    with pytest.raises(ValueError, match=r"3 tensors of bevdet_tiny, camera\.image\.backbone\.conv1\.weight the first"):
        begin_with(build_detector(frozen), frozen, {}, FRESH)
    learning = dataclasses.replace(run, backbone_from="ImageNet")
    begin_with(build_detector(learning), learning, {}, FRESH)
    assert "published with an image backbone from ImageNet; without --backbone it starts" in capsys.readouterr().out
    begin_with(build_detector(run), run, {}, FRESH)
    assert not capsys.readouterr().out
