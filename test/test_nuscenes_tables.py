"""nuScenes' tables and their index: built once, checked, and what is said of broken ones."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from pyquaternion import Quaternion
from tiny_set import SPEC, open_set

from training.data import index as stored
from training.data import tables as tables_module
from training.data.config import DataConfig, LidarConfig
from training.data.file_checks import bad_files, needed_files
from training.data.index import open_index
from training.data.nuscenes import open_nuscenes
from training.data.sensor_frame import sensor_frame
from training.data.source import Source
from training.trainer.loading import open_keyframes


@pytest.fixture
def tables_only(tiny_dataset, tmp_path):
    """A copy of the set's tables, to be changed; its sensor files are not there."""
    shutil.copytree(tiny_dataset / "v1.0-trainval", tmp_path / "v1.0-trainval")
    shutil.copy(tiny_dataset / "splits.json", tmp_path)
    return tmp_path


def _edit(path: Path, change) -> None:
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_a_set_without_lidar_is_refused_where_points_or_depths_are_wanted(tables_only):
    _edit(tables_only / "v1.0-trainval" / "sensor.json",
          lambda rows: [row.update(channel="LIDAR_ROOF") for row in rows if row["channel"] == "LIDAR_TOP"])  # fmt: skip

    def opened(spec, config, split="train"):
        return open_keyframes(spec, config, Source(tables_only), split)

    lidar_spec = dataclasses.replace(SPEC, cameras=(), radars=())
    with pytest.raises(ValueError, match=r"no channel LIDAR_TOP, but tiny takes.*LIDAR_ROOF.*without data\.lidar"):
        opened(lidar_spec, DataConfig(lidar=LidarConfig()), "val")
    with pytest.raises(ValueError, match=r"no channel LIDAR_TOP, but the depth targets of tiny.*data\.depth_stride=0"):
        opened(SPEC, DataConfig())
    assert len(opened(SPEC, DataConfig(depth_stride=0))) == len(opened(SPEC, DataConfig(), "val")) == 4
    assert len(opened(dataclasses.replace(SPEC, cameras=()), DataConfig())) == 4


def test_the_index_is_built_once_and_again_when_a_table_changes(tables_only, monkeypatch):
    built = []
    monkeypatch.setattr(stored, "index_arrays", lambda *given: built.append(1) or tables_module.index_arrays(*given))
    first = open_index(tables_only, "v1.0-trainval")
    stored._open.cache_clear()
    again = open_index(tables_only, "v1.0-trainval")
    assert len(built) == 1 and first.digest == again.digest
    _edit(tables_only / "v1.0-trainval" / "scene.json", lambda rows: rows[0].update(name="scene-9999"))
    changed = open_index(tables_only, "v1.0-trainval")
    assert len(built) == 2 and "scene-9999" in changed.scenes and changed.digest != first.digest
    assert len(list((tables_only / ".bev_index").iterdir())) == 1, "the old index is of no use"


def test_the_index_goes_to_the_cache_where_the_data_cannot_be_written(
    tables_only, tmp_path_factory, monkeypatch, capsys
):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (tables_only / ".bev_index").write_text("in the way")
    first = open_index(tables_only, "v1.0-trainval")
    assert list(cache.rglob("facts.json"))
    stored._open.cache_clear()
    assert open_index(tables_only, "v1.0-trainval").digest == first.digest
    assert "cannot write" in (said := capsys.readouterr().out) and f"using {cache}" in said
    assert said.count("building the index") == 1


def test_an_index_without_a_place_names_the_variable(tables_only, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tables_only / "v1.0-trainval" / "scene.json"))
    monkeypatch.setattr(tempfile, "tempdir", str(tables_only / "v1.0-trainval" / "scene.json"))
    (tables_only / ".bev_index").write_text("in the way")
    stored._open.cache_clear()
    with pytest.raises(OSError, match=r"index of .*cannot write .*\.bev_index.*set XDG_CACHE_HOME"):
        open_index(tables_only, "v1.0-trainval")


def test_an_index_that_has_no_room_goes_to_the_next_place(tables_only, tmp_path_factory, monkeypatch, capsys):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    save = np.save

    def full(path, *arguments, **options):
        if tables_only in path.parents:
            raise OSError(28, "No space left on device")
        save(path, *arguments, **options)

    monkeypatch.setattr(stored.np, "save", full)
    stored._open.cache_clear()
    open_index(tables_only, "v1.0-trainval")
    assert list(cache.rglob("facts.json")) and "No space left on device" in capsys.readouterr().out
    assert list((tables_only / ".bev_index").iterdir()) == [], "nothing half written is left"


def test_a_damaged_index_says_what_to_delete(tables_only):
    open_index(tables_only, "v1.0-trainval")
    stored._open.cache_clear()
    (broken,) = (tables_only / ".bev_index").iterdir()
    (broken / "box.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"{broken.name}: damaged.*delete this folder"):
        open_index(tables_only, "v1.0-trainval")


def test_missing_and_broken_tables_are_named(tables_only, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"no folder v1\.0-mini.*found \['v1\.0-trainval'\]"):
        open_index(tables_only, "v1.0-mini")
    with pytest.raises(FileNotFoundError, match=r"no folder v1\.0-mini.*found \[\]"):
        open_index(tmp_path_factory.mktemp("empty"), "v1.0-mini")
    folder = tables_only / "v1.0-trainval"
    whole = (folder / "sample_data.json").read_text()
    (folder / "sample_data.json").write_text(whole[:-100])
    with pytest.raises(ValueError, match=r"sample_data\.json: not JSON"):
        open_index(tables_only, "v1.0-trainval")
    _write = json.loads(whole)
    _write[5]["ego_pose_token"] = "gone"
    (folder / "sample_data.json").write_text(json.dumps(_write))
    with pytest.raises(ValueError, match=r"ego_pose\.json has no row 'gone'"):
        open_index(tables_only, "v1.0-trainval")
    (folder / "sample.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tables \['sample'\] are missing"):
        open_index(tables_only, "v1.0-trainval")


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sample_annotation", {"instance_token": "gone"}, r"instance\.json has no row 'gone'"),
        ("sample_annotation", {"attribute_tokens": ["gone"]}, r"attribute\.json has no row 'gone'"),
        ("sample_annotation", {"prev": "gone"}, r"sample_annotation\.json has no row 'gone'"),
        ("sample_annotation", {"next": "gone"}, r"sample_annotation\.json has no row 'gone'"),
        ("sample_annotation", {"sample_token": "gone"}, r"sample\.json has no row 'gone'"),
        ("instance", {"category_token": "gone"}, r"category\.json has no row 'gone'"),
        ("sample", {"next": ""}, r"sample\.json: no scene's chain of `next` leads to '\w+'"),
        ("sample_data", {"calibrated_sensor_token": "gone"}, r"calibrated_sensor\.json has no row 'gone'"),
    ],
)
def test_tables_that_do_not_fit_together_are_named(tables_only, table, change, message):
    path = tables_only / "v1.0-trainval" / f"{table}.json"
    _edit(path, lambda rows: rows[0].update(change))
    with pytest.raises(ValueError, match=rf"{message}, which '\w+' refers to; unpack the metadata again"):
        open_index(tables_only, "v1.0-trainval")


def test_boxes_that_cannot_be_are_named(tables_only):
    path = tables_only / "v1.0-trainval" / "sample_annotation.json"
    token = json.loads(path.read_text())[7]["token"]
    _edit(path, lambda rows: rows[7].update(size=[1.0, 0.0, 2.0]))
    with pytest.raises(
        ValueError, match=rf"row 7 .*{token}.*size = \[1\.0, 0\.0, 2\.0\], expected 3 .*correct the row"
    ):
        open_index(tables_only, "v1.0-trainval")


@pytest.mark.parametrize("missing", ["none", "LIDAR_TOP", "LIDAR_TOP of one", "all cameras and LIDAR_TOP"])
def test_the_pose_of_a_keyframe_without_lidar_is_the_nearest_in_time(tables_only, missing):
    """Against a loop over the tables; the pose of LIDAR_TOP is taken whatever its stamp."""
    rows = {
        name: json.loads((tables_only / "v1.0-trainval" / f"{name}.json").read_text())
        for name in ("sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor")
    }
    channel_of = {row["token"]: row["channel"] for row in rows["sensor"]}
    channel_of = {row["token"]: channel_of[row["sensor_token"]] for row in rows["calibrated_sensor"]}
    pose_of = {row["token"]: row for row in rows["ego_pose"]}
    first = open_set(tables_only)[0].token

    def gone(row):
        channel = channel_of[row["calibrated_sensor_token"]]
        if missing == "LIDAR_TOP of one":
            return channel == "LIDAR_TOP" and row["sample_token"] == first
        return channel in missing or ("cameras" in missing and channel.startswith("CAM"))

    for place, row in enumerate(rows["ego_pose"]):
        row["translation"][0] += 1e-3 * place  # no two are the same
    left = [row for row in rows["sample_data"] if not gone(row)]
    _edit(
        tables_only / "v1.0-trainval" / "ego_pose.json", lambda given: given.__setitem__(slice(None), rows["ego_pose"])
    )
    _edit(tables_only / "v1.0-trainval" / "sample_data.json", lambda given: given.__setitem__(slice(None), left))
    stamp_of = {row["token"]: row["timestamp"] for row in rows["sample"]}
    keyframes = open_set(tables_only, dataclasses.replace(SPEC, cameras=()) if "cameras" in missing else SPEC)
    for keyframe in keyframes:
        keys = [row for row in left if row["is_key_frame"] and row["sample_token"] == keyframe.token]
        lidar = [row for row in keys if channel_of[row["calibrated_sensor_token"]] == "LIDAR_TOP"]
        apart = {abs(row["timestamp"] - stamp_of[keyframe.token]) for row in keys}
        nearest = [
            row for row in lidar or keys if lidar or abs(row["timestamp"] - stamp_of[keyframe.token]) == min(apart)
        ]
        allowed = [pose_of[row["ego_pose_token"]]["translation"] for row in nearest]
        assert keyframe.global_from_ego[:3, 3].tolist() in allowed
        assert len(apart) > 1, "sensors fire at different times"


def test_velocity_of_what_climbs_before_a_vehicle_whose_nose_is_down(tables_only):
    """All three components in the ego frame; the pitch turns the climb into speed along x."""
    level, tables = [k.velocity for k in open_set(tables_only)], tables_only / "v1.0-trainval"
    pitch, climb = 0.1, 2.0
    stamp_of = {row["token"]: 1e-6 * row["timestamp"] for row in json.loads((tables / "sample.json").read_text())}
    first = min(stamp_of.values())

    def lean(rows):
        for row in rows:
            down = Quaternion(axis=[0, 1, 0], radians=pitch)
            row["rotation"] = (Quaternion(row["rotation"]) * down).elements.tolist()

    def rise(rows):
        for row in rows:
            row["translation"][2] += climb * (stamp_of[row["sample_token"]] - first)

    _edit(tables / "ego_pose.json", lean)
    _edit(tables / "sample_annotation.json", rise)
    c, s = np.cos(pitch), np.sin(pitch)
    compared = 0
    for keyframe, velocity in zip(open_set(tables_only), level, strict=True):
        x, y, z = velocity.T
        expected = np.stack([c * x - s * (z + climb), y, s * x + c * (z + climb)], axis=1)
        np.testing.assert_allclose(keyframe.velocity, expected, atol=1e-5)
        compared += np.isfinite(expected).all(axis=1).sum()
    assert compared > 100


def test_bicycle_racks_are_known_and_are_no_objects(tables_only, tiny_dataset):
    folder = tables_only / "v1.0-trainval"
    instance = json.loads((folder / "instance.json").read_text())[0]
    rack = next(
        row for row in json.loads((folder / "category.json").read_text()) if row["name"].endswith("bicycle_rack")
    )
    _edit(folder / "instance.json", lambda rows: rows[0].update(category_token=rack["token"]))
    annotations = [row for row in json.loads((folder / "sample_annotation.json").read_text())
                   if row["instance_token"] == instance["token"]]  # fmt: skip
    changed = open_nuscenes(Source(tables_only), ["scene-0000", "scene-0001"], SPEC)
    assert sum(len(k.racks) for k in changed) == len(annotations) > 0
    seen = sum(row["num_lidar_pts"] + row["num_radar_pts"] > 0 for row in annotations)
    assert sum(len(k.boxes) for k in changed) == sum(len(k.boxes) for k in open_set(tiny_dataset)) - seen
    sizes = {tuple(np.array(row["size"])[[1, 0, 2]].round(6)) for row in annotations}
    assert {tuple(box[3:6].round(6)) for k in changed for box in k.racks} == sizes


def test_files_that_are_not_there_are_named_with_their_sample(tables_only):
    keyframe = open_nuscenes(Source(tables_only), ["scene-0000"], SPEC)[0]
    with pytest.raises(FileNotFoundError, match=f"sample {keyframe.token}: no file .*CAM_FRONT_LEFT.*jpg"):
        sensor_frame(keyframe, SPEC)
    with pytest.raises(FileNotFoundError, match=f"sample {keyframe.token}.*RADAR_FRONT.*pcd"):
        sensor_frame(keyframe, dataclasses.replace(SPEC, cameras=()))
    lines = bad_files(needed_files(open_nuscenes(Source(tables_only), ["scene-0000"], SPEC)), 0)
    assert len(lines) > 4 * 12 and keyframe.token in lines[0]
