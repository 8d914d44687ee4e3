"""The results file of the nuScenes detection task, as nuscenes-devkit loads, checks and scores it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from devkit_scores import evaluate_nuscenes, official_config  # noqa: E402
from nuscenes.eval.common.loaders import load_prediction  # noqa: E402
from nuscenes.eval.detection.data_classes import DetectionBox  # noqa: E402
from nuscenes.eval.detection.evaluate import DetectionEval  # noqa: E402
from tiny_set import SPEC  # noqa: E402

from bev_perception.evaluation.matching import MAX_BOXES  # noqa: E402
from bev_perception.evaluation.nuscenes_format import result_rows, results_meta, write_results  # noqa: E402
from bev_perception.evaluation.objects import make_objects  # noqa: E402
from bev_perception.model_spec import CLASSES  # noqa: E402
from training.data.nuscenes import open_nuscenes  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.evaluate import main  # noqa: E402
from training.scoring import ground_truth  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bev_perception" / "bundles" / "demo"
VERSION = "v1.0-test"
SCENES = ["scene-0077", "scene-0078"]  # of the official split `test`
ONE_OF_EACH = {
    "car": "vehicle.car", "truck": "vehicle.truck", "bus": "vehicle.bus.rigid", "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction", "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle", "bicycle": "vehicle.bicycle", "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}  # fmt: skip


def table(root: Path, name: str) -> Any:
    return json.loads((root / VERSION / f"{name}.json").read_text())


def write(root: Path, name: str, rows: Any) -> None:
    (root / VERSION / f"{name}.json").write_text(json.dumps(rows))


@pytest.fixture
def answered(tiny_dataset: Path, tmp_path: Path) -> Path:
    """The tiny set as the benchmark's test set, with annotations, of every class some within 20 m."""
    shutil.copytree(tiny_dataset / "v1.0-trainval", tmp_path / VERSION)
    for name in ("samples", "sweeps", "maps"):
        if (tiny_dataset / name).exists():
            (tmp_path / name).symlink_to(tiny_dataset / name)
    (tmp_path / "splits.json").write_text(json.dumps({"test": SCENES}))
    scenes = table(tmp_path, "scene")
    for scene, name in zip(sorted(scenes, key=lambda row: row["name"]), SCENES, strict=True):
        scene["name"] = name
    write(tmp_path, "scene", scenes)
    near = {box["instance_token"] for box in table(tmp_path, "sample_annotation") if box["num_lidar_pts"] > 20}
    category, instances = (
        {row["name"]: row["token"] for row in table(tmp_path, "category")},
        table(tmp_path, "instance"),
    )
    for k, row in enumerate(row for row in instances if row["token"] in near):
        row["category_token"] = category[ONE_OF_EACH[CLASSES[k % 10]]]
    write(tmp_path, "instance", instances)
    return tmp_path


@pytest.fixture
def unanswered(answered: Path) -> Path:
    """As it is published: without annotations."""
    for name in ("sample_annotation", "instance"):
        write(answered, name, [])
    return answered


def official(root: Path, results: Path) -> Any:
    """The devkit's own evaluation of the split `test`."""
    nusc = devkit.NuScenes(VERSION, str(root), verbose=False)
    return DetectionEval(nusc, official_config(), str(results), "test", str(root / "eval"), verbose=False).evaluate()[0]


def loaded(path: Path) -> tuple[Any, dict[str, bool]]:
    """As the devkit loads it: it checks every box."""
    boxes, meta = load_prediction(str(path), MAX_BOXES, DetectionBox)
    return boxes, meta


def test_annotations_written_as_results_score_one(answered: Path) -> None:
    keyframes = open_nuscenes(Source(answered, VERSION), "test", SPEC)
    results = {}
    for k in keyframes:
        truth = ground_truth(k, SPEC)
        scored = dataclasses.replace(truth, scores=np.linspace(0.9, 0.1, len(truth)))
        results[k.token] = result_rows(k.token, scored, k.global_from_ego)
    write_results(answered / "results.json", results, results_meta(True, False, True))
    metrics = official(answered, answered / "results.json")
    assert metrics.mean_ap == pytest.approx(1.0, abs=1e-9) and min(metrics.mean_dist_aps.values()) > 1 - 1e-9
    for name in ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err"):
        assert metrics.tp_errors[name] < 1e-6, name


def test_a_checkpoints_results_of_the_test_split_are_written_and_not_scored(
    unanswered: Path, tiny_checkpoint: Path, capsys
) -> None:
    path = unanswered / "out" / "results.json"
    base = [str(tiny_checkpoint), "--data", str(unanswered), "--version", VERSION, "--split", "test", "--workers", "0"]
    assert main([*base, "--results", str(path)]) == 0
    said = capsys.readouterr().out
    assert "the split 'test' has no annotations: it is not scored" in said and "mAP" not in said
    boxes, meta = loaded(path)
    assert sorted(boxes.sample_tokens) == sorted(row["token"] for row in table(unanswered, "sample"))
    assert f"{len(boxes.all)} detections in 8 samples" in said and len(boxes.all) > 0
    assert meta == {"use_camera": True, "use_lidar": False, "use_radar": True, "use_map": False, "use_external": False}
    assert main([*base, "--results", str(path), "--out", str(unanswered / "scores.json")]) == 1
    assert "--out is for scores, and the split 'test' has no annotations" in capsys.readouterr().err
    assert main(base) == 1, "nothing to score and nothing to write"
    assert "no annotation in sample_annotation.json" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_the_devkit_gives_the_file_the_score_that_is_printed(kind: str, answered: Path, capsys) -> None:
    model = BUNDLE if kind == "bundle" else ROOT / "training" / "checkpoints" / "demo_start.ckpt"
    results, scores = answered / "results.json", answered / "scores.json"
    arguments = ["--data", str(answered), "--version", VERSION, "--split", "test", "--workers", "0", "--scenes", "1"]
    assert main([str(model), *arguments, "--results", str(results), "--out", str(scores), "--sensors", "camera"]) == 0
    ours = json.loads(scores.read_text())["camera"]
    theirs = evaluate_nuscenes(results, answered, VERSION, SCENES[:1])
    assert theirs.mean_ap == pytest.approx(ours["mean_ap"], abs=1e-6) and theirs.mean_ap > 0
    assert theirs.nds == pytest.approx(ours["nds"], abs=1e-6)
    _, meta = loaded(results)
    assert meta["use_camera"] and not meta["use_radar"]


def test_no_more_boxes_than_the_benchmark_takes(tmp_path: Path) -> None:
    count = 600
    boxes = np.tile([5.0, 0, 1, 4, 2, 1.5, 0], (count, 1))
    objects = make_objects(boxes, np.full((count, 2), np.nan), np.linspace(0, 1, count), ("car",) * count)
    write_results(
        tmp_path / "results.json", {"a": result_rows("a", objects, np.eye(4))}, results_meta(True, False, False)
    )
    found = loaded(tmp_path / "results.json")[0].all
    assert len(found) == 500 and min(box.detection_score for box in found) == pytest.approx(100 / 599)
    assert {tuple(box.velocity) for box in found} == {(0.0, 0.0)}


def test_one_file_is_of_one_set_of_inputs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tiny_checkpoint), "--data", str(tmp_path), "--results", "r.json", "--sensors", "all", "camera"])


@pytest.mark.parametrize("option", ["--results", "--out"])
def test_a_folder_in_the_place_of_the_file_is_told_before_anything_is_found(option, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["none.ckpt", "--data", str(tmp_path), option, str(tmp_path)])
    assert f"{tmp_path} is a folder" in capsys.readouterr().err
