"""How often frames are shown: sums, expectations, old beside new; the command on the tiny set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="frames are stored with pyarrow")
pytest.importorskip("torch", reason="needs torch")

import torch
from tiny_run import RUN
from torch.utils.data import DataLoader

from bev_perception.files import write_atomic
from training.data.clips import ClipDataset, collate
from training.data.config import for_evaluation
from training.data.frames import labelled_frames
from training.data.nuscenes import open_nuscenes
from training.data.source import Source
from training.data_engine.choosing import Chosen, Picked, Request
from training.data_engine.chosen_list import list_of, write_list
from training.data_engine.looking import Networks
from training.data_engine.scoring import fill, open_store
from training.data_engine.showing import EVEN_SHARE, HIGHEST, LOSS, OF_ONE, main, shares, times, values_of
from training.losses.detection import detection_losses
from training.trainer.checkpoint import load_network


@pytest.mark.parametrize("shows", [1, 7, 50, 1000])
def test_so_many_shows_in_all_each_within_one_of_what_is_expected(shows: int) -> None:
    values = np.random.default_rng(0).gamma(1.0, size=49)
    capped = np.minimum(values, np.quantile(values, HIGHEST))
    expected = shows * (EVEN_SHARE / 49 + (1 - EVEN_SHARE) * capped / capped.sum())
    for seed in range(20):
        counts = times(values, shows, seed)
        assert counts.sum() == shows and (counts >= 0).all()
        assert (np.abs(counts - expected) < 1 + 1e-9).all()
    drawn = np.mean([times(values, shows, seed) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(drawn, expected, atol=0.06)


def test_even_values_are_even_shows_and_none_is_left_out_for_a_low_one() -> None:
    for values in (np.zeros(10), np.ones(10)):
        assert set(times(values, 30, 0)) == {3}
    skewed = np.array([0.0] * 9 + [5.0])
    assert times(skewed, 200, 0)[:9].min() >= 10 and times(skewed, 200, 0)[9] > 100


def test_a_label_that_is_wrong_does_not_take_all_shows() -> None:
    values = np.ones(200)
    values[7] = 1e6
    assert times(values, 200, 0)[7] <= 2


def test_old_frames_beside_new_ones() -> None:
    assert shares(100, 30, 70, None) == (30, 70)
    assert shares(100, 30, 70, 0.2) == (80, 20)
    assert shares(100, 30, 70, 0.0) == (100, 0)
    assert shares(100, 0, 70, None) == (0, 100) and shares(100, 30, 0, 0.5) == (100, 0)


def test_the_loss_of_each_frame_is_that_of_a_batch_of_it(
    tiny_dataset: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source, networks = Source(tiny_dataset), Networks((tiny_checkpoint,))
    store = open_store(tmp_path, source, networks, ("loss",))
    fill(store, source, ["scene-0000"], networks)
    found = values_of(LOSS, [store], ["scene-0000"], 10, 0)
    network = load_network(tiny_checkpoint)
    keyframes = open_nuscenes(source, ["scene-0000"], RUN.spec, network.data)
    dataset = ClipDataset(keyframes, network.spec, for_evaluation(network.data))
    with torch.inference_mode():
        for token, batch in zip(keyframes.tokens(), DataLoader(dataset, 1, collate_fn=collate), strict=True):
            terms = detection_losses(network.predict(batch), batch, network.detector, network.run.losses)
            assert found[token] == pytest.approx(float(terms["heatmap"] + terms["box"]), rel=1e-4)


def test_the_command_writes_what_a_training_sees(
    tiny_dataset: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source(tiny_dataset)
    tokens = open_nuscenes(source, ["scene-0000"], RUN.spec).tokens()
    picked = tuple(Picked(token, "scene-0000", 0, 0.0) for token in tokens[:2])
    write_list(
        tmp_path / "new.json", list_of(tiny_dataset, source.version, Request("random", 2), Chosen(picked, 4, 0, 0))
    )
    words = [
        str(tiny_dataset),
        "--checkpoint",
        str(tiny_checkpoint),
        "--store",
        str(tmp_path / "store"),
        "--shows",
        "40",
    ]

    def shown(*more: str) -> Counter[str]:
        assert main([*words, "--out", str(tmp_path / "view"), *more]) == 0
        return Counter(labelled_frames(tmp_path / "view", "train"))

    assert shown() == dict.fromkeys(tokens, 10)
    new = ("--new", str(tmp_path / "new.json"))
    assert shown(*new) == dict.fromkeys(tokens, 10)
    replayed = shown(*new, "--replay", "0.25")
    assert [replayed[token] for token in tokens] == [15, 15, 5, 5]
    assert set(shown(*new, "--replay", "0")) == set(tokens[:2])
    for by in ("loss", *OF_ONE):
        assert sum(shown("--by", by).values()) == 40, by
    same = shown("--by", "forgotten", "--before", str(tiny_checkpoint))
    assert same == dict.fromkeys(tokens, 10), "a network forgets nothing that is as it was"
    capsys.readouterr()
    write_atomic(tmp_path / "view" / "frames.json", '{"train": ["' + tokens[3] + '"]}')
    assert main([str(tmp_path / "view"), *words[1:], "--out", str(tmp_path / "next"), *new]) == 1
    assert "none of the frames" in capsys.readouterr().err
    picked = tuple(Picked(token, "scene-0000", 0, 0.0) for token in tokens)
    every = list_of(tiny_dataset, source.version, Request("random", 4), Chosen(picked, 4, 0, 0))
    write_list(tmp_path / "all.json", every)
    assert main([*words, "--out", str(tmp_path / "next"), "--new", str(tmp_path / "all.json"), "--replay", "0.5"]) == 1
    assert "are new; leave it out" in capsys.readouterr().err
    for wrong in (
        ["--by", "forgotten"],
        ["--by", "ensemble"],
        ["--by", "variance"],
        ["--before", str(tiny_checkpoint)],
        ["--replay", "0.5"],
        [*new, "--replay", "1"],
    ):
        with pytest.raises(SystemExit):
            main([*words, "--out", str(tmp_path / "view"), *wrong])
