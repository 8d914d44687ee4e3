"""Pruning: which channels go together, what they are worth and take, the choice under a budget, and the cut network."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("torch_pruning", reason="needs torch-pruning")
import tiny_students
import torch
from tiny_run import RUN
from torch import Tensor, nn

from bev_perception.bundle import Bundle
from bev_perception.inference.backend import open_backend
from training import prune, train
from training.export import export_bundle
from training.models.widths import Cut, Norm, narrow, widths
from training.pruning import dependencies, engines, latency
from training.pruning.dependencies import Group, cut, cut_of, find_groups
from training.pruning.engines import engine_version, layer_ms
from training.pruning.frames import answers, state_channels, two_frames
from training.pruning.importance import taylor_importance
from training.pruning.knapsack import Blocks, choose, make_blocks, solve
from training.pruning.latency import axis, measure_curve, measure_table, staircase
from training.pruning.pieces import Piece, Shape, find_pieces, graph_of
from training.pruning.proof import TOLERANCE, difference, fault_of, find_channels, masked
from training.run import build_detector, run_from_plain, run_to_plain, with_state
from training.trainer.checkpoint import load_module
from training.trainer.starting import as_narrow_as

CONV = Shape("conv", (1, 16, 16), (1, 16, 16), (3, 3), (1, 1), (1, 1))


# ---- the knapsack ---------------------------------------------------------------------------------------------------


def brute_force(values: list[list[float]], weights: list[list[float]], capacity: float) -> float:
    """The best sum of values over every choice of prefixes, one block each at least."""
    best = -np.inf
    for kept in itertools.product(*(range(1, len(of) + 1) for of in values)):
        if sum(sum(w[:n]) for w, n in zip(weights, kept)) <= capacity + 1e-9:
            best = max(best, sum(sum(v[:n]) for v, n in zip(values, kept)))
    return best


def dynamic_program(values: list[list[float]], weights: list[list[int]], capacity: int) -> float:
    """The best sum by HALP's table over whole capacities, a group after the other; weights are whole, none negative."""
    best = np.zeros(capacity + 1)
    for of_values, of_weights in zip(values, weights):
        after = np.full(capacity + 1, -np.inf)
        for kept in range(1, len(of_values) + 1):
            weight = sum(of_weights[:kept])
            if weight <= capacity:
                here = best[: capacity + 1 - weight] + sum(of_values[:kept])
                after[weight:] = np.maximum(after[weight:], here)
        best = after
    return float(best.max())


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_the_best_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=rng.integers(1, 5))
    values = [sorted(rng.exponential(10.0 ** rng.integers(-9, 3), n), reverse=True) for n in sizes]
    weights = [list(rng.integers(-1 if seed % 2 else 0, 8, n)) for n in sizes]
    least = sum(min(np.cumsum(w)) for w in weights)
    capacity = int(rng.integers(least, sum(map(sum, weights)) + 1)) if least < sum(map(sum, weights)) else int(least)
    kept = solve(values, weights, capacity)
    assert sum(sum(w[:n]) for w, n in zip(weights, kept)) <= capacity
    reached = sum(sum(v[:n]) for v, n in zip(values, kept))
    assert all(n >= 1 for n in kept)
    assert reached == pytest.approx(brute_force(values, weights, capacity), rel=1e-9)
    if seed % 2 == 0:
        assert reached == pytest.approx(dynamic_program(values, weights, capacity), rel=1e-9)


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no choice of blocks"):
        solve([[1.0, 1.0]], [[5.0, 1.0]], 4.0)


def test_blocks_are_of_a_step_and_the_most_important_first() -> None:
    importance = np.array([1.0, 5.0, 0.0, 3.0, 3.0])
    blocks = make_blocks("g", importance, 2)
    assert blocks.channels == ((1, 3), (4, 0), (2,)) and blocks.values == (8.0, 4.0, 0.0)
    assert blocks.dropped(1) == [0, 2, 4] and blocks.dropped(3) == []


def product(dropped: Mapping[str, int]) -> float:
    """Latency of a layer from a (4 channels) to b (4 channels)."""
    return float((4 - dropped.get("a", 0)) * (4 - dropped.get("b", 0)))


def test_the_budget_holds_where_both_sides_of_a_layer_shrink() -> None:
    """Savings of the two sides, added, would be more than there is."""
    blocks = [
        Blocks("a", ((0,), (1,), (2,), (3,)), (4.0, 3.0, 2.0, 1.0)),
        Blocks("b", ((0,), (1,), (2,), (3,)), (4.0,) * 4),
    ]
    for share in (0.9, 0.55, 0.3, 0.1):
        kept = choose(blocks, product, 16 * share)
        assert kept[0] * kept[1] <= 16 * share and min(kept) >= 1
    assert choose(blocks, product, 12.0) == [3, 4], "a's blocks are worth less"
    with pytest.raises(ValueError, match=r"takes 1\.0 of 16\.0, that is --budget 0\.07"):
        choose(blocks, product, 0.5)


# ---- the latency table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [4, 8, 16])
def test_the_step_of_a_staircase_is_found(step: int) -> None:
    rng = np.random.default_rng(step)
    found = [
        staircase({n: 3 + -(-n // step) * step * rng.uniform(0.98, 1.02) for n in range(64, 32, -4)}, 64)
        for _ in range(9)
    ]
    assert found == [step] * 9


def test_a_straight_line_has_the_finest_step_and_so_has_a_flat_one() -> None:
    assert staircase({n: float(n) for n in range(64, 32, -4)}, 64) == latency.FINEST
    assert staircase(dict.fromkeys(range(64, 32, -4), 1.0), 64) == latency.FINEST


def test_axes_are_multiples_of_the_step_and_the_widest() -> None:
    assert axis(64, 16) == [16, 32, 48, 64] and axis(72, 16) == [16, 32, 64, 72] and axis(3, 8) == [3]
    assert axis(256, 8)[-1] == 256 and len(axis(256, 8)) == latency.POINTS


def test_between_what_was_measured_lies_a_plane() -> None:
    piece = Piece("x", CONV, 64, 32, {"a": 2.0}, {"b": 1.0})
    curve = measure_curve(piece, lambda i, o: 2.0 + 0.1 * i * o)
    assert curve.at(64, 32) == pytest.approx(2 + 0.1 * 64 * 32) and curve.at(20, 12) == pytest.approx(2 + 0.1 * 20 * 12)
    assert piece.widths({"a": 8, "b": 4}) == (48, 28)


def test_a_table_goes_on_and_is_of_one_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def measured(engine: str, threads: int, shape: Shape, inputs: int, outputs: int) -> float:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append((inputs, outputs))
        return float(inputs * outputs)

    monkeypatch.setattr(latency, "_measured", measured)
    monkeypatch.setattr(latency, "engine_version", lambda engine: "1.0")
    pieces = [
        Piece("a", CONV, 8, 8, {}, {"g": 1.0}),
        Piece("b", CONV, 8, 5, {"g": 1.0}, {}),
        Piece("c", CONV, 16, 5, {"g": 1.0}, {}),
    ]
    file = tmp_path / "latency.json"
    with pytest.raises(KeyboardInterrupt):
        measure_table(
            [*pieces, Piece("d", CONV, 32, 16, {"g": 1.0}, {"h": 1.0})], "n", lambda: 9.0, "openvino", 1, file
        )
    before = list(asked)
    table = measure_table(pieces, "n", lambda: 9.0, "openvino", 1, file)
    assert asked == before, "what was measured is not measured again"
    assert table.network_ms == 9.0 and table.where["engine"] == "openvino" and table.where["machine"]
    assert table.predict(pieces, {"g": 4}) == 8 * 4 + 8 * 5 + 12 * 5
    assert measure_table(pieces, "n", lambda: 1.0, "openvino", 1, file).network_ms == 9.0
    with pytest.raises(ValueError, match="measured with engine openvino, wanted is onnxruntime"):
        measure_table(pieces, "n", lambda: 1.0, "onnxruntime", 1, file)
    monkeypatch.setattr(latency, "machine", lambda: "another")
    assert measure_table(pieces, "n", lambda: 1.0, "openvino", 1, file).network_ms == 9.0, (
        "a whole one may be from there"
    )
    with pytest.raises(ValueError, match=r"its machine is .*, here it is 'another'"):
        measure_table(pieces, "other", lambda: 1.0, "openvino", 1, file)
    file.write_text("{")
    with pytest.raises(ValueError, match="no table of latencies"):
        measure_table(pieces, "n", lambda: 1.0, "openvino", 1, file)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "shape",
    [CONV, Shape("transposed", (1, 8, 8), (1, 16, 16), (2, 2), (2, 2)), Shape("sampling", (2, 8, 8), (2, 4, 4))],
)
def test_engines_run_each_kind_of_layer(engine: str, shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(engine, reason=f"needs {engine}")
    monkeypatch.setattr(engines, "LEAST_MS", 0.0)
    assert layer_ms(engine, *graph_of(shape, 8, 8), 1) > 0 and engine_version(engine)


def test_without_tensorrt_its_latency_is_not_measured() -> None:
    try:
        engine_version("tensorrt")
    except ImportError as error:
        assert "tensorrt" in str(error)


# ---- channels that go together --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return tiny_students.student("camera_radar")


@pytest.fixture(scope="module")
def frames(student: nn.Module) -> Any:
    return two_frames(student.spec)


@pytest.fixture(scope="module")
def groups(student: nn.Module, frames: Any) -> list[Group]:
    return list(find_channels(student, frames).groups)


def test_the_state_ties_what_makes_it_to_what_reads_it(groups: list[Group], student: nn.Module) -> None:
    (fused,) = (group for group in groups if "fuse.0" in group.outputs)
    n = fused.channels
    assert {"fuse.0", "fuse.1", "temporal.gate", "temporal.candidate.0"} <= set(fused.outputs)
    assert fused.inputs["temporal.gate"] == tuple((i, n + i) for i in range(n)), "the current map and the memory"
    (radar,) = (group for group in groups if group.name == "radar.1.0")
    context = student.config.channels
    assert radar.inputs == {"fuse.0": tuple((context + 1 + i,) for i in range(radar.channels))}, "behind the coverage"
    (lifted,) = (group for group in groups if group.name == "context")
    assert len(lifted.samplings) == 1 and lifted.inputs["fuse.0"][0] == (0,)


def test_answers_are_not_cut_and_the_reason_is_told(student: nn.Module, frames: Any) -> None:
    found = find_channels(student, frames)
    assert set(found.fixed) == {"depth", "semantic", "head.heatmap.1", "head.regression.1"}
    assert all("an answer of the network" in reason for reason in found.fixed.values())
    seen = {name for group in found.groups for name in group.outputs} | set(found.fixed)
    assert seen == set(widths(student)), "every layer is cut or named"


def test_without_help_the_graph_cuts_wrong_and_the_proof_sees_it(
    student: nn.Module, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "_along_channels", lambda args, kwargs: False)
    found, _ = find_groups(student, frames)
    assert fault_of(student, frames, found)


@pytest.mark.parametrize("name", ["camera_radar", "bevdet4d"])
def test_a_cut_network_answers_as_the_masked_one(name: str) -> None:
    """Group after group, a third of the channels, then all at once."""
    whole = tiny_students.student(name)
    given = two_frames(whole.spec)
    found = find_channels(whole, given)
    rng = np.random.default_rng(0)
    dropped = {g.name: sorted(rng.choice(g.channels, g.channels // 3, replace=False).tolist()) for g in found.groups}
    narrower, zeroed = cut(whole, given, found.groups, dropped), masked(whole, found.groups, dropped)
    assert difference(narrower, zeroed, given) <= TOLERANCE
    assert difference(narrower, whole, given) > 100 * TOLERANCE, "it is not the same network"
    assert narrower.spec.temporal.state_channels == state_channels(narrower, given)
    narrower.train()
    assert answers(narrower, given)["heatmap"].shape == answers(whole, given)["heatmap"].shape


def test_groups_that_cannot_be_cut_are_named() -> None:
    found = find_channels(tiny_students.student("bevformer"), two_frames(tiny_students.student("bevformer").spec))
    assert "LayerNorm" in found.fixed["layers.0.spatial.output"]
    assert "does not run without" in found.fixed["layers.0.spatial.value"]
    assert any(group.name.startswith("image.backbone") for group in found.groups)


def test_pieces_have_the_layers_shapes_and_shares(student: nn.Module, frames: Any, groups: list[Group]) -> None:
    pieces = {piece.name: piece for piece in find_pieces(student, frames, groups)}
    gate = pieces["temporal.gate"]
    assert gate.shape == Shape("conv", (1, 32, 16), (1, 32, 16)) and gate.outputs == student.config.channels
    assert gate.reads == {"fuse.0": 2.0} and gate.makes == {"fuse.0": 1.0}
    assert pieces["backbone.conv1"].shape.read == (2, 32, 64) and pieces["backbone.conv1"].reads == {}
    assert pieces["depth"].makes == {} and "context sampled 0" in pieces and "fuse.0 sampled 0" in pieces


# ---- importance -----------------------------------------------------------------------------------------------------


class Module(nn.Module):
    """What of a DetectorModule importance looks at, with a loss that is a sum of answers times fixed numbers."""

    device = torch.device("cpu")

    def __init__(self, detector: nn.Module, given: Any) -> None:
        super().__init__()
        self.detector, self.given = detector, given

    def predict(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return answers(self.detector, self.given)

    def losses(self, prediction: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: (p * batch["by"] * torch.linspace(-1, 1, p.numel()).view(p.shape)).mean() for n, p in prediction.items()
        }


def test_importance_is_the_squared_slope_over_a_mask(student: nn.Module, frames: Any, groups: list[Group]) -> None:
    module = Module(student, frames[:1])
    batches = [{"by": torch.tensor(1.0)}, {"by": torch.tensor(-3.0)}]
    found = taylor_importance(module, batches, groups)  # type: ignore[arg-type]
    module.train()
    for layer in student.modules():
        if isinstance(layer, Norm):
            layer.eval()
    layers = dict(student.named_modules())
    for group in (g for g in groups if g.name in ("fuse.0", "context", "backbone.layer2.0.conv1", "lateral.0")):
        mask = torch.ones(group.channels, requires_grad=True)
        masks = [
            layers[name].register_forward_hook(lambda layer, args, made, mask=mask: made * mask[:, None, None])
            for name in group.outputs
            if isinstance(layers[name], Norm) or layers[name].bias is not None
        ]
        (slope,) = torch.autograd.grad(
            torch.stack(list(module.losses(module.predict({}), batches[0]).values())).sum(), mask
        )
        for hook in masks:
            hook.remove()
        expected = slope.detach().double().numpy() ** 2 * (1 + 9) / 2
        np.testing.assert_allclose(found[group.name], expected, rtol=2e-3, atol=1e-6 * expected.max())
    student.eval()
    with pytest.raises(ValueError, match="found none"):
        taylor_importance(module, [], groups)  # type: ignore[arg-type]


# ---- widths in checkpoints ------------------------------------------------------------------------------------------


def test_a_table_of_widths_makes_the_cut_network_again(student: nn.Module, frames: Any, groups: list[Group]) -> None:
    narrower = cut(student, frames, groups, {group.name: range(group.channels // 2) for group in groups})
    run = dataclasses.replace(tiny_students.run_of("camera_radar"), spec=narrower.spec, cut=cut_of(student, narrower))
    read = run_from_plain(json.loads(json.dumps(run_to_plain(run))), "a file")
    assert read == run and read.spec.temporal.state_channels == student.config.channels // 2
    again = build_detector(read).eval()
    again.load_state_dict(narrower.state_dict())
    assert difference(again, narrower, frames) == 0.0
    assert widths(again) == widths(narrower) != widths(student)


@pytest.mark.parametrize(
    "layers, message",
    [
        ({"nothing": (1, 1)}, "'nothing' is no convolution"),
        ({"backbone": (1, 1)}, "'backbone' is no convolution"),
        ({"context": (1, 99)}, "cannot be left"),
        ({"context": (0, 1)}, "cannot be left"),
    ],
)
def test_widths_that_no_network_has_are_refused(layers: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow(tiny_students.student("camera_radar"), layers)


def test_a_cut_network_runs_on_the_vehicles_engine(
    student: nn.Module, frames: Any, groups: list[Group], tmp_path: Path
) -> None:
    """export_bundle refuses where ONNX Runtime and PyTorch disagree, the state included."""
    narrower = cut(student, frames, groups, {group.name: range(group.channels // 2) for group in groups})
    bundle = prune.load_bundle(export_bundle(narrower, tmp_path / "bundle"))
    engine = open_backend(bundle, threads=1)
    assert engine.infer(bundle.golden()[0])["bev"].shape[0] == student.config.channels // 2
    engine.close()
    assert prune.in_turns([bundle, bundle], "onnxruntime", 1)[1] > 0


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fast_engine() -> Any:
    """Latency is what is computed: the command's tests must not depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            latency, "_measured", lambda engine, threads, shape, i, o: 1e-6 * np.prod(shape.made) * i * (o + 8)
        )
        patch.setattr(
            prune, "in_turns", lambda bundles, engine, threads: [30.0 * slower(b, bundles[0]) for b in bundles]
        )
        patch.setattr(prune, "ROUNDS", 2)
        yield


def slower(bundle: Bundle, dense: Bundle) -> float:
    """Of an engine that saves less than the table says."""
    share = bundle.onnx_path.stat().st_size / dense.onnx_path.stat().st_size
    return 1.0 if share == 1 else 0.58 + share / 2


@pytest.fixture(scope="module")
def pruned(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, fast_engine: Any
) -> Path:
    """The folder of the whole command."""
    out = tmp_path_factory.mktemp("pruned")
    command = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--out", str(out), "--batches", "1"]
    assert prune.main([*command, "--budget", "0.75", "--workers", "0", "--set", "optim.steps=2"]) == 0
    return out


def test_the_report_says_what_was_predicted_kept_and_lost(pruned: Path) -> None:
    content = json.loads((pruned / "report.json").read_text())
    ms = content["latency_ms"]
    assert ms["predicted"] <= ms["budget"] == 0.75 * 30.0 and ms["measured_dense"] == 30.0
    # The first cut saves less than its layers do by themselves; told so, the second nearly meets the budget.
    assert ms["share_of_savings_that_shows"] < 0.9 and abs(ms["measured_pruned"] / 30.0 - 0.75) < 0.05
    assert set(content["scores"]) == {"dense", "pruned", "fine-tuned"} and content["engine"]["engine"] == "onnxruntime"
    assert any(of["kept"] < of["before"] for of in content["channels"].values())
    assert all(of["kept"] >= min(of["step"], of["before"]) for of in content["channels"].values())
    assert "an answer" in content["not_cut"]["depth"]


def test_both_checkpoints_are_of_the_cut_network(pruned: Path, tiny_checkpoint: Path) -> None:
    layers = json.loads((pruned / "report.json").read_text())["layers"]
    for path in (pruned / "pruned.ckpt", pruned / "finetuned" / "last.ckpt"):
        module = load_module(path)
        assert {n: list(w) for n, w in widths(module.detector).items() if n in layers} == layers
        assert module.run.config == RUN.config and module.run.cut == Cut({n: tuple(w) for n, w in layers.items()}, 8)


def test_the_same_seed_cuts_the_same(
    pruned: Path, tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, fast_engine: Any
) -> None:
    out = tmp_path / "again"
    command = [
        str(tiny_checkpoint),
        "--data",
        str(tiny_dataset),
        "--out",
        str(out),
        "--batches",
        "1",
        "--budget",
        "0.75",
    ]
    assert prune.main([*command, "--no-finetune", "--latency", str(pruned / "latency_onnxruntime.json")]) == 0
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (pruned, out))
    assert first["channels"] == second["channels"] and not (out / "finetuned").exists()
    ours, theirs = (load_module(folder / "pruned.ckpt").detector.state_dict() for folder in (pruned, out))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_training_takes_the_widths_of_what_it_begins_with(pruned: Path, tiny_checkpoint: Path) -> None:
    run = as_narrow_as(RUN, pruned / "pruned.ckpt")
    assert run.cut == load_module(pruned / "pruned.ckpt").run.cut and as_narrow_as(run, pruned / "pruned.ckpt") == run
    assert as_narrow_as(RUN, tiny_checkpoint) == RUN == as_narrow_as(RUN, None)
    other = dataclasses.replace(RUN, config=dataclasses.replace(RUN.config, channels=16), spec=with_state(RUN.spec, 16))
    with pytest.raises(ValueError, match=r"trains another network: .*channels: 8 -> 16"):
        as_narrow_as(other, pruned / "pruned.ckpt")


def test_what_cannot_be_is_said_before_anything_is_measured(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_checkpoint), "--data", str(tiny_dataset), "--out", str(tmp_path / "out")]
    for wrong, message in (
        (["--budget", "1.2"], "--budget is a share"),
        (["--budget", "0.5", "--teacher", "mvp=x.ckpt"], r"learns from the teachers [], given are ['mvp']"),
    ):
        with pytest.raises(SystemExit):
            prune.main([*command, *wrong])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert train.changes_of(["a=b"]) == {"a": "b"}
