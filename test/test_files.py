"""Folders that are replaced: whenever the process is killed, one whole folder is there and is found again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bev_perception.files import aside, replace_folder, restore_folder, work_folder

ROOT = Path(__file__).resolve().parent.parent
# Replaces `bundle` by `fresh` in the working directory and is killed before (or after) the call of `os` or `shutil`
# whose number is given; prints what it was about to call.
KILLED = """
import os, shutil, sys
from pathlib import Path
from bev_perception import files
at, after = int(sys.argv[1]), sys.argv[2] == "after"
count = 0
def killed(name, call):
    def wrapped(*args, **options):
        global count
        count += 1
        if count == at and not after:
            os._exit(9)
        if name == "rmtree" and count == at:  # in the middle of it
            next(iter(Path(args[0]).iterdir())).unlink()
            os._exit(9)
        result = call(*args, **options)
        if count == at:
            os._exit(9)
        return result
    return wrapped
for module, name in ((os, "chmod"), (os, "rename"), (os, "fsync"), (shutil, "rmtree")):
    if (module, name) != (shutil, "rmtree"):
        setattr(module, name, killed(name, getattr(module, name)))
rmtree = shutil.rmtree
shutil.rmtree = lambda path, **options: killed("rmtree", rmtree)(path, **options) if Path(path).exists() else None
files.replace_folder("fresh", "bundle")
"""
FILES = ("a", "b", "c")


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    for name in FILES:
        (path / name).write_text(content)
    return path


def whole(path: Path) -> str:
    """The content that all files of a folder have; "" where it is not whole."""
    contents = {(path / name).read_text() if (path / name).is_file() else "" for name in FILES}
    return contents.pop() if len(contents) == 1 else ""


def killed_at(place: Path, step: int, when: str) -> int:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-S", "-c", KILLED, str(step), when]
    return subprocess.run(command, cwd=place, env=environment, timeout=60).returncode


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_leaves_one_whole_folder(tmp_path: Path, when: str) -> None:
    found = []
    for step in range(1, 30):
        place = tmp_path / str(step)
        place.mkdir()
        folder(place / "bundle", "old"), folder(place / "fresh", "new")
        status = killed_at(place, step, when)
        there = place / "bundle" if (place / "bundle").exists() else aside(place / "bundle")
        found.append(whole(there))
        assert found[-1] in ("old", "new"), f"step {step}: {sorted(f.name for f in place.iterdir())}"
        before = aside(place / "bundle")
        assert not before.exists() or whole(before) == "old", f"step {step}: what may come back is not whole"
        restore_folder(place / "bundle")
        assert whole(place / "bundle") == found[-1], f"step {step}: another one came back"
        assert {f.name for f in place.iterdir()} <= {"bundle", "fresh"}
        if whole(place / "fresh"):  # the next call begins where all began
            replace_folder(place / "fresh", place / "bundle")
            assert whole(place / "bundle") == "new" and [f.name for f in place.iterdir()] == ["bundle"]
        if status == 0:
            break
    assert status == 0 and step > 8, "every step had its kill"
    assert found == sorted(found, reverse=True), "old until the new one is in its place, and never old again"


def test_a_new_folder_takes_a_free_name(tmp_path: Path) -> None:
    replace_folder(folder(tmp_path / "fresh", "new"), tmp_path / "bundle")
    assert whole(tmp_path / "bundle") == "new" and [f.name for f in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o755


def test_links_and_files_are_not_replaced(tmp_path: Path) -> None:
    fresh = folder(tmp_path / "fresh", "new")
    folder(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(ValueError, match=rf"{name} is a link or a file, expected a folder or nothing; name"):
            replace_folder(fresh, tmp_path / name)
    assert whole(tmp_path / "real") == "old" and (tmp_path / "file").read_text() == "mine" and whole(fresh) == "new"


def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    code = "import os, sys; from bev_perception.files import work_folder\nwith work_folder(sys.argv[1]): os._exit(9)"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    target = tmp_path / "bundle [1]*"
    subprocess.run([sys.executable, "-S", "-c", code, target], env=environment, timeout=60)
    (left,) = tmp_path.iterdir()
    with work_folder(target) as mine:
        assert not left.exists()
        (mine / "file").write_text("mine")
        with work_folder(target) as other, work_folder(mine / "inside"):
            assert (mine / "file").is_file() and other.is_dir()
    assert list(tmp_path.iterdir()) == []


# A recording that was cut off is all that there is of a drive: it stays where it is, for whoever can mend it.
LEFT_ON_PURPOSE = {"bev_perception/ros/record_bag.py"}


def test_what_is_made_beside_its_place_is_made_in_a_work_folder() -> None:
    """Else what a killed process left, often a whole drive, stays there for ever."""
    beside = re.compile(r"(mkdtemp|TemporaryDirectory)\([^)]*dir=\w+\.parent")
    sources = [file for part in ("bev_perception", "training") for file in (ROOT / part).rglob("*.py")]
    found = {str(file.relative_to(ROOT)) for file in sources if beside.search(file.read_text())}
    assert found == {"bev_perception/files.py"} | LEFT_ON_PURPOSE


def test_a_full_disk_is_told_with_the_place(tmp_path: Path) -> None:
    """The system names no file when a write finds no room: here by a limit of the process, on the size of files."""
    code = """
import resource, signal, sys
from pathlib import Path
from bev_perception import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    if sys.argv[1] == "file":
        files.write_atomic(sys.argv[2], bytes(2000))
    else:
        with files.work_folder(sys.argv[2]) as work, open(work / "a", "wb", buffering=0) as file:
            while True:
                file.write(bytes(600))
except OSError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    for kind in ("file", "folder"):
        command = [sys.executable, "-S", "-c", code, kind, str(tmp_path / kind)]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
        assert said.strip() == f"[Errno 27] File too large: '{tmp_path / kind}'"
    assert list(tmp_path.iterdir()) == []
