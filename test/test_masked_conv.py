"""Masked dense convolutions against a dictionary of active sites, and against spconv where it is installed."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from torch import nn

from training.models.masked_conv import SparseConv, SparseStage, SubmanifoldConv, masked_norm, row_norm
from training.models.pillar_backbone import PillarBackbone, PillarBackboneConfig
from training.teachers.voxelnet import one_thread

Sites = dict[tuple[int, ...], np.ndarray]  # (b, x, y) -> (C,)


def sparse_map(channels: int, shape: tuple[int, int, int] = (2, 12, 10), share: float = 0.15) -> tuple:
    torch.manual_seed(0)
    b, x, y = shape
    mask = (torch.rand(b, 1, x, y) < share).float()
    return torch.randn(b, channels, x, y) * mask, mask


def sites_of(x: torch.Tensor, mask: torch.Tensor) -> Sites:
    return {(b, i, j): x[b, :, i, j].detach().double().numpy() for b, _, i, j in mask.nonzero().tolist()}


def by_dictionary(sites: Sites, weight: torch.Tensor, stride: int, size: tuple[int, int], submanifold: bool) -> Sites:
    """Gather, multiply, scatter, as sparse convolution is defined (Graham et al., CVPR 2018)."""
    kernel = weight.detach().double().numpy()  # (out, in, k, k)
    pad, out = kernel.shape[2] // 2, {}
    limit = [(s + 2 * pad - kernel.shape[2]) // stride + 1 for s in size]
    for (b, i, j), value in sites.items():
        for di, dj in itertools.product(range(kernel.shape[2]), repeat=2):
            oi, ri = divmod(i + pad - di, stride)
            oj, rj = divmod(j + pad - dj, stride)
            if (
                ri
                or rj
                or not (0 <= oi < limit[0] and 0 <= oj < limit[1])
                or (submanifold and (b, oi, oj) not in sites)
            ):
                continue
            out[b, oi, oj] = out.get((b, oi, oj), 0) + kernel[:, :, di, dj] @ value
    return out


def assert_same(x: torch.Tensor, mask: torch.Tensor, expected: Sites) -> None:
    assert {(b, i, j) for b, _, i, j in mask.nonzero().tolist()} == set(expected)
    for (b, i, j), value in expected.items():
        np.testing.assert_allclose(x[b, :, i, j].detach().numpy(), value, atol=1e-5)
    assert (x * (1 - mask)).abs().max() == 0  # silent sites are exactly zero


def test_submanifold_convolution_equals_its_definition() -> None:
    x, mask = sparse_map(3)
    conv = SubmanifoldConv(3, 5)
    assert_same(conv(x, mask), mask, by_dictionary(sites_of(x, mask), conv.conv.weight, 1, (12, 10), True))


@pytest.mark.parametrize(("stride", "size"), [(1, (12, 10)), (2, (12, 10)), (2, (11, 9))])
def test_strided_convolution_equals_its_definition(stride: int, size: tuple[int, int]) -> None:
    x, mask = sparse_map(3, (2, *size))
    conv = SparseConv(3, 5, stride=stride)
    expected = by_dictionary(sites_of(x, mask), conv.conv.weight, stride, size, False)
    assert len(expected) < mask[:, :, ::stride, ::stride].numel()
    assert_same(*conv(x, mask), expected)


def test_norm_takes_statistics_of_active_sites_alone() -> None:
    x, mask = sparse_map(4)
    masked, rows = row_norm(4), nn.BatchNorm1d(4, eps=1e-3, momentum=0.01)
    active = mask[:, 0] > 0
    for _ in range(3):
        y, expected = masked_norm(masked, x, mask), rows(x.permute(0, 2, 3, 1)[active])
        torch.testing.assert_close(y.permute(0, 2, 3, 1)[active], expected)
        assert (y * (1 - mask)).abs().max() == 0
        assert y.permute(0, 2, 3, 1)[active].mean(0).abs().max() < 1e-5
    for name, value in rows.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], value)
    y, expected = masked_norm(masked.eval(), x, mask), rows.eval()(x.permute(0, 2, 3, 1)[active])
    torch.testing.assert_close(y.permute(0, 2, 3, 1)[active], expected)
    assert (y * (1 - mask)).abs().max() == 0


@pytest.mark.parametrize("active", [0, 1])
def test_hardly_any_active_site_in_training(active: int) -> None:
    x, mask = torch.zeros(1, 4, 8, 8), torch.zeros(1, 1, 8, 8)
    x[0, :, 3, 3], mask[0, 0, 3, 3] = float(active), float(active)
    stage = SparseStage(4, 6, 2, 1)
    y, _ = stage(x, mask)
    y.sum().backward()
    assert torch.isfinite(y).all() and all(torch.isfinite(b).all() for b in stage.buffers())


def test_backbone_maps_and_silence() -> None:
    config = PillarBackboneConfig((4, 6, 8, 10, 12), blocks=(1, 1, 1, 1, 1))
    x, mask = sparse_map(4, (2, 64, 32), share=0.01)
    maps = PillarBackbone(config)(x, mask)
    shapes = {name: tuple(m.shape[1:]) for name, m in maps.items()}
    assert shapes == {
        "conv1": (4, 64, 32), "conv2": (6, 32, 16), "conv3": (8, 16, 8), "conv4": (10, 8, 4), "conv5": (12, 4, 2),
    }  # fmt: skip
    silent = mask == 0
    assert (maps["conv1"] * silent).abs().max() == 0 and maps["conv1"].abs().max() > 0


def test_equals_spconv() -> None:
    """The whole stage against spconv's own layers with the same weights."""
    spconv = pytest.importorskip("spconv.pytorch", reason="spconv is optional: pip install spconv")
    x, mask = sparse_map(8, (2, 17, 14))
    stage = SparseStage(8, 12, 2, 1)
    for module in stage.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    stage.eval()
    assert stage.down is not None and stage.norm is not None
    block = stage.blocks[0]

    def like(layer: nn.Module, weight: torch.Tensor) -> nn.Module:
        # spconv keeps its kernels as (out, k, k, in).
        layer.weight.data.copy_(weight.detach().permute(0, 2, 3, 1).reshape(layer.weight.shape))
        return layer

    active = mask[:, 0].nonzero().contiguous()  # spconv reads its memory row by row, whatever the strides say
    with torch.no_grad(), one_thread():
        rows = x.permute(0, 2, 3, 1)[tuple(active.t())]
        sparse = spconv.SparseConvTensor(rows, active.int(), [17, 14], 2)
        down = like(spconv.SparseConv2d(8, 12, 3, 2, 1, bias=False), stage.down.conv.weight)(sparse)
        down = down.replace_feature(nn.functional.relu(rows_norm(stage.norm, down.features)))
        y = like(spconv.SubMConv2d(12, 12, 3, bias=False, indice_key="a"), block.conv1.conv.weight)(down)
        y = y.replace_feature(rows_norm(block.norm1, y.features).relu())
        y = like(spconv.SubMConv2d(12, 12, 3, bias=False, indice_key="a"), block.conv2.conv.weight)(y)
        y = y.replace_feature((rows_norm(block.norm2, y.features) + down.features).relu())
        ours, ours_mask = stage(x, mask)
    torch.testing.assert_close(ours, y.dense(), atol=1e-5, rtol=1e-4)
    assert {tuple(i) for i in y.indices.tolist()} == {tuple(i) for i in ours_mask[:, 0].nonzero().tolist()}


def rows_norm(norm: nn.BatchNorm1d, rows: torch.Tensor) -> torch.Tensor:
    return nn.functional.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
