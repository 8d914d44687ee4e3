"""A plain `colcon build` of the repository, in a copy, begun early: the longest of all builds leaves a core idle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
    """Builds below `folder` while the tests go on, at a lower priority than they have."""

    def __init__(self, folder: Path) -> None:
        self._source = source_tree(folder)
        self._log = folder / "build.log"
        command = ["nice", "colcon", "build", "--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, cwd=self._source, stdout=log, stderr=subprocess.STDOUT)

    @staticmethod
    def possible() -> bool:
        return bool(os.environ.get("AMENT_PREFIX_PATH") and shutil.which("colcon") and (ROOT / ".git").exists())

    def install_folder(self) -> Path:
        """Waits for the end. Fails with what colcon said."""
        code, said = self._process.wait(), self._log.read_text()
        assert code == 0 and "2 packages finished" in said, said
        return self._source / "install"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
