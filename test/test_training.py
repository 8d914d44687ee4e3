"""Training, evaluation and export end to end with a very small network on a very small data set."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from bev_perception.grid import BevGrid  # noqa: E402
from bev_perception.inference.backend import open_backend, self_test  # noqa: E402
from bev_perception.model_spec import CLASSES, BundleError, ImageSpec, ModelSpec, TemporalSpec, load_bundle  # noqa: E402
from training import export  # noqa: E402
from training.checkpoint import load_module  # noqa: E402
from training.data.augment import Augmentation  # noqa: E402
from training.data.clips import ClipDataset, collate  # noqa: E402
from training.data.config import DataConfig  # noqa: E402
from training.data.nuscenes import load_keyframes  # noqa: E402
from training.evaluate import evaluate, mask_sensors  # noqa: E402
from training.experiments.demo import CAMERAS, RADARS  # noqa: E402
from training.golden import COLOR_STEP  # noqa: E402
from training.lightning_module import DetectorModule  # noqa: E402
from training.losses import LossConfig  # noqa: E402
from training.model_card import model_card  # noqa: E402
from training.models.camera_radar import StudentConfig  # noqa: E402
from training.models.detector import Prediction  # noqa: E402
from training.models.view_transform import DepthBins  # noqa: E402
from training.run import OptimConfig, Run  # noqa: E402
from training.train import load_experiment, train  # noqa: E402

SPEC = ModelSpec(
    "tiny", CAMERAS, RADARS, dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 0.5), image=ImageSpec(64, 128),
    grid=BevGrid(-51.2, 51.2, -51.2, 51.2, 1.6), temporal=TemporalSpec(state_channels=8), top_k=100,
)  # fmt: skip
SIZES = StudentConfig((1, 1, 1, 1), 8, 16, 8, 16, 16, DepthBins(1.0, 2.0, 24))
# Batches of three from four keyframes: the second checkpoint lies in the middle of a shuffle.
LOSSES = LossConfig(velocity=1.0, velocity_beta=5.0, depth=0.3, depth_form="cross_entropy")
RUN = Run(
    "camera_radar", SIZES, SPEC, OptimConfig(steps=4, warmup_steps=1), LOSSES, DataConfig(Augmentation()), 3,
    precision="32-true", checkpoint_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tiny_dataset, tmp_path_factory) -> Path:
    return train(RUN, tiny_dataset, "v1.0-trainval", tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def module(checkpoint) -> DetectorModule:
    return load_module(checkpoint)


@pytest.fixture(scope="module")
def keyframes(tiny_dataset):
    nusc = devkit.NuScenes("v1.0-trainval", str(tiny_dataset), verbose=False)
    return load_keyframes(nusc, ["scene-0001"], SPEC)


@pytest.fixture(scope="module")
def batch(keyframes):
    data = ClipDataset(keyframes, SPEC)
    return collate([data[1], data[2]])


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tiny_dataset, checkpoint, tmp_path, monkeypatch):
    step = DetectorModule.training_step

    def fail_at_two(self, batch, number):
        if self.global_step == 2:
            raise RuntimeError("power failure")
        return step(self, batch, number)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power failure"):
        patch.setattr(DetectorModule, "training_step", fail_at_two)
        train(RUN, tiny_dataset, "v1.0-trainval", tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    seen = []
    monkeypatch.setattr(DetectorModule, "training_step", lambda *a: seen.append(a[1]["index"].tolist()) or step(*a))
    resumed = torch.load(train(RUN, tiny_dataset, "v1.0-trainval", tmp_path), weights_only=True)
    whole = torch.load(checkpoint, weights_only=True)
    assert resumed["global_step"] == whole["global_step"] == 4 and len(seen) == 2
    fresh = DetectorModule(RUN).state_dict()
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=1e-4, atol=1e-6, msg=name)
        if name.endswith("conv1.weight"):
            assert not torch.allclose(fresh[name], value), "nothing was learned, so nothing was compared"
    states = [c["optimizer_states"][0]["state"] for c in (resumed, whole)]
    torch.testing.assert_close(states[0][0]["exp_avg"], states[1][0]["exp_avg"], rtol=1e-3, atol=1e-6)
    assert resumed["lr_schedulers"][0]["_last_lr"] == whole["lr_schedulers"][0]["_last_lr"]

    assert train(RUN, tiny_dataset, "v1.0-trainval", tmp_path).is_file() and len(seen) == 2, "it was done already"


def test_a_checkpoint_gives_back_its_network(checkpoint, module):
    assert module.run == RUN and module.detector.config == SIZES and module.detector.spec == SPEC
    assert not module.training
    for name, value in torch.load(checkpoint, weights_only=True)["state_dict"].items():
        assert torch.equal(module.state_dict()[name], value)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt: not a checkpoint of training\.train.*run"):
        load_module(tmp_path / "other.ckpt")


def test_experiments_are_found_by_name():
    assert load_experiment("training.experiments.demo:tiny").optim.steps == 4
    with pytest.raises(ValueError, match=r"demo:nothing: no such experiment.*full"):
        load_experiment("training.experiments.demo:nothing")


def test_a_loss_that_is_not_finite_stops_the_run(batch):
    module = DetectorModule(RUN)
    with torch.no_grad():
        module.detector.head.regression[-1].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"not finite at step 0: \{.*'box': nan.*lower lr"):
        module.training_step(batch, 0)


def test_two_samples_are_learned_by_heart(batch):
    torch.manual_seed(0)
    module = DetectorModule(dataclasses.replace(RUN, optim=OptimConfig(lr=1e-2, warmup_steps=5, steps=60)))
    schedule = module.configure_optimizers()
    losses = []
    for _ in range(60):
        loss = module.training_step(batch, 0)
        schedule["optimizer"].zero_grad()
        loss.backward()
        schedule["optimizer"].step()
        schedule["lr_scheduler"]["scheduler"].step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


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
            tensor[:, front] = 0
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


@pytest.fixture(scope="module")
def bundle_dir(checkpoint, module, keyframes, tiny_dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "notes.md").write_text("Trained in a test.\n")
    scores = {word: s.to_dict() for word, s in evaluate(module, keyframes[:1], ["all"], workers=0).items()}
    for name, c in scores["all"]["classes"].items():
        c["best_score"] = 0.6 if name == "car" else None
    (folder / "scores.json").write_text(json.dumps(scores))
    arguments = [str(checkpoint), str(folder / "bundle"), "--golden-data", str(tiny_dataset)]
    arguments += ["--notes", str(folder / "notes.md"), "--scores", str(folder / "scores.json")]
    assert export.main(arguments) == 0
    assert len(list(folder.iterdir())) == 3, "nothing is left behind"
    return folder / "bundle"


def test_a_checkpoint_becomes_a_bundle_that_the_vehicle_accepts(bundle_dir):
    out, bundle = bundle_dir, load_bundle(bundle_dir)
    thresholds = SPEC.score_threshold | {"car": 0.6}  # the score of its best F1; nothing is known of the others
    assert dataclasses.replace(bundle.spec, onnx_sha256="") == dataclasses.replace(SPEC, score_threshold=thresholds)
    assert sorted(f.name for f in out.iterdir()) == ["MODEL_CARD.md", "golden.npz", "model.onnx", "model_spec.json"]
    assert (out / "MODEL_CARD.md").read_text().endswith("Trained in a test.\n")
    inputs, _ = bundle.golden()
    assert inputs["prev_valid"] == 1 and inputs["camera_valid"].all() and inputs["radar_valid"].all()
    assert (inputs["prev_bev"] > 0).any() and not (inputs["images"] % COLOR_STEP).any() and inputs["images"].any()
    backend = open_backend(bundle)
    assert self_test(backend, bundle)["peaks_lost"] == 0
    backend.close()


@pytest.mark.parametrize("limit", ["GOLDEN_LIMIT_BYTES", "BUNDLE_LIMIT_BYTES"])
def test_a_bundle_that_is_too_large_is_not_written(module, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(export, limit, 1000)
    monkeypatch.setattr(export, "_to_onnx", lambda *_: bytes(2000))
    with pytest.raises(ValueError, match="allowed"):
        export.export_bundle(module.detector, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_disagrees_leaves_the_old_bundle(module, bundle_dir, tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").touch()
    monkeypatch.setattr(export, "_to_onnx", lambda *_: (bundle_dir / "model.onnx").read_bytes())
    student = copy.deepcopy(module.detector)
    with torch.no_grad():
        student.fuse[0].weight[0] *= 1.1
    with pytest.raises(BundleError, match="ONNX Runtime against PyTorch"):
        export.export_bundle(student, tmp_path / "bundle")
    assert [f.name for f in tmp_path.rglob("*")] == ["bundle", "old"]
