"""Two processes on the CPU give what one gives: the same samples, gradients, weights and detections."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

import ddp_run  # noqa: E402
from tiny_run import RUN, points_run  # noqa: E402

from training.data.clips import EndlessShuffle  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.processes import RankShard, check_same_step, count_of_all, own_threads  # noqa: E402
from training.train import train  # noqa: E402
from training.trainer.loading import training_loader  # noqa: E402

SCRIPT = Path(__file__).parent / "ddp_run.py"


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    for processes, threads in ((None, 6), (1, 6), (4, 1), (2, 3), (8, 1)):
        if processes:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert own_threads() == threads


def test_the_shards_of_all_processes_are_the_batches_of_one(monkeypatch):
    def take(count, first=0):
        return list(itertools.islice(iter(RankShard(EndlessShuffle(7, 3, first))), count))

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    whole = take(24)
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts, later = [], []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(take(8))
        later.append(take(2, first=18))
    for step in range(4):  # batches of six: two of each process
        batch = [index for part in parts for index in part[2 * step : 2 * step + 2]]
        assert sorted(batch) == sorted(whole[6 * step : 6 * step + 6])
    assert later == [part[6:] for part in parts], "resumed after three steps"


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="batch_size 3 cannot be shared by 2 processes"):
        training_loader([], RUN, 0, 2, 0)


def test_processes_that_would_go_on_from_different_steps_are_told_so(monkeypatch):
    check_same_step(7)
    monkeypatch.setattr("training.processes.gather_dict", lambda own: own | {1: 40})
    check_same_step(40)
    with pytest.raises(ValueError, match=r"process 0 goes on from step 0, process 1 from step 40: .*last\.ckpt"):
        check_same_step(0)


def test_counts_are_at_least_one():
    assert count_of_all(torch.tensor(0.0)) == 1 and count_of_all(torch.tensor(5.0)) == 5


@pytest.fixture(scope="module")
def alone_and_together(tiny_dataset, tmp_path_factory):
    """What ddp_run.py leaves behind in one process, this one, and in two that run meanwhile."""
    out = tmp_path_factory.mktemp("ddp")
    teacher = train(points_run("centerpoint"), Source(tiny_dataset), out / "teacher")
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    env = own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(SCRIPT), str(tiny_dataset), str(out / "two"), str(teacher)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as two:
        with pytest.MonkeyPatch.context() as patch:
            # ddp_run.py puts its own there
            patch.setitem(ddp_run.STUDENTS, "camera_radar", ddp_run.STUDENTS["camera_radar"])
            ddp_run.run(tiny_dataset, out / "one", teacher)
        output, _ = two.communicate(timeout=600)
    assert two.returncode == 0, output  # all of it: the first process to fail says why
    return out / "one", out / "two"


def same_training(one, two):
    """Two checkpoints with the same gradients and weights."""
    moments = [c["optimizer_states"][0]["state"] for c in (one, two)]
    largest = max(float(row["exp_avg"].abs().max()) for row in moments[0].values())
    assert largest > 1e-3
    for index, row in moments[0].items():  # sums of the gradients of both steps
        torch.testing.assert_close(moments[1][index]["exp_avg"], row["exp_avg"], rtol=1e-3, atol=1e-5 * largest)
    for kind in ("state_dict", "ema"):
        for name, value in one[kind].items():
            torch.testing.assert_close(two[kind][name], value, rtol=1e-3, atol=4e-5, msg=name)


def test_two_processes_train_and_detect_like_one(alone_and_together):
    one, two = (torch.load(folder / "last.ckpt", weights_only=True) for folder in alone_and_together)
    same_training(one, two)
    assert two["callbacks"]["Validation"] == pytest.approx(one["callbacks"]["Validation"], abs=1e-3)
    found = [np.load(folder / "found.npz") for folder in alone_and_together]
    assert found[0].files == found[1].files == ["0", "1", "3"]
    for row in found[0].files:
        assert len(found[0][row]) > 10
        np.testing.assert_allclose(found[1][row], found[0][row], atol=1e-3)
    assert len(list((alone_and_together[1] / "pictures").iterdir())) == 2


def test_two_processes_are_taught_like_one(alone_and_together):
    """Adapters, the cached teacher's part of the gradients, and how hard it may pull."""
    one, two = (torch.load(folder / "taught" / "last.ckpt", weights_only=True) for folder in alone_and_together)
    same_training(one, two)
    assert {name.split(".")[1] for name in one["state_dict"] if name.startswith("distiller.")} == {
        "adapters", "parts", "scales",
    }  # fmt: skip
    assert float(one["state_dict"]["distiller.scales"]) > 0
    caches = [{path.name for path in (folder / "cache").rglob("*.npz")} for folder in alone_and_together]
    assert caches[0] == caches[1] and len(caches[0]) == 4
