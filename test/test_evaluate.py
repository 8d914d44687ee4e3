"""Scores of checkpoints and bundles on a very small data set."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from devkit_scores import evaluate_nuscenes  # noqa: E402
from test_metrics import found, scene, write_dataset  # noqa: E402
from tiny_run import RUN, SPEC  # noqa: E402

from bev_perception.evaluation.nuscenes_format import result_rows, results_meta, write_results  # noqa: E402
from bev_perception.evaluation.objects import Objects, make_objects  # noqa: E402
from bev_perception.geometry import invert, make_transform, rotation_from_yaw, transform_boxes  # noqa: E402
from bev_perception.grid import BevGrid  # noqa: E402
from bev_perception.model_spec import TemporalSpec  # noqa: E402
from training.bundling.model_card import model_card  # noqa: E402
from training.data.clips import ClipDataset, collate  # noqa: E402
from training.data.nuscenes import Keyframe  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.evaluate import main  # noqa: E402
from training.models.detector import Prediction  # noqa: E402
from training.run import build_detector  # noqa: E402
from training.scoring import ground_truth, level_boxes, outside_racks, score_found  # noqa: E402
from training.sensor_masks import kept_by, mask_sensors  # noqa: E402
from training.trainer.checkpoint import load_network  # noqa: E402
from training.trainer.detect import evaluate  # noqa: E402
from training.trainer.loading import Batches, open_keyframes  # noqa: E402
from training.trainer.network import Network  # noqa: E402


@pytest.fixture(scope="module")
def network(tiny_checkpoint) -> Network:
    return load_network(tiny_checkpoint)


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    return open_keyframes(SPEC, RUN.data, Source(tiny_dataset), "val")


@pytest.fixture(scope="module")
def batch(keyframes):
    data = ClipDataset(keyframes, SPEC)
    return collate([data[1], data[2]])


def test_masks_blank_what_they_say_and_nothing_else(batch):
    frames = ("", "prev.")
    images, camera_valid = [p + "images" for p in frames], [p + "camera_valid" for p in frames]
    radars = [p + name for p in frames for name in ("radar_bev", "radar_valid")]
    changed = {
        "all": [],
        "no_temporal": ["prev_valid"],
        "camera": [*radars, "prev_valid"],
        "camera+temporal": radars,
        "radar": [*images, *camera_valid, "prev_valid"],
        "radar+temporal": [*images, *camera_valid],
    }
    before = {name: tensor.clone() for name, tensor in batch.items()}
    for word, names in changed.items():
        masked = mask_sensors(batch, word, SPEC)
        for name, tensor in before.items():
            assert tensor.any(), name
            expected = torch.zeros_like(tensor) if name in names else tensor
            assert torch.equal(masked[name], expected) and masked[name].dtype == tensor.dtype, (word, name)
            assert torch.equal(batch[name], tensor), "the batch itself stays"
    masked = mask_sensors(batch, "blank:CAM_FRONT", SPEC)
    front = SPEC.cameras.index("CAM_FRONT")
    for name, tensor in before.items():
        if name in (*images, *camera_valid):
            tensor = tensor.clone()
            (tensor[:, :, front] if name.startswith("prev.") else tensor[:, front]).zero_()
        assert torch.equal(masked[name], tensor), name
    for word in ("lidar", "blank:CAM_ROOF", "blank:", "CAM_FRONT"):
        with pytest.raises(ValueError, match=f"--sensors {word}"):
            mask_sensors(batch, word, SPEC)


def test_masks_are_the_networks_missing_sensors(network, batch):
    with torch.no_grad():
        heads = {
            w: network.predict(mask_sensors(batch, w, SPEC)).heatmap for w in ("all", "no_temporal", "camera", "radar")
        }
    words = list(heads)
    for i, a in enumerate(words):
        for b in words[i + 1 :]:
            assert not torch.allclose(heads[a], heads[b], atol=1e-4), (a, b)


def test_words_that_do_not_apply_to_a_model_are_errors():
    no_memory = TemporalSpec(state_channels=0)
    camera = dataclasses.replace(SPEC, name="eyes", radars=(), temporal=no_memory)
    assert kept_by("camera", dataclasses.replace(SPEC, temporal=no_memory)) == {"cameras"}
    assert kept_by("all", camera) == {"cameras"} and kept_by("blank:CAM_BACK", camera)
    for word, reason in {
        "radar": "needs radars of eyes, which has cameras",
        "camera": "changes nothing of eyes",
        "no_temporal": "changes nothing of eyes",
        "camera+temporal": "needs cameras, memory of eyes",
    }.items():
        with pytest.raises(ValueError, match=reason.replace("+", r"\+")):
            kept_by(word, camera)
    with pytest.raises(ValueError, match="which has only LiDAR"):
        kept_by("camera", dataclasses.replace(camera, cameras=()))


def test_cycles_in_racks_are_not_scored():
    boxes = np.array([[10.0, 5, 1, 2, 1, 1, 0], [10, 7, 1, 2, 1, 1, 0], [10, 5, 1, 2, 1, 1, 0], [11, 5, 3, 2, 1, 1, 0]])
    objects = make_objects(boxes, np.zeros((4, 2)), np.ones(4), ("bicycle", "bicycle", "car", "motorcycle"))
    rack = np.array([[10.0, 5.0, 1.0, 6.0, 1.0, 2.0, 0.0]])
    assert outside_racks(objects, rack).names == ("bicycle", "car", "motorcycle")
    rack[0, 6] = np.pi / 2  # it stands across: reaches to y = 8
    assert outside_racks(objects, rack).names == ("car", "motorcycle")
    assert outside_racks(objects, np.zeros((0, 7))) is objects


def leaning(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) of a vehicle that heads along yaw, nose down by pitch, its left side up by roll."""
    (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (pitch, roll))
    down = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    return rotation_from_yaw(yaw) @ down @ [[1, 0, 0], [0, cr, -sr], [0, sr, cr]]


def test_boxes_of_a_leaning_vehicle_stand_level_in_the_world():
    rng = np.random.default_rng(3)
    boxes = rng.uniform(-3, 3, (50, 7)) + [100, 50, 0, 4, 4, 4, 0]
    pose = make_transform(leaning(2.0, 0.12, -0.2), np.array([90.0, 60.0, 5.0]))
    again = level_boxes(transform_boxes(invert(pose), boxes), pose)
    np.testing.assert_allclose(again[:, :6], boxes[:, :6], atol=1e-9)
    np.testing.assert_allclose(np.exp(1j * again[:, 6]), np.exp(1j * boxes[:, 6]), atol=1e-9)


def test_a_pitched_and_rolled_vehicle_is_scored_as_the_devkit_does(tmp_path):
    """The ego frame of a vehicle that leans shows other distances, speeds and headings than the global one, in which
    the benchmark compares; heights are wrong here, too, of which the lean makes places, and objects climb."""
    rng = np.random.default_rng(5)
    poses = {k: make_transform(leaning(0.7 * k, 0.15, -0.1), np.array([100.0 + 8 * k, -40.0, 3.0])) for k in range(3)}
    world = {}
    for k, objects in scene(3, seed=2).items():
        boxes = objects.boxes + [*poses[k][:3, 3], 0, 0, 0, 0]
        boxes[:, 2] += 0.7 * k * np.arange(len(boxes)) / len(boxes)  # at up to 1.4 m/s
        world[k] = dataclasses.replace(objects, boxes=boxes)
    write_dataset(tmp_path, {"scene-b": world}, poses, in_world=True)
    keyframes, ego = [], {}
    for k, objects in world.items():
        before, after = max(k - 1, 0), min(k + 1, 2)
        moved = (world[after].boxes - world[before].boxes)[:, :3] / (0.5 * (after - before))
        down = invert(poses[k])
        boxes, velocity = transform_boxes(down, objects.boxes), moved @ down[:3, :3].T
        labels = np.array([SPEC.classes.index(name) for name in objects.names])
        facts = (boxes, velocity, labels, objects.attributes, objects.num_points)
        keyframes.append(Keyframe(f"scene-b-{k}", "scene-b", k, poses[k], {}, {}, (), *facts))
        ego[k] = make_objects(boxes, velocity[:, :2], objects.scores, objects.names)

    def noisy(o: Objects) -> np.ndarray:
        return o.boxes + rng.normal(0, [0.6, 0.6, 0.6, 0, 0, 0, 0.2], (len(o), 7))

    def guessed(o: Objects) -> np.ndarray:
        return o.velocity + rng.normal(0, 0.4, o.velocity.shape)

    detections = found(ego, boxes=noisy, velocity=guessed, scores=lambda o: rng.uniform(0.05, 1, len(o)))
    rows = {f"scene-b-{k}": result_rows(f"scene-b-{k}", o, poses[k]) for k, o in detections.items()}
    write_results(tmp_path / "results.json", rows, results_meta(True, False, True))
    theirs = evaluate_nuscenes(tmp_path / "results.json", tmp_path, "v1.0-trainval", ["scene-b"])
    ours = score_found(keyframes, SPEC, detections, range(3))
    assert 0.2 < theirs.mean_ap < 0.95 and 0.1 < theirs.errors.ave < 0.9
    assert ours.mean_ap == pytest.approx(theirs.mean_ap, abs=1e-9) and ours.nds == pytest.approx(theirs.nds, abs=1e-9)
    for name, expected in theirs.classes.items():
        mine = ours.classes[name]
        assert (mine.ap, mine.ground_truth, mine.predictions) == (
            pytest.approx(expected.ap, abs=1e-9), expected.ground_truth, expected.predictions,
        )  # fmt: skip
        errors = dataclasses.astuple(mine.errors)
        assert errors == pytest.approx(dataclasses.astuple(expected.errors), abs=1e-9, nan_ok=True), name


def test_evaluation_scores_a_network_that_knows_the_answers(keyframes, monkeypatch):
    """The targets as predictions, but only while a camera is alive: near perfect with cameras, nothing without."""
    network = Network(RUN, build_detector(RUN))

    def answers(batch):
        alive = batch["camera_valid"].any(dim=1).float()[:, None, None, None]
        heatmap = torch.where(batch["heatmap"] * alive == 1, 5.0, -9.0)
        regression = torch.zeros(len(heatmap), 10, *SPEC.grid.shape)
        for regressed, cells, boxes, mask in zip(
            regression, batch["cells"], batch["boxes"], batch["mask"], strict=True
        ):
            used = mask[:, 0] > 0
            regressed.flatten(1)[:, cells[used]] = boxes[used].T
        return Prediction(heatmap, regression[:, None])

    monkeypatch.setattr(Network, "predict", lambda _, batch: answers(batch))
    scores = evaluate(network, keyframes, ["all", "radar"], Batches(3, 0))
    assert scores["all"].frames == len(keyframes) == 4
    # Objects that share a cell of 1.6 m are lost: the groups of pedestrians.
    assert scores["all"].mean_ap_present > 0.8 and scores["all"].classes["car"].ap > 0.9
    assert scores["all"].classes["car"].errors.ate < 0.05 and scores["all"].classes["car"].errors.aoe < 0.01
    assert scores["radar"].mean_ap == 0


def test_the_command_writes_scores_by_class_and_range(tiny_checkpoint, tiny_dataset, tmp_path, capsys):
    arguments = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--out", str(tmp_path / "a" / "scores.json")]
    assert main([*arguments, "--workers", "0"]) == 0
    scores = json.loads((tmp_path / "a" / "scores.json").read_text())["all"]
    assert [(r["low"], r["high"]) for r in scores["ranges"]] == [(0, 20), (20, 30), (30, 40), (40, 50)]
    assert sum(r["ground_truth"] for r in scores["ranges"]) == sum(
        c["ground_truth"] for c in scores["classes"].values()
    )
    shown = capsys.readouterr().out
    assert "| pedestrian |" in shown and "| 40-50 m |" in shown


def test_the_model_card_states_sizes_scores_and_notes(network, keyframes):
    found = evaluate(network, keyframes[:1], ["all", "camera"], Batches(workers=0))
    scores = {word: s.to_dict() for word, s in found.items()}
    scores["all"]["mean_ap"], scores["all"]["classes"]["car"]["errors"]["ate"] = 0.4321, 0.777
    card = model_card(network.detector, json.loads(json.dumps(scores)), "## Notes\n\nTrained on nothing.\n")
    assert "\n---\n\n# tiny\n\n" in card and card.endswith("Trained on nothing.\n")
    assert "6 cameras at 128x64, 5 radars, BEV 64x64 cells of 1.6 m" in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows].count("all") == 1
    assert next(row for row in rows if row[0] == "| all")[1] == "0.432"
    assert next(row for row in rows if row[0] == "| car")[3] == "0.777"
    cone = next(row for row in rows if row[0] == "| traffic_cone")
    assert cone[5:] == ["-", "-", "- |"], "a cone has no heading, velocity or attribute"
    assert len({len(row) for row in rows[:4]}) == 1
    assert "Scores" not in model_card(network.detector, {}, "")


def test_a_network_is_asked_for_what_its_grid_reaches(keyframes):
    near = dataclasses.replace(SPEC, grid=BevGrid(-25.6, 25.6, -25.6, 25.6, 1.6))
    boxes = keyframes[0].boxes
    inside = (np.abs(boxes[:, :2]) < 25.6).all(axis=1)
    assert 0 < inside.sum() < len(boxes)
    np.testing.assert_array_equal(ground_truth(keyframes[0], near).boxes, boxes[inside])
    assert len(ground_truth(keyframes[0], SPEC)) == (np.abs(boxes[:, :2]) < 51.2).all(axis=1).sum()
