"""The view transforms as the vehicle runs them: ONNX Runtime against PyTorch, and TensorRT's parser and builder."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.models.view.attention import SpatialCrossAttention, TemporalSelfAttention
from training.models.view.depth_bins import DepthBins
from training.models.view.lift_splat import LiftSplat
from training.models.view.projection import anchor_points, depth_weights, project

GRID, BINS = BevGrid(-6.4, 6.4, -4.8, 4.8, 1.6), DepthBins(1.0, 0.5, 12)
SIZE, STRIDE, CAMERAS, C = (32, 48), 8, 3, 8
HEIGHTS = (-1.0, 0.5, 2.0, 3.0)


class EveryTransform(nn.Module):
    """Lift, splat, then both attentions with depth weights; one graph, because exporting takes its time."""

    anchors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lift = LiftSplat(GRID, BINS, STRIDE)
        self.temporal = TemporalSelfAttention(GRID, C, 2)
        self.spatial = SpatialCrossAttention(C, 2)
        self.register_buffer("anchors", anchor_points(GRID, HEIGHTS), persistent=False)

    def forward(
        self, context: Tensor, depth: Tensor, img_from_ego: Tensor, camera_valid: Tensor, prev: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        bev = self.lift(context, depth, img_from_ego, camera_valid, SIZE)
        query = bev.flatten(2).transpose(1, 2)
        query = query + self.temporal(query, prev, valid)
        projected = project(self.anchors, img_from_ego, camera_valid, SIZE)
        weight = depth_weights(depth, projected, BINS)
        query = query + self.spatial(query, [context], projected, weight)
        return bev, query


def random_inputs(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, w = SIZE[0] // STRIDE, SIZE[1] // STRIDE
    img_from_ego = torch.zeros(1, CAMERAS, 4, 4)
    for i, yaw in enumerate((0.3 + 0.1 * seed, 1.5, 4.0)):
        cam_from_ego = np.eye(4)
        cam_from_ego[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        cam_from_ego[:3, 3] = [0.1, 1.0, 0.2]
        img_from_cam = np.eye(4)
        img_from_cam[:2, :3] = [[30.0, 0.2, 23.0], [0, 30.0, 16.0]]
        img_from_ego[0, i] = torch.from_numpy(img_from_cam @ cam_from_ego)
    return {
        "context": torch.randn(1, CAMERAS, C, h, w, generator=generator),
        "depth": torch.randn(1, CAMERAS, BINS.count, h, w, generator=generator).softmax(2),
        "img_from_ego": img_from_ego,
        "camera_valid": torch.tensor([[1.0, 1.0, 0.0 if seed else 1.0]]),
        "prev": torch.randn(1, C, *GRID.shape, generator=generator),
        "valid": torch.tensor([[float(seed != 2)]]),
    }


@pytest.fixture(scope="module")
def module() -> EveryTransform:
    torch.manual_seed(0)
    module = EveryTransform().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.fixture(scope="module")
def onnx_bytes(module: EveryTransform) -> bytes:
    inputs = random_inputs(0)
    program = torch.onnx.export(
        module, tuple(inputs.values()), input_names=list(inputs), dynamo=True, opset_version=20, verbose=False
    )
    assert program is not None
    return program.model_proto.SerializeToString()


def test_onnx_runtime_finds_what_pytorch_finds(module: EveryTransform, onnx_bytes: bytes) -> None:
    """PyTorch sums by sorted cells and attends only where cameras look; the graph does neither: the same result."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_bytes, options)
    for seed in range(3):
        inputs = random_inputs(seed)
        with torch.no_grad():
            expected = module(**inputs)
        found = session.run(None, {k: v.numpy() for k, v in inputs.items()})
        for want, got in zip(expected, found, strict=True):
            assert want.abs().max() > 0.1
            np.testing.assert_allclose(got, want.numpy(), atol=2e-5)


def test_tensorrt_parses_and_builds_the_transforms(onnx_bytes: bytes) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX wheels are not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(onnx_bytes), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    assert engine is not None and engine.nbytes > 10_000
