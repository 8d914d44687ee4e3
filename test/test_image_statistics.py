"""Statistics of images against images whose statistics are known, and the comparison's command."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.world import compare_images
from training.world.compare_images import main, photographs
from training.world.image_statistics import (
    BANDS,
    Picture,
    at_width,
    block_contrast,
    colourfulness,
    grey,
    octaves,
    saturation,
    slope,
    summarise,
)
from training.world.statistic import read

RNG = np.random.default_rng(0)


def noise_falling_as(power: float) -> np.ndarray:
    """(198, 352) noise whose amplitudes fall as 1 / frequency**power, in cycles over the width."""
    fx, fy = np.fft.fftfreq(352)[None] * 352, np.fft.fftfreq(198)[:, None] * 352
    spectrum = np.fft.fft2(RNG.standard_normal((198, 352))) / np.maximum(np.hypot(fx, fy), 1.0) ** power
    spectrum[0, 0] = 0
    return np.fft.ifft2(spectrum).real


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.25])
def test_the_slope_is_that_of_the_noise(power: float) -> None:
    assert slope(noise_falling_as(power)) == pytest.approx(-2 * power, abs=0.2)  # bands are wide


def test_octaves_are_powers_and_white_noise_has_its_variance() -> None:
    white = RNG.standard_normal((198, 352))
    assert octaves(white) == pytest.approx([0.0] * len(BANDS), abs=0.15)
    assert np.subtract(octaves(3 * white), octaves(white)) == pytest.approx([np.log10(9)] * len(BANDS))
    wave = np.sin(2 * np.pi * 40 * np.arange(352) / 352)[None].repeat(198, 0)
    assert int(np.argmax(octaves(wave))) == 2  # 24 to 64 cycles


def test_contrast_and_colour_of_plain_images() -> None:
    image = np.zeros((40, 64, 3), np.uint8)
    image[:, ::2] = 200
    spread = block_contrast(grey(image))
    assert len(spread) == 2 * 4 and spread == pytest.approx(np.full(8, 100 / 255))
    assert colourfulness(image) == pytest.approx(0) and saturation(image) == 0
    red = np.zeros((40, 64, 3), np.uint8)
    red[..., 2] = 100
    assert saturation(red) == 1
    assert colourfulness(red) == pytest.approx(0.3 * np.hypot(100, 50))
    half = red.copy()
    half[:20] = 100  # grey above, red below: half the mean, and a spread of half the difference
    assert colourfulness(half) == pytest.approx(np.hypot(50, 25) + 0.3 * np.hypot(50, 25))


def test_a_larger_image_is_averaged_and_a_smaller_one_refused() -> None:
    large = RNG.integers(0, 256, (90, 704, 3)).astype(np.uint8)
    expected = large.reshape(45, 2, 352, 2, 3).mean((1, 3))
    assert np.abs(at_width(large) - expected).max() <= 1
    with pytest.raises(ValueError, match="100 pixels wide"):
        at_width(np.zeros((50, 100, 3), np.uint8))


def test_a_summary_has_the_median_over_pictures_and_counts_drives() -> None:
    pictures = [
        Picture(np.full((198, 352, 3), level, np.uint8), drive) for level, drive in ((50, "a"), (100, "a"), (255, "b"))
    ]
    found = {s.key: s for s in summarise(pictures)}
    bright = found["brightness", "all"]
    assert (bright.value, bright.count, bright.groups) == (pytest.approx(100 / 255), 3, 2)
    assert found["bright pixels", "250 of 255 or more"].quantiles[-1] == 1
    assert found["contrast in blocks", "16 x 16 pixels"].count == 3 * 12 * 22


def test_the_command_compares_photographs_with_drawn_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos" / "CAM_FRONT"
    folder.mkdir(parents=True)
    for k in range(2):
        cv2.imwrite(str(folder / f"log{k}__CAM_FRONT__{k}.jpg"), RNG.integers(0, 256, (198, 352, 3)).astype(np.uint8))
    assert [p.drive for p in photographs(tmp_path)] == ["log0", "log1"]
    monkeypatch.setattr(compare_images, "CAMERAS", ("CAM_BACK",))
    out = tmp_path / "out"
    assert (
        main(["--real", str(tmp_path / "photos"), "--drives", "2", "--fair", "--workers", "1", "--out", str(out)]) == 0
    )
    text = capsys.readouterr().out
    assert "photographs" in text and "city" in text and "slope of the power spectrum" in text
    kept = {s.key: s for s in read(out / "images_photographs.csv")}
    assert kept["slope of the power spectrum", "all"].value > -0.6  # of noise, softened by JPEG
    assert {path.name for path in out.iterdir()} == {f"images_{n}.csv" for n in ("photographs", "town", "city")}


def test_what_is_no_photograph_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--real", str(tmp_path), "--drives", "1"]) == 1
    assert "no .jpg" in capsys.readouterr().err
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    assert main(["--real", str(tmp_path), "--drives", "1"]) == 1
    assert "broken.jpg: cannot be read" in capsys.readouterr().err
    small = np.zeros((9, 16, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "broken.jpg"), small)
    assert main(["--real", str(tmp_path), "--drives", "1"]) == 1
    assert "16 pixels wide" in capsys.readouterr().err


def test_fair_weather_is_by_day_and_dry() -> None:
    seeds = compare_images._seeds(5, 6, True)
    assert len(seeds) == 6 and seeds == sorted(seeds) and seeds[0] >= 5
    for seed in seeds:
        weather = compare_images.conditions_of(seed)
        assert (weather.time_of_day, weather.rain, weather.fog) == ("day", 0.0, 0.0)
    assert compare_images._seeds(5, 6, False) == list(range(5, 11))
