"""Arrays that are made once of a data set: by one process, whole or not at all, where there is room."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from training.data.stored import GrowingArray, load_stored, stored_or_made

FORK = multiprocessing.get_context("fork")


def make(folder: Path) -> dict:
    with open(folder.parent / "made", "a") as file:
        file.write("x")
    time.sleep(0.2)
    np.save(folder / "a.npy", np.arange(3))
    return {"arrays": ["a"]}


def ask(root: Path) -> None:
    assert load_stored(stored_or_made(root, "thing", "thing", make))[0]["a"].tolist() == [0, 1, 2]


def killed(folder: Path) -> dict:
    (folder / "half").write_text("done before")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_several_processes_make_it_once_and_leave_no_lock(tmp_path: Path) -> None:
    others = [FORK.Process(target=ask, args=(tmp_path,)) for _ in range(4)]
    for process in others:
        process.start()
    for process in others:
        process.join(30)
    assert [process.exitcode for process in others] == [0] * 4
    place = tmp_path / ".bev_index"
    assert (place / "made").read_text() == "x"
    assert sorted(path.name for path in place.iterdir()) == ["made", "thing"]


def test_the_next_process_goes_on_where_a_killed_one_was(tmp_path: Path) -> None:
    first = FORK.Process(target=stored_or_made, args=(tmp_path, "thing", "thing", killed))
    first.start()
    first.join(30)
    assert first.exitcode == -9

    def rest(folder: Path) -> dict:
        assert (folder / "half").read_text() == "done before"
        return make(folder)

    assert load_stored(stored_or_made(tmp_path, "thing", "thing", rest))[1]["arrays"] == ["a"]


def test_an_error_of_what_is_stored_is_no_error_of_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def missing(folder: Path) -> dict:
        raise FileNotFoundError("sweep.bin: no such LiDAR file")

    with pytest.raises(FileNotFoundError, match=r"^sweep\.bin: no such LiDAR file$"):
        stored_or_made(tmp_path, "thing", "thing", missing)
    assert not (tmp_path / "cache").exists()


def test_a_place_that_is_full_is_left_clean_and_the_next_one_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def full(folder: Path) -> dict:
        if "cache" not in folder.parts:
            raise OSError(28, "No space left on device")
        return make(folder)

    path = stored_or_made(tmp_path, "thing", "thing", full)
    assert path.is_relative_to(tmp_path / "cache") and "No space left" in capsys.readouterr().out
    assert list((tmp_path / ".bev_index").iterdir()) == []


def test_an_array_grows_on_the_disk_and_is_cut_to_what_is_kept(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.npy", np.arange(40.0).reshape(10, 4)
    array = GrowingArray(path, "<f4", (4,))
    array.append(rows[:6])
    array.flush()
    np.testing.assert_array_equal(np.load(path), rows[:6])
    array.append(rows[:2])
    array.close()
    again = GrowingArray(path, "<f4", (4,), rows=5)
    again.append(rows[5:])
    again.flush()
    again.close()
    found = np.load(path, mmap_mode="r")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows)
    with pytest.raises(ValueError, match="fewer than 11 rows; delete"):
        GrowingArray(path, "<f4", (4,), rows=11)
    empty = GrowingArray(tmp_path / "e.npy", "<i8", ())
    empty.flush()
    empty.close()
    assert np.load(tmp_path / "e.npy").shape == (0,)
