"""The checkpoints that come with the repository are what their cards say, and teach."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from training.experiments import distillation
from training.trainer.teaching import open_teachers

FOLDER = Path(__file__).resolve().parent.parent / "training" / "checkpoints"


def test_every_checkpoint_is_small_and_the_one_its_card_describes() -> None:
    files = sorted(FOLDER.glob("*.ckpt"))
    assert files
    for path in files:
        content = path.read_bytes()
        assert len(content) < 8 << 20
        assert f"sha256 {hashlib.sha256(content).hexdigest()}" in path.with_suffix(".md").read_text()


def test_mvp_teaches_the_study() -> None:
    run = distillation.pairs(distillation.family())["bevdet_from_mvp"]
    teachers = open_teachers(run, {"mvp": FOLDER / "mvp_near.ckpt"})
    assert list(teachers) == ["mvp"]
    assert 0.9e6 < sum(p.numel() for p in teachers["mvp"].detector.parameters()) < 1.1e6
