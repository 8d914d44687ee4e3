"""The converter: what it reads, refuses, reports and writes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs lightning")
import torch
from published import GOLDEN, NOMINAL, needs_golden, published_state

from training.convert.__main__ import main
from training.convert.conversion import FAMILIES, around_lidar, convert, convert_file
from training.convert.layers import point_layer, same
from training.convert.reading import read_published
from training.convert.table import Table, apply
from training.distill.module import take_over
from training.experiments import radardistill
from training.experiments.distillbev import bevdet_r50_from_centerpoint as distilled
from training.models.frame import grid_in
from training.run import build_detector
from training.trainer.checkpoint import load_network, read_checkpoint
from training.trainer.starting import start_network
from training.trainer.teaching import open_teachers


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "published.pth")
    return folder / "published.pth"


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/this must not be made"),))


@pytest.mark.parametrize("holder", ["state_dict", "model_state", None])
def test_files_of_all_three_layouts_are_read(tmp_path, holder):
    state = {"module.a.weight": torch.ones(2, dtype=torch.float64), "module.a.num_batches_tracked": torch.tensor(3)}
    content = state if holder is None else {holder: state, "epoch": 20, "meta": {"CLASSES": ("car",)}}
    read = read_published(saved(content, tmp_path))
    assert list(read) == ["a.weight", "a.num_batches_tracked"] and read["a.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.ones(1), "b": "text"}}, r"with a name: \['b'\]"),
        ({"state_dict": {"a": torch.ones(1), 5: torch.ones(1)}}, r"with a name: \[5\]"),
        ({"state_dict": {"a": torch.ones(1).to_sparse()}}, r"with a name: \['a'\]"),
        ({"state_dict": {"a": torch.ones(1, device="meta")}}, r"with a name: \['a'\]"),
        ({"state_dict": {"a": torch.ones(1, dtype=torch.complex64)}}, r"with a name: \['a'\]"),
        ({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, r"not finite in \['a'\]"),
        ({"epoch": 3}, "expected a state dict"),
        ([1, 2], "expected a state dict"),
        ({"state_dict": {}}, "no tensors"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_published(saved(content, tmp_path))


def test_nothing_of_a_file_is_run(tmp_path):
    with pytest.raises(ValueError, match="holds more than weights and plain data"):
        read_published(saved({"state_dict": {}, "meta": Payload()}, tmp_path))
    assert not Path("/tmp/this must not be made").exists()


def test_damaged_and_missing_files_are_named(tmp_path):
    whole = saved({"state_dict": {"a": torch.ones(1000)}}, tmp_path).read_bytes()
    for cut in (0, 100, len(whole) - 200):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"cut\.pth: not a file of torch.save"):
            read_published(tmp_path / "cut.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"state_dict": 1}, protocol=2))
    with pytest.raises(ValueError, match=r"pickle.pth"):
        read_published(tmp_path / "pickle.pth")
    with pytest.raises(FileNotFoundError, match=r"docs/checkpoints.md"):
        read_published(tmp_path / "none.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><title>Virus scan warning</title>")
    with pytest.raises(ValueError, match=r"page.pth: not a file of torch.save, it begins with b'<!DOCTYPE"):
        read_published(tmp_path / "page.pth")


WANTED = {"b.weight": torch.zeros(2, 2), "b.running_mean": torch.zeros(2), "b.num_batches_tracked": torch.tensor(0)}
THEIRS = {"a.0.weight": torch.eye(2), "a.0.bias": torch.ones(2), "a.1.running_mean": torch.tensor([3.0, 4.0])}
TABLE = Table({"a.0": "b", "a.1.running_mean": "b.running_mean"})


def test_a_table_is_applied_and_what_became_of_the_names_is_told():
    table = Table(
        {"a.0": "b", "a.1": "c"}, {"a.0.weight": torch.neg}, {"a.0.bias": "a.1.running_mean"},
        {"geometry": torch.ones(1)}, ("fresh.weight",), ("a.",),
    )  # fmt: skip
    wanted = {"b.weight": torch.zeros(2, 2), "c.running_mean": torch.zeros(2), "fresh.weight": torch.full((1,), 7.0)}
    theirs = THEIRS | {"geometry": torch.ones(1), "teacher.weight": torch.ones(1)}
    ours, report = apply(table, theirs, wanted)
    assert torch.equal(ours["b.weight"], -torch.eye(2)) and ours["c.running_mean"].tolist() == [2.0, 3.0]
    assert ours["fresh.weight"].tolist() == [7.0]
    assert report.used == ("a.0.weight", "a.1.running_mean") and report.folded == ("a.0.bias",)
    assert (report.checked, report.left, report.fresh) == (("geometry",), ("teacher.weight",), ("fresh.weight",))
    assert report.lines() == [
        "2 tensors taken over, 1 folded, 1 compared", "1 left in the file: teacher.weight",
        "1 not in the file, as in a new network: fresh.weight",
    ]  # fmt: skip
    for name, value, message in (
        ("a.0.weight", None, "lacks what this network has: a.0.weight"),
        ("a.0.bias", None, "lacks what this network has: a.0.bias"),
        ("a.0.weight", torch.eye(3), r"has other shapes than this network: a.0.weight \(3, 3\) for b.weight \(2, 2\)"),
        ("a.9.weight", torch.eye(3), "has what this network lacks: a.9.weight"),
        ("geometry", torch.zeros(1), "has other constants: geometry"),
    ):
        changed = theirs | {name: value} if value is not None else {n: t for n, t in theirs.items() if n != name}
        with pytest.raises(ValueError, match=message):
            apply(table, changed, wanted)


def test_columns_of_points_are_exchanged_scaled_and_shifted():
    """Theirs: 255 x intensity, y, x + 4; ours x, y, intensity, one more."""
    torch.manual_seed(0)
    theirs = (("intensity", 255.0, 0.0), *same("y"), ("x", 1.0, 4.0))
    linear, mean, x = torch.randn(5, 3), torch.randn(5), torch.randn(7, 4)
    weight, centre = point_layer(linear, mean, theirs, ("x", "y", "intensity", "more"))
    expected = torch.stack([255 * x[:, 2], x[:, 1], x[:, 0] + 4], dim=1) @ linear.t() - mean
    assert torch.allclose(x @ weight.t() - centre, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected 3 columns: intensity, y, x"):
        point_layer(torch.randn(5, 4), mean, theirs, ("x",))


@needs_golden
@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_another_network_is_refused(name):
    other = "bevdet_r50" if "bevdet" not in name else "centerpoint_pillar"
    with pytest.raises(ValueError, match="the file lacks what this network has"):
        convert(published_state(other), name)


@needs_golden
def test_the_command_writes_what_evaluation_teaching_and_starting_take(tmp_path, capsys):
    state = {f"module.{name}": tensor for name, tensor in published_state("centerpoint_pillar").items()}
    source = saved({"meta": {}, "state_dict": state, "optimizer": {"lr": 1e-3}}, tmp_path)
    out = tmp_path / "converted"
    assert main([str(source), "--as", "centerpoint_pillar", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "420 tensors taken over, 37 folded" in told and "left in the file" not in told and "50.3 mAP" in told
    assert sorted(f.name for f in out.iterdir()) == ["conversion.json", "last.ckpt"]
    made_of = json.loads((out / "conversion.json").read_text())
    assert made_of["file"] == "published.pth" and len(made_of["used"]) == 420
    assert read_checkpoint(out / "last.ckpt")["converted"]["sha256"] == made_of["sha256"]
    network = load_network(out / "last.ckpt")
    start_network(load_network(out / "last.ckpt").detector, out / "last.ckpt")
    run = distilled()
    (wanted,) = {term.source for term in run.distill.terms}
    teachers = open_teachers(run, {wanted: out / "last.ckpt"})
    assert teachers[wanted].detector.spec.grid == run.spec.grid == network.spec.grid, "cells are the same places"
    source.write_bytes(b"cut")
    assert main([str(source), "--as", "centerpoint_pillar", "--out", str(out)]) == 1
    assert "download it again" in capsys.readouterr().err


@needs_golden
def test_a_published_pillarnet_teaches_a_radar_student_that_starts_from_it(tmp_path, capsys):
    source = saved({"model_state": dict(published_state("radardistill"))}, tmp_path)
    out = tmp_path / "teacher"
    assert main([str(source), "--as", "pillarnet18", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert (
        "748 left in the file: global_step, radar_backbone_2d, radar_backbone_3d, radar_dense_head, radar_vfe" in told
    )
    run = radardistill.radar18_from_published()
    teachers = open_teachers(run, {"pillarnet": out / "last.ckpt"})
    copied, _ = take_over(build_detector(run), run.distill, teachers)["weights"]
    assert len(copied) > 500
    with pytest.raises(ValueError, match=r"set the same"):
        open_teachers(radardistill.radar18(), {"pillarnet": out / "last.ckpt"})
    other = radardistill.radar18()
    with pytest.raises(ValueError, match=r"weights of one frame mean nothing in the other"):
        take_over(build_detector(other), other.distill, teachers)


@needs_golden
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"fcos3d_r101", "bevdepth_r50", "bevdepth_r50_da"}))
def test_the_published_grid_is_the_one_of_the_recording_in_its_frame(name):
    run = around_lidar(FAMILIES[name].run(NOMINAL))
    recorded = {"radardistill": "radardistill_radar", "pillarnet18": "pillarnet18_lidar", "bevdet4d_r50": "bevdet_r50"}
    config = json.loads((GOLDEN / f"{recorded.get(name, name)}_config.json").read_text())
    low, high = (config["point_cloud_range"][i] if "point_cloud_range" in config else config["grid"]["x"][i // 3]
                 for i in (0, 3))  # fmt: skip
    own = grid_in(NOMINAL, run.spec.grid)
    assert (own.x_min, own.x_max, own.y_min, own.y_max) == (low, high, low, high)
    if run.data.lidar is not None:
        x_min, y_min, _, x_max, y_max, _ = run.data.lidar.bounds
        assert (x_min, x_max, y_min, y_max) == pytest.approx((low + 0.94, high + 0.94, low, high))


@needs_golden
def test_a_report_names_what_is_left(tmp_path):
    state = published_state("centerpoint_pillar") | {"ema.anything": torch.ones(1)}
    _, report = convert_file(saved({"state_dict": state}, tmp_path), "centerpoint_pillar", tmp_path / "out")
    assert report.left == ("ema.anything",)
    other = saved({"state_dict": state | {"backbone.conv.weight": torch.ones(1)}}, tmp_path)
    said = f"^{other}, as centerpoint_pillar: .* has what this network lacks: backbone.conv.weight"
    with pytest.raises(ValueError, match=said):
        convert_file(other, "centerpoint_pillar", tmp_path / "out")
