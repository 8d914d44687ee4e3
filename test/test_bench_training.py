"""The offline benchmarks measure what they say; how fast it is, is not tested."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN
from tiny_students import NAMES

from training.bench import __main__ as bench
from training.bench import large_set, latency, recipes, scale, taught, throughput
from training.data.source import Source
from training.experiments import camera_radar, distillation, family
from training.models.exported import parameters_exported
from training.run import build_detector


def test_loading_reads_every_file_once(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    item = throughput.ClipDataset.__getitem__
    monkeypatch.setattr(throughput.ClipDataset, "__getitem__", lambda self, i: asked.append(i) or item(self, i))
    first, again = throughput.loading_alone(RUN, Source(tiny_dataset), 3)
    assert asked == [0, 1, 2, 0, 1, 2] and min(first, again) > 0


def test_training_steps_are_real_and_their_waiting_is_a_share(tiny_dataset: Path) -> None:
    rate, waiting, memory = throughput.training(RUN, Source(tiny_dataset), workers=0, steps=2)
    assert rate > 0 and 0 < waiting < 1 and memory == 0  # without loader processes a step waits for its samples


def test_every_recipe_is_an_experiment_with_teachers_that_are_recipes_too() -> None:
    runs = {name: recipes.load_run(f"training.experiments.{name}") for name in recipes.RECIPES}
    paper = family.paper()
    for run in runs.values():
        assert run.optim.epochs and set(recipes.teacher_names(run)) <= set(paper)
        open_runs = {t: paper[t].data.lidar for t in recipes.teacher_names(run) if paper[t].data.lidar}
        assert all(lidar == run.data.lidar for lidar in open_runs.values())


def killed(*_: object) -> None:
    os._exit(9)  # as by a system that lacks memory


def test_a_killed_recipe_is_told_and_tried_again_and_what_is_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "RECIPES", ("bevdet:r50", "centerpoint:pillar"))
    monkeypatch.setattr(recipes, "measure", killed)
    (tmp_path / "b.md").write_text("<!-- recipes -->\n<!-- end -->\n")
    args = ["--only", "recipes", "--data", str(tmp_path), "--out", str(tmp_path), "--docs", str(tmp_path / "b.md")]
    args += ["--device", "cpu"]
    assert bench.main(args) == 0
    assert (tmp_path / "b.md").read_text().count(" killed ") == 2
    assert (tmp_path / "recipes_cpu.json").read_text() == "{}"
    (tmp_path / "recipes_cpu.json").write_text('{"bevdet:r50": {"seconds": 3.6, "memory_gb": 0.0, "samples": 1000}}')
    assert bench.main(args) == 0
    rows = (tmp_path / "b.md").read_text()
    assert rows.count(" killed ") == 1
    assert [c.strip() for c in rows.split("| bevdet:r50")[1].split("|")[1:5]] == ["3.60", "-", "0.00", "1"]


def test_latency_is_that_of_the_exported_student() -> None:
    run = camera_radar.tiny()
    found = latency.measure(run, threads=1, repeats=1, log=lambda _: None)
    assert found.parameters == parameters_exported(build_detector(run))
    assert found.milliseconds > 0 and found.onnx_mib > 4 * found.parameters / 2**20
    assert found.build_s is None or found.build_s > 0


def test_the_table_of_students_has_every_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measure", lambda *_, **__: latency.Latency(2_000_000, 8.0, None, 12.5))
    docs = tmp_path / "b.md"
    assert bench.main(["--only", "students", "--docs", str(docs)]) == 1, "the page has no such section"
    docs.write_text("<!-- students -->\n<!-- end -->\n")
    assert bench.main(["--only", "students", "--docs", str(docs)]) == 0
    rows = [line for line in docs.read_text().splitlines() if line.startswith("| ") and "12.5" in line]
    names = [row.split("|")[1].strip() for row in rows]
    assert names == [name for name in NAMES for _ in ("tiny", "small")]


def test_a_taught_step_costs_what_it_adds(tiny_dataset: Path, tmp_path: Path) -> None:
    study = distillation.study()
    small = dataclasses.replace(study["bevdet_from_centerpoint"], batch_size=1)
    alone, both = taught.measure(small, study, Source(tiny_dataset), tmp_path, steps=1)
    assert alone.cache == alone.terms == 0 and min(alone.forward, alone.backward, both.cache, both.terms) > 0
    assert both.total == both.forward + both.cache + both.terms + both.backward
    assert alone.kept_mb > 1 and both.kept_mb > alone.kept_mb
    folders = list(tmp_path.iterdir())
    assert len(folders) == 1 and len(list(folders[0].glob("*.npz"))) > 1, "a filled cache"


def test_what_comes_before_the_first_step_is_measured_and_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "write_tables", lambda root: large_set.write_tables(root, scenes=2))
    monkeypatch.setattr(large_set, "POINTS", 2000)
    monkeypatch.setattr(scale, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(scale, "KEYFRAMES_PASTED_INTO", 5)
    docs = tmp_path / "b.md"
    docs.write_text("<!-- scale -->\n<!-- end -->\n")
    args = ["--only", "scale", "--out", str(tmp_path / "out"), "--docs", str(docs), "--scenes", "1", "--workers", "0"]
    assert bench.main([*args, "--device", "cpu"]) == 0
    rows = docs.read_text()
    assert "objects of 40 keyframes, 0 loader process(es)" in rows and "Pasting" in rows
    assert list((tmp_path / "out").iterdir()) == []
