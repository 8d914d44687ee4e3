"""Every student: as the vehicle runs it (ONNX Runtime, TensorRT's builder), and in mixed precision."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from tiny_students import NAMES, batch, frame, run_of, student

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.inference.backend import open_backend
from bev_perception.inference.proof import TOLERANCES, compare_outputs
from bev_perception.preprocess.radar import radar_arrays
from training.export import export_bundle
from training.models.exported import ExportedDetector


@pytest.fixture(scope="module", params=NAMES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles") / request.param
    return request.param, load_bundle(export_bundle(student(request.param), folder))


def test_exported_graph_equals_pytorch(exported: tuple[str, Bundle]) -> None:
    """With all sensors and a memory, and with a dead camera, dead radars and no memory."""
    name, bundle = exported
    assert dataclasses.replace(bundle.spec, onnx_sha256="") == run_of(name).spec
    spec, module, backend = bundle.spec, ExportedDetector(student(name)).eval(), open_backend(bundle)
    outputs = [t.name for t in spec.outputs()]
    scores, off = [], []
    for seed in (1, 2):
        inputs = frame(spec, seed)
        if seed == 2 and spec.cameras:
            inputs["camera_valid"], inputs["img_from_ego"][0] = torch.tensor([0.0, 1.0]), torch.eye(4)
        if seed == 2 and spec.radars:
            nothing = radar_arrays(np.zeros((0, 7), np.float32), spec)[0] | {"radar_valid": np.zeros(2, np.float32)}
            inputs |= {n: torch.from_numpy(array) for n, array in nothing.items()}
        if seed == 2 and "prev_valid" in inputs:
            inputs["prev_valid"] = torch.zeros(1)
        with torch.no_grad():
            expected = dict(zip(outputs, (t.numpy() for t in module(*inputs.values())), strict=True))
        found = backend.infer({n: t.numpy() for n, t in inputs.items()})
        off.append(compare_outputs(found, expected, spec, TOLERANCES["fp32"], name)["scores"])
        scores.append(expected["scores"])
    assert scores[0][0] - scores[0][-1] > 10 * TOLERANCES["fp32"].score, "a flat map proves little"
    assert abs(scores[0] - scores[1]).max() > 10 * max(off), "what the inputs hold must make a difference"
    backend.close()


def test_tensorrt_builds_it(exported: tuple[str, Bundle]) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX wheels are not installed")
    from bev_perception.inference.builder import build_serialized

    _, bundle = exported
    built = build_serialized(trt, bundle.onnx_path.read_bytes(), bundle.spec, log=lambda _: None)
    assert len(built.engine) > 10_000


@pytest.mark.parametrize("name", NAMES)
def test_a_step_in_mixed_precision(name: str) -> None:
    module = student(name).train()
    inputs, memory = batch(run_of(name).spec, (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = module(inputs, memory)
        loss = found.heatmap.float().square().mean() + found.regression.float().square().mean()
    loss.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert len(gradients) > 10 and all(torch.isfinite(g).all() for g in gradients)
