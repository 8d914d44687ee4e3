"""Camera students at tiny size: what each must do whatever its insides, and their parts against slow references."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
import torch.nn.functional as F
from tiny_networks import CONFIGS, STATES

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, TemporalSpec
from bev_perception.plain import from_plain, to_plain
from training.bundling.pattern import pattern_inputs
from training.models import STUDENTS
from training.models.camera_vector import projection_vector
from training.models.crn import CrnConfig
from training.models.deform_conv import DeformConv
from training.models.depth_net import DepthNetConfig, depth_network
from training.models.detector import Memory, empty_memory
from training.models.image_branch import ImageBranch, ImageConfig

NAMES = ("bevdet", "bevdet4d", "bevdepth", "bevformer", "fbbev")
TEMPORAL = [name for name in NAMES if name in STATES]
GRID = BevGrid(-12.8, 12.8, -9.6, 9.6, 0.8)
SCORES = dict.fromkeys(CLASSES, 0.1)


def spec_for(name: str) -> ModelSpec:
    temporal = TemporalSpec(state_channels=STATES.get(name, 0))
    return ModelSpec(
        name, ("a", "b"), (), SCORES, SCORES, grid=GRID, image=ImageSpec(32, 64), temporal=temporal, top_k=20
    )


def student(name: str) -> Any:
    torch.manual_seed(0)
    module = STUDENTS[name].module(spec_for(name), CONFIGS[name]).eval()
    for part in module.modules():  # statistics of a trained network are not 0 and 1
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)
    return module


def frames(name: str, batch: int = 2) -> tuple[dict[str, torch.Tensor], Memory | None]:
    """A batch of different images from cameras in a ring, with a memory 2 m back."""
    spec, rng = spec_for(name), np.random.default_rng(5)
    pattern = pattern_inputs(spec)
    inputs = {k: torch.from_numpy(np.stack([v] * batch)) for k, v in pattern.items()}
    inputs["images"] = torch.from_numpy(rng.integers(0, 255, inputs["images"].shape).astype(np.uint8))
    if name not in STATES:
        return inputs, None
    bev, pose, valid, dt = (inputs.pop(k) for k in ("prev_bev", "prev_from_curr", "prev_valid", "prev_dt"))
    return inputs, Memory(torch.from_numpy(rng.normal(size=bev.shape)).float().abs(), pose, valid, dt)


def assert_same(a: Any, b: Any, rows: slice = slice(None)) -> None:
    for name in ("heatmap", "regression", "state"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x[rows], y, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", NAMES)
def test_prediction_has_the_stated_shapes(name: str) -> None:
    module, spec = student(name), spec_for(name)
    inputs, memory = frames(name)
    with torch.no_grad():
        found = module(inputs, memory)
        state = module.encode(inputs, memory)
        first = module(inputs, empty_memory(spec, inputs["camera_valid"], 2))
    assert found.heatmap.shape == first.heatmap.shape == (2, len(CLASSES), *GRID.shape)
    assert found.regression.shape == (2, len(module.tasks), 10, *GRID.shape)
    assert {"neck"} < set(found.features) and found.features["neck"].shape[2:] == GRID.shape
    if name in ("bevdepth", "fbbev"):
        assert found.aux["depth"].shape == (2, 2, module.bins.count, 2, 4)
    if name == "fbbev":
        assert found.aux["foreground"].shape == (2, 1, *GRID.shape)
    if name in STATES:
        assert found.state.shape == (2, STATES[name], *GRID.shape)
        torch.testing.assert_close(state, found.state)
    else:
        assert found.state is None and state is None


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    module = student(name).train()
    for parameter in module.parameters():  # zero offsets and attention logits leave others without gradient at first
        if parameter.dim() > 1:
            parameter.data += torch.randn_like(parameter) * 0.02
    found = module(*frames(name))
    loss = torch.stack([(t * torch.randn_like(t)).sum() for t in (found.heatmap, found.regression)]).sum()
    for extra in found.aux.values():
        loss = loss + (extra * torch.randn_like(extra)).sum()
    loss.backward()
    without = [n for n, p in module.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    assert not without


@pytest.mark.parametrize("name", NAMES)
def test_items_of_a_batch_are_independent(name: str) -> None:
    module, (inputs, memory) = student(name), frames(name)
    second = {k: v[1:] for k, v in inputs.items()}
    with torch.no_grad():
        assert_same(module(inputs, memory), module(second, memory and Memory(*(m[1:] for m in memory))), slice(1, None))


@pytest.mark.parametrize("name", NAMES)
def test_a_camera_that_is_off_has_no_influence_and_one_that_is_on_has(name: str) -> None:
    module, (inputs, memory) = student(name), frames(name)
    off = inputs | {"camera_valid": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    garbage = off | {"images": off["images"].clone(), "img_from_ego": off["img_from_ego"].clone()}
    for item, camera in ((0, 1), (1, 0)):
        garbage["images"][item, camera] = 255 - garbage["images"][item, camera]
        garbage["img_from_ego"][item, camera] = torch.randn(4, 4)
    with torch.no_grad():
        expected = module(off, memory)
        assert_same(module(garbage, memory), expected)
        first = "encoder1" if name == "bevformer" else "lift"  # untrained later layers leave little of a difference
        change = (module(inputs, memory).features[first] - expected.features[first]).abs().max()
        assert float(change) > 0.01 * float(expected.features[first].std())
        nothing = module(inputs | {"camera_valid": torch.zeros(2, 2)}, memory)
    assert all(bool(torch.isfinite(t).all()) for t in (nothing.heatmap, nothing.regression))


@pytest.mark.parametrize("name", TEMPORAL)
def test_an_invalid_memory_has_no_influence_and_a_valid_one_has(name: str) -> None:
    module, (inputs, memory) = student(name), frames(name)
    assert memory is not None
    nothing = memory._replace(valid=torch.zeros(2, 1))
    garbage = Memory(memory.bev * 100, torch.randn(2, 4, 4), nothing.valid, memory.dt * 9)
    with torch.no_grad():
        expected = module(inputs, nothing)
        assert_same(module(inputs, garbage), expected)
        assert_same(module(inputs, None), expected)
        seen = module(inputs, memory).heatmap
        assert not torch.allclose(seen, expected.heatmap, atol=1e-4)
        driven = memory._replace(from_curr=torch.eye(4).expand(2, 4, 4))
        assert not torch.allclose(seen, module(inputs, driven).heatmap, atol=1e-4), "ego motion must matter"


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_plain_data_and_a_wrong_state_is_refused(name: str) -> None:
    family, config = STUDENTS[name], CONFIGS[name]
    assert from_plain(family.config, json.loads(json.dumps(to_plain(config))), name) == config
    assert from_plain(family.config, json.loads(json.dumps(to_plain(family.config()))), name) == family.config()
    spec = dataclasses.replace(spec_for(name), temporal=TemporalSpec(state_channels=5))
    with pytest.raises(ValueError, match=r"spec\.temporal\.state_channels"):
        family.module(spec, config)


def test_proposals_decide_where_the_backward_projection_counts() -> None:
    module, (inputs, _) = student("fbbev"), frames("fbbev")
    bias = module.proposals[-1].bias
    with torch.no_grad():
        lifted = module.camera(inputs)
        bias.fill_(-50.0)
        torch.testing.assert_close(module.both_ways(inputs)[0], lifted.bev)
        bias.fill_(50.0)
        everywhere = module.both_ways(inputs)[0]
        bias.fill_(0.0)
        bias.fill_(float(np.log(0.4 / 0.6) - module.proposals(lifted.bev).median()))  # the median meets the threshold
        some, aux = module.both_ways(inputs)
    kept = (aux["foreground"].sigmoid() > 0.4).expand_as(some)
    assert 0.2 < kept.float().mean() < 0.8
    torch.testing.assert_close(some, torch.where(kept, everywhere, lifted.bev))
    assert float((everywhere - lifted.bev).abs().mean()) > 0.1


@pytest.mark.parametrize(("beside", "valid"), [("first", 1.0), ("own", 1.0), ("first", 0.0)])
def test_bevformer_reads_the_first_queries_in_all_layers(beside: str, valid: float) -> None:
    """Beside the earlier map; without one, or where the config says so, each layer's own."""
    spec, config = spec_for("bevformer"), dataclasses.replace(CONFIGS["bevformer"], beside=beside)
    module = STUDENTS["bevformer"].module(spec, config).eval()
    read: list[torch.Tensor] = []
    for layer in module.layers:
        layer.temporal.value.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    memory = empty_memory(spec, torch.zeros(1), 1)
    assert memory is not None and len(module.layers) == 2
    with torch.no_grad():
        found = module.maps(frames("bevformer", 1)[0], memory._replace(valid=torch.full((1, 1), valid)))
    (_, first, earlier, second) = read
    assert torch.equal(second, first if (beside, valid) == ("first", 1.0) else found["encoder1"])
    assert not torch.equal(first, found["encoder1"])
    assert torch.equal(earlier, second if not valid else torch.zeros_like(earlier))


def test_bevformer_names_what_it_can_read() -> None:
    with pytest.raises(ValueError, match="'first', 'own'"):
        dataclasses.replace(CONFIGS["bevformer"], beside="last")


def test_static_bevformer_has_no_state() -> None:
    spec = dataclasses.replace(spec_for("bevformer"), temporal=TemporalSpec(state_channels=0))
    module = STUDENTS["bevformer"].module(spec, CONFIGS["bevformer"]).eval()
    with torch.no_grad():
        assert module(frames("bevformer")[0], None).state is None


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 7, 9)
    for stride, groups in ((1, 1), (2, 1), (1, 2)):
        conv = DeformConv(4, 6, stride, groups, modulated=False)
        expected = F.conv2d(x, conv.weight, conv.bias, stride, 1, groups=groups)
        torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-4)
        half = DeformConv(4, 6, stride, groups)
        expected = F.conv2d(x, half.weight / 2, half.bias, stride, 1, groups=groups)
        torch.testing.assert_close(half(x), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_deformable_convolution_equals_a_loop() -> None:
    torch.manual_seed(2)
    conv, x = DeformConv(2, 3, stride=2), torch.randn(1, 2, 6, 5)
    torch.nn.init.normal_(conv.offset.weight, std=0.3)
    torch.nn.init.normal_(conv.offset.bias, std=1.0)
    offset = conv.offset(x)[0].double()
    found = conv(x)[0]

    def at(channel: int, row: float, col: float) -> float:
        total = 0.0
        for r in (int(np.floor(row)), int(np.floor(row)) + 1):
            for c in (int(np.floor(col)), int(np.floor(col)) + 1):
                if 0 <= r < 6 and 0 <= c < 5:
                    total += float(x[0, channel, r, c]) * (1 - abs(row - r)) * (1 - abs(col - c))
        return total

    for out, i, j in np.ndindex(*found.shape):
        expected = float(conv.bias[out])
        for tap in range(9):
            row = 2 * i - 1 + tap // 3 + float(offset[2 * tap, i, j])
            col = 2 * j - 1 + tap % 3 + float(offset[2 * tap + 1, i, j])
            gate = float(offset[18 + tap, i, j].sigmoid())
            for c in range(2):
                expected += gate * float(conv.weight[out, c, tap // 3, tap % 3]) * at(c, row, col)
        assert float(found[out, i, j]) == pytest.approx(expected, abs=1e-4)


def test_camera_vector_takes_the_projection_apart() -> None:
    torch.manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(3, 3))[0]
    rotation = rotation * torch.det(rotation).sign()
    place = torch.tensor([1.5, -0.3, 1.6])
    intrinsics = torch.tensor([[300.0, 4.0, 170.0], [0.0, 310.0, 60.0], [0.0, 0.0, 1.0]])
    scale = 1.05
    projection = torch.eye(4)
    projection[:3, :3] = intrinsics @ rotation * scale  # a world scaled by 1 / 1.05
    projection[:3, 3] = -intrinsics @ rotation @ place * scale
    vector = projection_vector(projection[None, None], torch.ones(1, 1), (128, 352))[0, 0]
    expected = torch.tensor([300 / 352, 310 / 128, 170 / 352, 60 / 128, 4 / 352, np.log(scale)])
    torch.testing.assert_close(vector[:6], expected.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vector[6:15].reshape(3, 3), rotation, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vector[15:], place / 10, atol=1e-4, rtol=1e-4)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    mirror[0, 2] = 352.0  # u -> 352 - u
    mirrored = projection_vector((mirror @ projection)[None, None], torch.ones(1, 1), (128, 352))[0, 0]
    assert float(mirrored[0]) == pytest.approx(-300 / 352, abs=1e-4) and torch.isfinite(mirrored).all()
    torch.testing.assert_close(mirrored[15:], place / 10, atol=1e-4, rtol=1e-4)
    off = projection_vector(torch.full((1, 1, 4, 4), torch.nan), torch.zeros(1, 1), (128, 352))
    assert torch.isfinite(off).all()


def test_image_branch_reads_both_colour_orders_alike() -> None:
    torch.manual_seed(4)
    config = ImageConfig("resnet18", width=8, stride=16, channels=16)
    bgr = ImageBranch(ImageSpec(32, 64), config).eval()
    rgb = ImageBranch(ImageSpec(32, 64, color_order="rgb"), config).eval()
    rgb.load_state_dict(bgr.state_dict())
    images = torch.randint(0, 255, (1, 2, 32, 64, 3), dtype=torch.uint8)
    torch.testing.assert_close(bgr(images), rgb(images.flip(-1)))
    assert bgr(images).shape == (1, 2, 16, 2, 4)
    with pytest.raises(ValueError, match="multiples of 32"):
        ImageBranch(ImageSpec(100, 64), config)
    with pytest.raises(ValueError, match="backbone must be one of"):
        ImageConfig("resnet9")


@pytest.mark.parametrize("fresh", [True, False], ids=["new", "trained on"])
@pytest.mark.parametrize(
    ("stages", "norms", "still"),
    [
        (-1, False, ()),
        (0, False, ("conv1.", "bn1.")),
        (1, False, ("conv1.", "bn1.", "layer1.")),
        (-1, True, ("bn1.", ".bn1.", ".bn2.", "downsample.1.")),
    ],
)
def test_what_is_frozen_keeps_weights_and_statistics_and_all_else_learns(
    stages: int, norms: bool, still: tuple[str, ...], fresh: bool
) -> None:
    torch.manual_seed(0)
    config = ImageConfig("resnet18", width=8, stride=16, channels=16, frozen_stages=stages, fixed_norms=norms)
    branch = ImageBranch(ImageSpec(32, 64), config)
    before = {name: value.clone() for name, value in branch.backbone.state_dict().items()}
    if not fresh:
        branch.eval().train()
    optimiser = torch.optim.SGD([p for p in branch.parameters() if p.requires_grad], 1.0)
    branch(torch.rand(2, 1, 32, 64, 3) * 255).square().sum().backward()
    optimiser.step()
    for name, value in branch.backbone.state_dict().items():
        frozen = any(part in name for part in still) if norms else name.startswith(still)
        assert torch.equal(value, before[name]) == frozen, name


def test_freezing_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="for a ResNet, found 'convnext_tiny'"):
        ImageConfig("convnext_tiny", fixed_norms=True)
    with pytest.raises(ValueError, match=r"-1 \(none\), 0 \(the stem\) to 4, found 5"):
        ImageConfig("resnet18", frozen_stages=5)


def test_crns_depth_network_sees_the_image_alone() -> None:
    torch.manual_seed(0)
    features, valid = torch.rand(1, 2, 12, 4, 6), torch.ones(1, 2)
    cameras = torch.rand(2, 1, 2, 4, 4)
    blind = depth_network(12, 7, 5, DepthNetConfig(8, blocks=1, camera_aware=False)).eval()
    knowing = depth_network(12, 7, 5, DepthNetConfig(8, aspp=4, blocks=1, deform_groups=2)).eval()
    for network, alike in ((blind, True), (knowing, False)):
        (depth, context), (again, _) = (network(features, camera, valid, (64, 96)) for camera in cameras)
        assert depth.shape == (1, 2, 7, 4, 6) and context.shape == (1, 2, 5, 4, 6)
        assert torch.equal(depth, again) == alike
    assert not any(isinstance(m, DeformConv) for m in blind.modules())


def test_crns_depth_network_is_as_large_as_the_published_one() -> None:
    config = CrnConfig()
    network = depth_network(config.image.channels, config.bins.count, config.context, config.depth_net)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(5.4e6, abs=0.05e6)  # its experiment's summary
