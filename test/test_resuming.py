"""A run goes on from the checkpoint before where the last cannot be used, and nothing altered is taken for whole."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN  # noqa: E402

from training.command_line import TrainingStopped  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.run import build_detector  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer.checkpoint import load_network, read_checkpoint, training_minutes  # noqa: E402
from training.trainer.failures import explained  # noqa: E402
from training.trainer.lightning_module import DetectorModule  # noqa: E402
from training.trainer.resuming import find_resumable, newest_whole, resumable_step  # noqa: E402
from training.trainer.starting import start_backbone  # noqa: E402


@pytest.fixture
def begun(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a run with a last checkpoint of step 4 and the one before."""
    for name in ("last.ckpt", "previous.ckpt", "run.json", "starts.json"):
        shutil.copy(tiny_checkpoint.with_name(name), tmp_path)
    stopped = torch.load(tmp_path / "previous.ckpt", weights_only=True)
    stopped["global_step"] = 3  # the last two of a finished run are of one step
    torch.save(stopped, tmp_path / "previous.ckpt")
    return tmp_path


@pytest.fixture(scope="module")
def module() -> DetectorModule:
    return DetectorModule(RUN)


def test_the_last_checkpoint_is_gone_on_from(begun: Path, module: DetectorModule) -> None:
    found = find_resumable(begun, module)
    assert found is not None and (found.path.name, found.step, found.remark) == ("last.ckpt", 4, "")
    assert find_resumable(begun / "elsewhere", module) is None


def test_the_one_before_is_gone_on_from_where_the_last_is_damaged(
    begun: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (begun / "last.ckpt").read_bytes()
    (begun / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingStopped, match=r"Kept: .*previous\.ckpt of step 3"), explained(RUN, begun):
        raise OSError(28, "No space left on device")
    train(RUN, Source(tiny_dataset), begun)
    said = capsys.readouterr().out
    assert f"{begun / 'last.ckpt'}: not a checkpoint, or cut off" in said
    assert f"Going on from the checkpoint before it, {begun / 'previous.ckpt'} of step 3" in said
    assert read_checkpoint(begun / "last.ckpt")["global_step"] == 4


def test_a_last_checkpoint_that_is_gone_is_said(begun: Path, module: DetectorModule) -> None:
    (begun / "last.ckpt").unlink()
    found = find_resumable(begun, module)
    assert found is not None and found.step == 3 and f"there is no {begun / 'last.ckpt'}" in found.remark


def test_two_damaged_ones_are_named_and_left(begun: Path, tiny_dataset: Path) -> None:
    for name in ("last.ckpt", "previous.ckpt"):
        (begun / name).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"(?s)move these away to begin anew:.*last\.ckpt.*previous\.ckpt"):
        train(RUN, Source(tiny_dataset), begun)
    assert newest_whole(begun) is None and (begun / "last.ckpt").read_bytes() == b"cut"


# Alterations of a checkpoint ------------------------------------------------------------------------------------------


class Foreign:
    """What no reader may unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a foreign pickle was run",))


def at(path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Sets what a path of keys leads to; a value that is callable makes the new one of the old one."""

    def change(checkpoint: dict[str, Any]) -> Any:
        *way, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        inner: Any = checkpoint
        for key in way:
            inner = inner[key]
        inner[last] = value(inner[last]) if callable(value) else value
        return checkpoint

    return change


def without(path: str) -> Callable[[dict[str, Any]], Any]:
    def change(checkpoint: dict[str, Any]) -> Any:
        *way, last = path.split("/")
        inner: Any = checkpoint
        for key in way:
            inner = inner[key]
        del inner[last]
        return checkpoint

    return change


WEIGHT = "state_dict/detector.backbone.conv1.weight"
COUNT = "state_dict/detector.backbone.bn1.num_batches_tracked"
FIT = "loops/fit_loop"
EVERY = [  # of no use to anybody
    at("state_dict", None), at("state_dict", []), at("state_dict", {}), at("state_dict", torch.zeros(3)),
    at("state_dict", {3: torch.zeros(3)}), without("state_dict"), without("run"), without(WEIGHT),
    at(WEIGHT, torch.zeros(3)), at(WEIGHT, "text"), at(WEIGHT, None), at(WEIGHT, lambda t: t.int()),
    at(WEIGHT, lambda t: t * math.nan), at(WEIGHT, lambda t: t.to_sparse()), at(WEIGHT, lambda t: t.to(torch.cfloat)),
    at(WEIGHT, lambda t: t[..., :1]), at(COUNT, torch.tensor(0.5)), at("state_dict/more", torch.zeros(1)),
    lambda _: None, lambda _: [], lambda _: "text", lambda _: torch.zeros(3), lambda _: {3: 4},
]  # fmt: skip
NO_NETWORK = [  # as a network to load: what it is of is altered
    at("run", None), at("run", []), at("run", {}), at("run/model", "unheard-of"), at("run/model", 3),
    at("run/config/head_channels", -5), at("run/config/backbone_width", "wide"), at("run/config/backbone_width", 0),
    at("run/spec/top_k", None), at("run/more", 1), at("ema", None), at("ema", {}), at("ema", {"x": 3}),
]  # fmt: skip
NOT_RESUMABLE = [
    at("global_step", -1), at("global_step", "two"), at("global_step", None), without("global_step"),
    without("loops"), at("loops", None), at(FIT, []), without(f"{FIT}/epoch_loop.batch_progress"),
    at(f"{FIT}/epoch_loop.batch_progress/current", {"ready": "x"}), without("callbacks"), at("callbacks", []),
    at("callbacks/Stopwatch", {}), at("callbacks/Stopwatch/seconds", math.nan), without("optimizer_states"),
    at("optimizer_states", []), at("optimizer_states/0/state", None), at("optimizer_states/0/param_groups", []),
    at("optimizer_states/0/state/0/exp_avg", torch.zeros(2)), at("optimizer_states/0/state/0/exp_avg", None),
    at("optimizer_states/0/state/0/exp_avg", lambda t: t + math.inf), at("optimizer_states/0/state/999", {}),
    at("optimizer_states/0/param_groups/0/params", [0]), without("lr_schedulers"), at("lr_schedulers", {}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(EVERY)))
def test_altered_weights_are_named_whoever_reads_them(number: int, begun: Path, module: DetectorModule) -> None:
    path = begun / "last.ckpt"
    torch.save(EVERY[number](torch.load(path, weights_only=True)), path)
    with pytest.raises(ValueError, match=r"last\.ckpt: "):
        load_network(path)
    found = find_resumable(begun, module)
    assert found is not None and found.step == 3 and f"{path}: " in found.remark


@pytest.mark.parametrize("number", range(len(NO_NETWORK)))
def test_a_network_that_cannot_be_is_named(number: int, begun: Path) -> None:
    path = begun / "last.ckpt"
    torch.save(NO_NETWORK[number](torch.load(path, weights_only=True)), path)
    with pytest.raises(ValueError, match=r"last\.ckpt: "):
        load_network(path)


@pytest.mark.parametrize("number", range(len(NOT_RESUMABLE)))
def test_a_state_that_training_cannot_go_on_from_is_named(number: int, begun: Path, module: DetectorModule) -> None:
    path = begun / "last.ckpt"
    torch.save(NOT_RESUMABLE[number](torch.load(path, weights_only=True)), path)
    found = find_resumable(begun, module)
    assert found is not None and found.step == 3 and f"{path}: " in found.remark


def test_files_that_are_no_checkpoints_are_named(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, backbone = begun / "last.ckpt", build_detector(RUN)
    whole = path.read_bytes()
    draws = random.Random(0)
    cut = [whole[: draws.randrange(len(whole))] for _ in range(10)]
    holes = [whole[:at_] + bytes(4096) + whole[at_ + 4096 :] for at_ in (0, len(whole) - 4096)]
    foreign = [b"", b"\0" * 1000, b"PK\x03\x04", pickle.dumps(Foreign()), pickle.dumps({"state_dict": Foreign()})]
    for content in [*cut, *holes, *foreign]:
        path.write_bytes(content)
        for read in (load_network, training_minutes, lambda path: start_backbone(backbone, path)):
            with pytest.raises(ValueError, match=r"last\.ckpt: not a checkpoint, or cut off"):
                read(path)
    torch.save({"state_dict": {}, "run": Foreign()}, path)
    with pytest.raises(ValueError, match=r"last\.ckpt: not a checkpoint, or cut off"):
        load_network(path)
    assert "a foreign pickle was run" not in capsys.readouterr().out
    with pytest.raises(IsADirectoryError):
        load_network(begun)
    with pytest.raises(FileNotFoundError):
        load_network(begun / "none.ckpt")


def test_what_no_reader_asks_for_is_harmless(begun: Path, module: DetectorModule) -> None:
    path = begun / "last.ckpt"
    wanted = load_network(path).detector.state_dict()
    for change in (without("pytorch-lightning_version"), at("more", 3), at("hyper_parameters", "none")):
        checkpoint = change(torch.load(begun / "last.ckpt", weights_only=True))
        torch.save(checkpoint, begun / "other.ckpt")
        assert all(
            torch.equal(t, wanted[name]) for name, t in load_network(begun / "other.ckpt").detector.state_dict().items()
        )
        assert resumable_step(copy.deepcopy(checkpoint), module, path) == 4


def test_a_state_that_lightning_stumbles_over_is_named(begun: Path, tiny_dataset: Path) -> None:
    path = begun / "last.ckpt"
    change = at(f"{FIT}/epoch_loop.automatic_optimization.optim_progress", 3)
    torch.save(change(torch.load(begun / "previous.ckpt", weights_only=True)), path)
    with pytest.raises(ValueError, match=r"last\.ckpt: cannot be gone on from \(.*move it away"):
        train(RUN, Source(tiny_dataset), begun)


def test_averages_of_a_run_are_looked_at_where_it_has_some(begun: Path) -> None:
    averaged = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, ema=0.9))
    checkpoint = torch.load(begun / "last.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"last\.ckpt: ema is a NoneType"):
        resumable_step(checkpoint, DetectorModule(averaged), begun / "last.ckpt")
