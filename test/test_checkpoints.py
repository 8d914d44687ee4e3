"""The checkpoints that come with the repository are what their cards say, and teach."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from training.experiments import distillation
from training.trainer.teaching import open_teachers

FOLDER = Path(__file__).resolve().parent.parent / "training" / "checkpoints"


def test_every_checkpoint_is_small_and_has_a_card() -> None:
    files = sorted(FOLDER.glob("*.ckpt"))
    assert files and all(path.stat().st_size < 8 << 20 and path.with_suffix(".md").is_file() for path in files)


def test_mvp_teaches_the_study() -> None:
    run = distillation.pairs(distillation.family())["bevdet_from_mvp"]
    teachers = open_teachers(run, {"mvp": FOLDER / "mvp_near.ckpt"})
    assert list(teachers) == ["mvp"]
    assert 0.9e6 < sum(p.numel() for p in teachers["mvp"].detector.parameters()) < 1.1e6
