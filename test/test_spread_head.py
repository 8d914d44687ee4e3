"""A head for the spread upon trained students: what it leaves alone, in every form in which a network travels."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("lightning", reason="training needs lightning")
import tiny_students
import torch
from torch import nn

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.golden_pattern import pattern_frames
from bev_perception.inference.backend import open_backend
from bev_perception.model_spec import SPREAD_CHANNELS, BundleError, ModelSpec, parse_spec
from bev_perception.pipeline import BevPipeline
from training.export import export_bundle
from training.models.exported import ExportedDetector
from training.models.spread_head import FORMS, SpreadConfig, add_spread, spread_head
from training.pruning.dependencies import cut
from training.pruning.frames import answers, two_frames
from training.run import build_detector, run_from_plain, run_to_plain

NAME = "camera_radar"


def with_spread(form: str, name: str = NAME) -> nn.Module:
    """The tiny student of before, bit for bit, with a head that says something of everything."""
    student, config = tiny_students.student(name), SpreadConfig(form, hidden=16)
    student.spec = dataclasses.replace(student.spec, spread=config.parts)
    add_spread(student, config)
    nn.init.normal_(spread_head(student).last.weight, std=0.3)
    return student.eval()


def told(student: nn.Module) -> dict[str, torch.Tensor]:
    inputs = tiny_students.frame(student.spec, 3)
    with torch.no_grad():
        results = ExportedDetector(student)(*(inputs[t.name] for t in student.spec.inputs()))
    return dict(zip([t.name for t in student.spec.outputs()], results, strict=True))


# ---- in torch


@pytest.mark.parametrize("name", tiny_students.NAMES)
def test_every_student_may_have_one_and_detects_as_before(name: str) -> None:
    before, after = told(tiny_students.student(name)), told(with_spread("mixture", name))
    assert set(after) - set(before) == {"log_std"} and after["log_std"].shape[1:] == (2, len(SPREAD_CHANNELS))
    assert all(torch.equal(tensor, after[n]) for n, tensor in before.items())
    assert after["log_std"].std(dim=0).min() > 0, "each channel depends on the candidate"


def test_what_is_said_at_a_candidate_depends_on_what_the_head_sees_there() -> None:
    """By hand: the maps of the head's hidden layers at the candidate's cell, layer after layer."""
    student = with_spread("gaussian")
    inputs, memory = tiny_students.batch(student.spec, (1,))
    with torch.no_grad():
        prediction = student(inputs, memory)
        head, host = spread_head(student), student.head
        neck = prediction.features["neck"]
        hidden = torch.cat([host.heatmap[0](neck), host.regression[0](neck)], dim=1)[0].flatten(1)
        from training.models.exported import candidates_of, spread_of

        found = candidates_of(student, prediction)
        scores, labels, cells, boxes = (t[0] for t in found)
        said = spread_of(student, prediction, found).parts()[0, :, 0]
        for k in (0, 7, 40):
            grid, cell = student.spec.grid, int(cells[k])
            x = grid.x_min + (cell // grid.shape[1] + float(boxes[k, 0])) * grid.step
            y = grid.y_min + (cell % grid.shape[1] + float(boxes[k, 1])) * grid.step
            units = torch.tensor([1.0] * 8 + [0.1] * 2)
            facts = torch.cat([boxes[k] * units, torch.logit(scores[k : k + 1]), torch.tensor([math.hypot(x, y) / 50])])
            seen = torch.cat([squeeze.weight[:, :, 0, 0] for squeeze in head.squeezes], dim=1) @ hidden[:, cell]
            first = head.features(seen) + head.facts(facts) + head.of_class(labels[k])
            expected = head.last(head.middle(first.relu()).relu()) - 1.0
            torch.testing.assert_close(said[k], expected.clamp(-5.0, 3.5), atol=1e-4, rtol=1e-4)


def test_a_run_says_whether_its_network_has_one() -> None:
    run = tiny_students.run_of(NAME)
    assert spread_head(build_detector(run)) is None
    spread = SpreadConfig("mixture")
    with pytest.raises(ValueError, match=r"spec\.spread is .*a mixture head gives"):
        build_detector(dataclasses.replace(run, spread=spread))
    spec = dataclasses.replace(run.spec, spread=spread.parts)
    with pytest.raises(ValueError, match="the run has no spread"):
        build_detector(dataclasses.replace(run, spec=spec))
    whole = dataclasses.replace(run, spec=spec, spread=spread)
    assert run_from_plain(json.loads(json.dumps(run_to_plain(whole))), "here") == whole
    older = run_to_plain(run)
    del older["spread"], older["spec"]["spread"]
    assert run_from_plain(older, "here") == run
    with pytest.raises(ValueError, match=r"spread\.form must be one of"):
        SpreadConfig("normal")
    with pytest.raises(ValueError, match="spread: squeezed and hidden 1 or more"):
        SpreadConfig(beta=1.5)
    with pytest.raises(ValueError, match="_Other has no head"):
        add_spread(_Other(), SpreadConfig())


class _Other(nn.Linear):
    spec = dataclasses.replace(tiny_students.run_of(NAME).spec, spread=("aleatoric",))

    def __init__(self) -> None:
        super().__init__(1, 1)


def test_a_cut_network_keeps_it_and_nothing_of_it_is_cut() -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning")
    from training.pruning.dependencies import cut_of
    from training.pruning.proof import TOLERANCE, difference, find_channels, masked

    whole = with_spread("mixture")
    frames = two_frames(whole.spec)
    found = find_channels(whole, frames)
    layers = {f"head.spread.{name}" for name in ("squeezes.0", "squeezes.1", "features", "facts", "middle", "last")}
    assert {name for name in found.fixed if ".spread." in name} == layers
    assert {"head.heatmap.0.0", "head.regression.0.0"} <= {n for g in found.groups for n in g.outputs}
    dropped = {group.name: range(0, group.channels, 3) for group in found.groups}
    narrower = cut(whole, frames, found.groups, dropped)
    assert difference(narrower, masked(whole, found.groups, dropped), frames) <= TOLERANCE
    assert answers(narrower, frames)["spread"].shape == answers(whole, frames)["spread"].shape
    run = dataclasses.replace(
        tiny_students.run_of(NAME), spread=SpreadConfig("mixture", hidden=16), spec=narrower.spec,
        cut=cut_of(whole, narrower),
    )  # fmt: skip
    again = build_detector(run)
    again.load_state_dict(narrower.state_dict())
    assert torch.equal(told(again.eval())["log_std"], told(narrower)["log_std"])


# ---- as a bundle


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(export_bundle(tiny_students.student(NAME), tmp_path_factory.mktemp("plain") / "bundle"))


@pytest.fixture(scope="module", params=["gaussian", "mixture"])
def saying(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The export has held ONNX against torch."""
    return load_bundle(export_bundle(with_spread(request.param), tmp_path_factory.mktemp(request.param) / "bundle"))


def test_a_bundle_with_it_gives_the_same_boxes(plain: Bundle, saying: Bundle) -> None:
    inputs = {name: tensor.numpy() for name, tensor in tiny_students.frame(plain.spec, 5).items()}
    before, after = (open_backend(bundle, threads=1).infer(inputs) for bundle in (plain, saying))
    for name, array in before.items():
        np.testing.assert_allclose(array, after[name], atol=1e-5, err_msg=name)
    assert after["log_std"].shape == (500, len(saying.spec.spread), len(SPREAD_CHANNELS))


def test_the_pipeline_hands_on_what_the_network_says(plain: Bundle, saying: Bundle) -> None:
    earlier, later = pattern_frames(plain.spec)
    found = []
    for bundle in (plain, saying):
        spec = dataclasses.replace(bundle.spec, score_threshold=dict.fromkeys(bundle.spec.classes, 0.0))
        pipeline = BevPipeline(spec, open_backend(bundle, threads=1))
        pipeline.step(earlier)
        found.append(pipeline.step(later))
    assert len(found[0]) == len(found[1]) > 5
    np.testing.assert_allclose(found[0].boxes, found[1].boxes, atol=1e-4)
    assert found[0].variances.shape == (len(found[0]), 0, 10) and found[0].uncertainty is None
    assert found[1].variances.shape == (len(found[1]), len(saying.spec.spread), 10)
    assert (found[1].variances > 0).all()


def test_an_engine_that_says_otherwise_is_refused(saying: Bundle) -> None:
    from bev_perception.inference.proof import self_test

    engine = open_backend(saying, threads=1)

    class Off:
        spec, name, details = engine.spec, "off", engine.details
        fetch, interrupt = engine.fetch, engine.interrupt

        def infer(self, inputs):
            found = engine.infer(inputs)
            return found | {"log_std": found["log_std"] + np.float32(0.1)}

    assert self_test(engine, saying)["log_std"] < 1e-4
    with pytest.raises(BundleError, match="`log_std` differs from the golden sample"):
        self_test(Off(), saying)


def test_in_8_bits_it_says_nearly_the_same(saying: Bundle, tmp_path: Path) -> None:
    from training.bundling.int8 import Quantizer
    from training.bundling.requantized import bare_bundle

    frames = [{n: t.numpy() for n, t in tiny_students.frame(saying.spec, seed).items()} for seed in range(3)]
    for folder in ("quantizer", "bare"):
        (tmp_path / folder).mkdir()
    quantizer = Quantizer(saying.model(), frames, tmp_path / "quantizer")
    rounded = bare_bundle(saying, quantizer.quantized(quantizer.convolutions), tmp_path / "bare")
    found, expected = (open_backend(bundle, threads=1).infer(frames[0]) for bundle in (rounded, saying))
    area = math.prod(saying.spec.grid.shape)
    keys = [a["labels"] * area + a["cells"] for a in (found, expected)]
    _, ours, theirs = np.intersect1d(*keys, return_indices=True)
    assert len(ours) > 250
    off = np.abs(found["log_std"][ours] - expected["log_std"][theirs])
    assert np.median(off) < 0.1 * expected["log_std"].std(axis=0).mean() + 0.02


# ---- the spec


def test_a_spec_without_it_is_of_an_older_bundle() -> None:
    spec = tiny_students.run_of(NAME).spec
    data = json.loads(dataclasses.replace(spec, onnx_sha256="0" * 64).to_json())
    del data["spread"]
    assert parse_spec(json.dumps(data)).spread == ()
    for wrong in (["epistemic"], ["aleatoric", "aleatoric"], ["other"]):
        with pytest.raises(BundleError, match="spread must be the first of"):
            parse_spec(json.dumps(data | {"spread": wrong}))
    assert [t.name for t in dataclasses.replace(spec, spread=("aleatoric",)).outputs()][-2:] == ["log_std", "bev"]
    assert isinstance(spec, ModelSpec)


# ---- training


def test_training_it_changes_nothing_else_bit_for_bit(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.train import main
    from training.trainer.checkpoint import load_network

    arguments = ["training.experiments.uncertainty:heads", "--data", str(tiny_dataset), "--workers", "0"]
    arguments += ["--set", "optim.steps=3", "batch_size=2"]
    assert main([*arguments, "--out", str(tmp_path / "none")]) == 1
    assert "name the trained network with --init" in capsys.readouterr().err
    assert main([*arguments, "--init", str(tiny_checkpoint), "--out", str(tmp_path / "run")]) == 0
    before, after = load_network(tiny_checkpoint), load_network(tmp_path / "run" / "last.ckpt")
    assert after.run.config == before.run.config and after.spec.spread == ("aleatoric",)
    weights, own = before.detector.state_dict(), after.detector.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights.items())
    learnt = set(own) - set(weights)
    assert learnt and all(name.startswith("head.spread.") for name in learnt)
    assert own["head.spread.last.bias"].abs().max() > 0
    moved = main([*arguments, "--init", str(tmp_path / "run" / "last.ckpt"), "--out", str(tmp_path / "on")])
    assert moved == 0, "it goes on from one that has it"


def test_it_learns_beside_the_body_too(tiny_dataset: Path, tmp_path: Path) -> None:
    from tiny_run import RUN

    from training.data.source import Source
    from training.train import train

    spread = SpreadConfig("laplace", beta=0.5, detach=False)
    spec = dataclasses.replace(RUN.spec, spread=spread.parts)
    optim = dataclasses.replace(RUN.optim, steps=2)
    last = train(dataclasses.replace(RUN, spread=spread, spec=spec, optim=optim), Source(tiny_dataset), tmp_path)
    assert last.exists() and FORMS
