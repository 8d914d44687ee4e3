"""Studies: the table's arithmetic, and no run is done twice."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN

from bev_perception.plain import to_plain
from training import overfit, study, study_tables
from training.data.source import Source
from training.distill.config import DistillConfig, Term
from training.study import Study
from training.study_tables import Result
from training.trainer.teaching import Teaching

SHORT = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, steps=2))


def result(mean_ap, ave, parameters=2_000_000, minutes=3.0):
    errors = {"ate": 0.5, "ase": 0.25, "aoe": 0.125, "ave": ave, "aae": 0.1}
    scores = {"mean_ap": mean_ap, "nds": mean_ap + 0.1, "errors": errors}
    return Result(scores, parameters, minutes, {}, {})


COSINES = {"a/cosine/foreground": 0.5, "b/cosine/foreground": 0.75, "a/cosine/background": 0.1}
OF_TEACHER = {"teachers": {"lidar": 0.9}, "agreement": COSINES | {"a/error/foreground": 9}}


def test_mean_and_standard_error():
    values = np.random.default_rng(0).normal(size=7).tolist()
    mean, error = study_tables.mean_and_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(np.std(values, ddof=1) / np.sqrt(7))
    alone, unknown = study_tables.mean_and_error([0.25])
    assert alone == 0.25 and math.isnan(unknown)


def test_table_has_means_over_seeds_and_no_row_for_what_is_not_done():
    results = {"a": {0: result(0.2, 1.0), 1: result(0.4, 2.0, minutes=5.0)}, "b": {0: result(0.75, None)}, "c": {}}
    lines = study_tables.study_table(results).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    of_a, of_b = dict(zip(cells[0], cells[2])), dict(zip(cells[0], cells[3]))
    # Two values that differ by d have a standard error of d / 2.
    assert of_a["mAP"] == "0.300 ± 0.100" and of_a["mAVE"] == "1.500 ± 0.500" and of_a["mATE"] == "0.500 ± 0.000"
    assert (of_a["run"], of_a["seeds"], of_a["parameters (M)"], of_a["training (min)"]) == ("a", "2", "2.00", "4")
    assert of_b["mAP"] == "0.750" and of_b["mAVE"] == "-"


def test_every_run_and_seed_has_a_line():
    lines = study_tables.results_csv({"a": {4: result(0.25, None), 5: result(0.5, 2.0)}, "b": {}})
    head, first, second = lines.splitlines()
    assert head == "run,seed,mAP,NDS,mATE,mASE,mAOE,mAVE,mAAE,parameters,train_minutes"
    assert first == "a,4,0.2500,0.3500,0.5000,0.2500,0.1250,,0.1000,2000000,3.0"
    assert dict(zip(head.split(","), second.split(",")))["mAVE"] == "2.0000"


def test_gains_are_differences_of_the_same_seeds():
    taught = dataclasses.replace(RUN, distill=DistillConfig((Term("logits", "heatmap", "heatmap", source="lidar"),)))
    other = dataclasses.replace(taught, spec=dataclasses.replace(RUN.spec, name="another"))
    study = {"lidar": dataclasses.replace(RUN, model="bevdet"), "alone": RUN, "taught": taught, "other": other}
    assert [study_tables.alone_of(name, study) for name in study] == [None, None, "alone", None]

    def row(alone, given, minutes=6.0):
        results = {
            "alone": {seed: result(v, 1.0) for seed, v in alone.items()},
            "taught": {s: dataclasses.replace(result(v, 0.5, minutes=minutes), **OF_TEACHER) for s, v in given.items()},
        }
        lines = study_tables.gains_table(study, results).splitlines()
        return [cell.strip() for cell in lines[-1].strip("|").split("|")] if lines else []

    # 0.1 and 0.3 more: 0.2 with a standard error of 0.1, which is not more than twice it.
    found = row({0: 0.2, 1: 0.4, 7: 0.9}, {1: 0.7, 0: 0.3})
    assert found[:5] == ["taught", "2", "0.300 ± 0.100", "0.500 ± 0.200", "0.900 ± 0.000"]
    assert found[5:] == ["+0.200 ± 0.100", "+0.200 ± 0.100", "-0.500 ± 0.000 *", "0.625 ± 0.000", "2.00"]
    assert row({0: 0.2, 1: 0.4}, {0: 0.3, 1: 0.52})[5] == "+0.110 ± 0.010 *"
    assert row({0: 0.2}, {0: 0.3})[5] == "+0.100" and row({0: 0.2}, {1: 0.3}) == []


def test_a_study_is_resumed_and_widened_not_repeated(tiny_dataset, tmp_path, monkeypatch):
    of = Study({"a": SHORT}, Source(tiny_dataset), tmp_path, workers=0)
    first = study.run_study(of, [0])
    monkeypatch.setattr(
        study, "_train_and_score", lambda of, name, seed: result(0.5, seed, len(of.runs[name].spec.name))
    )
    other = dataclasses.replace(SHORT, spec=dataclasses.replace(SHORT.spec, name="another"))
    both = study.run_study(dataclasses.replace(of, runs={"a": SHORT, "b": other}), [0, 3])
    assert both["a"][0] == first["a"][0] and both["a"][0].scores["frames"] == 4
    assert both["a"][3].scores["errors"]["ave"] == 3  # the other seed is a run of its own
    assert [both["b"][seed].parameters for seed in (0, 3)] == [len("another")] * 2
    assert json.loads((tmp_path / "b" / "3" / "result.json").read_text()) == to_plain(both["b"][3])
    assert (tmp_path / "table.md").read_text() == study_tables.study_table(both)


def test_some_runs_of_a_study_at_a_time_share_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_train_and_score", lambda of, name, seed: result(0.5, seed))
    of = Study({"a": RUN, "b": RUN}, Source(tmp_path), tmp_path)
    study.run_study(of, [10, 9], only=["b"])
    done = study.run_study(of, [0], only=["a"])
    assert list(done["a"]) == [0] and list(done["b"]) == [9, 10]
    assert [r.scores["errors"]["ave"] for r in done["b"].values()] == [9, 10]
    assert (tmp_path / "table.md").read_text() == study_tables.study_table(done)
    study.run_study(dataclasses.replace(of, runs={"c": RUN}), [0])  # another study in the same place
    rows = [line.split(",")[:2] for line in (tmp_path / "results.csv").read_text().splitlines()]
    assert rows == [["run", "seed"], ["a", "0"], ["b", "9"], ["b", "10"], ["c", "0"]]


def test_a_run_without_its_optional_package_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def needy(of, name, seed):
        if name == "needy":
            raise ImportError("install it")
        return result(0.5, 1.0)

    monkeypatch.setattr(study, "_train_and_score", needy)
    done = study.run_study(Study({"needy": RUN, "a": RUN}, Source(tmp_path), tmp_path), [0])
    assert [len(done["needy"]), len(done["a"])] == [0, 1]
    assert "needy is left out: install it" in capsys.readouterr().out


def test_a_teacher_that_would_be_missing_is_named_before_the_first_run(tmp_path, monkeypatch):
    taught = dataclasses.replace(RUN, distill=DistillConfig((Term("logits", "heatmap", "heatmap", source="lidar"),)))
    runs, trained = {"alone": RUN, "lidar": RUN, "taught": taught}, []

    def score(of, name, seed):
        trained.append((name, seed, *map(str, of.teachers(name, seed).values())))
        return result(0.5, 1.0)

    monkeypatch.setattr(study, "_train_and_score", score)

    def do(runs, seeds, only=None, **teachers):
        study.run_study(Study(runs, Source(tmp_path), tmp_path, Teaching(teachers)), seeds, only)

    own = tmp_path / "lidar" / "1"
    own.mkdir(parents=True)
    (own / "last.ckpt").touch()  # begun, not finished
    with pytest.raises(ValueError, match=f"taught, seed 1, learns from lidar, and {own} holds no finished run"):
        do(runs, [1], only=["alone", "taught"])
    with pytest.raises(ValueError, match="--teacher lidar=CHECKPOINT"):  # a run that comes later is no help
        do({"taught": taught, "lidar": RUN}, [1])
    with pytest.raises(ValueError, match="and there is no"):
        do(runs, [1], lidar=tmp_path / "absent.ckpt")
    assert not trained
    do(runs, [1], only=["lidar", "taught"])
    do(runs, [2], only=["taught"], lidar=own / "last.ckpt")
    assert trained == [("lidar", 1), ("taught", 1, str(own / "last.ckpt")), ("taught", 2, str(own / "last.ckpt"))]


def test_results_of_older_studies_are_read_and_others_refused(tmp_path):
    path = tmp_path / "result.json"
    plain = to_plain(result(0.5, 1.0))
    path.write_text(json.dumps({name: plain[name] for name in ("scores", "parameters", "train_minutes")}))
    assert study.read_result(path) == result(0.5, 1.0)
    for change, words in (({"seed": 3}, r"unknown keys \['seed'\]"), ({"parameters": None}, "parameters must be int")):
        path.write_text(json.dumps(plain | change))
        with pytest.raises(ValueError, match=words):
            study.read_result(path)
    path.write_text(json.dumps({name: plain[name] for name in plain if name != "scores"}))
    with pytest.raises(ValueError, match=rf"{path}: unknown keys \[\], missing keys \['scores'\]"):
        study.read_result(path)


def test_unknown_names_are_errors(tmp_path):
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path), "--only", "bevdet", "nothing"]
    with pytest.raises(SystemExit, match=r"no runs \['nothing'\]"):
        study.main(["training.experiments.family:small", *arguments])
    with pytest.raises(SystemExit, match=r"no families \['nothing'\]"):
        overfit.main(arguments)
    with pytest.raises(SystemExit, match="a study is a dict"):
        study.main(["training.experiments.demo:full", *arguments])


def test_overfitting_trains_and_scores_on_its_own_keyframes(tiny_dataset):
    few = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, steps=6), batch_size=2)
    scores, module = overfit.overfit(few, Source(tiny_dataset), keyframes=2)
    assert scores.frames == 2 and module.global_step == 6
    assert 0 <= scores.mean_ap_present <= 1
