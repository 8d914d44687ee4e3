"""One thread for everybody, and fixtures that several test files share because they are dear."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch or numpy is imported, here and in the processes that tests start. The networks are so small that a second
# thread gains nothing, and it waits by spinning: on cores that are busy, training takes up to ten times the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ctrl-C and hang-ups that whoever runs the tests ignores (nohup, a job in the background) would be ignored by all that
# tests start, too: what is ignored stays so when a program begins, what has a handler does not.
for sign in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(sign) is signal.SIG_IGN:
        signal.signal(sign, lambda *_: None)

# Left out of `make test-fast`: files whose tests train, export, render, build, or wait for DDS, and what asks for a
# fixture that does. What is not here is marked `fast`, so a new file need not be named unless it is slow.
SLOW_FILES = frozenset(
    """
    test_adapters test_average test_backbones test_bag_to_nuscenes test_bag_writer test_bench_gpu test_bench_half
    test_bench_training test_bev_encoder
    test_commands test_convert_export test_convert_networks test_ddp test_ddp_ends test_demo_parts
    test_distill_experiments test_distill_training
    test_experiments test_export test_extending test_fusion_students test_live_and_replay test_messages test_model_table
    test_data_engine_loop test_data_engine_showing test_keep_node test_long_range test_node_health test_usual
    test_circle test_deploy_node test_node_lifecycle test_node_messages test_node_tf test_nuscenes_writer test_packaging
    test_play_record
    test_bring_up_rig test_calibration_check test_doctor test_rig_live
    test_calibrate test_corruptions test_prune test_pruned_networks test_quantize test_radar_students
    test_report_browser test_robustness test_recorded_labels test_recorded_sets test_recorded_town test_replay
    test_spread_head test_spread_losses test_uncertainty_ways
    test_student test_students test_study test_teachers test_temporal_fusion
    test_fast_dds test_faults test_first_day test_shared_memory test_two_nodes
    test_city_images test_image_statistics test_tensorrt test_train_small test_training test_view_export test_ways_in
    test_worker_processes test_world_sensors test_world_styles test_world_traffic
    """.split()
)
SLOW_FIXTURES = frozenset({"tiny_dataset", "tiny_checkpoint", "town_bag"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem not in SLOW_FILES and not SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Commands take as many threads as there are cores: the next test has one again."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def colcon_build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A colcon_build.ColconBuild that has begun, where a test of this session waits for one; else None."""
    from colcon_build import ColconBuild

    wanted = any("colcon" in getattr(item, "fixturenames", ()) for item in request.session.items)
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base  # of all processes of pytest-xdist
    build = ColconBuild(shared / "workspace") if wanted and ColconBuild.possible() else None
    yield build
    if build is not None:
        build.wait()


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
def town_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a drive through the town, town_drive.SETTINGS, as a recording."""
    for name in ("trimesh", "rosbags"):
        pytest.importorskip(name, reason=f"a synthetic recording needs {name}")
    from town_drive import SETTINGS

    from training.world.bag_writer import write_bag

    path = tmp_path_factory.mktemp("town_bag") / "drive"
    write_bag(path, SETTINGS, workers=2)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of tiny_run.RUN, trained for its four steps."""
    for name in ("torch", "lightning"):
        pytest.importorskip(name, reason=f"training needs {name}")
    from tiny_run import RUN

    from training.data.source import Source
    from training.train import train

    return train(RUN, Source(tiny_dataset), tmp_path_factory.mktemp("tiny_run"))
