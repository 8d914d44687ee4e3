"""A recording becomes a film of the right length, with the colours of what is right and wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
import tiny_drive  # noqa: E402

from bev_perception.evaluation.animate import main  # noqa: E402
from bev_perception.evaluation.film import CODECS, LONGEST_S, open_film  # noqa: E402
from bev_perception.evaluation.result_folder import DETECTIONS  # noqa: E402
from bev_perception.replay import main as replay_main  # noqa: E402

RATE_HZ = 10.0


def frames_of(path: Path) -> list[np.ndarray]:
    film = cv2.VideoCapture(str(path))
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(RATE_HZ, rel=0.01)
    found = []
    while (read := film.read())[0]:
        found.append(read[1])
    return found


def grey(value: int) -> np.ndarray:
    return np.full((49, 65, 3), value, np.uint8)


@pytest.mark.parametrize("ending", CODECS)
def test_each_picture_stands_until_the_next(ending: str, tmp_path: Path) -> None:
    with open_film(tmp_path / f"film{ending}", RATE_HZ) as film:
        for seconds, value in ((0.0, 40), (0.1, 120), (0.5, 200)):  # 1, 4 and 1 frames
            film.add(round(seconds * 1e9), grey(value))
    assert [path.name for path in tmp_path.iterdir()] == [f"film{ending}"]
    means = [float(image.mean()) for image in frames_of(tmp_path / f"film{ending}")]
    assert means == pytest.approx([40, 120, 120, 120, 120, 200], abs=12)


def test_uneven_stamps_do_not_add_up_and_gaps_end(tmp_path: Path) -> None:
    with open_film(tmp_path / "film.mp4", RATE_HZ) as film:
        for k in range(31):  # 12 Hz in a film of 10: 2.5 s
            film.add(round(k / 12 * 1e9), grey(8 * k))
        film.add(round((2.5 + 60) * 1e9), grey(250))
    assert len(frames_of(tmp_path / "film.mp4")) == 25 + LONGEST_S * RATE_HZ + 1


def test_a_gif_shows_each_picture_as_long(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with open_film(tmp_path / "film.gif", 12.0) as film:
        for stamp_ns, value in ((0, 40), (83_333_333, 120), (500_000_000, 200)):  # 1, 5 and 1 frames
            film.add(stamp_ns, grey(value))
    gif = pillow.open(tmp_path / "film.gif")
    means, durations = [], []
    for number in range(gif.n_frames):
        gif.seek(number)
        means.append(float(np.asarray(gif.convert("RGB")).mean()))
        durations.append(gif.info["duration"])
    assert means == pytest.approx([40, 120, 200], abs=3)
    assert durations == [80, 420, 80] and gif.info["loop"] == 0  # 0 to 83, to 500, to 583 ms in steps of 10


def test_a_gif_without_pillow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match="pip install pillow"), open_film(tmp_path / "film.gif", 10.0) as film:
        film.add(0, grey(1))
    assert not list(tmp_path.iterdir())


def test_a_film_without_a_picture_or_with_a_fault_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="no frame to show"), open_film(path, RATE_HZ):
        pass
    with pytest.raises(KeyError), open_film(path, RATE_HZ) as film:
        film.add(0, grey(1))
        raise KeyError
    with (
        pytest.raises(ValueError, match=r"ends in \.mp4, \.webm, \.avi, \.gif"),
        open_film(tmp_path / "film.mov", RATE_HZ),
    ):
        pass
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_of_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle.write_bundle(tmp_path / "bundle")
    bag = tiny_drive.write_drive(tmp_path / "bag", frames=6)
    params = tiny_drive.write_params(tmp_path / "params.yaml")
    arguments = [str(bag), "--bundle", str(tmp_path / "bundle"), "--params", str(params)]
    assert main([*arguments, "--out", str(tmp_path / "own.avi")]) == 0
    assert replay_main([*arguments, "--out", str(tmp_path / "replay")]) == 0
    more = ["--detections", str(tmp_path / "replay" / DETECTIONS), "--out", str(tmp_path / "other.avi")]
    assert main([*arguments, *more]) == 0
    own, other = (frames_of(tmp_path / f"{name}.avi") for name in ("own", "other"))
    assert len(own) == len(other) == 6 and all((a == b).all() for a, b in zip(own, other))
    assert (
        main([*arguments, "--start", "0.15", "--seconds", "0.2", "--width", "400", "--out", str(tmp_path / "part.avi")])
        == 0
    )
    part = frames_of(tmp_path / "part.avi")
    assert len(part) == 2 and part[0].shape[1] == 400
    assert "2 frames" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.avi")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
