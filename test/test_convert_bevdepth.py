"""BEVDepth's files, as PyTorch Lightning wrote them, through the command."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("lightning", reason="needs lightning")
import torch
from published_bevdepth import bevdepth_state

from training.convert import bevdepth
from training.convert.__main__ import main
from training.convert.conversion import FAMILIES, around_lidar, convert
from training.models.frame import EGO, LIDAR_TOP
from training.trainer.checkpoint import load_network


@pytest.mark.parametrize("averaged", [False, True])
def test_both_kinds_of_files_are_read(averaged, tmp_path, capsys):
    state = dict(bevdepth_state(refined=False))
    rest = {"pytorch-lightning_version": "1.6.0", "epoch": 23, "global_step": 10548}
    if averaged:  # what averaging in single precision leaves of a constant
        state["model.backbone.frustum"] = state["model.backbone.frustum"] * (1 + 1.2e-5)
    else:
        rest |= {
            "hyper_parameters": {"class_names": ["car"], "backbone_conf": {"x_bound": [-51.2, 51.2, 0.8]}},
            "lr_schedulers": [{"milestones": Counter({19: 1, 23: 1})}],
        }
    source, out = tmp_path / "bev_depth.pth", tmp_path / "out"
    torch.save({"state_dict": state, **rest}, source)
    assert main([str(source), "--as", "bevdepth_r50", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "1 folded, 4 compared" in told and "left in the file" not in told and "33.3 mAP" in told
    network = load_network(out / "last.ckpt")
    assert network.run == bevdepth.run(LIDAR_TOP) and network.run.config.frame == EGO
    assert not network.detector.camera.depth.depth[4].bias.any(), "the published deformable convolution has no bias"
    assert around_lidar(network.run).spec.grid == network.run.spec.grid, "its cells lie around the vehicle as published"


def test_a_file_with_refinement_is_no_file_without_and_the_reverse():
    with pytest.raises(ValueError, match=r"has what this network lacks: model\.backbone\.depth_aggregation_net"):
        convert(dict(bevdepth_state(refined=True)), "bevdepth_r50")
    with pytest.raises(ValueError, match=r"lacks what this network has: model\.backbone\.depth_aggregation_net"):
        convert(dict(bevdepth_state(refined=False)), "bevdepth_r50_da")
    taller = {"model.backbone.voxel_size": torch.tensor([0.8, 0.8, 20.0])}
    with pytest.raises(ValueError, match=r"has other constants: model\.backbone\.voxel_size"):
        convert({**bevdepth_state(refined=False), **taller}, "bevdepth_r50")


def test_the_recipe_is_the_released_row():
    plain, refined = (FAMILIES[name].run(LIDAR_TOP) for name in ("bevdepth_r50", "bevdepth_r50_da"))
    assert (plain.config.camera.refine, refined.config.camera.refine, refined.config.camera.rows) == (False, True, True)
    assert (plain.optim.epochs, refined.optim.epochs, plain.data.cbgs, refined.data.cbgs) == (24, 20, False, True)
    assert plain.spec == refined.spec and plain.spec.temporal.interval_s == 0.5
