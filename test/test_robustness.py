"""The benchmark from the command to its table, and that a part of it is the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from bev_perception.bundle import load_bundle
from bev_perception.evaluation.spread import Done
from bev_perception.plain import to_plain
from bev_perception.uncertainty import CHANNELS, UNCERTAINTY, ClassTable, UncertaintyTable
from training.export import main as export
from training.robustness import __main__ as robustness


def run(checkpoint: Path, data: Path, out: Path, *more: str) -> int:
    return robustness.main([str(checkpoint), "--data", str(data), "--out", str(out), "--workers", "1", *more])


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robustness") / "out"
    assert run(tiny_checkpoint, tiny_dataset, out, "--only", "fog", "clutter", "lost") == 0
    return out


def test_a_table_has_every_cell(whole: Path) -> None:
    result = json.loads((whole / "robustness.json").read_text())
    assert set(result["conditions"]) == {"fog", "clutter"} and result["frames"] == 4
    assert len(result["cells"]) == 1 + 3 + 3 + 16
    assert set(result["mRR"]) == {"camera", "radar"} and result["mCE"] == {}
    assert set(result["reaction"]) == {"2 cameras, 0 radars", "6 cameras, 0 radars", "0 cameras, 5 radars"}
    table = (whole / "robustness.md").read_text()
    assert "| fog | cameras |" in table and "| 6 | 1 |" in table


def test_scenes_that_are_done_are_not_driven_again(
    whole: Path, tiny_checkpoint: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(function: object, jobs: list[object], *more: object) -> list[object]:
        assert jobs == []
        return []

    before = (whole / "robustness.json").read_text()
    monkeypatch.setattr(robustness, "spread", none)
    assert run(tiny_checkpoint, tiny_dataset, whole, "--only", "fog", "clutter", "lost") == 0
    assert (whole / "robustness.json").read_text() == before


def test_cells_made_one_by_one_are_those_made_together(
    whole: Path, tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    assert run(tiny_checkpoint, tiny_dataset, tmp_path, "--only", "clutter") == 0
    assert run(tiny_checkpoint, tiny_dataset, tmp_path, "--only", "fog", "clutter") == 0
    apart, together = (json.loads((path / "robustness.json").read_text())["cells"] for path in (tmp_path, whole))
    assert apart == {name: together[name] for name in apart} and "fog-3" in apart


def test_a_scene_that_fails_is_named_and_nothing_is_summed_up(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def broken(function: object, jobs: list[object], *more: object) -> list[Done[int]]:
        return [Done(0, None, FileNotFoundError("no file x.jpg"), 1, 0.0)]

    monkeypatch.setattr(robustness, "spread", broken)
    assert run(tiny_checkpoint, tiny_dataset, tmp_path, "--only", "fog") == 1
    assert "1 of 1 scenes failed, such as scene-0001 (FileNotFoundError: no file x.jpg)" in capsys.readouterr().err
    assert not (tmp_path / "robustness.json").exists()


def test_a_reference_gives_corruption_errors(whole: Path, tiny_checkpoint: Path, tiny_dataset: Path) -> None:
    own = str(whole / "robustness.json")
    assert run(tiny_checkpoint, tiny_dataset, whole, "--only", "fog", "clutter", "--reference", own) == 0
    result = json.loads(Path(own).read_text())
    assert result["mCE"] == pytest.approx({"camera": 100.0, "radar": 100.0})


def test_a_folder_of_another_run_is_refused(
    whole: Path, tiny_checkpoint: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_checkpoint, tiny_dataset, whole, "--seed", "1") == 1
    assert "seed: 0 -> 1" in capsys.readouterr().err


def test_a_bundle_that_says_what_detections_are_worth_is_told_whether_that_holds(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all that is said to be sure the wrong share is the error, of all that is said to be nothing the right one."""
    bundle = tmp_path / "bundle"
    assert export([str(tiny_checkpoint), str(bundle)]) == 0
    spec, errors = load_bundle(bundle).spec, {}
    for said in (0.0, 1.0):
        deviation = dict.fromkeys(CHANNELS, ((1.0, 1.0), (1.0, 1.0)))
        classes = dict.fromkeys(spec.classes, ClassTable(((said, said), (said, said)), deviation))
        factors = dict.fromkeys(CHANNELS, (0.7, 1.6, 2.0))
        table = UncertaintyTable(spec.onnx_sha256, (10.0, 20.0), (0.2, 0.6), classes, factors, 40)
        (bundle / UNCERTAINTY).write_text(json.dumps(to_plain(table)))
        assert run(bundle, tiny_dataset, tmp_path / f"out{said}", "--only", "clutter") == 0
        cells = json.loads((tmp_path / f"out{said}" / "robustness.json").read_text())["cells"]
        errors[said] = {name: row["ece"] for name, row in cells.items()}
        inside = [share for row in cells.values() for share in row["inside_90"].values()]
        assert all(share is None or 0 <= share <= 1 for share in inside) and len(inside) == 4 * 5
        assert "| clutter-1 |" in (tmp_path / f"out{said}" / "robustness.md").read_text()
    assert len(errors[0.0]) == 4
    for name, right in errors[0.0].items():
        assert right + errors[1.0][name] == pytest.approx(1.0, abs=1e-9) and 0 <= right < 1
    assert run(bundle, tiny_dataset, tmp_path / "out0.0", "--only", "clutter") == 1
    assert "uncertainty" in capsys.readouterr().err, "another table, other claims"


@pytest.mark.parametrize("text", ["{}", "not JSON", '{"conditions": {"fog": {"NDS": []}}}'])
def test_a_reference_that_is_none_is_named(
    text: str, whole: Path, tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "other.json").write_text(text)
    more = ("--only", "fog", "--reference", str(tmp_path / "other.json"))
    assert run(tiny_checkpoint, tiny_dataset, whole, *more) == 1
    assert "no result of training.robustness" in capsys.readouterr().err
