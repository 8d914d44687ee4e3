"""Recorded drives are added to a data set whole or not at all, and some not at all."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_bundle
import tiny_drive

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from nuscenes.utils.splits import get_scenes_of_custom_split  # noqa: E402
from recorded_sets import (  # noqa: E402
    IMAGE,
    INFO,
    ODOMETRY,
    VERSION,
    changed,
    content,
    convert,
    files_of,
    make_drive,
    refused,
    tables_of,
)

from training import bag_to_nuscenes  # noqa: E402
from training.data.nuscenes import open_nuscenes  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.tables.files import write_tables  # noqa: E402
from training.tables.vocabulary import static_tables  # noqa: E402


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_drive(tmp_path_factory.mktemp("drive"))


@pytest.fixture(scope="module")
def town(drive: dict[str, Path]) -> Path:
    out = drive["folder"] / "out"
    assert convert(drive, out) == 0
    return out


def test_drives_are_added_and_the_same_command_changes_nothing(drive, tmp_path):
    out = tmp_path / "out"
    assert convert(drive, out) == 0
    before = content(out)
    assert convert(drive, out) == 0
    assert content(out) == before
    other = tiny_drive.write_drive(tmp_path / "lane", frames=8, seed=5)
    assert convert(drive, out, "--split", "val", bag=other) == 0
    for split, scene, count in (("train", "town-0000", 4), ("val", "lane-0000", 2)):
        frames = open_nuscenes(Source(out), split, tiny_bundle.SPEC)
        assert (len(frames), frames[0].scene) == (count, scene)
    nusc = devkit.NuScenes(VERSION, str(out), verbose=False)
    assert get_scenes_of_custom_split("recorded_val", nusc) == ["lane-0000"]
    after = content(out)
    assert all(after[name] == data for name, data in before.items() if name.startswith(("samples/", "sweeps/")))


def test_another_way_of_writing_the_same_drive_is_refused(drive, town, capsys):
    before = content(town)
    assert convert(drive, town, "--period", "0.2") == 1
    said = capsys.readouterr().err
    assert "has a drive 'town' already" in said and "period_s=0.2" in said and "--name" in said
    assert content(town) == before


def test_a_data_set_of_somebody_else_is_not_replaced(drive, tmp_path, capsys):
    (tmp_path / "set" / VERSION).mkdir(parents=True)
    assert convert(drive, tmp_path / "set") == 1
    assert "was not written from recordings" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "set").rglob("*")) == [VERSION]


def test_an_interrupted_run_leaves_the_data_set_as_it_was(drive, tmp_path, monkeypatch, capsys):
    out, other = tmp_path / "out", tiny_drive.write_drive(tmp_path / "lane", frames=8, seed=5)
    real, calls = bag_to_nuscenes.content_of, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(bag_to_nuscenes, "content_of", stop)
    assert convert(drive, out) == 130
    assert not out.exists(), "nothing was there, nothing is"
    assert convert(drive, out) == 0
    before = content(out)
    calls.clear()
    assert convert(drive, out, bag=other) == 130
    assert "are as they were" in capsys.readouterr().err
    assert content(out) == before


def test_one_process_writes_at_a_time(drive, tmp_path, capsys):
    out = tmp_path / "out"
    (out / ".drives").mkdir(parents=True)
    with open(out / ".drives" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert convert(drive, out) == 1
    assert "is being written to by another process" in capsys.readouterr().err
    assert convert(drive, out) == 0


def test_what_a_killed_process_left_is_not_loaded_and_is_replaced(drive, tmp_path):
    out = tmp_path / "out"
    left = out / ".drives" / ".town.part" / "sweeps" / "cam_a"
    left.mkdir(parents=True)
    (left / "town__cam_a__1700000000190000.png").write_bytes(b"half")
    (out / f".{VERSION}.part").mkdir()
    assert convert(drive, out) == 0
    assert not left.exists() and not (out / f".{VERSION}.part").exists()
    assert cv2.imread(str(files_of(out, "cam_a")[tiny_drive.START + 190 * tiny_drive.MS][0])) is not None


def test_tables_are_all_the_old_ones_or_all_the_new(tmp_path):
    scene = {"log": [{"token": "log"}], "scene": [{"token": "a"}]}
    write_tables(tmp_path, VERSION, [scene], {"CAM": "camera"}, {"train": ["a"]}, "recorded")
    before = content(tmp_path)

    def broken():
        yield {"log": [{"token": "log"}], "scene": [{"token": "b"}]}
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_tables(tmp_path, VERSION, broken(), {"CAM": "camera"}, {"train": ["b"]}, "recorded")
    assert {n: d for n, d in content(tmp_path).items() if n.startswith(VERSION)} == {
        n: d for n, d in before.items() if n.startswith(VERSION)
    }
    assert json.loads((tmp_path / VERSION / "category.json").read_text()) == static_tables()["category"]
    assert json.loads((tmp_path / VERSION / "sample.json").read_text()) == []


def test_a_drive_without_odometry_is_refused(drive, tmp_path, capsys):
    bag = changed(drive["bag"], tmp_path / "bag", {ODOMETRY: lambda message, topic: None})
    said = refused(drive, tmp_path, capsys, bag=bag)
    assert "odometry: /odometry is not in the recording" in said and "nothing was written" in said


def test_a_drive_whose_odometry_is_of_another_frame_is_refused(drive, tmp_path, capsys):
    said = refused(drive, tmp_path, capsys, odometry__frame="map")
    assert "odometry: no pose (wrong_frame" in said and "expected 'map'" in said


@pytest.mark.parametrize(
    ("kind", "topic", "says"),
    [
        ("tf2_msgs/msg/TFMessage", "/tf_static", "tf_static: /tf_static is not in the recording"),
        (INFO, "/camera/cam_b/camera_info", "cam_b camera_info: /camera/cam_b/camera_info is not in the recording"),
    ],
)
def test_a_drive_without_calibration_is_refused(drive, tmp_path, capsys, kind, topic, says):
    edits = {kind: lambda message, of: None if of == topic else message}
    said = refused(drive, tmp_path, capsys, bag=changed(drive["bag"], tmp_path / "bag", edits))
    assert says in said and "absent" in said and "nothing was written" in said


def test_a_drive_that_lacks_a_sensor_of_the_parameters_is_refused(drive, tmp_path, capsys):
    """Training would take it for one that was switched off."""
    said = refused(drive, tmp_path, capsys, cameras__cam_a__topic="/camera/nowhere")
    assert "cam_a: /camera/nowhere is not in the recording; of its type" in said and "/camera/cam_a/image_raw" in said


def test_a_calibration_that_no_camera_can_have_is_refused(drive, tmp_path, capsys):
    def spoil(message: Any, topic: str) -> Any:
        message.k = np.zeros(9) if "cam_a" in topic else message.k
        return message

    bag = changed(drive["bag"], tmp_path / "bag", {INFO: spoil})
    assert "cam_a: camera_info_matrix" in refused(drive, tmp_path, capsys, bag=bag)


def test_a_sensor_named_absent_is_left_out(drive, tmp_path):
    def drop(message: Any, topic: str) -> Any:
        return None if "cam_a" in topic else message

    bag = changed(drive["bag"], tmp_path / "bag", {INFO: drop, IMAGE: drop})
    assert convert(drive, tmp_path / "out", bag=bag, absent=["cam_a"]) == 0
    assert {row["channel"] for row in tables_of(tmp_path / "out")["sensor"].values()} == {"cam_b", "radar_a"}


def test_a_calibration_file_takes_the_place_of_tf_static(drive, tmp_path):
    from bev_perception.calibration import save_extrinsics

    mounts = dict.fromkeys(tiny_drive.CAMERAS, tiny_drive.EGO_FROM_CAM) | {"radar_a": tiny_drive.EGO_FROM_RADAR}
    save_extrinsics(tmp_path / "mounts.yaml", "base_link", mounts)
    bag = changed(drive["bag"], tmp_path / "bag", {"tf2_msgs/msg/TFMessage": lambda message, topic: None})
    file = {"extrinsics__source": "file", "extrinsics__file": str(tmp_path / "mounts.yaml")}
    assert convert(drive, tmp_path / "out", bag=bag, **file) == 0
    for _, _, calibrated in files_of(tmp_path / "out", "radar_a").values():
        assert calibrated["translation"] == tiny_drive.EGO_FROM_RADAR[:3, 3].tolist()
