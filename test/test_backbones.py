"""Image backbones and necks: torchvision's sizes and names, strides, gradients, and the exported graph."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from torch import Tensor, nn

from training.models.backbones import BACKBONES
from training.models.backbones.convnext import ChannelNorm, ConvNeXt
from training.models.backbones.fan import FAN, ChannelAttention, waves
from training.models.backbones.resnet import ResNet
from training.models.necks import FPN, FpnLss, SecondFPN

# Parameters of torchvision's models without their classifiers.
TORCHVISION_SIZES = {
    "resnet18": (11_689_512 - 513_000, 120),
    "resnet34": (21_797_672 - 513_000, 216),
    "resnet50": (25_557_032 - 2_049_000, 318),
    "resnet101": (44_549_160 - 2_049_000, 624),
    "convnext_tiny": (28_589_128 - 769_000 - 1_536, 178),  # linear layer and its norm
}
TORCHVISION_NAMES = {
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer3.0.downsample.1.num_batches_tracked": (),
        "layer4.1.bn2.bias": (512,),
    },
    "resnet50": {
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.running_var": (1024,),
        "layer4.2.conv1.weight": (512, 2048, 1, 1),
    },
    "convnext_tiny": {
        "features.0.0.weight": (96, 3, 4, 4),
        "features.0.1.weight": (96,),
        "features.1.0.layer_scale": (96, 1, 1),
        "features.1.2.block.0.weight": (96, 1, 7, 7),
        "features.2.0.bias": (96,),
        "features.2.1.weight": (192, 96, 2, 2),
        "features.5.8.block.2.weight": (384,),
        "features.5.8.block.3.weight": (1536, 384),
        "features.7.2.block.5.bias": (768,),
    },
}
TINY = {"resnet18": 8, "resnet50": 4, "convnext_tiny": 8, "fan_small": 16}


@pytest.mark.parametrize("name", TORCHVISION_SIZES)
def test_sizes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES[name](None)
    assert (sum(p.numel() for p in backbone.parameters()), len(backbone.state_dict())) == TORCHVISION_SIZES[name]


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_names_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        state = BACKBONES[name](None).state_dict()
    assert {key: tuple(state[key].shape) for key in TORCHVISION_NAMES[name]} == TORCHVISION_NAMES[name]


def test_fan_small_has_about_the_papers_size() -> None:
    with torch.device("meta"):
        fan = FAN((3, 3, 10, 0))
    body = sum(p.numel() for p in fan.parameters()) - sum(p.numel() for p in fan.down4.parameters())
    # The paper's 26.3 M hold two class attention blocks, 12 (384 x 384) each, and the classifier.
    assert abs(body + 2 * 12 * 384**2 + 385_000 - 26.3e6) < 0.3e6


@pytest.mark.parametrize("name", BACKBONES)
def test_strides_and_channels(name: str) -> None:
    with torch.device("meta"):
        for width in (None, 16):
            backbone = BACKBONES[name](width)
            maps = backbone(torch.zeros(2, 3, 64, 96))
            assert [tuple(m.shape) for m in maps] == [
                (2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (4, 8, 16, 32))
            ]


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_learns_and_every_image_counts_alone(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name](TINY[name])
    images = torch.randn(2, 3, 64, 64)
    sum((m * torch.randn_like(m)).sum() for m in backbone(images)).backward()  # type: ignore[union-attr]
    idle = [k for k, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not idle
    backbone.eval()
    with torch.no_grad():
        for both, one in zip(backbone(images), backbone(images[:1]), strict=True):
            torch.testing.assert_close(both[:1], one, atol=1e-4, rtol=1e-4)


def test_channel_norm_is_the_formula() -> None:
    torch.manual_seed(1)
    x, norm = torch.randn(2, 6, 3, 4) * 3 + 1, ChannelNorm(6)
    nn.init.normal_(norm.weight)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (var + 1e-6).sqrt() * norm.weight.reshape(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)


def test_channel_attention_weighs_like_the_matrix_form() -> None:
    torch.manual_seed(2)
    attention, x = ChannelAttention(8, heads=2), torch.randn(1, 12, 8)
    nn.init.normal_(attention.query.weight)
    nn.init.normal_(attention.temperature)
    queries, keys = attention.query(x)[0].softmax(0), x[0].softmax(0)
    for channel in range(8):
        head = channel // 4
        prototype = keys[:, 4 * head : 4 * head + 4].mean(1)
        expected = (queries[:, channel] @ prototype).sigmoid() * attention.temperature[head, 0]
        torch.testing.assert_close(attention.weights(x)[0, 0, channel], expected)


def test_fan_tells_places_apart() -> None:
    codes = waves(44, torch.device("cpu")).T
    assert codes.shape == (44, 32) and torch.pdist(codes).min() > 0.1


# ---- ImageNet weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, classifier, first",
    [
        (lambda: ResNet((1, 1, 1, 1), 8), "fc.weight", "conv1.weight"),
        (lambda: ConvNeXt((1, 1, 1, 1), 8), "classifier.2.weight", "features.0.0.weight"),
    ],
)
def test_imagenet_weights_take_bgr_for_rgb(make, classifier: str, first: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    rgb, bgr = make().eval(), make().eval()
    torch.save(rgb.state_dict() | {classifier: torch.zeros(10, 64)}, tmp_path / "weights.pth")
    bgr.load_imagenet(str(tmp_path / "weights.pth"))
    assert not torch.equal(bgr.state_dict()[first], rgb.state_dict()[first])
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(rgb(image), bgr(image.flip(1)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_unfit_weights_say_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(ResNet((1, 1, 1, 1), 8).state_dict(), path)
    with pytest.raises(RuntimeError, match=r"layer2\.1\.bn1\.bias: missing in the file"):
        ResNet((1, 2, 1, 1), 8).load_imagenet(str(path))
    with pytest.raises(RuntimeError, match=r"conv1\.weight: \(8, 3, 7, 7\) in the file, \(16, 3, 7, 7\)"):
        ResNet((1, 1, 1, 1), 16).load_imagenet(str(path))
    torch.save({"epoch": 3, "model": {}}, path)
    with pytest.raises(ValueError, match="state dict"):
        ResNet((1, 1, 1, 1), 8).load_imagenet(str(path))
    with pytest.raises(FileNotFoundError):
        ResNet((1, 1, 1, 1), 8).load_imagenet(str(tmp_path / "none.pth"))


# ---- necks ----------------------------------------------------------------------------------------------------------


def pyramid(*channels: int) -> list[Tensor]:
    return [torch.randn(2, c, 16 >> i, 24 >> i, requires_grad=True) for i, c in enumerate(channels)]


def test_fpn_sums_from_the_coarsest_and_gives_the_levels_asked_for() -> None:
    torch.manual_seed(4)
    maps = pyramid(4, 5, 6)
    neck = FPN((4, 5, 6), 8, outputs=(0, -1))
    fine, coarse = neck(maps)
    assert fine.shape == (2, 8, 16, 24) and coarse.shape == (2, 8, 4, 6) and neck.channels == (8, 8)
    top = neck.lateral[2](maps[2])
    middle = neck.lateral[1](maps[1]) + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
    bottom = neck.lateral[0](maps[0]) + middle.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(fine, neck.smooth[0](bottom))
    torch.testing.assert_close(coarse, neck.smooth[1](top))


def test_fpn_has_no_parameter_that_its_outputs_do_not_read() -> None:
    maps, neck = pyramid(4, 5, 6), FPN((4, 5, 6), 8, outputs=(1,))
    (out,) = neck(maps)
    assert out.shape == (2, 8, 8, 12)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in neck.parameters())
    assert maps[0].grad is None and maps[2].grad is not None
    with pytest.raises(ValueError, match="indices of its 3 input maps"):
        FPN((4, 5, 6), 8, outputs=(3,))


def test_fpn_takes_odd_sizes() -> None:
    maps = [torch.randn(1, 4, 13, 25), torch.randn(1, 4, 7, 13), torch.randn(1, 4, 4, 7)]
    assert FPN((4, 4, 4), 8)(maps)[0].shape == (1, 8, 13, 25)
    assert FpnLss(4, 4, 8)(maps[0], maps[2]).shape == (1, 8, 13, 25)


def test_second_fpn_brings_four_maps_to_one_size() -> None:
    torch.manual_seed(5)
    maps = pyramid(4, 5, 6, 7)
    neck = SecondFPN((4, 5, 6, 7), (0.25, 0.5, 1, 2), 8)
    out = neck(maps)
    assert out.shape == (2, 32, 4, 6) and neck.channels == 32
    # Each map comes out in its own channels and reaches the cell it lies in, nothing else.
    out[0, 8:16, 1, 2].sum().backward()
    assert maps[0].grad is None or not maps[0].grad.any()
    neck.eval()
    maps = pyramid(4, 5, 6, 7)
    neck(maps)[0, 8:16, 1, 2].sum().backward()
    grad = maps[1].grad
    assert grad is not None and grad[0, :, 2:4, 4:6].any()
    grad[0, :, 2:4, 4:6] = 0
    assert not grad.any()


def test_second_fpn_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="neither a whole number"):
        SecondFPN((4,), (1.5,), 8)
    with pytest.raises(ValueError, match="up-strides"):
        SecondFPN((4, 4), (1,), 8)
    with pytest.raises(ValueError, match="multiples of the total stride"):
        SecondFPN((4, 4), (1, 2), 8)([torch.randn(2, 4, 13, 8), torch.randn(2, 4, 7, 4)])


# ---- export ---------------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """One small backbone of each kind, each under a neck."""

    def __init__(self) -> None:
        super().__init__()
        one = (1, 1, 1, 1)
        self.resnet, self.convnext, self.fan = ResNet(one, 4, bottleneck=True), ConvNeXt(one, 8), FAN(one, 16)
        self.fpn = FPN(self.resnet.channels, 8, outputs=(1,))
        self.lss = FpnLss(*self.convnext.channels[2:], 8)
        self.second = SecondFPN(self.fan.channels, (0.25, 0.5, 1, 2), 8)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, coarse = self.convnext(images)[2:]
        return self.fpn(self.resnet(images))[0], self.lss(fine, coarse), self.second(self.fan(images))


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, bytes]:
    torch.manual_seed(6)
    model = Everything().eval()
    for name, parameter in model.named_parameters():  # ConvNeXt's blocks start at 1e-6 of their shortcut
        if name.endswith("layer_scale"):
            nn.init.normal_(parameter)
    program = torch.onnx.export(model, (torch.zeros(2, 3, 64, 96),), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    return model, program.model_proto.SerializeToString()


def test_exported_graph_equals_pytorch(exported: tuple[nn.Module, bytes]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, graph = exported
    images = torch.randn(2, 3, 64, 96)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        for a, b in zip(found, model(images), strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=2e-4, rtol=1e-3)


def test_tensorrts_parser_takes_the_graph(exported: tuple[nn.Module, bytes]) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX wheels are not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(exported[1]), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert [tuple(network.get_output(i).shape) for i in range(3)] == [(2, 8, 8, 12), (2, 8, 4, 6), (2, 32, 4, 6)]
