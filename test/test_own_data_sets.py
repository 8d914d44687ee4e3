"""Data sets in nuScenes' format that are not nuScenes: own names, other units, nothing to learn from; all is said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from tiny_set import SCENES, SPEC

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES
from training.data import index as stored
from training.data.index import open_index
from training.data.nuscenes import open_nuscenes
from training.data.source import Source

VERSION = "v1.0-trainval"
OWN = {"vehicle.car": "sedan", "human.pedestrian.adult": "person on foot", "vehicle.truck": "Truck"}
Rows = list[dict[str, Any]]


@pytest.fixture
def root(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Tables of its own, the files of the tiny set."""
    shutil.copytree(tiny_dataset / VERSION, tmp_path / VERSION)
    shutil.copy(tiny_dataset / "splits.json", tmp_path)
    for name in ("samples", "sweeps"):
        (tmp_path / name).symlink_to(tiny_dataset / name)
    return tmp_path


def edit(root: Path, table: str, change: Callable[[Rows], Any]) -> Rows:
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    return rows


def own_names(rows: Rows) -> None:
    for row in rows:
        row["name"] = OWN.get(row["name"], row["name"])


def no_points(rows: Rows) -> None:
    for row in rows:
        row.update(num_lidar_pts=0, num_radar_pts=0)


def refused(root: Path) -> str:
    with pytest.raises(ValueError) as caught:
        open_index(root, VERSION)
    return str(caught.value)


def classes_file(root: Path, text: str) -> Path:
    (root / "own.yaml").write_text(text)
    return root / "own.yaml"


def source_with(root: Path, text: str) -> Source:
    from training.data.class_names import read_class_names

    return Source(root, VERSION, read_class_names(classes_file(root, text)))


def annotations_of(root: Path, name: str) -> int:
    tables = {t: json.loads((root / VERSION / f"{t}.json").read_text()) for t in ("category", "instance")}
    (category,) = (row["token"] for row in tables["category"] if row["name"] == name)
    instances = {row["token"] for row in tables["instance"] if row["category_token"] == category}
    rows = json.loads((root / VERSION / "sample_annotation.json").read_text())
    return sum(row["instance_token"] in instances for row in rows)


def test_own_names_are_an_error_with_counts_and_a_file_to_start_from(root: Path) -> None:
    edit(root, "category", own_names)
    said = refused(root)
    for name in OWN.values():
        assert f"'{name}' ({annotations_of(root, name)})" in said and annotations_of(root, name) > 0
    assert '"person on foot": ignore\n' in said and "Truck: truck\n" in said and "sedan: ignore\n" in said
    shown = said[said.index("\n\n") :]
    assert source_with(root, shown).classes == (("Truck", "truck"), ("person on foot", "ignore"), ("sedan", "ignore"))


def test_own_names_that_are_given_make_the_same_set(root: Path, tiny_dataset: Path) -> None:
    edit(root, "category", own_names)
    given = source_with(root, "sedan: car\nperson on foot: pedestrian\nTruck: truck\n")
    own, plain = (open_nuscenes(s, SCENES, SPEC) for s in (given, Source(tiny_dataset)))
    assert own.data_index.digest != plain.data_index.digest, "what is made of one must not be taken for the other"
    for name, array in plain.data_index.arrays.items():
        np.testing.assert_array_equal(own.data_index.arrays[name], array, err_msg=name)


def test_names_can_be_ignored_and_moved_and_each_file_has_its_index(root: Path, capsys) -> None:
    plain = open_index(root, VERSION)
    capsys.readouterr()
    given = source_with(root, "vehicle.car: truck\nvehicle.truck: ignore\ntram: bus\n")
    changed = open_index(given.root, VERSION, given.classes)
    said = capsys.readouterr().out
    car, truck = CLASSES.index("car"), CLASSES.index("truck")
    before, after = (np.bincount(i.arrays["box_class"], minlength=len(CLASSES)) for i in (plain, changed))
    assert after[truck] == before[car] > 0 and after[car] == 0
    assert "ignored by --classes" in said and "category.json has none of ['tram']" in said
    stored._open.cache_clear()
    assert open_index(root, VERSION).digest == plain.digest and open_index(*_key(given)).digest == changed.digest
    assert capsys.readouterr().out == "", "both are there still"
    edit(root, "log", lambda rows: rows.append(rows[0] | {"token": "another"}))
    open_index(root, VERSION)
    assert len(list((root / ".bev_index").iterdir())) == 1, "those of other tables are of no use"


def _key(source: Source) -> tuple:
    return source.root, source.version, source.classes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sedan: cars", r"sedan: 'cars' \(did you mean car\?\); a class is one of car, truck, .*, or ignore"),
        ("sedan: [car]", r"sedan: \['car'\]"),
        ("- car", r"expected lines `own name: class`"),
        ("", r"expected lines `own name: class`, such as `sedan: car`, found None"),
        ("a: car\na: bus", r"own\.yaml: line 2: key `a` a second time"),
    ],
    ids=["class", "list", "no_lines", "empty", "twice"],
)
def test_a_file_of_classes_that_says_what_cannot_be(root: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        source_with(root, text)


def test_what_was_read_kept_and_dropped_is_printed_once(root: Path, capsys) -> None:
    def some(rows: Rows) -> None:
        no_points(rows[::2])

    rows = edit(root, "sample_annotation", some)
    index = open_index(root, VERSION)
    said = capsys.readouterr().out
    assert f"2 scenes, 8 samples, one every 0.50 s, {len(index.arrays['data_stamp'])} files of 12 sensors, " in said
    assert f"{len(rows)} annotations\n" in said
    kept = int((index.arrays["box_points"].sum(axis=1) > 0).sum())
    bare = int((index.arrays["box_points"].sum(axis=1) == 0).sum())
    assert f"  kept {kept}: " in said and f"  dropped {bare} without a LiDAR or radar point" in said
    assert f"{annotations_of(root, 'vehicle.car')} vehicle.car" not in said.split("dropped")[0]
    stored._open.cache_clear()
    open_index(root, VERSION)
    assert capsys.readouterr().out == ""


def test_one_process_of_several_tells_what_a_split_has(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from training.data.split_objects import require_objects

    keyframes = open_nuscenes(Source(root), SCENES[:1], SPEC)
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        capsys.readouterr()
        require_objects(keyframes, "train")
        said.append(capsys.readouterr().out)
    near = SPEC.grid.cells(np.concatenate([k.boxes for k in keyframes])[:, :2])[1]
    assert said[0].startswith("split 'train': 4 keyframes, ") and f"  kept {near.sum()}: " in said[0]
    assert f"dropped {(~near).sum()} outside the model's grid" in said[0] or near.all()
    assert said[1] == ""


def test_objects_outside_the_grid_and_of_other_classes_are_counted(root: Path) -> None:
    from training.data.split_objects import objects_of, require_objects

    names = tuple(name for name in CLASSES if name != "car")
    small = dataclasses.replace(SPEC, grid=BevGrid(-12.8, 12.8, -12.8, 12.8, 0.8), classes=names)
    keyframes = open_nuscenes(Source(root), SCENES, small)
    kept, dropped = objects_of(keyframes)
    every = open_nuscenes(Source(root), SCENES, SPEC)
    cars = sum(int((k.labels == CLASSES.index("car")).sum()) for k in every)
    near = [small.grid.cells(k.boxes[:, :2])[1] for k in keyframes]
    assert dropped["of a class that the model does not have"] == {"car": cars} and cars > 0
    assert kept.total() == sum(int(inside.sum()) for inside in near) > 0
    assert dropped["outside the model's grid"].total() == sum(int((~inside).sum()) for inside in near) > 0
    nowhere = dataclasses.replace(SPEC, grid=BevGrid(900.0, 925.6, -12.8, 12.8, 0.8))
    with pytest.raises(ValueError, match=r"outside the model's grid: .*[\s\S]*take a run with a larger spec\.grid"):
        require_objects(open_nuscenes(Source(root), SCENES, nowhere), "train")


def test_training_refuses_a_split_without_objects(root: Path, tmp_path_factory) -> None:
    pytest.importorskip("lightning", reason="training needs lightning")
    from tiny_run import RUN

    from training.train import train

    rows = edit(root, "sample_annotation", no_points)
    with pytest.raises(ValueError, match="without a LiDAR or radar point") as caught:
        train(RUN, Source(root), tmp_path_factory.mktemp("run"))
    said = str(caught.value)
    assert "the split 'train' has 4 keyframes and " in said and "kept 0: nothing" in said
    assert "Expected at least one of car, truck" in said and "count the points in each box and write them" in said
    assert 0 < int(said.split(" annotations")[0].split()[-1]) < len(rows), "of the split, not of the set"


def test_training_refuses_validation_keyframes_without_objects(root: Path, tmp_path_factory) -> None:
    pytest.importorskip("lightning", reason="training needs lightning")
    from tiny_run import RUN

    from training.train import train

    samples = json.loads((root / VERSION / "sample.json").read_text())
    scenes = {row["token"]: row["name"] for row in json.loads((root / VERSION / "scene.json").read_text())}
    held = {row["token"] for row in samples if scenes[row["scene_token"]] == "scene-0001"}
    edit(root, "sample_annotation", lambda rows: no_points([r for r in rows if r["sample_token"] in held]))
    out = tmp_path_factory.mktemp("run")
    with pytest.raises(ValueError, match=r"the split 'val' has 4 keyframes and .* of which none is left"):
        train(dataclasses.replace(RUN, validate_every=1), Source(root), out)
    assert not (out / "run.json").exists(), "it is said before anything is begun, teachers asked among it"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_points, ["of which none is left", "without a LiDAR or radar point"]),
        (list.clear, ["no annotation in sample_annotation.json", "--results FILE"]),
    ],
    ids=["no_points", "no_annotations"],
)
def test_evaluation_refuses_a_split_without_objects(
    root: Path, tiny_checkpoint: Path, change: Callable[[Rows], Any], said: list[str], capsys
) -> None:
    from training.evaluate import main

    edit(root, "sample_annotation", change)
    assert main([str(tiny_checkpoint), "--data", str(root), "--workers", "0"]) == 1
    streams = capsys.readouterr()
    assert all(words in streams.err for words in said) and "mAP" not in streams.out


def test_the_commands_take_own_names(root: Path, tiny_checkpoint: Path, capsys) -> None:
    from training.evaluate import main

    edit(root, "category", own_names)
    base = [str(tiny_checkpoint), "--data", str(root), "--workers", "0", "--batch-size", "2"]
    assert main(base) == 1
    assert "'sedan' (" in capsys.readouterr().err
    given = classes_file(root, "sedan: car\nperson on foot: pedestrian\nTruck: ignore\n")
    assert main([*base, "--classes", str(given)]) == 0
    said = capsys.readouterr().out
    assert "split 'val': 4 keyframes, " in said and "ignored by --classes: " in said


def test_objects_to_paste_are_kept_apart_for_each_mapping(root: Path) -> None:
    from tiny_set import LIDAR_SPEC

    from training.data.config import DataConfig, LidarConfig, PasteConfig
    from training.data.database import open_database

    config = DataConfig(lidar=LidarConfig(sweeps=1), paste=PasteConfig(min_lidar=1))
    car, labels = CLASSES.index("car"), []
    for source in (Source(root), source_with(root, "vehicle.car: ignore")):
        keyframes = open_nuscenes(source, SCENES[:1], LIDAR_SPEC, config)
        labels.append(open_database(keyframes, LIDAR_SPEC, config, workers=0).arrays["label"])
    assert (labels[0] == car).any() and not (labels[1] == car).any()
    np.testing.assert_array_equal(labels[0][labels[0] != car], labels[1])
    assert len(list((root / ".bev_index").glob("objects-*"))) == 2


def test_a_run_does_not_go_on_with_other_names(root: Path, tmp_path_factory) -> None:
    pytest.importorskip("lightning", reason="training needs lightning")
    from tiny_run import RUN

    from training.trainer.run_directory import begin

    out, given = tmp_path_factory.mktemp("run"), source_with(root, "vehicle.car: truck")
    begin(out, RUN, Source(root), open_index(root, VERSION).digest)
    (out / "last.ckpt").touch()
    begin(out, RUN, Source(root), open_index(root, VERSION).digest)
    with pytest.raises(ValueError, match="other tables, or other --classes, of"):
        begin(out, RUN, given, open_index(*_key(given)).digest)
    assert json.loads((out / "starts.json").read_text())[-1]["data"]["classes"] == {}


def test_own_attributes_count_as_none(root: Path, capsys) -> None:
    edit(root, "attribute", lambda rows: rows[0].update(name="asleep"))
    keyframes = open_nuscenes(Source(root), SCENES, SPEC)
    assert "attribute.json: ['asleep'] are none of the benchmark's" in capsys.readouterr().out
    assert "asleep" not in {name for keyframe in keyframes for name in keyframe.attributes}


def milliseconds(rows: Rows) -> None:
    for row in rows:
        row["timestamp"] //= 1000


def test_stamps_of_samples_and_files_in_milliseconds(root: Path) -> None:
    for table in ("sample", "sample_data"):
        edit(root, table, milliseconds)
    said = refused(root)
    assert "sample.json: 6 of 6 steps from sample to sample take less than 1000" in said
    assert "the first is row " in said and "expected timestamps in microseconds" in said


def scaled(name: str, factor: float) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row in rows:
            row[name] = [factor * value for value in row[name]]

    return change


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("sample_annotation", scaled("size", 100), r"row \d+ .* has size = .*, expected 3 finite numbers of metres"),
        ("sample_annotation", scaled("size", 1e-3), r"row \d+ .* has size = .*, expected 3 finite numbers of metres"),
        ("calibrated_sensor", scaled("translation", 1000), r"row \d+ .* has translation = .*metres from the vehicle"),
        ("ego_pose", scaled("translation", 1000), r"ego_pose\.json: row \d+ \(from 0\), at .* of sample_data\.json"),
        ("sample_annotation", scaled("translation", 1e-3), r"\d+ of \d+ annotations are more than 300 m .*row \d+ "),
        ("ego_pose", lambda rows: rows[5].update(translation=[np.nan] * 3), r"row 5 .* has translation = \[nan"),
        ("ego_pose", lambda rows: rows[5].update(rotation=[np.nan] * 4), r"row 5 .* has rotation = \[nan"),
        ("sample_data", lambda rows: rows[9].update(timestamp=10**15), r"row 9 .* s from that of its sample"),
    ],
    ids="centimetres kilometres mount_mm poses_mm boxes_km nan_place nan_turn one_stamp".split(),
)
def test_other_units_and_frames_are_errors_with_the_row(root: Path, table: str, change: Any, said: str) -> None:
    edit(root, table, change)
    with pytest.raises(ValueError, match=said):
        open_index(root, VERSION)


def test_intrinsics_of_images_of_another_size(root: Path) -> None:
    def full_size(rows: Rows) -> None:
        for row in rows:
            row["camera_intrinsic"] = [[10 * value for value in line] for line in row["camera_intrinsic"][:2]] + row[
                "camera_intrinsic"
            ][2:]

    edit(root, "calibrated_sensor", full_size)
    said = refused(root)
    assert "calibrated_sensor.json: row " in said and "and its images are 160x90" in said


def test_cameras_without_a_size_and_of_two_sizes(root: Path) -> None:
    def without(rows: Rows) -> None:
        for row in rows:
            row.update(width=None, height=None)

    kept = (root / VERSION / "sample_data.json").read_bytes()
    edit(root, "sample_data", without)
    assert "its images are 0x0" in refused(root)
    (root / VERSION / "sample_data.json").write_bytes(kept)
    rows = edit(root, "sample_data", lambda rows: [r for r in rows if r["width"]][1].update(width=320, height=180))
    number = next(i for i, row in enumerate(rows) if row["width"] == 320)
    said = refused(root)
    assert "[320, 180]" in said and "[160, 90]" in said and "expected one size for a calibration" in said
    assert f"row {number} (from 0)" in said or number < 30


def test_rows_that_are_fewer_than_the_tables_say_are_noted(root: Path, capsys) -> None:
    def without_one(rows: Rows) -> None:
        end = next(row for row in rows if row["prev"] and not row["next"])
        next(row for row in rows if row["next"] == end["token"])["next"] = ""
        rows.remove(end)

    edit(root, "scene", lambda rows: rows[1].update(nbr_samples=40))
    edit(root, "sample_annotation", without_one)
    open_index(root, VERSION)
    said = capsys.readouterr().out
    assert "scene.json: 1 of 2 rows say another nbr_samples than there are, the first is " in said
    assert ", nbr_samples 40, found 4" in said
    assert "instance.json: 1 of " in said and "rows say another nbr_annotations than there are" in said


def test_an_object_that_jumps_has_no_velocity_and_is_named(root: Path, capsys) -> None:
    def jump(rows: Rows) -> None:
        row = next(row for row in rows if row["prev"] and row["next"] and row["num_lidar_pts"])
        row["translation"][0] += 200.0

    rows = edit(root, "sample_annotation", jump)
    index = open_index(root, VERSION)
    said = capsys.readouterr().out
    assert "annotations move faster than 100 m/s" in said
    number = next(i for i, row in enumerate(rows) if f"{row['token']!r}" in said)
    assert f"row {number} (from 0)" in said
    assert np.nanmax(np.linalg.norm(index.arrays["box_velocity"], axis=1)) < 100


def test_sensors_without_key_frames_and_files_of_one_moment_are_noted(root: Path, capsys) -> None:
    def change(rows: Rows) -> None:
        key = next(row for row in rows if row["is_key_frame"] and "CAM_BACK/" in row["filename"])
        key["is_key_frame"] = False
        radar = next(row for row in rows if not row["is_key_frame"] and "RADAR_FRONT/" in row["filename"])
        rows.append(radar | {"token": "another"})

    edit(root, "sample_data", change)
    open_index(root, VERSION)
    said = capsys.readouterr().out
    assert "note: sample_data.json: CAM_BACK has no key frame in 1 of 8 samples" in said
    assert "files have the sensor and timestamp of another, the first is row " in said
