"""A checkpoint of each epoch beside the last one, written by a thread."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN  # noqa: E402

from training.data.source import Source  # noqa: E402
from training.processes import own_workers  # noqa: E402
from training.run import OptimConfig  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer.checkpoint import load_network  # noqa: E402
from training.trainer.epochs import EpochCheckpoints  # noqa: E402


def trainer_of(save, weights) -> SimpleNamespace:
    dump = SimpleNamespace(dump_checkpoint=lambda weights_only: {"state_dict": {"w": weights}})
    files = SimpleNamespace(save_checkpoint=save)
    return SimpleNamespace(
        global_step=0, is_global_zero=True, _checkpoint_connector=dump, strategy=SimpleNamespace(checkpoint_io=files)
    )


def test_the_step_does_not_wait_and_what_it_changes_is_not_written(tmp_path: Path) -> None:
    """Ten samples, batches of four: epochs end in steps 3, 5, 8, 10."""
    go_on, written, weights = threading.Event(), {}, torch.zeros(3)

    def slowly(checkpoint, path) -> None:
        assert go_on.wait(30)
        written[path.name] = float(checkpoint["state_dict"]["w"][0])

    callback, trainer = EpochCheckpoints(tmp_path, 4, 10), trainer_of(slowly, weights)
    callback.on_train_start(trainer, None)
    for trainer.global_step in (1, 1, 2, 3, 3, 4):
        callback.on_train_batch_end(trainer, None, None, None, 0)
        weights += 1
    assert written == {}, "four steps went on while it was written"
    go_on.set()
    for trainer.global_step in (5, 6, 7, 8, 9, 10):
        callback.on_train_batch_end(trainer, None, None, None, 0)
        weights += 1
    callback.on_fit_end(trainer, None)
    callback.teardown(trainer, None, "fit")
    assert written == {"epoch1.ckpt": 3, "epoch2.ckpt": 6, "epoch3.ckpt": 9, "epoch4.ckpt": 11}


def test_a_full_disk_stops_the_run(tmp_path: Path) -> None:
    def full(checkpoint, path) -> None:
        raise OSError(28, "No space left on device")

    callback, trainer = EpochCheckpoints(tmp_path, 1, 1), trainer_of(full, torch.zeros(1))
    trainer.global_step = 1
    callback.on_train_batch_end(trainer, None, None, None, 0)
    with pytest.raises(OSError, match="No space left"):
        callback.on_fit_end(trainer, None)


def test_a_run_of_epochs_keeps_one_of_each(tiny_dataset: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, optim=OptimConfig(epochs=2, steps=None, warmup_steps=0), batch_size=4)
    last = train(run, Source(tiny_dataset), tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert {"epoch1.ckpt", "epoch2.ckpt", "last.ckpt"} <= set(names)
    second, end = (load_network(path).detector.state_dict() for path in (tmp_path / "epoch2.ckpt", last))
    assert all(bool((second[name] == value).all()) for name, value in end.items())


def test_loader_processes_follow_from_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, ranks, gpu, expected in (
        (64, 8, True, 7), (8, 8, True, 1), (2, 1, True, 1), (128, 2, True, 16), (2, 1, False, 1), (16, 1, False, 4),
    ):  # fmt: skip
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert own_workers() == expected
