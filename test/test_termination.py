"""What ends a run from outside: SIGTERM, a second run in its folder, loader processes that are killed, a lost cache."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN  # noqa: E402

from training.command_line import INTERRUPTED, PREEMPTED, TrainingStopped  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.run import OptimConfig, Run  # noqa: E402
from training.train import main, train  # noqa: E402
from training.trainer import failures, termination  # noqa: E402
from training.trainer.failures import explained  # noqa: E402
from training.trainer.lightning_module import DetectorModule  # noqa: E402
from training.trainer.run_lock import only_run_in  # noqa: E402
from training.trainer.termination import ENDS  # noqa: E402
from training.workers import outlive_signals  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FULL = dataclasses.replace(
    RUN,
    optim=OptimConfig(steps=4, warmup_steps=0, schedule="one_cycle", accumulate=2, ema=0.999, backbone_lr=0.1),
    batch_size=1, checkpoint_every=100, validate_every=3, validate_frames=1,
)  # fmt: skip


PLAIN = dataclasses.replace(RUN, checkpoint_every=100)


def assert_identical(found: Any, wanted: Any, where: str) -> int:
    """To the last bit; -> how many tensors were compared."""
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
        return 1
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        return sum(assert_identical(found[key], value, f"{where}.{key}") for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        return sum(assert_identical(f, w, f"{where}[{i}]") for i, (f, w) in enumerate(zip(found, wanted)))
    assert found == wanted, where
    return 0


@pytest.mark.parametrize(
    ("run", "sent", "called", "status"),
    [
        (PLAIN, "TERM", "SIGTERM: saving after this step\n", PREEMPTED),
        (FULL, "TERM", "SIGTERM: saving after this step\n", PREEMPTED),
        (PLAIN, "INT", "Ctrl-C: saving after this step; once more ends without saving\n", INTERRUPTED),
    ],
    ids=["plain", "full", "ctrl_c"],
)
def test_a_signal_saves_and_the_same_command_ends_as_if_nothing_had_been(
    run: Run,
    sent: str,
    called: str,
    status: int,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("training.train.own_threads", lambda: 1)  # more add in another order
    wanted = torch.load(train(run, Source(tiny_dataset), tmp_path / "whole"), weights_only=True)
    step, seen = DetectorModule.training_step, []

    def told_to_end(self: DetectorModule, batch: Any, number: int) -> Any:
        if self.global_step == 1:
            every = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            assert len(every) > 1  # a scheduler tells every process of the job
            subprocess.run(["kill", f"-{sent}", *map(str, every)], check=True)
        seen.append(self.global_step)
        return step(self, batch, number)

    monkeypatch.setattr("training.train.load_run", lambda _: run)
    command = ["any", "--data", str(tiny_dataset), "--out", str(tmp_path / "out"), "--workers", "1"]
    before = [signal.getsignal(number) for number in ENDS]
    with monkeypatch.context() as patch:
        patch.setattr(DetectorModule, "training_step", told_to_end)
        assert main(command) == status == {"TERM": 75, "INT": 130}[sent]
    assert [signal.getsignal(number) for number in ENDS] == before
    said = capfd.readouterr().err
    assert said.count(called) == 1, "all parts of the step are one step"
    saved = f"saved {tmp_path}/out/last.ckpt of step 2; the same command goes on from there"
    assert f"stopped: {called.partition(':')[0]}: {saved}" in said
    assert seen == [0] * run.optim.accumulate + [1] * run.optim.accumulate
    assert main(command) == 0
    found = torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)
    for name in ("state_dict", "optimizer_states", "lr_schedulers", *(["ema"] if run is FULL else [])):
        count = assert_identical(found[name], wanted[name], name)
        assert count > 20 or name == "lr_schedulers"
    assert found["callbacks"].get("Validation") == wanted["callbacks"].get("Validation")


def test_a_second_ctrl_c_ends_at_once_and_one_before_the_first_step_too(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    step, begun = DetectorModule.training_step, []

    def twice(self: DetectorModule, batch: Any, number: int) -> Any:
        begun.append(self.global_step)
        if self.global_step == 3:
            for _ in range(3):  # the second comes with the first, passed on by what began the program
                signal.raise_signal(signal.SIGINT)
                time.sleep(0 if len(begun) == 4 else 0.3)
                begun.append(-1)
        return step(self, batch, number)

    def too_early(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(termination, "APART_S", 0.2)
    monkeypatch.setattr("training.train.load_run", lambda _: RUN)
    command = ["any", "--data", str(tiny_dataset), "--out", str(tmp_path / "out"), "--workers", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("training.train.open_keyframes", too_early)
        assert main(command) == INTERRUPTED
    assert "stopped: Ctrl-C. There was no checkpoint yet.\n" in capfd.readouterr().err
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(DetectorModule, "training_step", twice)
    assert main(command) == INTERRUPTED
    assert begun == [0, 1, 2, 3, -1, -1] and signal.getsignal(signal.SIGINT) == before
    kept = f"stopped: Ctrl-C. Kept: {tmp_path}/out/last.ckpt of step 2. The same command goes on from there"
    assert kept in capfd.readouterr().err


@pytest.mark.parametrize("caught", [True, False])
def test_a_loader_outlives_sigterm_while_the_main_process_waits_for_one(caught: bool) -> None:
    def work() -> None:
        outlive_signals(0)
        time.sleep(60)

    before = signal.signal(signal.SIGTERM, (lambda *_: None) if caught else signal.SIG_DFL)
    loader = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    loader.start()
    time.sleep(0.3)
    assert loader.pid is not None
    os.kill(loader.pid, signal.SIGINT)  # of a terminal, to all
    os.kill(loader.pid, signal.SIGTERM)
    loader.join(0.5 if caught else 10)
    assert loader.is_alive() == caught
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    loader.terminate()
    loader.join(10)
    signal.signal(signal.SIGTERM, before)
    assert loader.exitcode == 0


HOLD = """
import sys, time
from pathlib import Path
from training.trainer.run_lock import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_a_folder_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"another run is at work here \(process {holder.pid} on .*another --out"):
        train(RUN, Source(tiny_dataset), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock"], "nothing of the first run is touched"
    holder.kill()
    holder.communicate()
    with only_run_in(tmp_path):
        pass  # a run that was killed holds nothing


def test_a_folder_that_cannot_be_locked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("training.trainer.run_lock.fcntl.lockf", refuse)
    with only_run_in(tmp_path):
        assert "cannot be locked (No locks available)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("after", "words"),
    [(7, "The kernel killed 2 processes meanwhile because memory ran out"), (5, "Most often memory")],
)
def test_a_loader_that_was_killed_for_memory_is_named(
    after: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "KERNEL_COUNTS", tmp_path / "vmstat")
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 5\n")
    with pytest.raises(TrainingStopped, match=rf"loader process died: .*\(pid 7\).*\n{words}.*--workers"):
        with explained(RUN, tmp_path):
            (tmp_path / "vmstat").write_text(f"nr_free_pages 12\noom_kill {after}\n")
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def test_the_kernels_count_is_read() -> None:
    assert failures.killed_for_memory() >= 0 and failures.KERNEL_COUNTS.is_file()
