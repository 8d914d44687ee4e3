"""Studies: the table's arithmetic, and no run is done twice."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from tiny_run import RUN
from torch import nn

from bev_perception.evaluation.metrics import Errors
from bev_perception.plain import to_plain
from training import overfit, study, study_tables
from training.data.source import Source
from training.distill.config import DistillConfig, Term
from training.study import Study
from training.study_tables import Result
from training.trainer.run_directory import begin
from training.trainer.teaching import Teaching

SHORT = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, steps=2))


def result(mean_ap, ave, parameters=2_000_000, minutes=3.0):
    errors = {"ate": 0.5, "ase": 0.25, "aoe": 0.125, "ave": ave, "aae": 0.1}
    scores = {"mean_ap": mean_ap, "nds": mean_ap + 0.1, "errors": errors}
    return Result(scores, parameters, minutes, {}, {})


def trained(monkeypatch, score):
    """In place of training and scoring: `score`, in a folder that says what it was begun with."""

    def train_and_score(of, name, seed):
        scored = dataclasses.replace(score(of, name, seed), given=of.given(name, seed))
        begin(of.folder(name, seed), dataclasses.replace(of.runs[name], seed=seed), of.source, "tables")
        return scored

    monkeypatch.setattr(study, "_train_and_score", train_and_score)


def of_tables(monkeypatch, digest="tables"):
    monkeypatch.setattr(study, "data_digest", lambda source: digest)


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
    trained(monkeypatch, lambda of, name, seed: result(0.5, seed, len(of.runs[name].spec.name)))
    other = dataclasses.replace(SHORT, spec=dataclasses.replace(SHORT.spec, name="another"))
    both = study.run_study(dataclasses.replace(of, runs={"a": SHORT, "b": other}), [0, 3])
    assert both["a"][0] == first["a"][0] and both["a"][0].scores["frames"] == 4
    assert both["a"][3].scores["errors"]["ave"] == 3  # the other seed is a run of its own
    assert [both["b"][seed].parameters for seed in (0, 3)] == [len("another")] * 2
    assert json.loads((tmp_path / "b" / "3" / "result.json").read_text()) == to_plain(both["b"][3])
    assert (tmp_path / "table.md").read_text() == study_tables.study_table(both)


def test_some_runs_of_a_study_at_a_time_share_its_table(tmp_path, monkeypatch):
    trained(monkeypatch, lambda of, name, seed: result(0.5, seed))
    of_tables(monkeypatch)
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

    trained(monkeypatch, needy)
    of_tables(monkeypatch)
    done = study.run_study(Study({"needy": RUN, "a": RUN}, Source(tmp_path), tmp_path), [0])
    assert [len(done["needy"]), len(done["a"])] == [0, 1]
    assert "needy is left out: install it" in capsys.readouterr().out


def test_a_teacher_that_would_be_missing_is_named_before_the_first_run(tmp_path, monkeypatch):
    taught = dataclasses.replace(RUN, distill=DistillConfig((Term("logits", "heatmap", "heatmap", source="lidar"),)))
    runs, done = {"alone": RUN, "lidar": RUN, "taught": taught}, []

    def score(of, name, seed):
        done.append((name, seed, *map(str, of.teachers(name, seed).values())))
        return result(0.5, 1.0)

    trained(monkeypatch, score)
    of_tables(monkeypatch)

    def do(runs, seeds, only=None, **teachers):
        study.run_study(Study(runs, Source(tmp_path), tmp_path, Teaching(teachers)), seeds, only)

    own = tmp_path / "lidar" / "1"
    begin(own, dataclasses.replace(RUN, seed=1), Source(tmp_path), "tables")
    (own / "last.ckpt").touch()  # begun, not finished
    with pytest.raises(ValueError, match=f"taught, seed 1, learns from lidar, and {own} holds no finished run"):
        do(runs, [1], only=["alone", "taught"])
    with pytest.raises(ValueError, match="--teacher lidar=CHECKPOINT"):  # a run that comes later is no help
        do({"taught": taught, "lidar": RUN}, [1])
    with pytest.raises(ValueError, match="and there is no"):
        do(runs, [1], lidar=tmp_path / "absent.ckpt")
    assert not done
    do(runs, [1], only=["lidar", "taught"])
    do(runs, [2], only=["taught"], lidar=own / "last.ckpt")
    assert done == [("lidar", 1), ("taught", 1, str(own / "last.ckpt")), ("taught", 2, str(own / "last.ckpt"))]


def kept_study(tmp_path, monkeypatch):
    """a and b with seeds 0 and 1 done."""
    trained(monkeypatch, lambda of, name, seed: result(0.5, 1.0))
    of_tables(monkeypatch)
    of = Study({"a": SHORT, "b": SHORT}, Source(tmp_path), tmp_path / "out")
    study.run_study(of, [0, 1])
    return of


def test_what_was_done_otherwise_is_refused_by_name(tmp_path, monkeypatch):
    of = kept_study(tmp_path, monkeypatch)
    longer = dataclasses.replace(SHORT, optim=dataclasses.replace(SHORT.optim, steps=3))
    changed = dataclasses.replace(of, runs={"a": SHORT, "b": longer})
    with pytest.raises(ValueError, match=rf"choose another --out.*\n  {of.folder('b', 0)}\n    optim.steps: 2 -> 3$"):
        study.run_study(changed, [0])
    (tmp_path / "weights").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"backbone: None -> '6b86b273"):
        study.run_study(dataclasses.replace(of, backbone=tmp_path / "weights"), [0])
    of_tables(monkeypatch, "others")
    with pytest.raises(ValueError, match=r"data: tables of .* -> other tables"):
        study.run_study(of, [0])


def test_what_was_done_otherwise_and_is_not_asked_for_is_left_out_of_the_table(tmp_path, monkeypatch, capsys):
    of = kept_study(tmp_path, monkeypatch)
    longer = dataclasses.replace(SHORT, optim=dataclasses.replace(SHORT.optim, steps=3))
    found = study.run_study(dataclasses.replace(of, runs={"a": SHORT, "b": longer}), [0, 1, 2], only=["a"])
    assert [list(found[name]) for name in "ab"] == [[0, 1, 2], []]
    said = capsys.readouterr().out
    assert f"left out of the tables: {of.folder('b', 1)}, done otherwise (optim.steps: 2 -> 3)" in said
    table = (of.out / "table.md").read_text()
    assert table == study_tables.study_table(found) and "| b |" not in table
    assert study_tables.study_table(study.run_study(of, [0])).count("| 2 |") == 1  # b is as before


def test_an_own_teacher_that_was_done_otherwise_teaches_nobody(tmp_path, monkeypatch):
    taught = dataclasses.replace(RUN, distill=DistillConfig((Term("logits", "heatmap", "heatmap", source="lidar"),)))
    trained(monkeypatch, lambda of, name, seed: result(0.5, 1.0))
    of_tables(monkeypatch)
    of = Study({"lidar": RUN, "taught": taught}, Source(tmp_path), tmp_path / "out")
    study.run_study(of, [0], only=["lidar"])
    other = dataclasses.replace(of, runs={"lidar": SHORT, "taught": taught})
    with pytest.raises(ValueError, match=r"(?s)--teacher NAME=CHECKPOINT.*lidar/0\n    optim.steps: 4 -> 2"):
        study.run_study(other, [0], only=["taught"])


def test_settings_are_changed_in_the_runs_to_do(tmp_path, monkeypatch, capsys):
    done = []
    trained(monkeypatch, lambda of, name, seed: done.append(of.runs[name].optim.steps) or result(0.5, 1.0))
    of_tables(monkeypatch)
    monkeypatch.setattr(study, "load_experiment", lambda name: {"a": SHORT, "b": SHORT})
    command = ["any", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert study.main([*command, "--set", "optim.steps=7", "--only", "b"]) == 0 and done == [7]
    assert study.main([*command, "--set", "optim.steps=8"]) == 1, "b is done, with others"
    assert "optim.steps: 7 -> 8" in capsys.readouterr().err and done == [7]
    for wrong, words in (
        ("optim.stepz=7", "--set for a: optim.stepz"),
        ("seed=1", "given by --seeds"),
        ("seed", "expected NAME"),
    ):
        with pytest.raises(SystemExit):
            study.main([*command, "--set", wrong])
        assert words in capsys.readouterr().err


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
    scores, network = overfit.overfit(few, Source(tiny_dataset), keyframes=2)
    assert scores.frames == 2 and network.run == few
    weights = network.detector.state_dict()  # norms count the steps
    assert {int(weights[name]) for name in weights if name.startswith("up2") and "tracked" in name} == {6}
    assert 0 <= scores.mean_ap_present <= 1


def test_eight_keyframes_are_learnt_anew_with_other_settings(tiny_dataset, tmp_path, monkeypatch, capsys):
    done = []

    def learnt(run, source):
        done.append(run.optim.steps)
        errors = Errors(0.5, 0.5, 0.5, 0.5, 0.5)
        return SimpleNamespace(mean_ap_present=0.9, classes={}, errors=errors), SimpleNamespace(
            detector=nn.Linear(1, 1)
        )

    monkeypatch.setattr(overfit, "overfit", learnt)
    monkeypatch.setattr(overfit, "tiny", lambda: {"a": RUN, "b": RUN})
    command = ["--data", str(tiny_dataset), "--out", str(tmp_path), "--steps"]
    assert overfit.main([*command, "6"]) == overfit.main([*command, "6"]) == 0 and done == [6, 6]
    capsys.readouterr()
    assert overfit.main([*command, "7", "--only", "a"]) == 0 and done == [6, 6, 7]
    said = capsys.readouterr().out
    assert f"{tmp_path}/a.json: made anew, it was made otherwise (there -> now):\n  run.optim.steps: 6 -> 7\n" in said
    assert f"{tmp_path}/b.json: left out of the table, it was made otherwise" in said
    assert "| a |" in (tmp_path / "table.md").read_text() and "| b |" not in (tmp_path / "table.md").read_text()
    before = json.loads((tmp_path / "a.json").read_text())
    del before["made_of"]
    (tmp_path / "a.json").write_text(json.dumps(before))
    assert overfit.main([*command, "7", "--only", "a"]) == 0 and done == [6, 6, 7, 7]
    assert "it does not say what it was made of" in capsys.readouterr().out
