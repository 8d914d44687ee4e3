"""Targets in the images are drawn, and LiDAR is read, for losses that look at them alone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_networks import CONFIGS  # noqa: E402
from tiny_run import RUN, SPEC  # noqa: E402
from tiny_students import NAMES  # noqa: E402

from training.data.clips import Cache, ClipDataset, collate  # noqa: E402
from training.data.file_checks import bad_files, needed_files  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.distill import DistillConfig, Term  # noqa: E402
from training.experiments import family  # noqa: E402
from training.run import build_detector, image_targets, seen_by_network  # noqa: E402
from training.trainer.loading import Batches, evaluation_loader, open_keyframes  # noqa: E402
from training.trainer.network import Network  # noqa: E402

BOTH = ("depth", "semantic")


def run_of(model: str, **camera: object):
    config = CONFIGS[model]
    if camera:
        config = dataclasses.replace(config, camera=dataclasses.replace(config.camera, **camera))
    return dataclasses.replace(RUN, model=model, config=config)


def test_targets_are_those_that_the_network_predicts():
    paper = family.paper()
    assert {name: image_targets(paper[name]) for name in ("bevdet", "bevdet4d", "bevformer", "bevdepth", "crn")} == {
        "bevdet": (), "bevdet4d": (), "bevformer": (), "bevdepth": ("depth",), "crn": ("depth",),
    }  # fmt: skip
    assert image_targets(paper["centerpoint"]) == image_targets(paper["radar_pillarnet"]) == ()
    assert image_targets(RUN) == BOTH
    assert image_targets(run_of("bevdet", aux=())) == () and image_targets(run_of("bevdet", aux=BOTH)) == BOTH
    assert image_targets(dataclasses.replace(RUN, data=dataclasses.replace(RUN.data, depth_stride=0))) == ()
    taught = DistillConfig((Term("lgkd_depth", "large", "aux.depth", "aux.depth"),))
    assert image_targets(dataclasses.replace(run_of("bevdet", aux=()), distill=taught)) == ("depth",)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_network_predicts_in_training_is_what_is_drawn(tiny_dataset, name):
    run = family.tiny()[name]
    targets = image_targets(run)
    keyframes = open_keyframes(run.spec, run.data, Source(tiny_dataset), "train", image_targets=targets)
    item = ClipDataset(keyframes, run.spec, run.data, image_targets=targets)[1]
    prediction = Network(run, build_detector(run)).predict(collate([item, item]))
    assert set(prediction.aux) & set(BOTH) == set(item) & set(BOTH) == set(targets)


@pytest.fixture
def camera_only(tiny_dataset, tmp_path) -> Path:
    """A copy of the set without LiDAR files."""
    shutil.copytree(tiny_dataset, tmp_path / "set")
    for folder in ("samples", "sweeps"):
        shutil.rmtree(tmp_path / "set" / folder / "LIDAR_TOP", ignore_errors=True)
    return tmp_path / "set"


def test_a_copy_without_lidar_files_is_enough_for_cameras(camera_only):
    run = run_of("bevdet", aux=("semantic",))
    keyframes = open_keyframes(SPEC, run.data, Source(camera_only), "train", image_targets=image_targets(run))
    assert bad_files(needed_files(keyframes, lidar=False), 0) == []
    assert len(bad_files(needed_files(keyframes), 0)) == len(keyframes)
    assert set(ClipDataset(keyframes, SPEC, run.data, image_targets=("semantic",))[0]) & set(BOTH) == {"semantic"}
    with pytest.raises(FileNotFoundError, match="no such LiDAR file"):
        ClipDataset(keyframes, SPEC, run.data)[0]
    batch = next(iter(evaluation_loader(keyframes, [0, 1], SPEC, run.data, Batches(2, 0))))
    assert not set(batch) & set(BOTH), "nothing is supervised in an evaluation"


def test_points_of_teachers_are_not_read_to_score_a_student():
    data = dataclasses.replace(RUN.data, lidar=family.paper()["centerpoint"].data.lidar)
    assert seen_by_network(dataclasses.replace(RUN, data=data)).lidar is None
    teacher = family.paper()["centerpoint"]
    assert seen_by_network(teacher) == teacher.data


def test_a_set_that_is_far_too_large_is_not_kept():
    made = []

    class Value:
        nbytes = 1_000_000

    for count, kept in ((10, 10), (40, 10), (41, 0)):
        cache = Cache(10, count)
        for key in range(12):
            cache.get(key, lambda: made.append(1) or Value())
        assert len(cache.kept) == kept
