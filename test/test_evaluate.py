"""Scores of checkpoints and bundles on a very small data set."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN, SPEC, VERSION  # noqa: E402

from bev_perception.evaluation.objects import make_objects  # noqa: E402
from bev_perception.grid import BevGrid  # noqa: E402
from bev_perception.model_spec import TemporalSpec  # noqa: E402
from training.bundling.model_card import model_card  # noqa: E402
from training.data.clips import ClipDataset, collate  # noqa: E402
from training.evaluate import main  # noqa: E402
from training.models.detector import Prediction  # noqa: E402
from training.scoring import ground_truth, outside_racks  # noqa: E402
from training.sensor_masks import kept_by, mask_sensors  # noqa: E402
from training.trainer.checkpoint import load_module  # noqa: E402
from training.trainer.detect import evaluate  # noqa: E402
from training.trainer.lightning_module import DetectorModule  # noqa: E402
from training.trainer.loading import open_keyframes  # noqa: E402


@pytest.fixture(scope="module")
def module(tiny_checkpoint) -> DetectorModule:
    return load_module(tiny_checkpoint)


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    return open_keyframes(SPEC, RUN.data, tiny_dataset, VERSION, "val")


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


def test_masks_are_the_networks_missing_sensors(module, batch):
    with torch.no_grad():
        heads = {
            w: module.predict(mask_sensors(batch, w, SPEC)).heatmap for w in ("all", "no_temporal", "camera", "radar")
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


def test_evaluation_scores_a_network_that_knows_the_answers(keyframes, monkeypatch):
    """The targets as predictions, but only while a camera is alive: near perfect with cameras, nothing without."""
    module = DetectorModule(RUN)

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

    monkeypatch.setattr(module, "predict", answers)
    scores = evaluate(module, keyframes, ["all", "radar"], batch_size=3, workers=0)
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


def test_the_model_card_states_sizes_scores_and_notes(module, keyframes):
    scores = {w: s.to_dict() for w, s in evaluate(module, keyframes[:1], ["all", "camera"], workers=0).items()}
    scores["all"]["mean_ap"], scores["all"]["classes"]["car"]["errors"]["ate"] = 0.4321, 0.777
    card = model_card(module.detector, json.loads(json.dumps(scores)), "## Notes\n\nTrained on nothing.\n")
    assert card.startswith("# tiny\n\n") and card.endswith("Trained on nothing.\n")
    assert "6 cameras at 128x64, 5 radars, BEV 64x64 cells of 1.6 m" in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows].count("all") == 1
    assert next(row for row in rows if row[0] == "| all")[1] == "0.432"
    assert next(row for row in rows if row[0] == "| car")[3] == "0.777"
    cone = next(row for row in rows if row[0] == "| traffic_cone")
    assert cone[5:] == ["-", "-", "- |"], "a cone has no heading, velocity or attribute"
    assert len({len(row) for row in rows[:4]}) == 1
    assert "Scores" not in model_card(module.detector, {}, "")


def test_a_network_is_asked_for_what_its_grid_reaches(keyframes):
    near = dataclasses.replace(SPEC, grid=BevGrid(-25.6, 25.6, -25.6, 25.6, 1.6))
    boxes = keyframes[0].boxes
    inside = (np.abs(boxes[:, :2]) < 25.6).all(axis=1)
    assert 0 < inside.sum() < len(boxes)
    np.testing.assert_array_equal(ground_truth(keyframes[0], near).boxes, boxes[inside])
    assert len(ground_truth(keyframes[0], SPEC)) == (np.abs(boxes[:, :2]) < 51.2).all(axis=1).sum()
