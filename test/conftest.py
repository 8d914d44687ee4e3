"""One thread for everybody, and fixtures that several test files share because they are dear."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch or numpy is imported, here and in the processes that tests start. The networks are so small that a second
# thread gains nothing, and it waits by spinning: on cores that are busy, training takes up to ten times the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Commands take as many threads as there are cores: the next test has one again."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


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
    from tiny_run import RUN

    from training.data.source import Source
    from training.train import train

    return train(RUN, Source(tiny_dataset), tmp_path_factory.mktemp("tiny_run"))
