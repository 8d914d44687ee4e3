"""Export of checkpoints: what the vehicle accepts, and what is refused."""

from __future__ import annotations

import collections
import copy
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")
onnx = pytest.importorskip("onnx", reason="needs onnx")

from tiny_run import RUN, SPEC  # noqa: E402

from bev_perception.bundle import SPEC as SPEC_FILE  # noqa: E402
from bev_perception.bundle import load_bundle  # noqa: E402
from bev_perception.frame_proof import prove_frame  # noqa: E402
from bev_perception.golden_frame import read_golden_frame  # noqa: E402
from bev_perception.inference.backend import open_backend  # noqa: E402
from bev_perception.inference.proof import self_test  # noqa: E402
from bev_perception.inference.tensorrt_api import BuildError  # noqa: E402
from bev_perception.model_spec import BundleError, RadarSpec, TemporalSpec  # noqa: E402
from bev_perception.stated_scores import read_scores  # noqa: E402
from training import export  # noqa: E402
from training.bundling.card_metadata import split_card  # noqa: E402
from training.bundling.export_checks import ask_tensorrt, check_parameters  # noqa: E402
from training.bundling.golden import COLOR_STEP  # noqa: E402
from training.bundling.pattern import pattern_inputs  # noqa: E402
from training.bundling.weights import read_student  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.models.exported import ExportedDetector  # noqa: E402
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
def bundle_dir(tiny_checkpoint, network, keyframes, tiny_dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "notes.md").write_text("Trained in a test.\n")
    scores = {word: s.to_dict() for word, s in evaluate(network, keyframes[:1], ["all"], Batches(workers=0)).items()}
    for name, c in scores["all"]["classes"].items():
        c["best_score"] = 0.6 if name == "car" else None
    (folder / "scores.json").write_text(json.dumps(scores))
    arguments = [str(tiny_checkpoint), str(folder / "bundle"), "--golden-data", str(tiny_dataset), "--limit-mib", "16"]
    arguments += ["--notes", str(folder / "notes.md"), "--scores", str(folder / "scores.json")]
    arguments += ["--licence", "mit", "--datasets", "tiny"]
    arguments += ["--safetensors"] if importlib.util.find_spec("safetensors") else []
    assert export.main(arguments) == 0
    assert len(list(folder.iterdir())) == 3, "nothing is left behind"
    return folder / "bundle"


def test_a_checkpoint_becomes_a_bundle_that_the_vehicle_accepts(bundle_dir):
    out, bundle = bundle_dir, load_bundle(bundle_dir)
    thresholds = SPEC.score_threshold | {"car": 0.6}  # the score of its best F1; nothing is known of the others
    plain = dataclasses.replace(bundle.spec, onnx_sha256="", mounts={})
    assert plain == dataclasses.replace(SPEC, score_threshold=thresholds) and set(bundle.spec.mounts) == set(
        SPEC.cameras
    )
    assert sorted(f.name for f in out.iterdir()) == [
        "MODEL_CARD.md", "golden.npz", "golden_frame.npz", "model.onnx",
        *(["model.safetensors"] if importlib.util.find_spec("safetensors") else []), "model_spec.json", "scores.json",
    ]  # fmt: skip
    metadata, text = split_card((out / "MODEL_CARD.md").read_text())
    assert (metadata["license"], metadata["datasets"]) == ("mit", ["tiny"]) and text.startswith("# tiny\n")
    assert metadata["model-index"][0]["results"][0]["dataset"]["config"] == "all"
    assert (out / "MODEL_CARD.md").read_text().endswith("Trained in a test.\n")
    stated, evaluated = read_scores(bundle), json.loads((out.parent / "scores.json").read_text())["all"]
    assert stated is not None and (stated.nds, stated.frames) == (evaluated["nds"], evaluated["frames"])
    inputs, _ = bundle.golden()
    assert inputs["prev_valid"] == 1 and inputs["camera_valid"].all() and inputs["radar_valid"].all()
    assert (inputs["prev_bev"] > 0).any() and not (inputs["images"] % COLOR_STEP).any() and inputs["images"].any()
    backend = open_backend(bundle)
    assert self_test(backend, bundle)["candidates_lost"] == 0
    assert prove_frame(backend, bundle)["frame_detections"] > 10
    earlier, later = read_golden_frame(bundle)[0]
    assert later.stamp_ns - earlier.stamp_ns == 500_000_000, "two keyframes of the data set"
    backend.close()


def test_the_weights_for_torch_give_the_same_outputs(network, bundle_dir, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    student = read_student(bundle_dir)
    assert student.spec.score_threshold["car"] == 0.6
    inputs, golden = load_bundle(bundle_dir).golden()
    tensors = [torch.from_numpy(inputs[t.name]) for t in student.spec.inputs()]
    with torch.no_grad():
        found = ExportedDetector(student).eval()(*tensors)
        wanted = ExportedDetector(network.detector).eval()(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert np.allclose(found[0], golden["scores"], atol=1e-6)
    assert set(student.state_dict()) == set(safetensors_of(bundle_dir)) == set(network.detector.state_dict())


def safetensors_of(folder):
    from safetensors.torch import load_file  # as anybody would

    return load_file(folder / "model.safetensors")


def test_damaged_weights_for_torch_are_refused(bundle_dir, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    import safetensors
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match=r"`training\.export` writes it with --safetensors"):
        read_student(tmp_path)
    data = (bundle_dir / "model.safetensors").read_bytes()
    other = tmp_path / "w"
    for content in (b"", data[:1000], data[:-10], b"\xff" * 100):
        other.write_bytes(content)
        with pytest.raises(ValueError, match="no intact file of safetensors"):
            read_student(other)
    tensors = safetensors_of(bundle_dir)
    save_file(tensors, other)
    with pytest.raises(ValueError, match="does not say which network it is of"):
        read_student(other)
    name, tensor = next(iter(tensors.items()))
    with safetensors.safe_open(bundle_dir / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file({n: t for n, t in tensors.items() if n != name}, other, metadata)
    with pytest.raises(ValueError, match=f"{name}: missing"):
        read_student(other)
    save_file(tensors | {name: tensor[None].clone()}, other, metadata)
    with pytest.raises(ValueError, match=f"{name}: size mismatch"):
        read_student(other)


@pytest.mark.parametrize(("limit", "what"), [(0.001, "golden.npz has"), (1.0, "the bundle has")])
def test_a_bundle_that_is_too_large_is_not_written(network, bundle_dir, tmp_path, monkeypatch, limit, what):
    monkeypatch.setattr(export, "_to_onnx", lambda *_: (bundle_dir / "model.onnx").read_bytes())
    card = {"MODEL_CARD.md": "large\n" * (2**20 // 6)}
    with pytest.raises(ValueError, match=f"{what}.*allowed"):
        export.export_bundle(network.detector, tmp_path / "bundle", card, limit_mib=limit)
    assert list(tmp_path.iterdir()) == []


def test_without_a_limit_a_bundle_of_a_papers_size_is_written(network, bundle_dir, tmp_path, monkeypatch):
    """ResNet-50 alone has more than 90 MiB; a card of 20 stands for it here."""
    monkeypatch.setattr(export, "_to_onnx", lambda *_: (bundle_dir / "model.onnx").read_bytes())
    card = {"MODEL_CARD.md": "large\n" * (20 * 2**20 // 6)}
    out = export.export_bundle(network.detector, tmp_path / "bundle", card)
    assert sum(f.stat().st_size for f in out.iterdir()) > 19 * 2**20


class Small(torch.nn.Module):
    """One parameter in the graph, one beside it, one for training."""

    training_only = ("aux.",)

    def __init__(self) -> None:
        super().__init__()
        self.used, self.beside, self.aux = (torch.nn.Linear(2, 2, bias=False) for _ in range(3))
        self.with_aux = False

    def forward(self, x):
        y = self.used(x) + (self.beside(x) * 0).detach().shape[0]
        return y + self.aux(x) if self.with_aux else y


def test_parameters_that_the_graph_does_not_hold_are_named():
    def check(network):
        holder = torch.nn.Sequential(collections.OrderedDict(detector=network))
        check_parameters(torch.export.export(holder, (torch.zeros(1, 2),)), network)

    network = Small()
    with pytest.raises(ValueError, match=r"depends on 1 parameters: \['beside.weight'\]"):
        check(network)
    network.training_only = ("aux.", "beside.")
    check(network)
    network.with_aux = True
    with pytest.raises(ValueError, match=r"needs parameters that training_only names: \['aux.weight'\]"):
        check(network)


def test_tensorrts_parser_is_asked():
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX wheels are not installed")
    one = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])
    two = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [1, None])

    def model(operator):
        graph = onnx.helper.make_graph([onnx.helper.make_node(operator, ["x"], ["y"])], "g", [one], [two])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]).SerializeToString()

    with pytest.raises(BuildError, match=r"(?s)cannot parse.*Write these operators with others"):
        ask_tensorrt(model("Det"))


def test_without_tensorrt_the_export_says_so(monkeypatch):
    def missing(_):
        raise ImportError("the Python package tensorrt_rtx is missing; pip install it")

    monkeypatch.setattr("training.bundling.export_checks.import_builder", missing)
    assert (
        ask_tensorrt(b"")
        == "TensorRT's parser was not asked: the Python package tensorrt_rtx is missing; pip install it"
    )


def test_a_teacher_is_not_exported(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "STUDENTS", {})
    with pytest.raises(SystemExit):
        export.main([str(tiny_checkpoint), str(tmp_path / "bundle")])
    assert "is a camera_radar; vehicles run students" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        dataclasses.replace(SPEC, radars=()),
        dataclasses.replace(SPEC, cameras=(), temporal=TemporalSpec(state_channels=0)),
        dataclasses.replace(SPEC, radar=RadarSpec(format="pillars", pillar_step=0.4)),
    ],
    ids=["all", "camera", "radar", "pillars"],
)
def test_the_pattern_fits_every_spec_and_touches_every_input(spec):
    inputs = pattern_inputs(spec)
    for tensor in spec.inputs():
        array = inputs[tensor.name]
        assert (array.shape, array.dtype.name) == (tensor.shape, tensor.dtype) and array.any(), tensor.name
    again = pattern_inputs(spec)
    assert list(inputs) == [t.name for t in spec.inputs()]
    assert all((again[name] == array).all() for name, array in inputs.items()), "it is the same every time"


def test_a_folder_that_is_no_bundle_is_not_replaced(network, bundle_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_to_onnx", lambda *_: (bundle_dir / "model.onnx").read_bytes())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="home is there and is no bundle"):
        export.export_bundle(network.detector, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_an_export_that_disagrees_leaves_the_old_bundle(network, bundle_dir, tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / SPEC_FILE).touch()
    monkeypatch.setattr(export, "_to_onnx", lambda *_: (bundle_dir / "model.onnx").read_bytes())
    student = copy.deepcopy(network.detector)
    with torch.no_grad():
        student.fuse[0].weight[0] *= 1.1
    with pytest.raises(BundleError, match="ONNX Runtime against PyTorch"):
        export.export_bundle(student, tmp_path / "bundle")
    assert [f.name for f in tmp_path.rglob("*")] == ["bundle", SPEC_FILE]


def test_a_student_of_chosen_radar_returns_is_not_for_vehicles(tiny_checkpoint, tmp_path, capsys):
    checkpoint = torch.load(tiny_checkpoint, weights_only=True)
    checkpoint["run"]["data"]["returns"]["invalid_state"] = [0]
    torch.save(checkpoint, tmp_path / "chosen.ckpt")
    assert export.main([str(tmp_path / "chosen.ckpt"), str(tmp_path / "bundle")]) == 1
    assert "some radar returns only" in capsys.readouterr().err and not (tmp_path / "bundle").exists()


def test_what_cannot_be_written_or_read_is_said_before_the_work(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "pattern_inputs", lambda spec: pytest.fail("the work has begun"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    scores = tmp_path / "scores.json"
    for out, content, told in (
        (tmp_path / "mine", "{}", "mine is there and is no bundle"),
        (tmp_path / "new", "{", f"{scores}: Expecting"),
        (tmp_path / "new", "[]", f"{scores}: is no result of `training.evaluate --out`"),
        (tmp_path / "new", '{"all": {"mean_ap": 1}}', f"{scores}: is no result of `training.evaluate --out`"),
    ):
        scores.write_text(content)
        assert export.main([str(tiny_checkpoint), str(out), "--scores", str(scores)]) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
