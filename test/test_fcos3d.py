"""FCOS3D's backbone, for BEVFormer: converted tensors against the same network written down with torch's operators."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs lightning")
import torch
import torch.nn.functional as F
from torch import Tensor

from training.convert.conversion import convert, convert_file
from training.experiments import bevformer
from training.models.backbones import BACKBONES
from training.models.image_branch import IMAGE_MEAN, IMAGE_STD
from training.run import build_detector
from training.trainer.starting import FRESH, Start, begin_with

BLOCKS = (3, 4, 23, 3)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """As mmdetection3d names them, drawn; offsets of about a pixel."""
    torch.manual_seed(0)
    state = {}
    for name, tensor in BACKBONES["resnet101_fcos3d"](None).state_dict().items():
        if ".conv2.bias" in name or name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")) or "downsample.1.weight" in name:
            value = 0.5 + torch.rand(tensor.shape)
        elif "offset" in name:
            value = torch.randn(tensor.shape) * (0.02 if tensor.ndim > 1 else 0.7)
        else:
            value = torch.randn(tensor.shape) * (2 / max(1, tensor[0].numel())) ** 0.5 * 0.7
        state["backbone." + name.replace(".offset.", ".conv_offset.")] = value
    return state


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    parts = (state[f"backbone.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def deform_conv2d(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """3x3, padding 1, as mmcv's DCNv2 numbers its channels: dy of tap k at 2 k, dx at 2 k + 1; bilinear, 0 outside."""
    (b, c, h, w), total = x.shape, torch.zeros(())
    padded = F.pad(x, (1, 1, 1, 1)).flatten(2)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    for k in range(9):
        y, x_at = rows + k // 3 - 1 + offset[:, 2 * k], columns + k % 3 - 1 + offset[:, 2 * k + 1]
        read = torch.zeros(())
        for corner in range(4):
            row, column = y.floor() + corner // 2, x_at.floor() + corner % 2
            share = (1 - (y - row).abs()) * (1 - (x_at - column).abs())
            at = (row.clamp(-1, h) + 1) * (w + 2) + column.clamp(-1, w) + 1
            read = read + share[:, None] * padded.gather(2, at.long().flatten(1)[:, None].expand(b, c, -1)).reshape_as(
                x
            )
        total = total + torch.einsum("oc,bchw->bohw", weight[:, :, k // 3, k % 3], read * mask[:, k, None])
    return total


def written_down(images: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """(B, 3, H, W) BGR, 0 to 255 -> maps of the four stages."""
    x = images - torch.tensor(IMAGE_MEAN).reshape(1, 3, 1, 1)
    x = F.max_pool2d(norm(F.conv2d(x, state["backbone.conv1.weight"], None, 2, 3), state, "bn1").relu(), 3, 2, 1)
    maps = []
    for stage, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            weights = {n: state[f"backbone.{at}.{n}.weight"] for n in ("conv1", "conv2", "conv3")}
            y = norm(F.conv2d(x, weights["conv1"], None, stride), state, f"{at}.bn1").relu()
            if stage > 2:
                offset = (state[f"backbone.{at}.conv2.conv_offset.{part}"] for part in ("weight", "bias"))
                first, second, mask = F.conv2d(y, *offset, padding=1).chunk(3, dim=1)
                moved = torch.cat([first, second], dim=1)
                y = deform_conv2d(y, moved, weights["conv2"], mask.sigmoid())
            else:
                y = F.conv2d(y, weights["conv2"], None, 1, 1)
            y = norm(F.conv2d(norm(y, state, f"{at}.bn2").relu(), weights["conv3"]), state, f"{at}.bn3")
            if block == 0:
                x = norm(
                    F.conv2d(x, state[f"backbone.{at}.downsample.0.weight"], None, stride), state, f"{at}.downsample.1"
                )
            x = (x + y).relu()
        maps.append(x)
    return maps


@torch.no_grad()
def test_the_converted_backbone_is_the_published_one(published: dict[str, Tensor]) -> None:
    module, report = convert(published | {"bbox_head.conv.weight": torch.ones(1)}, "fcos3d_r101")
    assert report.left == ("bbox_head.conv.weight",) and not any("image.backbone" in name for name in report.fresh)
    images = torch.rand(1, 3, 64, 96) * 255
    scaled = (images - torch.tensor(IMAGE_MEAN).reshape(1, 3, 1, 1)) / torch.tensor(IMAGE_STD).reshape(1, 3, 1, 1)
    for found, expected in zip(module.detector.image.backbone(scaled), written_down(images, published), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_bevformer_starts_from_it_and_not_from_nothing(published: dict[str, Tensor], tmp_path: Path) -> None:
    named = {name.replace("backbone.", "img_backbone."): tensor for name, tensor in published.items()}
    torch.save({"state_dict": named}, tmp_path / "published.pth")
    written, _ = convert_file(tmp_path / "published.pth", "fcos3d_r101", tmp_path)
    run = bevformer.r101_fcos3d()
    detector = build_detector(run)
    with pytest.raises(ValueError, match="never learn: give --backbone with FCOS3D weights"):
        begin_with(detector, run, {}, FRESH)
    begin_with(detector, run, {}, Start(backbone=written))
    assert torch.equal(detector.image.backbone.layer3[5].conv3.weight, published["backbone.layer3.5.conv3.weight"])
    frozen = {name.split(".")[0] for name, p in detector.image.backbone.named_parameters() if not p.requires_grad}
    assert {"conv1", "bn1", "layer1"} <= frozen and detector.image.backbone.layer3[5].conv3.weight.requires_grad
    with pytest.raises(ValueError, match="leave --published-grid out"):
        convert(published, "fcos3d_r101", published_grid=True)
