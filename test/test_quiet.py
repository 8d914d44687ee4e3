"""Runs and exports say nothing of Lightning's and torch's that says nothing; warnings that say something are told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from training.quiet import quiet

ROOT = Path(__file__).resolve().parent.parent
RUNS = """
import sys
from tiny_run import RUN
from training import export, overfit, train
train.load_run = lambda name: RUN
overfit.tiny = lambda: {"tiny": RUN}
data, out = sys.argv[1:]
STEP = "optim.steps=1", "validate_every=1", "validate_frames=1"
given = ["--data", data, "--out", out]
sys.exit(
    train.main(["any", *given, "--workers", "1", "--set", *STEP])
    or train.main(["any", *given, "--workers", "1", "--set", *STEP])
    or overfit.main([*given, "--steps", "1", "--threads", "1"])
    or export.main([f"{out}/last.ckpt", f"{out}/bundle"])
)
"""


def test_a_run_says_only_what_is_its_own(tiny_dataset: Path, tmp_path: Path) -> None:
    """In a process of its own, whose loggers and warnings are as a user has them."""
    said = subprocess.run(
        [sys.executable, "-c", RUNS, str(tiny_dataset), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'test'}", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("4 samples, 1 steps of 3") == 2
    left = [line for line in said.stderr.splitlines() if not re.match("Restor(ing|ed all) states", line)]
    assert left == []


def test_all_else_is_told_and_afterwards_everything(caplog: pytest.LogCaptureFixture) -> None:
    told = "GPU available: True (cuda), used: True", "Missing logger folder: /tmp/x"
    with warnings.catch_warnings(record=True) as seen, caplog.at_level("INFO"):
        warnings.simplefilter("always")
        with quiet():
            for text in ("GPU available: False, used: False", "`Trainer.fit` stopped: `max_steps=4` reached.", *told):
                rank_zero_info(text)
            rank_zero_warn("The 'train_dataloader' does not have many workers which may be a bottleneck.")
            rank_zero_warn("Detected call of `lr_scheduler.step()` before `optimizer.step()`")
        assert [record.getMessage() for record in caplog.records] == list(told)
        assert [str(warning.message)[:13] for warning in seen] == ["Detected call"]
        rank_zero_info("GPU available: False, used: False")
        rank_zero_warn("The 'train_dataloader' does not have many workers")
    assert len(caplog.records) == 3 and len(seen) == 2
