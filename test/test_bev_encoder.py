"""BEV encoders: the maps they name, paper sizes, gradients, and the exported graph."""

from __future__ import annotations

import dataclasses
import json

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from torch import Tensor, nn

from training.models.bev_encoder import (
    BevDepthEncoder,
    BevDepthEncoderConfig,
    BevEncoder,
    BevEncoderConfig,
    SecondConfig,
    SecondEncoder,
)

PAPER = {
    "bevdet": (lambda: BevEncoder(64), (128, 256, 512, 256), (2, 4, 8, 1)),
    "bevdepth": (lambda: BevDepthEncoder(160), (160, 320, 640, 256), (2, 4, 8, 1)),
    "pillars": (lambda: SecondEncoder(64), (64, 128, 256, 384), (2, 4, 8, 4)),
    "voxels": (
        lambda: SecondEncoder(256, SecondConfig((5, 5), (1, 2), (128, 256), (1.0, 2.0), 256)),
        (128, 256, 512),
        (1, 2, 1),
    ),
}
TINY_CONFIGS = (
    (BevEncoder, BevEncoderConfig((8, 12, 16), 1, 8)),
    (BevDepthEncoder, BevDepthEncoderConfig(8, (1, 1, 1), 4)),
    (SecondEncoder, SecondConfig((1, 1, 1), (2, 2, 2), (8, 12, 16), neck=4)),
)


@pytest.mark.parametrize("name", PAPER)
def test_paper_sizes(name: str) -> None:
    make, channels, strides = PAPER[name]
    with torch.device("meta"):
        encoder = make()
        bev = torch.zeros(2, next(encoder.parameters()).shape[1], 64, 96)
        maps = encoder(bev)
    names = [f"encoder{i + 1}" for i in range(len(channels) - 1)] + ["neck"]
    assert list(maps) == names == list(encoder.channels) == list(encoder.strides)
    assert [tuple(m.shape) for m in maps.values()] == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides)]
    assert tuple(encoder.channels.values()) == channels and tuple(encoder.strides.values()) == strides


def test_parameter_counts_follow_from_the_convolutions() -> None:
    """Counted by hand for CenterPoint's pillars: k^2 a b per convolution, 2 b per batch norm."""
    expected = 0
    for a, b, layers in ((64, 64, 3), (64, 128, 5), (128, 256, 5)):
        expected += 9 * a * b + layers * 9 * b * b + (layers + 1) * 2 * b
    expected += 4 * 64 * 128 + 128 * 128 + 4 * 256 * 128 + 3 * 2 * 128  # 2x2 down, 1x1, 2x2 up
    with torch.device("meta"):
        assert sum(p.numel() for p in SecondEncoder(64).parameters()) == expected


@pytest.mark.parametrize("kind, config", TINY_CONFIGS)
def test_every_parameter_learns_from_the_neck(kind, config) -> None:
    torch.manual_seed(0)
    encoder, bev = kind(5, config), torch.randn(2, 5, 16, 24, requires_grad=True)
    neck = encoder(bev)["neck"]
    (neck * torch.randn_like(neck)).sum().backward()
    assert not [k for k, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert bev.grad is not None and (bev.grad.abs().sum(1) > 0).all(), "every cell of the input must be read"


@pytest.mark.parametrize("kind, config", TINY_CONFIGS)
def test_a_shifted_world_gives_a_shifted_map(kind, config) -> None:
    """A shift by the coarsest stride moves every map alike: x stays x and y stays y, no resize turns or mirrors.

    FPN-LSS resizes with aligned corners (as the original), which a shift holds for only nearly.
    """
    torch.manual_seed(1)
    encoder = kind(3, config).eval()
    near, far = torch.zeros(1, 3, 128, 96), torch.zeros(1, 3, 128, 96)
    blob = torch.randn(3, 4, 4) * 10
    near[0, :, 60:64, 44:48], far[0, :, 68:72, 28:32] = blob, blob
    with torch.no_grad():
        a, b, empty = encoder(near), encoder(far), encoder(torch.zeros_like(near))
    for name, stride in encoder.strides.items():
        s = int(stride)
        moved = torch.roll(a[name] - empty[name], (8 // s, -16 // s), (2, 3))
        found, scale = b[name] - empty[name], (a[name] - empty[name]).abs().max()
        assert scale > 1e-3
        tolerance = 0.5 if kind is BevEncoder and name == "neck" else 1e-4
        assert (moved - found).abs().max() < tolerance * scale, name


def test_bevdets_encoder_takes_any_grid_and_the_others_say_what_they_need() -> None:
    (bevdet, bevdet_config), (bevdepth, bevdepth_config), _ = TINY_CONFIGS
    bev = torch.randn(2, 5, 25, 18)
    assert bevdet(5, bevdet_config)(bev)["neck"].shape == (2, 8, 25, 18)
    with pytest.raises(ValueError, match="multiples of the total stride"):
        bevdepth(5, bevdepth_config)(bev)
    with pytest.raises(ValueError, match="one entry per stage"):
        SecondEncoder(5, SecondConfig(layers=(3, 5)))


@pytest.mark.parametrize("kind, config", TINY_CONFIGS)
def test_configs_are_json(kind, config) -> None:
    assert json.loads(json.dumps(dataclasses.asdict(config))).keys() == {f.name for f in dataclasses.fields(config)}


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([kind(5, config) for kind, config in TINY_CONFIGS])

    def forward(self, bev: Tensor) -> list[Tensor]:
        return [map for encoder in self.encoders for map in encoder(bev).values()]


def test_exported_graph_equals_pytorch_and_parses_in_tensorrt() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(2)
    model, bev = Everything().eval(), torch.randn(1, 5, 16, 24)
    program = torch.onnx.export(model, (torch.zeros_like(bev),), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    graph = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: bev.numpy()})
    with torch.no_grad():
        for a, b in zip(found, model(bev), strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-4, rtol=1e-3)
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX wheels are not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(graph), [str(parser.get_error(i)) for i in range(parser.num_errors)]
