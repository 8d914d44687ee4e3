"""What the shell has sourced: a ROS 2 installation to use, or environments of `set_up.py` to leave alone.

The environment of wheels that `set_up.py` makes sets the same variables as a ROS 2 installation does. So a prefix
counts as an installation only when it holds rclpy and lies in no such environment, neither this clone's nor another's.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from env_file import HEADER

VENV = Path(__file__).resolve().parent.parent / ".venv"
PYTHONS = ((3, 11), (3, 12))
RCLPY = "share/ament_index/resource_index/packages/rclpy"


def give_up(text: str) -> NoReturn:
    sys.exit(f"\nset-up failed: {text}")


def environment_around(path: str | Path) -> Path | None:
    """The environment made by `set_up.py`, of this clone or of another one, that `path` lies in; None when in none."""
    for folder in (Path(path), *Path(path).parents):
        env_file = folder / "env.sh"
        if folder == VENV or (env_file.is_file() and env_file.read_text().startswith(HEADER)):
            return folder
    return None


def prefixes(environ: Mapping[str, str]) -> list[str]:
    """Prefixes of ament that are sourced and exist, the last sourced first."""
    found = environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [prefix for prefix in found if prefix and Path(prefix).is_dir()]


def sourced_ros(environ: Mapping[str, str] = os.environ) -> str:
    """`jazzy in /opt/ros/jazzy` when that installation is sourced; empty when the wheels are to be used.

    Of several prefixes that hold rclpy the first decides, as it does when Python imports it.
    """
    for prefix in prefixes(environ):
        if Path(prefix, RCLPY).is_file():
            return "" if environment_around(prefix) else f"{environ.get('ROS_DISTRO', 'unnamed')} in {prefix}"
    return ""


def remarks(environ: Mapping[str, str] = os.environ) -> list[str]:
    """One sentence for everything sourced that looks like a ROS 2 to use and is none."""
    found = [(prefix, environment_around(prefix)) for prefix in prefixes(environ)]
    others = sorted({str(environment) for _, environment in found if environment not in (None, VENV)})
    texts = [f"sourced is the environment of another clone, {other}: not used here, nor changed" for other in others]
    if found and not sourced_ros(environ) and all(environment is None for _, environment in found):
        texts.append(f"sourced is {found[0][0]}, where no rclpy is: ROS 2 comes from wheels")
    return texts


def use_python_of_this_machine() -> None:
    """Re-executes the script with the `python3` of a shell without it, when another clone's environment is sourced."""
    if environment_around(sys.executable) in (None, VENV):
        return
    folders = os.environ.get("PATH", "").split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(folder for folder in folders if environment_around(folder) in (None, VENV))
    python = shutil.which(Path(sys.executable).name)
    if python:
        os.execv(python, [python, *sys.argv])


def use_supported_python() -> None:
    """Re-executes the script with a supported Python if the one that runs it is not."""
    if sys.version_info[:2] in PYTHONS:
        return
    if not sourced_ros():  # a sourced ROS works with its own Python only
        for major, minor in PYTHONS:
            candidate = shutil.which(f"python{major}.{minor}")
            if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
                os.execv(candidate, [candidate, *sys.argv])
    found = f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
    if sourced_ros():
        give_up(
            f"ROS 2 {sourced_ros()} is sourced and its Python is {found}; 3.11 or 3.12 is needed (ROS 2 Jazzy). Open a"
            " shell without ROS 2 to use the wheels. (To build for a vehicle, only `colcon build` is needed.)"
        )
    give_up(f"Python 3.11 or 3.12 is needed, found {found}. Install one, or name it: make PYTHON=/path/to/python3.12")
