"""Each camera student as a bundle: ONNX Runtime equals PyTorch, TensorRT's parser and builder take it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bev_perception.grid import BevGrid
from bev_perception.inference.backend import open_backend
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, TemporalSpec, load_bundle
from training.bundling.golden import pattern_inputs
from training.export import export_bundle
from training.models import STUDENTS, bevdepth, bevdet, bevdet4d, bevformer, fbbev
from training.models.exported import ExportedDetector

CONFIGS = {
    "bevdet": (bevdet.tiny(), 0),
    "bevdet4d": (bevdet4d.tiny(), 8),
    "bevdepth": (bevdepth.tiny(), 8),
    "bevformer": (bevformer.tiny(), 16),
    "fbbev": (fbbev.tiny(), 20),
}
GRID = BevGrid(-12.8, 12.8, -6.4, 6.4, 0.8)


@pytest.mark.parametrize("name", CONFIGS)
def test_export_equals_pytorch_and_builds(name: str, tmp_path: Path) -> None:
    config, channels = CONFIGS[name]
    scores = dict.fromkeys(CLASSES, 0.1)
    temporal = TemporalSpec(state_channels=channels)
    spec = ModelSpec(
        name, ("a", "b"), (), scores, scores, grid=GRID, image=ImageSpec(32, 64), temporal=temporal, top_k=20
    )
    torch.manual_seed(0)
    student = STUDENTS[name].module(spec, config).eval()
    bundle = load_bundle(export_bundle(student, tmp_path / name))
    rng = np.random.default_rng(1)
    inputs = pattern_inputs(spec)
    inputs["images"] = rng.integers(0, 255, inputs["images"].shape).astype(np.uint8)
    if channels:
        inputs["prev_bev"] = rng.normal(size=inputs["prev_bev"].shape).astype(np.float32)
    with torch.no_grad():
        expected = ExportedDetector(student)(*(torch.from_numpy(inputs[t.name]) for t in spec.inputs()))
    backend = open_backend(bundle)
    found = backend.infer(inputs)
    for tensor, want in zip(spec.outputs(), expected, strict=True):
        if tensor.name in ("scores", "bev"):  # equal scores may change places, and with them cells and boxes
            np.testing.assert_allclose(found[tensor.name], want.numpy(), atol=1e-3, err_msg=tensor.name)
    assert [t.name for t in spec.outputs()][-1] == ("bev" if channels else "boxes")
    backend.close()
    build_engine(bundle.onnx_path, spec)


def build_engine(onnx_path: Path, spec: ModelSpec) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX wheels are not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    ok = parser.parse(onnx_path.read_bytes())
    assert ok, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert [network.get_input(i).name for i in range(network.num_inputs)] == [t.name for t in spec.inputs()]
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    assert engine is not None and engine.nbytes > 10_000
