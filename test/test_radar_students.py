"""The radar student: its operators against slow references, and its masks."""

from __future__ import annotations

import copy
import dataclasses

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from tiny_networks import CONFIGS

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ModelSpec, RadarSpec, TemporalSpec
from bev_perception.preprocess.radar import group_pillars
from training.distill.adapters import copy_weights
from training.models import STUDENTS
from training.models.cma import CrossModalityAlignment, GlobalResponseNorm
from training.models.deform_conv import DeformConv
from training.models.detector import Memory
from training.models.pillar_encoder import PillarEncoder
from training.models.radar_branch import RadarPillars
from training.models.radar_pillarnet import RadarPillarNet, RadarPillarNetConfig
from training.models.temporal_fusion import TemporalConfig
from training.teachers.pillarnet import PillarNet, PillarNetConfig

TINY = CONFIGS["radar_pillarnet"]
GRID = BevGrid(-12.8, 12.8, -6.4, 6.4, 0.8)  # 32 x 16
SPEC = ModelSpec(
    "radar", (), ("front", "rear"), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=GRID,
    radar=RadarSpec(format="pillars", pillar_step=0.4, max_pillars=150, pillar_points=6),
    temporal=TemporalSpec(state_channels=0), top_k=20,
)  # fmt: skip


def cloud(seed: int, count: int = 90) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(-14, 14, count), rng.uniform(-7, 7, count), rng.normal(size=(count, 5))])
    return np.concatenate([points, points[::3] + 0.01]).astype(np.float32)


def inputs_of(*clouds: np.ndarray, spec: ModelSpec = SPEC) -> dict[str, torch.Tensor]:
    found = [group_pillars(points, spec)[0] for points in clouds]
    batch = {name: torch.from_numpy(np.stack([f[name] for f in found])) for name in found[0]}
    return batch | {"radar_valid": torch.ones(len(clouds), len(spec.radars))}


def student(config: RadarPillarNetConfig | None = None, spec: ModelSpec = SPEC) -> RadarPillarNet:
    torch.manual_seed(0)
    module = RadarPillarNet(spec, config or TINY).eval()
    for child in module.modules():  # in a trained network nothing is 0 or 1, and no map is flat
        if isinstance(child, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            child.running_mean.uniform_(-0.1, 0.1)
            child.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(child.bias, std=0.3)
        if isinstance(child, DeformConv):
            torch.nn.init.normal_(child.offset.weight, std=0.2)
        if isinstance(child, GlobalResponseNorm):
            torch.nn.init.normal_(child.gamma)
    torch.nn.init.normal_(module.deaf)
    torch.nn.init.normal_(module.head.branches[0]["heatmap"][-1].weight, std=0.3)
    return module


@pytest.mark.parametrize("widths", [(8,), (8, 6, 12)])
@pytest.mark.parametrize("training", [False, True])
def test_padded_pillars_equal_the_dynamic_encoder(widths: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    clouds = [cloud(1), cloud(2, 40)]
    ours = RadarPillars(SPEC.pillar_grid(), widths, (-5.0, 5.0)).train(training)
    theirs = PillarEncoder(6, SPEC.pillar_grid(), widths, (-5.0, 5.0)).train(training)
    theirs.load_state_dict(ours.state_dict())
    assert max(group_pillars(c, SPEC)[0]["radar_counts"].max() for c in clouds) > 1
    batch = inputs_of(*clouds)
    found, mask = ours(batch["radar_points"], batch["radar_counts"], batch["radar_cells"])
    rows = [np.column_stack([np.full(len(c), i), c[:, :6]]) for i, c in enumerate(clouds)]
    expected, expected_mask = theirs(torch.from_numpy(np.concatenate(rows)).float(), 2)
    torch.testing.assert_close(mask, expected_mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_norms_may_be_converted_for_several_gpus() -> None:
    """As Lightning's sync_batchnorm does: the same parameters, and alone the same results."""
    batch = inputs_of(cloud(1), cloud(2, 40))
    module = student().train()
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(module))
    torch.testing.assert_close(converted(batch, None).heatmap, module(batch, None).heatmap)
    torch.testing.assert_close(dict(converted.state_dict()), dict(module.state_dict()))


def test_frames_without_points_make_an_empty_map_in_training() -> None:
    batch = inputs_of(cloud(0)[:0], cloud(0)[:0])
    encoder = RadarPillars(SPEC.pillar_grid(), (8, 8)).train()
    found, mask = encoder(batch["radar_points"], batch["radar_counts"], batch["radar_cells"])
    assert not found.any() and not mask.any() and found.shape == (2, 8, 64, 32)


def test_deformable_convolution_equals_its_definition() -> None:
    """torchvision.ops.deform_conv2d, written as loops: sum over taps and channels of weight x mask x bilinear read."""
    torch.manual_seed(3)
    conv = DeformConv(3, 4, stride=2)
    torch.nn.init.normal_(conv.offset.weight, std=0.4)
    torch.nn.init.normal_(conv.offset.bias, std=1.0)
    x = torch.randn(2, 3, 6, 8)
    with torch.no_grad():
        predicted, found = conv.offset(x), conv(x)
    weight, bias = conv.weight.detach(), conv.bias.detach()

    def read(b: int, c: int, row: float, column: float) -> float:
        r, k, total = int(np.floor(row)), int(np.floor(column)), 0.0
        for i, wi in ((r, r + 1 - row), (r + 1, row - r)):
            for j, wj in ((k, k + 1 - column), (k + 1, column - k)):
                if 0 <= i < 6 and 0 <= j < 8:
                    total += float(x[b, c, i, j]) * wi * wj
        return total

    for b, o, i, j in np.ndindex(2, 4, 3, 4):
        expected = float(bias[o])
        for k in range(9):
            dy, dx = float(predicted[b, 2 * k, i, j]), float(predicted[b, 2 * k + 1, i, j])
            modulation = float(predicted[b, 18 + k, i, j].sigmoid())
            for c in range(3):
                value = read(b, c, 2 * i - 1 + k // 3 + dy, 2 * j - 1 + k % 3 + dx)
                expected += float(weight[o, c, k // 3, k % 3]) * modulation * value
        assert float(found[b, o, i, j]) == pytest.approx(expected, abs=1e-4)


def test_global_response_norm_is_its_formula() -> None:
    norm, x = GlobalResponseNorm(3), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(norm(x), x)
    torch.nn.init.normal_(norm.gamma)
    torch.nn.init.normal_(norm.beta)
    found = norm(x).detach().numpy()
    for b in range(2):
        g = [np.sqrt((x[b, c].numpy() ** 2).sum()) for c in range(3)]
        for c in range(3):
            n = g[c] / (np.mean(g) + 1e-6)
            gamma, beta = norm.gamma[0, c].item(), norm.beta[0, c].item()
            np.testing.assert_allclose(found[b, c], gamma * (x[b, c].numpy() * n) + beta + x[b, c].numpy(), rtol=1e-4)


def test_cma_fills_empty_cells_and_survives_an_empty_map() -> None:
    torch.manual_seed(0)
    cma = CrossModalityAlignment(8).train()
    sparse = torch.zeros(1, 8, 16, 8)
    sparse[0, :, 5, 3] = 1.0
    low1, low2 = cma(sparse)
    assert low1.shape == low2.shape == sparse.shape
    assert (low2.abs().sum(1) > 0).float().mean() > 0.9
    sum(m.sum() for m in cma(torch.zeros(2, 8, 16, 8))).backward()
    assert all(torch.isfinite(p.grad).all() for p in cma.parameters() if p.grad is not None)


def test_conv5_reads_conv4_as_in_the_code_or_the_densified_map_as_in_the_paper() -> None:
    inputs = inputs_of(cloud(0), cloud(1))
    for source in ("conv4", "low2"):
        module = RadarPillarNet(SPEC, dataclasses.replace(TINY, conv5_from=source)).eval()
        with torch.no_grad():
            maps = module.maps(inputs)
            torch.testing.assert_close(maps["conv5"], module.backbone.conv5(maps[source]))
    with pytest.raises(ValueError, match="conv5_from must be one of"):
        dataclasses.replace(TINY, conv5_from="conv3")


def test_shapes_and_the_teachers_counterparts() -> None:
    module = student()
    with torch.no_grad():
        found = module(inputs_of(cloud(0), cloud(1)), None)
    assert found.heatmap.shape == (2, 10, 32, 16) and found.regression.shape == (2, 1, 10, 32, 16)
    assert found.aux["iou"].shape == (2, 1, 32, 16) and found.state is None
    assert module.encode(inputs_of(cloud(0)), None) is None
    config = TINY
    teacher = PillarNet(dataclasses.replace(SPEC, radars=()), PillarNetConfig(config.backbone, head=config.head)).eval()
    points = torch.cat([torch.zeros(60, 1), torch.rand(60, 5)], dim=1)
    theirs = teacher({"lidar": points, "lidar_counts": torch.tensor([60, 0])}, None).features
    for ours, name in (("low1", "conv4"), ("low2", "conv4"), ("high1", "high"), ("high2", "neck")):
        assert found.features[ours].shape == theirs[name].shape
    copied, _ = copy_weights(module, teacher.state_dict())
    assert {name.split(".")[0] for name in copied} == {"backbone", "neck", "head", "pillars"}
    assert {n for n in module.state_dict() if n.startswith(("backbone", "neck", "head"))} <= set(copied)
    torch.testing.assert_close(module.backbone.conv5[0][0].weight, teacher.backbone.conv5[0][0].weight)
    assert "pillars.layers.0.linear.weight" not in copied


@pytest.mark.parametrize("kind", ["none", "recurrent"])
def test_gradients_reach_every_parameter(kind: str) -> None:
    channels = TINY.backbone.channels[3]
    temporal = TemporalSpec(state_channels=0 if kind == "none" else channels)
    spec = dataclasses.replace(SPEC, temporal=temporal)
    module = student(dataclasses.replace(TINY, temporal=TemporalConfig(kind)), spec).train()
    batch = inputs_of(cloud(0), cloud(1))
    batch["radar_valid"][0, 0] = 0
    memory = None
    if kind != "none":
        state = torch.randn(2, channels, *GRID.shape)
        memory = Memory(state, torch.eye(4).expand(2, 4, 4), torch.ones(2, 1), torch.full((2, 1), 0.5))
    found = module(batch, memory)
    sum((t * torch.randn_like(t)).sum() for t in (found.heatmap, found.regression, found.aux["iou"])).backward()
    missing = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_items_of_a_batch_are_independent_and_padding_is_never_read() -> None:
    module, batch = student(), inputs_of(cloud(0), cloud(1), cloud(2, 10))
    with torch.no_grad():
        together = module(batch, None)
        for i in range(3):
            alone = module({n: t[i : i + 1] for n, t in batch.items()}, None)
            torch.testing.assert_close(together.heatmap[i], alone.heatmap[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together.regression[i], alone.regression[0], atol=1e-5, rtol=1e-4)
        empty = torch.arange(SPEC.radar.pillar_points) >= batch["radar_counts"][..., None]
        garbage = torch.where(empty[..., None], 99.0, batch["radar_points"])
        torch.testing.assert_close(module(batch | {"radar_points": garbage}, None).heatmap, together.heatmap)
        assert not torch.allclose(together.heatmap[0], together.heatmap[1])


def test_dead_radars_are_told_from_an_empty_world() -> None:
    module, batch = student(), inputs_of(cloud(0)[:0])
    with torch.no_grad():
        silent, dead = module(batch, None), module(batch | {"radar_valid": torch.zeros(1, 2)}, None)
    assert torch.isfinite(dead.heatmap).all() and not torch.allclose(silent.heatmap, dead.heatmap)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radar": RadarSpec()}, 'wants radars and spec.radar.format "pillars"'),
        ({"radar": dataclasses.replace(SPEC.radar, pillar_step=0.2)}, "pillar_step = grid.step / 2 = 0.4, found 0.2"),
        ({"grid": BevGrid(-12.0, 12.0, -6.4, 6.4, 0.8)}, "multiples of 4"),
        ({"temporal": TemporalSpec(16)}, "has a state of 0, the spec says 16"),
    ],
)
def test_specs_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RadarPillarNet(dataclasses.replace(SPEC, **change), TINY)


def test_the_paper_size_is_known() -> None:
    assert STUDENTS["radar_pillarnet"].module is RadarPillarNet
    config = STUDENTS["radar_pillarnet"].config()
    assert config == RadarPillarNetConfig() and config.backbone.stride == 8
    radar = RadarSpec(format="pillars", pillar_step=0.075)
    spec = dataclasses.replace(SPEC, grid=BevGrid(-54.0, 54.0, -54.0, 54.0, 0.6), radar=radar)
    assert spec.pillar_grid().shape == (1440, 1440)
    with torch.device("meta"):
        assert 10e6 < sum(p.numel() for p in RadarPillarNet(spec, config).parameters()) < 40e6
