"""Fixtures that several test files share because they are dear."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nuScenes-format data set: scene-0000 to train, scene-0001 to validate, four keyframes each, images 160x90."""
    for name in ("trimesh", "nuscenes"):
        pytest.importorskip(name, reason=f"the synthetic data set needs {name}")
    from training.world.generate import Rates
    from training.world.nuscenes_writer import DatasetSettings, write_dataset

    root = tmp_path_factory.mktemp("tiny_dataset")
    rates = Rates(camera=2, lidar=2, radar=13)
    write_dataset(root, 2, DatasetSettings(seed=7, duration_s=2.0, scale=0.1, rates=rates), workers=1, val_every=2)
    return root


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of tiny_run.RUN, trained for its four steps."""
    for name in ("torch", "lightning"):
        pytest.importorskip(name, reason=f"training needs {name}")
    from tiny_run import RUN, VERSION

    from training.train import train

    return train(RUN, tiny_dataset, VERSION, tmp_path_factory.mktemp("tiny_run"))
