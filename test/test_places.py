"""Where caches go when the best place cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bev_perception.places import cache_places, in_first, is_own

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, and no other place."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def test_the_order_of_places(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = shared / f"bev_perception-{os.getuid()}" / "index"
    assert cache_places("index") == [tmp_path / "home" / ".cache" / "bev_perception" / "index", own]
    monkeypatch.setenv("XDG_CACHE_HOME", "/given")
    assert cache_places("index") == [Path("/given/bev_perception/index"), own]


def test_a_service_without_a_home_has_a_place() -> None:
    """No HOME, and as root a user that nobody knows; what is imported is imported before, as it may be root's."""
    script = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from bev_perception.places import cache_places\n"
        "if os.getuid() == 0: os.setuid(54321)\n"
        "print(*cache_places('engines'))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert found[-1].endswith("/engines") and "/bev_perception-" in found[-1]
    if os.getuid() == 0:
        assert len(found) == 1 and "/bev_perception-54321/" in found[0]


def test_the_next_best_place_is_taken_and_said(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    first, second, third = tmp_path / "file" / "a", tmp_path / "b", tmp_path / "c"
    assert in_first([first, second, third], "index", said.append, lambda place: place) == second
    assert said == [f"index: cannot write {first} (Not a directory); using {second}"] and not third.exists()
    assert list(second.iterdir()) == [], "no probe is left"

    def full(place: Path) -> Path:
        if place == second:
            raise OSError(28, "No space left on device")
        return place

    assert in_first([first, second, third], "index", said.append, full) == third
    assert f"{second} (No space left on device); using {third}" in said[-1]
    with pytest.raises(OSError, match=r"index: cannot write .*file/a \(Not a directory\); set XDG_CACHE_HOME"):
        in_first([first], "index", said.append, full)
    with pytest.raises(OSError, match="name another"):
        in_first([second], "index", said.append, full, "name another")


def test_a_temporary_folder_that_others_can_write_is_not_used(shared: Path, tmp_path: Path) -> None:
    place = cache_places("engines")[-1]
    own = place.parent
    assert is_own(place) and in_first([place], "x", print, lambda p: p) == place
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    assert not is_own(place) and is_own(tmp_path)
    with pytest.raises(OSError, match="can be written by others"):
        in_first([place], "x", print, lambda p: p)
    own.chmod(0o700)
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    assert not is_own(place)
