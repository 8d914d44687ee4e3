"""Channels that go together, what they are worth, and the network without them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("torch_pruning", reason="needs torch-pruning")
import tiny_students
import torch
from torch import Tensor, nn

from bev_perception.inference.backend import open_backend
from training import prune
from training.export import export_bundle
from training.models.widths import Norm, narrow, widths
from training.pruning import dependencies
from training.pruning.dependencies import Group, cut, cut_of, find_groups
from training.pruning.frames import answers, state_channels, two_frames
from training.pruning.importance import taylor_importance
from training.pruning.pieces import Shape, find_pieces
from training.pruning.proof import TOLERANCE, difference, fault_of, find_channels, masked
from training.run import build_detector, run_from_plain, run_to_plain

CONV = Shape("conv", (1, 16, 16), (1, 16, 16), (3, 3), (1, 1), (1, 1))


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return tiny_students.student("camera_radar")


@pytest.fixture(scope="module")
def frames(student: nn.Module) -> Any:
    return two_frames(student.spec)


@pytest.fixture(scope="module")
def groups(student: nn.Module, frames: Any) -> list[Group]:
    return list(find_channels(student, frames).groups)


def test_the_state_ties_what_makes_it_to_what_reads_it(groups: list[Group], student: nn.Module) -> None:
    (fused,) = (group for group in groups if "fuse.0" in group.outputs)
    n = fused.channels
    assert {"fuse.0", "fuse.1", "temporal.gate", "temporal.candidate.0"} <= set(fused.outputs)
    assert fused.inputs["temporal.gate"] == tuple((i, n + i) for i in range(n)), "the current map and the memory"
    (radar,) = (group for group in groups if group.name == "radar.1.0")
    context = student.config.channels
    assert radar.inputs == {"fuse.0": tuple((context + 1 + i,) for i in range(radar.channels))}, "behind the coverage"
    (lifted,) = (group for group in groups if group.name == "context")
    assert len(lifted.samplings) == 1 and lifted.inputs["fuse.0"][0] == (0,)


def test_answers_are_not_cut_and_the_reason_is_told(student: nn.Module, frames: Any) -> None:
    found = find_channels(student, frames)
    assert set(found.fixed) == {"depth", "semantic", "head.heatmap.1", "head.regression.1"}
    assert all("an answer of the network" in reason for reason in found.fixed.values())
    seen = {name for group in found.groups for name in group.outputs} | set(found.fixed)
    assert seen == set(widths(student)), "every layer is cut or named"


def test_without_help_the_graph_cuts_wrong_and_the_proof_sees_it(
    student: nn.Module, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "_along_channels", lambda args, kwargs: False)
    found, _ = find_groups(student, frames)
    assert fault_of(student, frames, found)


@pytest.mark.parametrize("name", ["camera_radar", "bevdet4d"])
def test_a_cut_network_answers_as_the_masked_one(name: str) -> None:
    """Group after group, a third of the channels, then all at once."""
    whole = tiny_students.student(name)
    given = two_frames(whole.spec)
    found = find_channels(whole, given)
    rng = np.random.default_rng(0)
    dropped = {g.name: sorted(rng.choice(g.channels, g.channels // 3, replace=False).tolist()) for g in found.groups}
    narrower, zeroed = cut(whole, given, found.groups, dropped), masked(whole, found.groups, dropped)
    assert difference(narrower, zeroed, given) <= TOLERANCE
    assert difference(narrower, whole, given) > 100 * TOLERANCE, "it is not the same network"
    assert narrower.spec.temporal.state_channels == state_channels(narrower, given)
    narrower.train()
    assert answers(narrower, given)["heatmap"].shape == answers(whole, given)["heatmap"].shape


def test_groups_that_cannot_be_cut_are_named() -> None:
    found = find_channels(tiny_students.student("bevformer"), two_frames(tiny_students.student("bevformer").spec))
    assert "LayerNorm" in found.fixed["layers.0.spatial.output"]
    assert "does not run without" in found.fixed["layers.0.spatial.value"]
    assert any(group.name.startswith("image.backbone") for group in found.groups)


def test_pieces_have_the_layers_shapes_and_shares(student: nn.Module, frames: Any, groups: list[Group]) -> None:
    pieces = {piece.name: piece for piece in find_pieces(student, frames, groups)}
    gate = pieces["temporal.gate"]
    assert gate.shape == Shape("conv", (1, 32, 16), (1, 32, 16)) and gate.outputs == student.config.channels
    assert gate.reads == {"fuse.0": 2.0} and gate.makes == {"fuse.0": 1.0}
    assert pieces["backbone.conv1"].shape.read == (2, 32, 64) and pieces["backbone.conv1"].reads == {}
    assert pieces["depth"].makes == {} and "context sampled 0" in pieces and "fuse.0 sampled 0" in pieces


class Module(nn.Module):
    """What of a DetectorModule importance looks at, with a loss that is a sum of answers times fixed numbers."""

    device = torch.device("cpu")

    def __init__(self, detector: nn.Module, given: Any) -> None:
        super().__init__()
        self.detector, self.given = detector, given

    def predict(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return answers(self.detector, self.given)

    def losses(self, prediction: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: (p * batch["by"] * torch.linspace(-1, 1, p.numel()).view(p.shape)).mean() for n, p in prediction.items()
        }


def test_importance_is_the_squared_slope_over_a_mask(student: nn.Module, frames: Any, groups: list[Group]) -> None:
    module = Module(student, frames[:1])
    batches = [{"by": torch.tensor(1.0)}, {"by": torch.tensor(-3.0)}]
    found = taylor_importance(module, batches, groups)  # type: ignore[arg-type]
    module.train()
    for layer in student.modules():
        if isinstance(layer, Norm):
            layer.eval()
    layers = dict(student.named_modules())
    for group in (g for g in groups if g.name in ("fuse.0", "context", "backbone.layer2.0.conv1", "lateral.0")):
        mask = torch.ones(group.channels, requires_grad=True)
        masks = [
            layers[name].register_forward_hook(lambda layer, args, made, mask=mask: made * mask[:, None, None])
            for name in group.outputs
            if isinstance(layers[name], Norm) or layers[name].bias is not None
        ]
        (slope,) = torch.autograd.grad(
            torch.stack(list(module.losses(module.predict({}), batches[0]).values())).sum(), mask
        )
        for hook in masks:
            hook.remove()
        expected = slope.detach().double().numpy() ** 2 * (1 + 9) / 2
        np.testing.assert_allclose(found[group.name], expected, rtol=2e-3, atol=1e-6 * expected.max())
    student.eval()
    with pytest.raises(ValueError, match="found none"):
        taylor_importance(module, [], groups)  # type: ignore[arg-type]


def test_a_table_of_widths_makes_the_cut_network_again(student: nn.Module, frames: Any, groups: list[Group]) -> None:
    narrower = cut(student, frames, groups, {group.name: range(group.channels // 2) for group in groups})
    run = dataclasses.replace(tiny_students.run_of("camera_radar"), spec=narrower.spec, cut=cut_of(student, narrower))
    read = run_from_plain(json.loads(json.dumps(run_to_plain(run))), "a file")
    assert read == run and read.spec.temporal.state_channels == student.config.channels // 2
    again = build_detector(read).eval()
    again.load_state_dict(narrower.state_dict())
    assert difference(again, narrower, frames) == 0.0
    assert widths(again) == widths(narrower) != widths(student)


@pytest.mark.parametrize(
    "layers, message",
    [
        ({"nothing": (1, 1)}, "'nothing' is no convolution"),
        ({"backbone": (1, 1)}, "'backbone' is no convolution"),
        ({"context": (1, 99)}, "cannot be left"),
        ({"context": (0, 1)}, "cannot be left"),
    ],
)
def test_widths_that_no_network_has_are_refused(layers: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow(tiny_students.student("camera_radar"), layers)


def test_a_cut_network_runs_on_the_vehicles_engine(
    student: nn.Module, frames: Any, groups: list[Group], tmp_path: Path
) -> None:
    """export_bundle refuses where ONNX Runtime and PyTorch disagree, the state included."""
    narrower = cut(student, frames, groups, {group.name: range(group.channels // 2) for group in groups})
    bundle = prune.load_bundle(export_bundle(narrower, tmp_path / "bundle"))
    engine = open_backend(bundle, threads=1)
    assert engine.infer(bundle.golden()[0])["bev"].shape[0] == student.config.channels // 2
    engine.close()
    assert prune.in_turns([bundle, bundle], "onnxruntime", 1)[1] > 0
