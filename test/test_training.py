"""Training end to end with a very small network on a very small data set."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN, SIZES, SPEC  # noqa: E402

from training.command_line import TrainingStopped  # noqa: E402
from training.data.clips import ClipDataset, collate  # noqa: E402
from training.data.config import DataConfig  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.experiments import load_experiment, load_run  # noqa: E402
from training.run import OptimConfig  # noqa: E402
from training.train import main, train  # noqa: E402
from training.trainer import run_directory  # noqa: E402
from training.trainer.checkpoint import load_network, read_checkpoint, training_minutes, weights_of  # noqa: E402
from training.trainer.failures import explained  # noqa: E402
from training.trainer.lightning_module import DetectorModule  # noqa: E402
from training.trainer.loading import open_keyframes, scenes_of, scored_split  # noqa: E402


@pytest.fixture(scope="module")
def batch(tiny_dataset):
    data = ClipDataset(open_keyframes(SPEC, RUN.data, Source(tiny_dataset), "val"), SPEC)
    return collate([data[1], data[2]])


def test_scenes_that_are_trained_on_and_scenes_that_are_kept_back(tmp_path):
    names = [f"scene-{i:04d}" for i in range(10)]
    (tmp_path / "splits.json").write_text(json.dumps({"train": names, "val": ["scene-0010"]}))

    def scenes(split, **fields):
        return [int(name[-2:]) for name in scenes_of(DataConfig(**fields), Source(tmp_path), split)]

    assert scenes("train") == list(range(10)) and scenes("val", holdout=3, train_scenes=2) == [10]
    assert scenes("train", holdout=3) == list(range(7)) and scenes("holdout", holdout=3, train_scenes=2) == [7, 8, 9]
    assert scenes("train", holdout=2, train_scenes=4) == [0, 2, 4, 6] and scenes("holdout") == []
    assert [scored_split(DataConfig(holdout=count)) for count in (0, 1)] == ["val", "holdout"]
    for fields in ({"holdout": 10}, {"holdout": 4, "train_scenes": 7}, {"train_scenes": 11}):
        with pytest.raises(ValueError, match=r"has 10 training scenes; data\.holdout"):
            scenes("train", **fields)
    with pytest.raises(ValueError, match="0 or more scenes, found -1, 0"):
        DataConfig(holdout=-1)


# Everything at once: averaged weights, momentum, accumulated gradients, validation in between.
FULL = dataclasses.replace(
    RUN,
    optim=OptimConfig(steps=4, warmup_steps=0, schedule="one_cycle", accumulate=2, ema=0.999, backbone_lr=0.1),
    batch_size=1, validate_every=2, validate_frames=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def full_run(tiny_dataset, tmp_path_factory) -> Path:
    return train(FULL, Source(tiny_dataset), tmp_path_factory.mktemp("full_run"))


@pytest.fixture(params=["plain", "full"])
def whole(request, tiny_checkpoint):
    """A run and the checkpoint of its uninterrupted training."""
    if request.param == "plain":
        return RUN, tiny_checkpoint
    return FULL, request.getfixturevalue("full_run")


def stop_at(monkeypatch, step_number, error):
    """Training raises `error` at the first batch of a step."""
    step = DetectorModule.training_step

    def fail(self, batch, number):
        if self.global_step == step_number:
            raise error
        return step(self, batch, number)

    monkeypatch.setattr(DetectorModule, "training_step", fail)


def assert_like(found, wanted, where=""):
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=f"{where}{name}")


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(whole, tiny_dataset, tmp_path, monkeypatch):
    run, finished = whole
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power failure"):
        stop_at(patch, 2, RuntimeError("power failure"))
        train(run, Source(tiny_dataset), tmp_path)
    stopped = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stopped["global_step"] == 2
    stopped["callbacks"]["Stopwatch"]["seconds"] += 3600.0
    torch.save(stopped, tmp_path / "last.ckpt")
    seen, step = [], DetectorModule.training_step
    monkeypatch.setattr(DetectorModule, "training_step", lambda *a: seen.append(a[1]["index"].tolist()) or step(*a))
    resumed = torch.load(train(run, Source(tiny_dataset), tmp_path), weights_only=True)
    wanted = torch.load(finished, weights_only=True)
    batches = 2 * run.optim.accumulate
    assert resumed["global_step"] == wanted["global_step"] == 4 and len(seen) == batches
    assert 60 < training_minutes(tmp_path / "last.ckpt") < 70 and 0 < training_minutes(finished) < 10
    assert_like(resumed["state_dict"], wanted["state_dict"])
    fresh = DetectorModule(run).state_dict()
    assert not torch.allclose(
        fresh["detector.backbone.conv1.weight"], wanted["state_dict"]["detector.backbone.conv1.weight"]
    )
    assert ("ema" in wanted) == (run is FULL)
    assert_like(resumed.get("ema", {}), wanted.get("ema", {}), "ema: ")
    states = [c["optimizer_states"][0]["state"] for c in (resumed, wanted)]
    torch.testing.assert_close(states[0][0]["exp_avg"], states[1][0]["exp_avg"], rtol=1e-3, atol=1e-6)
    groups = [[(g["lr"], g["betas"]) for g in c["optimizer_states"][0]["param_groups"]] for c in (resumed, wanted)]
    assert groups[0] == groups[1]
    assert resumed["callbacks"].get("Validation") == wanted["callbacks"].get("Validation")

    assert train(run, Source(tiny_dataset), tmp_path).is_file() and len(seen) == batches, "it was done already"


def test_averaged_weights_are_what_is_scored_and_exported(full_run):
    saved = torch.load(full_run, weights_only=True)
    loaded = load_network(full_run).detector.state_dict()
    assert_like(loaded, saved["ema"])
    name = "backbone.conv1.weight"
    assert not torch.allclose(saved["ema"][name], saved["state_dict"][f"detector.{name}"])


def test_validation_leaves_scores_pictures_and_the_best_checkpoint(full_run):
    out = full_run.parent
    assert (
        len(list((out / "pictures").glob("step0000002_*.jpg"))) == 2
        and (out / "pictures" / "step0000004_3.jpg").is_file()
    )
    rows = (out / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"val/NDS", "val/mAP", "train/heatmap", "train/grad_norm"} <= set(rows[0].split(","))
    assert load_network(out / "best.ckpt").run == FULL


def test_a_run_directory_tells_how_to_repeat_it_and_takes_no_other_run(tiny_checkpoint, tiny_dataset):
    out = tiny_checkpoint.parent
    (start, *_) = json.loads((out / "starts.json").read_text())
    assert len(start["code"]["commit"] or "") in (0, 40) and start["packages"]["torch"] == version("torch")
    assert start["data"]["root"] == str(tiny_dataset) and len(start["data"]["digest"]) == 64
    other = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, lr=0.5), seed=3)
    with pytest.raises(ValueError, match=r"(?s)another run.*optim\.lr: 0\.002 -> 0\.5\n  seed: 0 -> 3$"):
        train(other, Source(tiny_dataset), out)
    assert json.loads((out / "run.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), r"Halve batch_size \(now 3\)"),
        (FloatingPointError("loss is not finite at step 2"), "not finite at step 2"),
        (OSError(28, "No space left on device"), "the disk is full"),
    ],
)
def test_what_stops_a_run_is_explained_and_the_last_checkpoint_kept(
    error, words, tiny_checkpoint, tmp_path, monkeypatch
):
    last = tmp_path / "last.ckpt"
    last.write_bytes(tiny_checkpoint.read_bytes())
    with pytest.raises(TrainingStopped, match=rf"(?s){words}.*Kept: .*last\.ckpt of step 4") as stopped:
        with explained(RUN, tmp_path):
            raise error
    assert stopped.value.__cause__ is error
    with pytest.raises(TrainingStopped, match="no checkpoint yet"), explained(RUN, tmp_path / "none"):
        raise error
    with pytest.raises(KeyError), explained(RUN, last):
        raise KeyError("a mistake in the program")


def test_a_killed_loader_process_ends_the_command_with_a_message(tiny_dataset, tmp_path, monkeypatch, capsys):
    get = ClipDataset.__getitem__

    def die(self, index):
        if index >= 4:  # the second epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return get(self, index)

    monkeypatch.setattr(ClipDataset, "__getitem__", die)
    monkeypatch.setattr("training.train.load_run", lambda _: dataclasses.replace(RUN, checkpoint_every=1))
    arguments = ["any", "--data", str(tiny_dataset), "--out", str(tmp_path), "--set", "batch_size=1", "optim.steps=9"]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "a loader process died" in message and "--workers" in message and "Kept: " in message
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] >= 1


@pytest.mark.parametrize("damage", ["cut off", "removed"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_that_cannot_be_read_is_named_with_its_sample(
    tiny_dataset, tmp_path, monkeypatch, capfd, damage, workers
):
    shutil.copytree(tiny_dataset, tmp_path / "data")
    (path,) = sorted((tmp_path / "data" / "samples" / "CAM_FRONT").glob("scene-0000*"))[1:2]
    path.write_bytes(path.read_bytes()[:100])
    said = r"^error: sample \w{32} of scene-0000: .*CAM_FRONT.*; mend these files: .*"
    if damage == "removed":
        path.unlink()
        said = r"^error: sample \w{32}: no file .*"
    monkeypatch.setattr("training.train.load_run", lambda _: RUN)
    arguments = ["any", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--workers", workers]
    assert main(arguments) == 1
    assert re.search(rf"(?m){said}{path.name}.*\nThere was no checkpoint yet", capfd.readouterr().err)


def test_a_run_goes_on_in_smaller_batches_with_the_next_sample(tiny_dataset, tmp_path, monkeypatch):
    """As it is told when memory runs out; batches are counted anew, so that whole steps go on."""
    run = dataclasses.replace(RUN, batch_size=2, checkpoint_every=1)
    smaller = dataclasses.replace(run, batch_size=1, optim=dataclasses.replace(run.optim, accumulate=2))
    seen, step = [], DetectorModule.training_step

    def note(self, batch, number):
        seen.append((self.global_step, number % self.run.optim.accumulate, *batch["index"].flatten().tolist()))
        return step(self, batch, number)

    monkeypatch.setattr(DetectorModule, "training_step", note)
    train(run, Source(tiny_dataset), tmp_path / "whole")
    wanted, seen[:] = [row[2:] for row in seen], []
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power failure"):
        stop_at(patch, 1, RuntimeError("power failure"))
        train(run, Source(tiny_dataset), tmp_path / "out")
    seen.clear()
    assert read_checkpoint(train(smaller, Source(tiny_dataset), tmp_path / "out"))["global_step"] == 4
    assert [row[:2] for row in seen] == [(step, part) for step in (1, 2, 3) for part in (0, 1)]
    assert [row[2] for row in seen] == [index for row in wanted[1:] for index in row]
    starts = json.loads((tmp_path / "out" / "starts.json").read_text())
    assert [start["batch"] for start in starts] == [
        {"batch_size": 2, "accumulate": 1}, {"batch_size": 1, "accumulate": 2},
    ]  # fmt: skip
    for changed in (dataclasses.replace(smaller, batch_size=2), dataclasses.replace(smaller, seed=1)):
        with pytest.raises(ValueError, match="another run"):
            train(changed, Source(tiny_dataset), tmp_path / "out")


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """Fields that it did not have are at their defaults; what it had must be as it was."""
    run_directory.begin(tmp_path, RUN, Source(tmp_path), "digest")
    (tmp_path / "last.ckpt").touch()
    plain = json.loads((tmp_path / "run.json").read_text())
    del plain["data"]["augmentation"]["bev_shift_m"], plain["distill"]
    (tmp_path / "run.json").write_text(json.dumps(plain))
    shifted = dataclasses.replace(RUN.data.augmentation, bev_shift_m=0.5)
    with pytest.raises(ValueError, match=r"another run.*\n  data\.augmentation\.bev_shift_m: 0\.0 -> 0\.5$"):
        changed = dataclasses.replace(RUN, data=dataclasses.replace(RUN.data, augmentation=shifted))
        run_directory.begin(tmp_path, changed, Source(tmp_path), "digest")
    run_directory.begin(tmp_path, RUN, Source(tmp_path), "digest")
    assert json.loads((tmp_path / "run.json").read_text())["data"]["augmentation"]["bev_shift_m"] == 0.0
    for broken in ({}, plain | {"model": "unheard-of"}, plain | {"extra": 1}):
        (tmp_path / "run.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="another run"):
            run_directory.begin(tmp_path, RUN, Source(tmp_path), "digest")


def test_a_run_directory_keeps_the_code_that_is_not_committed(tmp_path, monkeypatch):
    repository, out = tmp_path / "repository", tmp_path / "out"
    (repository / "training" / "models").mkdir(parents=True)
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    (repository / ".gitignore").write_text("*.ckpt\n")
    (repository / "training" / "run.py").write_text("a = 1\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(run_directory, "CODE", repository)

    def begun():
        run_directory.begin(out, RUN, Source(tmp_path), "digest")
        return json.loads((out / "starts.json").read_text())[-1]["code"]["uncommitted"]

    assert not begun() and not (out / "start0.diff").exists()
    new = {
        "training/models/new.py": "# neu: \u00fc\r\nb = 2\n".encode("latin-1"),
        "training/table.bin": bytes(range(256)),
    }
    for name, content in new.items():
        (repository / name).write_bytes(content)
    (repository / "training" / "last.ckpt").write_text("ignored")
    assert begun()
    (repository / "training" / "run.py").write_text("a = 3\n")
    assert begun()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(repository), str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "apply", str(out / "start2.diff")], check=True)
    assert (clone / "training" / "run.py").read_text() == "a = 3\n"
    assert {name: (clone / name).read_bytes() for name in new} == new
    assert not (clone / "training" / "last.ckpt").exists()


def test_gradients_that_are_not_finite_do_not_reach_the_weights(tiny_dataset, tmp_path, monkeypatch):
    step = DetectorModule.training_step

    def overflow(self, batch, number):
        loss = step(self, batch, number)
        return loss + (self.detector.head.regression[-1].bias * 0).sqrt().sum() if self.global_step == 1 else loss

    monkeypatch.setattr(DetectorModule, "training_step", overflow)
    with pytest.raises(TrainingStopped, match=r"gradients are not finite at step 1.*(?s:.*)Kept: .*of step 1"):
        train(dataclasses.replace(RUN, batch_size=1, checkpoint_every=1), Source(tiny_dataset), tmp_path)
    assert all(v.isfinite().all() for v in torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"].values())


def test_a_checkpoint_gives_back_its_network(tiny_checkpoint):
    network = load_network(tiny_checkpoint)
    assert network.run == RUN and network.detector.config == SIZES and network.detector.spec == SPEC
    assert not network.detector.training
    for name, value in torch.load(tiny_checkpoint, weights_only=True)["state_dict"].items():
        assert torch.equal(weights_of(network.detector)[name], value)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt: not a checkpoint of training\.train.*run"):
        load_network(tmp_path / "other.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "other.ckpt").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut\.ckpt: not a checkpoint, or cut off"):
        load_network(tmp_path / "cut.ckpt")


def test_experiments_are_found_by_name():
    assert load_experiment("training.experiments.demo:tiny").optim.steps == 4
    assert load_run("training.experiments.near:study:camera_radar").model == "camera_radar"
    with pytest.raises(ValueError, match=r"the study has no run 'camera'; it has \['bev"):
        load_run("training.experiments.near:study:camera")
    with pytest.raises(ValueError, match="gives a dict, not a Run"):
        load_run("training.experiments.near:study")
    with pytest.raises(ValueError, match=r"demo:nothing: no such experiment.*full"):
        load_experiment("training.experiments.demo:nothing")


def test_a_loss_that_is_not_finite_stops_the_run(batch):
    module = DetectorModule(RUN)
    with torch.no_grad():
        module.detector.head.regression[-1].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"not finite at step 0: \{.*'box': nan.*lower lr"):
        module.training_step(batch, 0)


def test_two_samples_are_learned_by_heart(batch):
    torch.manual_seed(0)
    module = DetectorModule(dataclasses.replace(RUN, optim=OptimConfig(lr=1e-2, warmup_steps=5, steps=60)))
    schedule = module.configure_optimizers()
    losses = []
    for _ in range(60):
        loss = module.training_step(batch, 0)
        schedule["optimizer"].zero_grad()
        loss.backward()
        schedule["optimizer"].step()
        schedule["lr_scheduler"]["scheduler"].step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(("clip_norm", "left"), [(0.0, 20.0), (5.0, 5.0)])
def test_the_optimiser_has_its_betas_and_gradients_are_clipped_or_not(monkeypatch, clip_norm, left):
    run = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, beta2=0.99, clip_norm=clip_norm))
    module = DetectorModule(run)
    monkeypatch.setattr(module, "log", lambda *_: None)
    optimizer = module.configure_optimizers()["optimizer"]
    assert {group["betas"][1] for group in optimizer.param_groups} == {0.99}
    next(module.parameters()).grad = torch.zeros_like(next(module.parameters()))
    next(module.parameters()).grad.flatten()[0] = 20.0
    module.configure_gradient_clipping(optimizer)
    assert float(next(module.parameters()).grad.abs().max()) == pytest.approx(left)
