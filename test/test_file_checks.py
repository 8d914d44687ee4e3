"""`check_data --files`: files that are there and cannot be used are listed, all of them, with what is wrong."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("torch", reason="needs torch")

from tiny_set import SPEC

from training.check_data import main
from training.data import file_checks
from training.data.config import DataConfig, LidarConfig, VirtualConfig
from training.data.file_checks import Needed, bad_files, fault_of, needed_files
from training.data.nuscenes import Keyframes, open_nuscenes
from training.data.source import Source

CONFIG = DataConfig(lidar=LidarConfig(sweeps=3))
CUT, EMPTY = (lambda data: data[: len(data) // 2]), (lambda data: b"")


@pytest.fixture
def root(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the set, to be damaged."""
    shutil.copytree(tiny_dataset, tmp_path / "set", ignore=shutil.ignore_patterns(".bev_index"))
    return tmp_path / "set"


@pytest.fixture
def keyframes(root: Path) -> Keyframes:
    return open_nuscenes(Source(root), "train", SPEC, CONFIG)


def damaged(path: str, change) -> str:
    """The file's path, after a change of its bytes."""
    data = Path(path).read_bytes()
    assert change(data) != data
    Path(path).write_bytes(change(data))
    return path


def test_every_damaged_file_is_listed_at_once(keyframes: Keyframes, root: Path, capsys) -> None:
    first, last = keyframes[0], keyframes[-1]
    jpeg = damaged(first.cameras["CAM_FRONT"].path, CUT)
    empty = damaged(first.cameras["CAM_BACK"].path, EMPTY)
    cloud = damaged(first.lidar[0].path, lambda data: data[:-7])
    nothing = damaged(last.lidar[0].path, EMPTY)
    pcd = damaged(last.radars["RADAR_FRONT"][0].path, lambda data: data[:-30])
    header = damaged(last.radars["RADAR_BACK_LEFT"][0].path, lambda data: data.replace(b"FIELDS", b"FEILDS"))
    gone = last.cameras["CAM_FRONT"].path
    Path(gone).unlink()
    wanted = {
        jpeg: "has no end marker of jpeg in ", empty: "is empty", nothing: "is empty", gone: "is missing",
        cloud: "bytes, expected points of 20 bytes; the file is cut off", header: "is not a PCD header",
        pcd: "points of 43 bytes announced",
    }  # fmt: skip
    base = ["--data", str(root), "--experiment", "training.experiments.bevfusion:small", "--files", "--workers", "2"]
    assert main(base) == 1
    said = capsys.readouterr().out.splitlines()
    lines = [line for line in said if line.startswith("sample ")]
    assert len(lines) == len(wanted), lines
    for path, what in wanted.items():
        (line,) = [line for line in lines if f" {path} " in line]
        assert what in line and path not in line.replace(path, "", 1), "the path is said once"
    assert said[-1].startswith("7 of ") and "cannot be used" in said[-1]


def test_whole_files_are_no_fault_and_each_is_looked_at_once(keyframes: Keyframes) -> None:
    files = needed_files(keyframes)
    assert len({file.path for file in files}) == len(files)
    sweeps = {f.path for k in keyframes for f in (*k.lidar, *(s for r in k.radars.values() for s in r))}
    assert len(files) == len(sweeps) + 4 * 6
    assert bad_files(files, 0) == []
    assert not any(file.kind == "lidar" for file in needed_files(keyframes, lidar=False))


def image(path: Path, suffix: str) -> Needed:
    target = path / f"image{suffix}"
    rng = np.random.default_rng(0)
    cv2.imwrite(str(target), rng.integers(0, 255, (90, 160, 3), dtype=np.uint8))
    return Needed(str(target), "image", "sample a", (160, 90))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_images_of_both_formats(tmp_path: Path, suffix: str, share: float) -> None:
    file = image(tmp_path, suffix)
    assert fault_of(file) == ""
    data = Path(file.path).read_bytes()
    Path(file.path).write_bytes(data + bytes(100))
    assert fault_of(file) == "", "a driver may fill its buffer"
    Path(file.path).write_bytes(data[: int(share * len(data))])
    assert "it is cut off" in fault_of(file) or "has no jpeg header" in fault_of(file)


def test_images_of_another_size_and_format(tmp_path: Path) -> None:
    file = image(tmp_path, ".png")
    assert fault_of(dataclasses.replace(file, size=(1600, 900))) == "is 160x90, sample_data.json says 1600x900"
    Path(file.path).write_bytes(b"BM" + bytes(500))
    assert "begins with b'BM" in fault_of(file) and "expected one of jpeg, png" in fault_of(file)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"FIELDS x y z dyn_prop id rcs", b"FIELDS x y z dyn_prop id rCS", r"FIELDS lack ['rcs']"),
        (b"COUNT 1", b"COUNT 2", "expected one value of each field"),
        (b"HEIGHT 1", b"HEIGHT 2", "WIDTH and HEIGHT are"),
        (b"POINTS ", b"POINTS -", "POINTS is -"),
        (b"DATA binary", b"DATA ascii", "no `DATA binary` line"),
    ],
)
def test_headers_of_radar_files(keyframes: Keyframes, old: bytes, new: bytes, said: str) -> None:
    path = keyframes[0].radars["RADAR_FRONT"][0].path
    damaged(path, lambda data: data.replace(old, new, 1))
    assert said in fault_of(Needed(path, "radar", "sample a"))


def test_a_radar_file_of_no_point(keyframes: Keyframes) -> None:
    path = Path(keyframes[0].radars["RADAR_FRONT"][0].path)
    head = path.read_bytes().split(b"DATA binary\n")[0].decode().splitlines()
    lines = [f"{line.split()[0]} 0" if line.startswith(("WIDTH", "POINTS")) else line for line in head]
    path.write_bytes("\n".join([*lines, "DATA binary\n"]).encode())
    assert "announces no point; expected one of NaN" in fault_of(Needed(str(path), "radar", "sample a"))


def test_masks_are_read(root: Path) -> None:
    config = dataclasses.replace(CONFIG, virtual=VirtualConfig())
    files = [f for f in needed_files(open_nuscenes(Source(root), "train", SPEC, config)) if f.kind == "masks"]
    assert len(files) == 4 * 6 and "CAM_FRONT/" in files[1].path
    assert {fault_of(file) for file in files} == {"is missing"}
    for file in files[:2]:
        Path(file.path).parent.mkdir(parents=True, exist_ok=True)
    Path(files[0].path).write_text('{"categories": [], "annotations": []}')
    Path(files[1].path).write_text('{"categories": [], "annot')
    assert fault_of(files[0]) == "" and "not COCO instance masks of a 160x90 image" in fault_of(files[1])


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(file_checks, "TOLD_EVERY_S", 0.0)
    file = image(tmp_path, ".png")
    bad_files([file, dataclasses.replace(file, path=str(tmp_path / "gone.png"))], 0)
    assert "100% of 2 files, 1 bad, 0 s left" in capsys.readouterr().out
