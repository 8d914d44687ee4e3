"""A plain `colcon build` of the repository, in a copy, begun early: the longest of all builds leaves a core idle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 600


def source_tree(target: Path) -> Path:
    """A copy of what git has (and would have), so that builds leave nothing in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what belongs to the sources is not known")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


class ColconBuild:
    """Builds below `folder` while the tests go on, at a lower priority than they have.

    Several test processes may share one: the first begins it, all of them wait for the file that says how it ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        try:
            folder.mkdir()
        except FileExistsError:
            return
        source = source_tree(folder / "source")
        build = f'nice colcon build --cmake-args "-DPython3_EXECUTABLE={sys.executable}" > "{folder}/log" 2>&1'
        script = f'{build}; echo $? > "{folder}/code.part"; mv "{folder}/code.part" "{folder}/code"'
        self._process = subprocess.Popen(["bash", "-c", script], cwd=source)

    @staticmethod
    def possible() -> bool:
        return bool(os.environ.get("AMENT_PREFIX_PATH") and shutil.which("colcon") and (ROOT / ".git").exists())

    def install_folder(self) -> Path:
        """Waits for the end. Fails with what colcon said."""
        end = time.monotonic() + PATIENCE_S
        while not (self._folder / "code").exists():
            assert time.monotonic() < end, f"no end of the colcon build in {PATIENCE_S} s"
            time.sleep(0.2)
        said = (self._folder / "log").read_text()
        assert (self._folder / "code").read_text().strip() == "0" and "2 packages finished" in said, said
        return self._folder / "source" / "install"

    def wait(self) -> None:
        """The process that began it stays until it has ended: others may want it."""
        if self._process is not None:
            self._process.wait()
