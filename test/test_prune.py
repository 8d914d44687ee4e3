"""The command that prunes: what it reports, what it writes, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("torch_pruning", reason="needs torch-pruning")
from tiny_run import RUN

from bev_perception.bundle import Bundle
from training import prune
from training.data.source import Source
from training.models.widths import Cut, widths
from training.pruning import latency
from training.pruning.dependencies import find_groups
from training.pruning.frames import two_frames
from training.pruning.importance import taylor_importance
from training.pruning.pieces import Shape
from training.run import with_state
from training.trainer.checkpoint import load_network
from training.trainer.starting import as_narrow_as

CONV = Shape("conv", (1, 16, 16), (1, 16, 16), (3, 3), (1, 1), (1, 1))


@pytest.fixture(scope="module")
def fast_engine() -> Any:
    """Latency is what is computed: the command's tests must not depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            latency, "_measured", lambda engine, threads, shape, i, o: 1e-6 * np.prod(shape.made) * i * (o + 8)
        )
        patch.setattr(
            prune, "in_turns", lambda bundles, engine, threads: [30.0 * slower(b, bundles[0]) for b in bundles]
        )
        patch.setattr(prune, "ROUNDS", 2)
        yield


def slower(bundle: Bundle, dense: Bundle) -> float:
    """Of an engine that saves less than the table says."""
    share = bundle.onnx_path.stat().st_size / dense.onnx_path.stat().st_size
    return 1.0 if share == 1 else 0.58 + share / 2


@pytest.fixture(scope="module")
def pruned(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, fast_engine: Any
) -> Path:
    """The folder of the whole command."""
    out = tmp_path_factory.mktemp("pruned")
    command = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--out", str(out), "--batches", "1"]
    assert prune.main([*command, "--budget", "0.75", "--workers", "0", "--set", "optim.steps=2"]) == 0
    return out


def test_the_report_says_what_was_predicted_kept_and_lost(pruned: Path) -> None:
    content = json.loads((pruned / "report.json").read_text())
    ms = content["latency_ms"]
    assert ms["predicted"] <= ms["budget"] == 0.75 * 30.0 and ms["measured_dense"] == 30.0
    # The first cut saves less than its layers do by themselves; told so, the second nearly meets the budget.
    assert ms["share_of_savings_that_shows"] < 0.9 and abs(ms["measured_pruned"] / 30.0 - 0.75) < 0.05
    assert set(content["scores"]) == {"dense", "pruned", "fine-tuned"} and content["engine"]["engine"] == "onnxruntime"
    assert any(of["kept"] < of["before"] for of in content["channels"].values())
    assert all(of["kept"] >= min(of["step"], of["before"]) for of in content["channels"].values())
    assert "an answer" in content["not_cut"]["depth"]


def test_both_checkpoints_are_of_the_cut_network(pruned: Path, tiny_checkpoint: Path) -> None:
    layers = json.loads((pruned / "report.json").read_text())["layers"]
    for path in (pruned / "pruned.ckpt", pruned / "finetuned" / "last.ckpt"):
        module = load_network(path)
        assert {n: list(w) for n, w in widths(module.detector).items() if n in layers} == layers
        assert module.run.config == RUN.config and module.run.cut == Cut({n: tuple(w) for n, w in layers.items()}, 8)


def test_the_same_seed_asks_for_the_same(tiny_checkpoint: Path, tiny_dataset: Path) -> None:
    """What is cut follows from importance and latency alone; latency is read from the table."""
    network, settings = load_network(tiny_checkpoint), prune.Settings(0.75, batches=1, seed=3)
    groups = find_groups(network.detector, two_frames(network.spec))[0]
    first, second, other = (
        taylor_importance(network, prune._batches(network, Source(tiny_dataset), of), groups)
        for of in (settings, settings, dataclasses.replace(settings, seed=4))
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_training_takes_the_widths_of_what_it_begins_with(pruned: Path, tiny_checkpoint: Path) -> None:
    run = as_narrow_as(RUN, pruned / "pruned.ckpt")
    assert run.cut == load_network(pruned / "pruned.ckpt").run.cut and as_narrow_as(run, pruned / "pruned.ckpt") == run
    assert as_narrow_as(RUN, tiny_checkpoint) == RUN == as_narrow_as(RUN, None)
    other = dataclasses.replace(RUN, config=dataclasses.replace(RUN.config, channels=16), spec=with_state(RUN.spec, 16))
    with pytest.raises(ValueError, match=r"trains another network: .*channels: 8 -> 16"):
        as_narrow_as(other, pruned / "pruned.ckpt")


def test_what_cannot_be_is_said_before_anything_is_measured(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--out", str(tmp_path / "out")]
    for wrong, message in (
        (["--budget", "1.2"], "--budget is a share"),
        (["--budget", "0.5", "--teacher", "mvp=x.ckpt"], r"learns from the teachers [], given are ['mvp']"),
    ):
        with pytest.raises(SystemExit):
            prune.main([*command, *wrong])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
