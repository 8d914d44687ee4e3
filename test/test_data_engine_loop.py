"""Choosing on the tiny set: the command, the loop that resumes, labels by files and with errors, the study."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="frames are stored with pyarrow")
pytest.importorskip("lightning", reason="training needs lightning")

import torch
from tiny_run import RUN

from bev_perception.plain import to_plain
from training import select
from training.command_line import TrainingStopped
from training.data.frames import data_digest, rows_to_learn
from training.data.nuscenes import open_nuscenes
from training.data.source import Source
from training.data_engine import loop as loops
from training.data_engine import study
from training.data_engine.choosing import Chosen, Picked, Request
from training.data_engine.chosen_list import list_of, read_list
from training.data_engine.exchange import _transform, export_cuboids
from training.data_engine.exchange import main as exchange
from training.data_engine.loop import LABELLED, LIST, LOOP, SCORES, TO_LABEL, Loop, run_loop
from training.data_engine.oracle import Errors
from training.data_engine.views import write_view
from training.data_engine.waits import Waits
from training.models.widths import Cut
from training.trainer.starting import Start

SHORT = dataclasses.replace(RUN, optim=dataclasses.replace(RUN.optim, steps=1, warmup_steps=0), checkpoint_every=50)


def chosen_by(by: str, data: Path, checkpoint: Path, out: Path, *more: str) -> list[str]:
    assert (
        select.main([str(data), "--checkpoint", str(checkpoint), "--budget", "2", "--by", by, "--out", str(out), *more])
        == 0
    )
    return [frame.token for frame in read_list(out).frames]


def test_the_command_looks_once_and_chooses_by_any_strategy(
    tiny_dataset: Path, tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = ("--store", str(tmp_path / "store"), "--keep-duplicates")
    tokens = open_nuscenes(Source(tiny_dataset), ["scene-0000"], RUN.spec).tokens()
    found = chosen_by("entropy", tiny_dataset, tiny_checkpoint, tmp_path / "l.json", *store)
    assert len(set(found)) == 2 and set(found) <= set(tokens)
    assert "4 frames" in capfd.readouterr().err
    for by, *more in (
        ("novelty",), ("flips",), ("sensors",), ("missed", "--teacher", str(tiny_checkpoint)),
        ("ensemble", "--checkpoint", str(tiny_checkpoint), str(tiny_checkpoint)),
        ("random", "--labelled", str(tmp_path / "l.json")),
    ):  # fmt: skip
        others = chosen_by(by, tiny_dataset, tiny_checkpoint, tmp_path / f"{by}.json", *store, *more)
        assert len(set(others)) == 2, by
    assert not set(others) & set(found), "what is labelled is not chosen again"
    told = read_list(tmp_path / "missed.json")
    assert {frame.score for frame in told.frames} == {0.0}, "a teacher that finds the same misses nothing"
    assert {frame.score for frame in read_list(tmp_path / "ensemble.json").frames} == {0.0}
    assert read_list(tmp_path / "flips.json").frames[0].score > 0
    assert "1 of 1 drives are in" in capfd.readouterr().err, "another strategy does not look again"
    assert (
        select.main(
            [str(tmp_path), "--checkpoint", str(tiny_checkpoint), "--budget", "1", "--out", str(tmp_path / "n.json")]
        )
        == 1
    )
    assert "is no pool" in capfd.readouterr().err


def test_only_labelled_frames_are_learnt_from(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = Source(tiny_dataset)
    keyframes = open_nuscenes(pool, ["scene-0000"], RUN.spec)
    tokens = keyframes.tokens()
    view = write_view(tmp_path / "view", pool, [tokens[2], tokens[0], tokens[2]])
    again = open_nuscenes(view, ["scene-0000"], RUN.spec)
    rows = rows_to_learn(view, again)
    assert rows is not None and rows.tolist() == [2, 0, 2] and rows_to_learn(pool, keyframes) is None
    assert Path(again[0].cameras["CAM_FRONT"].path).is_file()
    assert data_digest(view) != data_digest(pool)
    assert data_digest(write_view(tmp_path / "other", pool, [tokens[0]])) != data_digest(view)
    with pytest.raises(ValueError, match="was not written here"):
        write_view(tiny_dataset, pool, tokens)
    with pytest.raises(ValueError, match="nothing to learn from"):
        write_view(tmp_path / "view", pool, [])
    assert "not learnt from" not in capsys.readouterr().out
    (tmp_path / "view" / "frames.json").write_text(json.dumps({"train": [tokens[1], "of another scene"]}))
    assert rows_to_learn(view, again).tolist() == [1]
    assert "1 of its 2 samples are not in the scenes" in capsys.readouterr().out
    (tmp_path / "view" / "frames.json").write_text('{"train": ["nobody"]}')
    with pytest.raises(ValueError, match="none of its 1 samples"):
        rows_to_learn(view, again)
    (tmp_path / "view" / "frames.json").write_text('{"train": 3}')
    with pytest.raises(ValueError, match="must list the token"):
        rows_to_learn(view, again)


def loop_in(out: Path, data: Path, **changes: object) -> Loop:
    return dataclasses.replace(Loop(Source(data), SHORT, out, "entropy", 1, 1, 2), **changes)


def test_the_loop_goes_on_where_it_was_stopped(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_loop(loop_in(tmp_path / "whole", tiny_dataset))
    assert [row["frames"] for row in whole] == [1, 2] == [row["different"] for row in whole]
    stopped = loop_in(tmp_path / "stopped", tiny_dataset)
    run_loop(dataclasses.replace(stopped, rounds=1))
    before = (tmp_path / "stopped" / "round_0" / "run_0" / "last.ckpt").stat().st_mtime_ns
    assert run_loop(stopped) == whole
    assert (tmp_path / "stopped" / "round_0" / "run_0" / "last.ckpt").stat().st_mtime_ns == before
    for number in range(2):
        lists = [read_list(tmp_path / name / f"round_{number}" / LIST).frames for name in ("whole", "stopped")]
        assert lists[0] == lists[1]
    monkeypatch.setattr(loops, "train", lambda *a, **k: pytest.fail("all is done"))
    assert run_loop(stopped) == whole


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"by": "random"}, r"by: 'entropy' -> 'random'"),
        ({"first": 2}, r"first: 1 -> 2"),
        ({"budget": 2}, r"budget: 1 -> 2"),
        ({"seed": 3}, r"seed: 0 -> 3"),
        ({"errors": Errors.of(["missing=0.5"])}, r"noise: \[\] -> \[\['missing', 0.5\]\]"),
        ({"errors": None}, r"noise: \[\] -> 'labels by files'"),
        ({"waits": Waits.of("2x3")}, r"waits.every: 1 -> 2"),
        ({"run": dataclasses.replace(SHORT, batch_size=2)}, r"run.batch_size: 3 -> 2"),
        ({"pool": "view"}, "data: "),
        ({"start": "init"}, "init: None -> '"),
    ],
)
def test_what_is_asked_otherwise_does_not_go_on(
    change: dict, told: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "train", lambda *a, **k: None)
    monkeypatch.setattr(loops, "_scores", lambda *a: {"frames": 1, "different": 1, "mAP": 0.5, "NDS": 0.5})
    begun = loop_in(tmp_path / "out", tiny_dataset, rounds=1)
    assert run_loop(begun) == run_loop(begun)
    if "pool" in change:
        (token, *_) = open_nuscenes(begun.pool, ["scene-0000"], RUN.spec).tokens()
        change = {"pool": write_view(tmp_path / "view", begun.pool, [token])}
    if "start" in change:
        (tmp_path / "init.ckpt").write_bytes(b"weights")
        change = {"start": Start(network=tmp_path / "init.ckpt")}
    asked = dataclasses.replace(begun, **change)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'out'} was begun otherwise(.|\n)*{told}"):
        run_loop(asked)
    shared = dataclasses.replace(begun, shared=tmp_path / "out", out=tmp_path / "mine")
    if change.keys() & {"by", "budget"}:
        return
    (tmp_path / "out" / LOOP).unlink()
    run_loop(shared)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'out'} was begun otherwise(.|\n)*{told}"):
        run_loop(dataclasses.replace(asked, shared=tmp_path / "out", out=tmp_path / "other"))


def test_frames_are_of_the_scenes_that_are_trained_on(
    tiny_dataset: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for path in tiny_dataset.iterdir():
        if path.name != "splits.json":
            (pool / path.name).symlink_to(path)
    splits = {"train": ["scene-0000", "scene-0001"], "val": ["scene-0001"]}
    (pool / "splits.json").write_text(json.dumps(splits))
    run = dataclasses.replace(SHORT, data=dataclasses.replace(SHORT.data, holdout=1))
    chance = loop_in(tmp_path / "out", pool, run=run, first=3, budget=3)
    monkeypatch.setattr(loops, "train", lambda *a, **k: None)
    monkeypatch.setattr(loops, "_scores", lambda *a: {"frames": 1, "different": 1, "mAP": 0.5, "NDS": 0.5})
    monkeypatch.setattr(loops, "_run", lambda folder, member: tiny_checkpoint.parent)
    run_loop(chance)
    for number in range(2):
        found = read_list(tmp_path / "out" / f"round_{number}" / LIST).frames
        assert found and {frame.drive for frame in found} == {"scene-0000"}


def test_members_of_an_ensemble_are_trained_when_they_are_asked(tiny_dataset: Path, tmp_path: Path) -> None:
    """Also where the round before was the last of a shorter loop, or is shared with a loop that wants no ensemble."""
    shared = tmp_path / "start"
    plain = loop_in(tmp_path / "plain", tiny_dataset, by="random", rounds=1, shared=shared)
    run_loop(plain)
    assert not (shared / "round_0" / "run_1").exists()
    results = run_loop(dataclasses.replace(plain, out=tmp_path / "loop", by="ensemble", rounds=2))
    assert [row["frames"] for row in results] == [1, 2]
    weights = [
        torch.load(shared / "round_0" / f"run_{member}" / "last.ckpt", weights_only=True)["state_dict"]
        for member in range(2)
    ]
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    (chosen,) = read_list(tmp_path / "loop" / "round_1" / LIST).frames
    assert chosen.score > 0, "they disagree"
    assert not (tmp_path / "loop" / "round_1" / "run_1").exists(), "nobody is chosen by the last round's"


def test_a_pruned_student_to_begin_with_gives_its_widths(tiny_checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    cut = Cut(layers={}, state=RUN.spec.temporal.state_channels)
    content["run"] |= {"cut": to_plain(cut)}
    torch.save(content, tmp_path / "cut.ckpt")
    parser = argparse.ArgumentParser()
    loops.add_loop(parser)
    words = ["--data", "d", "--out", "o", "--experiment", "tiny_run:RUN", "--init", str(tmp_path / "cut.ckpt")]
    args = parser.parse_args(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "load_run", lambda name: RUN)
        run, start = loops.prepared(args)
    assert run.cut == cut and start.network == tmp_path / "cut.ckpt"


def test_labels_by_files_are_those_of_the_pool_when_it_labels(tiny_dataset: Path, tmp_path: Path) -> None:
    loop = loop_in(tmp_path / "loop", tiny_dataset, errors=None, rounds=1, first=2)
    folder = tmp_path / "loop" / "round_0"
    with pytest.raises(TrainingStopped, match="2 frames to label"):
        run_loop(loop)
    told = json.loads((folder / TO_LABEL).read_text())
    assert [len(sample["label"]["annotations"]) for sample in told["samples"]] == [0, 0]
    assert all(Path(image["url"]).is_file() for sample in told["samples"] for image in sample["attributes"]["images"])
    assert exchange(["export", str(folder / LIST), "--out", str(folder / LABELLED), "--labelled"]) == 0
    (result,) = run_loop(loop)
    assert result["frames"] == 2 and (folder / SCORES).is_file()
    pool, view = (open_nuscenes(Source(root), ["scene-0000"], RUN.spec) for root in (tiny_dataset, folder / "data"))
    tokens = {frame.token for frame in read_list(folder / LIST).frames}
    for own, made in zip(pool, view, strict=True):
        if own.token in tokens:
            order = [np.lexsort(keyframe.boxes.round(5).T) for keyframe in (own, made)]
            np.testing.assert_allclose(own.boxes[order[0]], made.boxes[order[1]], atol=1e-6)
            np.testing.assert_array_equal(own.labels[order[0]], made.labels[order[1]])
    broken = json.loads((folder / LABELLED).read_text())
    broken["samples"][0]["label"]["annotations"][0]["category_id"] = 99
    (folder / LABELLED).write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"sample \w+: KeyError: 99"):
        loops.import_cuboids(folder / LABELLED, read_list(folder / LIST))
    broken["samples"].pop()
    broken["samples"][0]["label"]["annotations"].pop(0)
    (folder / LABELLED).write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="has not 1 of the chosen samples"):
        loops.import_cuboids(folder / LABELLED, read_list(folder / LIST))


def test_what_a_labelling_tool_projects_is_where_the_sensor_saw_it(tiny_dataset: Path, tmp_path: Path) -> None:
    """A camera fires beside the keyframe's time: its place in the exported frame is that of its own time."""
    keyframes = open_nuscenes(Source(tiny_dataset), ["scene-0000"], RUN.spec)
    picked = tuple(Picked(k.token, k.scene, k.stamp_ns // 1000, 0.0) for k in keyframes)
    asked = list_of(tiny_dataset, Source.version, Request("random", 4), Chosen(picked, len(picked), 0, 0))
    export_cuboids(asked, tmp_path / "to_label.json", RUN.spec, labelled=True)
    told = json.loads((tmp_path / "to_label.json").read_text())
    farthest = 0.0
    for keyframe, sample in zip(keyframes, told["samples"], strict=True):
        attributes = sample["attributes"]
        places = {part["name"]: part["extrinsics"] for part in (*attributes["images"], *attributes["pcd"])}
        files = keyframe.cameras | {"LIDAR_TOP": keyframe.lidar[0]}
        assert set(places) == set(files)
        for name, file in files.items():
            global_from_sensor = _transform(attributes["ego_pose"]) @ _transform(places[name])
            np.testing.assert_allclose(global_from_sensor, file.global_from_ego @ file.ego_from_sensor, atol=1e-6)
            farthest = max(farthest, np.abs(_transform(places[name])[:3, 3] - file.ego_from_sensor[:3, 3]).max())
    assert farthest > 0.01, "the vehicle drives"
    with pytest.raises(ValueError, match=f"sample {picked[0].token} is not in the list"):
        loops.import_cuboids(tmp_path / "to_label.json", dataclasses.replace(asked, frames=picked[1:]))


def test_labels_by_nuscenes_tables(tiny_dataset: Path, tmp_path: Path) -> None:
    pool = open_nuscenes(Source(tiny_dataset), ["scene-0000"], RUN.spec)
    run_loop(loop_in(tmp_path / "loop", tiny_dataset, rounds=1))
    chosen = tmp_path / "loop" / "round_0" / LIST
    (token,) = [frame.token for frame in read_list(chosen).frames]
    row = pool.tokens().index(token)
    asked, back = tmp_path / "asked", tmp_path / "back"
    assert exchange(["export", str(chosen), "--as", "nuscenes", "--out", str(asked)]) == 0
    bare = open_nuscenes(Source(asked), ["scene-0000"], RUN.spec)
    assert [len(k.labels) > 0 for k in bare] == [k.token != token for k in pool]
    assert exchange(["import", str(tiny_dataset), str(chosen), "--as", "nuscenes", "--out", str(back)]) == 0
    made = open_nuscenes(Source(back), ["scene-0000"], RUN.spec)
    np.testing.assert_allclose(np.sort(made[row].boxes, axis=0), np.sort(pool[row].boxes, axis=0))
    np.testing.assert_allclose(np.sort(made[row].velocity, axis=0), np.sort(pool[row].velocity, axis=0), atol=1e-9)


def test_an_oracle_that_errs_changes_the_labels_of_what_is_chosen_alone(tiny_dataset: Path, tmp_path: Path) -> None:
    errors = Errors.of(["missing=0.5", "moved=0.3"])
    run_loop(loop_in(tmp_path / "loop", tiny_dataset, rounds=1, errors=errors))
    folder = tmp_path / "loop" / "round_0"
    pool, view = (open_nuscenes(Source(root), ["scene-0000", "scene-0001"], RUN.spec)
                  for root in (tiny_dataset, folder / "data"))  # fmt: skip
    (token,) = [frame.token for frame in read_list(folder / LIST).frames]
    for own, made in zip(pool, view, strict=True):
        if own.token == token:
            assert 0 < len(made.boxes) < len(own.boxes)
            assert not any(np.isclose(own.boxes[:, :2], box[:2]).all(axis=1).any() for box in made.boxes)
        else:
            np.testing.assert_array_equal(own.boxes, made.boxes)


def test_a_study_at_toy_size(tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(tiny_dataset), "--out", str(tmp_path / "study"), "--by", "random", "entropy", "--first", "1"]
    words += ["--budget", "2", "--rounds", "2", "--waits", "2x3", "--noise", "missing=0.1"]
    words += ["--set", "optim.steps=1", "optim.warmup_steps=0", "batch_size=2"]
    assert study.main(words) == 0
    rows = (tmp_path / "study" / "curves.csv").read_text().splitlines()
    assert len(rows) == 5 and rows[1].split(",")[:4] == ["random", "0", "0", "1"]
    assert rows[1].split(",")[3:] == rows[3].split(",")[3:], "they begin with the same frames and network"
    assert "| entropy |" in capsys.readouterr().out
    assert study.main(words) == 0 and (tmp_path / "study" / "curves.csv").read_text().splitlines() == rows
