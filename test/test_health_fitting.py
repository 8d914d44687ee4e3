"""What is fitted to clean drives: whitening, tails, and the figures by which alarms are judged."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
torch = pytest.importorskip("torch", reason="the data set's reader needs it")

from bev_perception.bundle import load_bundle  # noqa: E402
from bev_perception.files import sha256_of  # noqa: E402
from bev_perception.usual.image_statistics import IMAGE_STATISTICS  # noqa: E402
from bev_perception.usual.statistics import IMAGES  # noqa: E402
from training.health.__main__ import RESULT, main  # noqa: E402
from training.health.collecting import Drive  # noqa: E402
from training.health.fitting import fit_part, fit_table, settled, smoothed_off, tail_of  # noqa: E402
from training.health.kept import read_drive, write_drive  # noqa: E402
from training.health.measuring import auroc, false_alarms, measure, spoilt_from  # noqa: E402

SPEC, NS = tiny_bundle.SPEC, 1_000_000_000
WIDTH = len(IMAGE_STATISTICS)
SECONDS = 1.0


def drives(count: int, seed: int, length: int = 60, off: float = 0.0) -> list[Drive]:
    """Independent normal statistics that lean on each other, around 5; the first camera's third is `off` more."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(WIDTH) + 0.5 * np.eye(WIDTH, k=1)
    found = []
    for number in range(count):
        values = 5.0 + rng.normal(size=(length, len(SPEC.cameras), WIDTH)) @ mixing
        values[:, 0, 2] += off
        affected = frozenset({SPEC.cameras[0]} if off else ())
        found.append(Drive(f"scene-{number}", np.arange(length) * (NS // 4) + NS, {IMAGES: values}, affected))
    return found


def test_whitened_clean_drives_have_deviation_one_in_every_direction() -> None:
    clean = drives(60, 1)
    part = fit_part(IMAGES, clean, SPEC, SECONDS)
    assert np.allclose(list(part.mean.values()), 5.0, atol=0.15)
    off = np.concatenate([smoothed_off(part, IMAGES, drive, SPEC, SECONDS) for drive in clean]).reshape(-1, WIDTH)
    np.testing.assert_allclose(off.std(axis=0), part.deviation, rtol=0.02)
    whitened = off @ np.array(part.whitening).T
    variances = whitened.var(axis=0)
    assert variances.max() < 1.3 and variances.min() > 0.5  # shrinkage believes in no small ones
    together = np.corrcoef(whitened.T) - np.eye(len(variances))
    assert np.abs(together).max() < 0.05


def test_a_sensor_that_was_never_there_is_an_error() -> None:
    clean = drives(2, 1)
    for drive in clean:
        drive.found[IMAGES][:, 1] = np.nan
    with pytest.raises(ValueError, match="images: a sensor has no usable frame"):
        fit_part(IMAGES, clean, SPEC, SECONDS)


def test_the_tail_of_exponential_squares_is_where_it_is() -> None:
    """P(d^2 > t) = exp(-t): asked for one in 3600 s over 2 sensors of blocks of 6 s, t = ln(3600 * 2 / 6)."""
    tops = np.sqrt(np.random.default_rng(0).exponential(size=(4000, 2)))
    tail = tail_of(np.minimum(tops, 2.9), 6.0, 1.0, np.random.default_rng(1))
    assert tail.threshold**2 == pytest.approx(np.log(3600 * 2 / 6), rel=0.25)
    assert tail.range[0] <= tail.threshold and tail.hours == pytest.approx(8000 * 6 / 3600)
    rarer = tail_of(np.minimum(tops, 2.9), 6.0, 0.1, np.random.default_rng(1))
    assert rarer.threshold > tail.threshold


def test_clean_drives_are_silent_and_spoilt_ones_are_found() -> None:
    table, _ = fit_table(drives(40, 1), drives(40, 2), SPEC, (IMAGES,), SECONDS, 1.0)
    alarms, hours = false_alarms(table, SPEC, drives(60, 3))
    assert alarms <= 1 and hours == pytest.approx(60 * 59 / 4 / 3600)
    clean = drives(6, 4)
    spoilt = drives(6, 5, off=12.0)
    row = measure(table, SPEC, list(zip(clean, spoilt, strict=True)))
    assert row["sensors"] == 6 and row["found"] == 1.0 and row["others"] == 0.0
    assert row["auroc"] > 0.95 and 1 <= row["delay_frames"] <= 6
    assert row["delay_s"] == pytest.approx((row["delay_frames"] - 1) / 4, abs=0.26)
    assert row["said"] == IMAGE_STATISTICS[2].partition(",")[0]
    nothing = measure(table, SPEC, list(zip(clean, drives(6, 6, off=1e-9), strict=True)))
    assert nothing["found"] == 0.0 and nothing["delay_frames"] is None and abs(nothing["auroc"] - 0.5) < 0.15


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    more, less = rng.integers(0, 8, 40) + 1.0, rng.integers(0, 8, 50) * 1.0
    slow = np.mean([(a > b) + 0.5 * (a == b) for a, b in product(more, less)])
    assert auroc(more, less) == pytest.approx(slow)
    assert np.isnan(auroc(more, np.empty(0)))


def test_a_drive_is_clean_until_it_is_spoilt_and_survives_its_file(tmp_path) -> None:
    (clean,), (spoilt,) = drives(1, 1), drives(1, 2, off=3.0)
    both = spoilt_from(clean, spoilt, 10)[IMAGES]
    assert np.array_equal(both[:10], clean.found[IMAGES][:10]) and np.array_equal(both[10:], spoilt.found[IMAGES][10:])
    write_drive(tmp_path / "a" / "drive.npz", spoilt)
    read = read_drive(tmp_path / "a" / "drive.npz", spoilt.scene)
    assert read.affected == spoilt.affected and np.array_equal(read.found[IMAGES], spoilt.found[IMAGES])
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match=r"is no drive of training\.health"):
        read_drive(tmp_path / "other.npz", "")


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.export import main as export

    bundle = tmp_path_factory.mktemp("exported") / "bundle"
    assert export([str(tiny_checkpoint), str(bundle)]) == 0
    return bundle


def test_one_held_out_scene_sets_and_checks_nothing(
    exported: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(exported), "--data", str(tiny_dataset), "--out", str(tmp_path / "out")]) == 1
    assert "--split val: 1 held-out scene, expected two at least" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "before anything is driven"


def test_what_is_found_says_of_which_network_it_is(
    exported: Path, tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, out = tmp_path / "both", tmp_path / "out"
    both.mkdir()
    for part in tiny_dataset.iterdir():
        if part.name != "splits.json":
            (both / part.name).symlink_to(part)
    (both / "splits.json").write_text(json.dumps({"train": ["scene-0000"], "val": ["scene-0000", "scene-0001"]}))
    words = ["--bundle", str(exported), "--data", str(both), "--out", str(out), "--fit", "1", "--scenes", "1"]
    words += ["--parts", "images", "scene", "--conditions", "blockage"]
    assert main([str(tiny_checkpoint), *words]) == 0
    found, sha = json.loads((out / RESULT).read_text()), load_bundle(exported).spec.onnx_sha256
    assert found["made_by"]["model"] == sha == json.loads((exported / "health.json").read_text())["onnx_sha256"]
    assert found["made_by"]["checkpoint"] == sha256_of(tiny_checkpoint)
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["state_dict"] = {n: v + 0.1 if v.is_floating_point() else v for n, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "other.ckpt")
    assert main([str(tmp_path / "other.ckpt"), *words]) == 1
    assert f"{exported} was not made of {tmp_path / 'other.ckpt'}: self-test of torch" in capsys.readouterr().err
    assert main([str(exported), *words]) == 1
    assert f"checkpoint: '{sha256_of(tiny_checkpoint)}' -> None" in capsys.readouterr().err


def test_only_late_frames_count() -> None:
    (drive,) = drives(1, 1, length=60)
    assert settled(drive, 2.0).sum() == 60 - 16 and settled(drive, 100.0).sum() == 30
