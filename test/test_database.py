"""The database of pasted objects: built by any number of processes, after a kill, and what is said of broken files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from tiny_set import LIDAR_SPEC, open_set

from bev_perception.geometry import points_in_box
from bev_perception.model_spec import CLASSES
from training.data import database
from training.data.config import DataConfig, LidarConfig, PasteConfig
from training.data.database import RADAR_MARGIN_M, build
from training.data.nuscenes import Keyframe
from training.data.prepared import prepare, prepare_clouds

CONFIG = DataConfig(lidar=LidarConfig(), paste=PasteConfig())


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy") for name in database.COLUMNS}


def by_loops(keyframes: Sequence[Keyframe]) -> list[tuple[np.ndarray, str, np.ndarray, np.ndarray]]:
    """Box, class, LiDAR and radar points of each object: every point against every box."""
    found = []
    for keyframe in keyframes:
        lidar = prepare_clouds(keyframe, CONFIG).lidar
        radar = np.concatenate(prepare(keyframe, LIDAR_SPEC, CONFIG).radars)
        for box, label in zip(keyframe.boxes, keyframe.labels, strict=True):
            hits = lidar[points_in_box(lidar, box)]
            flat = radar[:, :3] * [1, 1, 0] + [0, 0, box[2]]
            echoes = radar[points_in_box(flat, box, RADAR_MARGIN_M)]
            if len(hits) >= 5 and len(echoes) >= 1:
                found.append((box, LIDAR_SPEC.classes[label], hits, echoes))
    return found


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    return open_set(tiny_dataset, LIDAR_SPEC, CONFIG)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_has_every_object_with_the_points_in_its_box(keyframes, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(database, "KEYFRAMES_AT_ONCE", 3)
    build(keyframes, LIDAR_SPEC, CONFIG, tmp_path, workers)
    found, expected = arrays_of(tmp_path), by_loops(keyframes)
    assert len(found["label"]) == len(expected) > 20
    lidar, radar = (np.split(found[kind], found[f"{kind}_end"][:-1]) for kind in ("lidar", "radar"))
    for i, (box, name, hits, echoes) in enumerate(expected):
        np.testing.assert_array_equal(found["box"][i], box)
        assert CLASSES[found["label"][i]] == name
        np.testing.assert_array_equal(lidar[i], hits)
        np.testing.assert_array_equal(radar[i], echoes)
    assert found["lidar_end"][-1] == len(found["lidar"]) and found["radar_end"][-1] == len(found["radar"])


def test_after_a_kill_it_is_what_it_would_have_been(keyframes, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(database, "KEYFRAMES_AT_ONCE", 1)
    monkeypatch.setattr(database, "SAVED_EVERY_S", 0.0)
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir(), again.mkdir()
    build(keyframes, LIDAR_SPEC, CONFIG, whole, 0)
    read = database.objects_of

    def killed_at_the_sixth(keyframe: Keyframe, *arguments):
        if keyframe.token == keyframes[5].token:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(keyframe, *arguments)

    monkeypatch.setattr(database, "objects_of", killed_at_the_sixth)
    fork = multiprocessing.get_context("fork")
    first = fork.Process(target=build, args=(keyframes, LIDAR_SPEC, CONFIG, again, 0))
    first.start()
    first.join(60)
    assert first.exitcode == -9 and json.loads((again / database.PROGRESS).read_text())["keyframes"] == 5
    asked = []
    monkeypatch.setattr(database, "objects_of", lambda k, *rest: asked.append(k.token) or read(k, *rest))
    with open(again / "lidar.npy", "ab") as file:
        file.write(b"what was not saved")
    build(keyframes, LIDAR_SPEC, CONFIG, again, 0)
    assert asked == [keyframe.token for keyframe in keyframes[5:]]
    assert "5 keyframes were done before" in capfd.readouterr().out
    for name, array in arrays_of(whole).items():
        np.testing.assert_array_equal(arrays_of(again)[name], array)
    assert not (again / database.PROGRESS).exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_not_there_is_named_alike_by_any_number_of_processes(keyframes, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(database, "KEYFRAMES_AT_ONCE", 2)
    broken = list(keyframes)
    gone = dataclasses.replace(broken[3].lidar[0], path="gone.bin")
    broken[3] = dataclasses.replace(broken[3], lidar=(gone,))
    with pytest.raises(FileNotFoundError, match=rf"^sample {broken[3].token} of .*: gone\.bin: no such LiDAR file"):
        build(broken, LIDAR_SPEC, CONFIG, tmp_path, workers)


def test_a_split_without_an_object_is_refused(keyframes):
    many = dataclasses.replace(CONFIG, paste=PasteConfig(min_lidar=10**6))
    with pytest.raises(ValueError, match="no object of the split has 1000000 LiDAR"):
        database.open_database(keyframes, LIDAR_SPEC, many, workers=0)
