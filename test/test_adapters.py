"""What lies between a student's map and its teacher's, and weights that students take over."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from tiny_distill import both, centerpoint, student
from torch import nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, TemporalSpec
from training.distill.adapters import Adapter, copy_weights, inherit_head
from training.distill.channels import feature_channels
from training.distill.turned_head import head_in_ego
from training.models.center_head import CenterHead, HeadConfig
from training.models.detector import ONE_TASK, Prediction
from training.models.frame import Frame, Turn


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


@torch.no_grad()
def test_a_head_of_another_frame_is_turned_into_the_ego_frame() -> None:
    """The student's head on the map as the student sees it says what the teacher's does, turned."""
    torch.manual_seed(0)
    frame = Frame((0.5, 0.0, 1.8), mirrored=True)
    spec = ModelSpec("one", (), (), {}, {}, grid=BevGrid(-4, 4, -4, 4, 0.8), temporal=TemporalSpec(state_channels=0))
    teacher, student = (CenterHead(6, CLASSES, HeadConfig(ONE_TASK, 5, 4)).eval() for _ in range(2))
    student.load_state_dict(head_in_ego(teacher.state_dict(), frame))
    neck = torch.randn(1, 6, 10, 10)
    expected = Turn(frame, spec).prediction(Prediction(*teacher(neck)[:2]))
    heatmap, regression, _ = student(neck.flip(-1))
    assert torch.allclose(heatmap, expected.heatmap, atol=1e-5)
    assert torch.allclose(regression, expected.regression, atol=1e-5)


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


def test_feature_channels_leave_the_network_as_it_is() -> None:
    network = student().train()
    frozen = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    assert feature_channels(network) == {"lift": 8, "radar": 6, "encoder1": 12, "encoder2": 16, "neck": 10}
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert not frozen.training and [m.training for m in network.modules()] == modes
    assert feature_channels(centerpoint().detector)["neck"] == 72
