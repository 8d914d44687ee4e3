"""Camera + radar students: the radar's frustum against projection, masks, gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from tiny_networks import CONFIGS
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, RadarSpec, TemporalSpec
from training.bundling.pattern import pattern_inputs
from training.models import STUDENTS, crn
from training.models.deform_conv import DeformConv
from training.models.detector import Memory, empty_memory
from training.models.radar_branch import RadarBev
from training.models.radar_frustum import RadarFrustum, plane_points
from training.models.temporal_fusion import TemporalConfig, state_channels
from training.models.view.attention import OffsetsAndWeights
from training.models.view.depth_bins import DepthBins

GRID = BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8)
PILLARS = RadarSpec(format="pillars", pillar_step=0.8, max_pillars=80, pillar_points=4)
SPECS = {
    "bevfusion": ModelSpec(
        "fusion", ("a", "b"), ("r", "s"), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0), grid=GRID,
        image=ImageSpec(32, 64), temporal=TemporalSpec(state_channels=0), top_k=20,
    )
}  # fmt: skip
SPECS["crn"] = dataclasses.replace(SPECS["bevfusion"], name="crn", temporal=TemporalSpec(state_channels=16))
FAMILIES = sorted(SPECS)


def student(family: str, spec: ModelSpec | None = None, config: Any = None) -> Any:
    torch.manual_seed(0)
    module = STUDENTS[family].module(spec or SPECS[family], config or CONFIGS[family]).eval()
    for child in module.modules():  # in a trained network nothing is 0 or 1, and no map is flat
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            child.running_mean.uniform_(-0.1, 0.1)
            child.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(child.bias, std=0.3)
        if isinstance(child, DeformConv):
            nn.init.normal_(child.offset.weight, std=0.2)
        if isinstance(child, OffsetsAndWeights):
            nn.init.normal_(child.offsets.weight, std=0.2)
            nn.init.normal_(child.logits.weight, std=0.2)
    nn.init.normal_(module.tail.head.branches[0]["heatmap"][-1].weight, std=0.3)
    return module


def batch_of(spec: ModelSpec, count: int = 1, seed: int = 0) -> tuple[dict[str, Tensor], Memory | None]:
    rng = np.random.default_rng(seed)
    items = [pattern_inputs(spec, seed + i) for i in range(count)]
    for item in items:
        item["images"] = rng.integers(0, 255, item["images"].shape).astype(np.uint8)
    batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
    names = ("prev_bev", "prev_from_curr", "prev_valid", "prev_dt")
    memory = Memory(*(batch.pop(name) for name in names)) if "prev_bev" in batch else None
    return batch, memory


def test_plane_points_project_back_to_their_column_and_depth() -> None:
    inputs, _ = batch_of(SPECS["crn"])
    tilted = inputs["img_from_ego"].double().clone()
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -0.1, 0.2], [0.1, 0, -0.05], [-0.2, 0.05, 0]]).double())
    tilted = tilted @ turn
    columns, depths = torch.tensor([3.5, 20.0, 61.0]).double(), torch.tensor([2.0, 7.5]).double()
    points = plane_points(tilted, columns, depths, 0.8)
    assert points.shape == (1, 2, 2, 3, 2)
    for camera, d, w in np.ndindex(2, 2, 3):
        p = torch.cat([points[0, camera, d, w], torch.tensor([0.8, 1.0]).double()])
        u, _, z, _ = tilted[0, camera] @ p
        assert float(z) == pytest.approx(float(depths[d])) and float(u / z) == pytest.approx(float(columns[w]))


def test_the_frustum_reads_the_radar_map_by_hand() -> None:
    """A camera at the origin looking along x: column u at depth d is at (d, -(u - cx) d / f)."""
    bins = DepthBins(1.0, 2.0, 5)
    frustum = RadarFrustum(GRID, bins, 2, 4, 1)
    img_from_ego = torch.zeros(1, 2, 4, 4)
    f, cx = 40.0, 31.5
    img_from_ego[0, :, 0] = torch.tensor([cx, -f, 0, 0])
    img_from_ego[0, :, 1] = torch.tensor([15.5, 0, -f, 0])
    img_from_ego[0, :, 2] = torch.tensor([1.0, 0, 0, 0])
    radar = torch.randn(1, 2, *GRID.shape)
    found = frustum.read(radar, img_from_ego, torch.tensor([[1.0, 0.0]]), 8, 64)
    assert found.shape == (1, 2, 2, 5, 8) and not found[0, 1].any()
    for d, w in np.ndindex(5, 8):
        depth, u = 2.0 + 2.0 * d, (w + 0.5) * 8 - 0.5
        row, column = GRID.fractional_cells(np.array([depth, -(u - cx) * depth / f])) - 0.5
        i, j = int(np.floor(row)), int(np.floor(column))
        expected = sum(
            radar[0, :, a, b] * (1 - abs(row - a)) * (1 - abs(column - b)) for a in (i, i + 1) for b in (j, j + 1)
        )
        torch.testing.assert_close(found[0, 0, :, d, w], expected.float(), atol=1e-4, rtol=1e-4)
    logits = frustum(radar, img_from_ego, torch.tensor([[1.0, 0.0]]), 8, 64)
    assert logits.shape == (1, 2, 1, 5, 8)
    nn.init.zeros_(frustum.occupancy.weight)
    assert torch.allclose(frustum(radar, img_from_ego, torch.ones(1, 2), 8, 64).sigmoid(), torch.tensor(0.01))


def test_aggregation_equals_its_formula_at_a_cell() -> None:
    torch.manual_seed(0)
    grid = BevGrid(0.0, 6.0, 0.0, 5.0, 1.0)
    config = crn.MfaConfig(8, 1, 2, 3, 8, 0.0)
    layer = crn.AggregationLayer(grid, config).eval()
    nn.init.normal_(layer.where.offsets.weight, std=0.5)
    nn.init.normal_(layer.where.logits.weight)
    query, maps = torch.randn(1, 30, 8), (torch.randn(1, 8, 6, 5), torch.randn(1, 8, 6, 5))
    with torch.no_grad():
        found = layer(query, maps)
        offsets, logits = layer.where(query)
        values = [value(bev)[0] for value, bev in zip(layer.values, maps)]
        for cell in (0, 13, 29):
            total = torch.zeros(8)
            for head in range(2):
                weights = logits[0, cell, head].softmax(0).reshape(2, 3)
                for m, k in np.ndindex(2, 3):
                    # Offsets are (along y, along x) in cells from the cell itself.
                    dy, dx = offsets[0, cell, head, m, k].tolist()
                    row, column = cell // 5 + dx, cell % 5 + dy
                    i, j = int(np.floor(row)), int(np.floor(column))
                    for a, b in ((i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)):
                        if 0 <= a < 6 and 0 <= b < 5:
                            share = (1 - abs(row - a)) * (1 - abs(column - b)) * weights[m, k]
                            total[4 * head : 4 * head + 4] += share * values[m][4 * head : 4 * head + 4, a, b]
            z = layer.norm1(query[0, cell] + layer.output(total))
            torch.testing.assert_close(found[0, cell], layer.norm2(layer.feed_forward(z)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes(family: str) -> None:
    spec, module = SPECS[family], student(family)
    batch, memory = batch_of(spec, 2)
    with torch.no_grad():
        found = module(batch, memory)
        state = module.encode(batch, memory)
    assert found.heatmap.shape == (2, 10, 32, 32) and found.regression.shape == (2, 1, 10, 32, 32)
    assert found.aux["depth"].shape == (2, 2, 12, 4, 8) and module.bins.count == 12
    assert {"lift", "radar", "fused", "encoder1", "encoder2", "neck"} <= set(found.features)
    assert len({found.features[n].shape[2:] for n in ("lift", "radar", "fused", "neck")}) == 1
    if spec.temporal.state_channels:
        assert found.state.shape == (2, 16, 32, 32)
        torch.testing.assert_close(state, found.state)
    else:
        assert found.state is None and state is None


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("bevfusion", {}),
        ("bevfusion", {"radar": PILLARS}),
        ("bevfusion", {"temporal": "history"}),
        ("crn", {}),
        ("crn", {"radar": PILLARS, "temporal": "concat"}),
        ("crn", {"temporal": "history"}),
    ],
)
def test_gradients_reach_every_parameter(family: str, change: dict) -> None:
    spec, config = SPECS[family], CONFIGS[family]
    if "radar" in change:
        spec = dataclasses.replace(spec, radar=change["radar"])
    if "temporal" in change:
        channels = config.fused if family == "bevfusion" else config.mfa.channels
        temporal = TemporalConfig(change["temporal"], 2, 16)
        config = dataclasses.replace(config, temporal=temporal)
        spec = dataclasses.replace(spec, temporal=TemporalSpec(state_channels(temporal, channels)))
    module = student(family, spec, config).train()
    batch, memory = batch_of(spec, 2)
    batch["radar_valid"][0, 0] = 0
    found = module(batch, memory)
    tensors = [found.heatmap, found.regression, *found.aux.values()]
    sum((t * torch.randn_like(t)).sum() for t in tensors).backward()
    missing = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


@pytest.mark.parametrize("family", FAMILIES)
def test_items_of_a_batch_are_independent(family: str) -> None:
    module = student(family)
    batch, memory = batch_of(SPECS[family], 2)
    with torch.no_grad():
        together = module(batch, memory)
        for i in range(2):
            one = Memory(*(t[i : i + 1] for t in memory)) if memory is not None else None
            alone = module({n: t[i : i + 1] for n, t in batch.items()}, one)
            torch.testing.assert_close(together.heatmap[i], alone.heatmap[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.regression[i], alone.regression[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together.heatmap[0], together.heatmap[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_dead_cameras_and_radars_change_nothing_else(family: str) -> None:
    module = student(family)
    batch, memory = batch_of(SPECS[family])
    off = batch | {"camera_valid": torch.tensor([[1.0, 0.0]])}
    garbage = off | {"images": off["images"].clone(), "img_from_ego": off["img_from_ego"].clone()}
    garbage["images"][0, 1] = 77
    garbage["img_from_ego"][0, 1] = torch.eye(4)  # what the runtime gives for a camera that is missing
    blind = batch | {"camera_valid": torch.zeros(1, 2), "img_from_ego": torch.eye(4).expand(1, 2, 4, 4)}
    deaf = batch | {"radar_bev": torch.zeros_like(batch["radar_bev"])}
    with torch.no_grad():
        seen = module(batch, memory).heatmap
        torch.testing.assert_close(module(off, memory).heatmap, module(garbage, memory).heatmap)
        assert not torch.allclose(module(off, memory).heatmap, seen, atol=1e-5)
        assert torch.isfinite(module(blind, memory).heatmap).all()
        silent, dead = module(deaf, memory).heatmap, module(deaf | {"radar_valid": torch.zeros(1, 2)}, memory).heatmap
        assert torch.isfinite(dead).all() and not torch.allclose(silent, dead)
        assert not torch.allclose(silent, seen, atol=1e-5)


def test_an_invalid_memory_is_not_read() -> None:
    module, spec = student("crn"), SPECS["crn"]
    batch, memory = batch_of(spec)
    assert memory is not None
    with torch.no_grad():
        forgotten = module(batch, memory._replace(valid=torch.zeros(1, 1), bev=torch.randn_like(memory.bev) * 9))
        first = module(batch, empty_memory(spec, batch["radar_bev"], 1))
        assert not torch.allclose(module(batch, memory).heatmap, first.heatmap, atol=1e-5)
    torch.testing.assert_close(forgotten.heatmap, first.heatmap)


def test_radar_pillars_must_be_as_large_as_the_cells() -> None:
    spec = dataclasses.replace(SPECS["crn"], radar=dataclasses.replace(PILLARS, pillar_step=0.4))
    with pytest.raises(ValueError, match=r"radar.pillar_step = 0.8, found 0.4"):
        RadarBev(spec, (8,))
    with pytest.raises(ValueError, match="takes radars"):
        RadarBev(dataclasses.replace(spec, radars=()), (8,))


def test_paper_sizes_are_the_defaults() -> None:
    grid, image = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8), ImageSpec(256, 704)
    cameras = tuple(f"c{i}" for i in range(6))
    for family, state, low, high in (("bevfusion", 0, 40e6, 65e6), ("crn", 3 * 130, 50e6, 75e6)):
        spec = dataclasses.replace(
            SPECS[family], cameras=cameras, grid=grid, image=image, temporal=TemporalSpec(state_channels=state)
        )
        module = STUDENTS[family].module(spec, STUDENTS[family].config())
        assert low < sum(p.numel() for p in module.parameters()) < high, family
