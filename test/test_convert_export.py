"""Networks with the options of published weights, at a tiny size: exported, run in ONNX Runtime, built for TensorRT."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("onnxscript", reason="needs onnxscript")
import torch

from bev_perception.bundle import load_bundle
from bev_perception.inference.builder import build_serialized
from bev_perception.inference.tensorrt_api import import_builder
from bev_perception.model_spec import ImageSpec
from training.convert.bevdepth import released
from training.experiments import bevdepth, bevdet4d, radar_pillarnet
from training.export import export_bundle
from training.models.frame import LIDAR_TOP
from training.models.temporal_fusion import TemporalConfig
from training.run import Run, build_detector


def camera() -> Run:
    """All that is special about the released BEVDet4D, in the tiny one."""
    run = bevdet4d.tiny()
    config = dataclasses.replace(
        run.config,
        camera=dataclasses.replace(run.config.camera, frustum="lss"),
        encoder=dataclasses.replace(run.config.encoder, plain_shortcuts=True),
        temporal=TemporalConfig("concat", alignment="corners"),
        frame=LIDAR_TOP,
        displacement=True,
    )
    image = ImageSpec(run.spec.image.height, run.spec.image.width, zoom=1.1)
    return dataclasses.replace(run, config=config, spec=dataclasses.replace(run.spec, image=image))


def radar() -> Run:
    run = radar_pillarnet.tiny()
    return dataclasses.replace(run, config=dataclasses.replace(run.config, frame=LIDAR_TOP, z_range=(-100.0, 100.0)))


def depth() -> Run:
    """All that is special about the released BEVDepth, every row refined; the file without refining is a part of
    this graph."""
    run = released(bevdepth.tiny(), True)
    return dataclasses.replace(run, spec=dataclasses.replace(run.spec, cameras=run.spec.cameras[:2]))


@pytest.mark.parametrize("make", [camera, radar, depth])
def test_the_options_of_published_weights_run_on_the_vehicle(make, tmp_path, capsys):
    torch.manual_seed(0)
    run = make()
    network = build_detector(run).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    bundle = load_bundle(export_bundle(network, tmp_path / "bundle"))  # refuses what disagrees with PyTorch
    assert "ONNX Runtime against PyTorch" in capsys.readouterr().out
    assert bundle.spec.image == run.spec.image
    try:
        rtx = import_builder("tensorrt_rtx")
    except ImportError as error:
        pytest.skip(str(error))
    assert build_serialized(rtx, bundle.model(), bundle.spec, log=lambda line: None)
