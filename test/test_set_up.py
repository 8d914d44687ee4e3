"""requirements/set_up.py: it uses what it should, and destroys no environment before the next one is proven.

The script runs as it is, in scratch clones. Only the Python it starts is a stand-in: a shell script that notes what
it is asked for (`-m venv`, `-m pip install`, colcon, imports), pretends to have done it, and fails where a test says.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)

# With another Python the script would go over to a real one of these, past the stand-in.
PYTHONS = ((3, 11), (3, 12))
pytestmark = pytest.mark.skipif(sys.version_info[:2] not in PYTHONS, reason="the set-up is for Python 3.11 and 3.12")

STAND_IN = r"""#!/usr/bin/env bash
here="$(dirname "$(dirname "$0")")"
case "$*" in
  "-m venv"*) step=venv ;;
  "-m pip install"*) step=pip ;;
  *get_include*) step=query ;;
  *colcon_core.command*) step=colcon ;;
  *) step=import ;;
esac
echo "$step $here $*" >> "$MACHINE/asked"
if [ -f "$MACHINE/$step" ]; then source "$MACHINE/$step"; fi
case "$step" in
  venv) mkdir -p "${!#}/bin"; ln -s "$0" "${!#}/bin/python"; touch "${!#}/pyvenv.cfg" ;;
  pip)
    if [[ "$*" == *--report* ]]; then cat "$MACHINE/report"; fi
    if [[ "$*" == *ros.lock ]]; then
      mkdir -p "$here/share/ament_index/resource_index/packages" "$here/share/rcl/cmake"
      touch "$here/share/ament_index/resource_index/packages/rclpy"
      echo 'INCLUDE "/opt/python/cp311/include;/opt/python/numpy/include"' > "$here/share/rcl/cmake/rclExport.cmake"
    fi ;;
  query) printf '/here/python\n/here/numpy\n' ;;
esac
"""

# Runs set_up.py with the stand-in for the Python that makes environments.
DRIVER = """
import os, pathlib, runpy, sys
machine, script, profile = sys.argv[1:]
pathlib.Path(machine, "pid").write_text(str(os.getpid()))
sys._base_executable = f"{machine}/python"
sys.argv = [script, profile]
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""

STEPS = ["venv", "pip", "colcon", "import"]


@dataclass(frozen=True)
class Machine:
    """A machine to set clones up on, with a clean environment."""

    folder: Path

    def clone(self, name: str) -> Path:
        """A clone with what the set-up reads."""
        target = self.folder / name
        shutil.copytree(ROOT / "requirements", target / "requirements", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "bev_perception_msgs", target / "bev_perception_msgs")
        for file in ("package.xml", "setup.py", "setup.cfg", "colcon_defaults.yaml"):
            shutil.copy(ROOT / file, target)
        return target

    def set_up(
        self, clone: Path, profile: str = "demo", source: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run set_up.py. source: a clone whose env.sh the shell has sourced."""
        env = {"PATH": "/usr/bin:/bin", "MACHINE": str(self.folder), **variables}
        script = clone / "requirements" / "set_up.py"
        run = [BASE_PYTHON, "-S", "-c", DRIVER, str(self.folder), str(script), profile]
        command = ["bash", "-euo", "pipefail", "-c", f'source "{source}/.venv/env.sh"; exec "$@"', "bash", *run]
        return subprocess.run(command if source else run, env=env, capture_output=True, text=True)

    def asked(self, step: str) -> list[str]:
        """What the stand-in was asked for, since the last `forget`."""
        noted = self.folder / "asked"
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [line for line in lines if line.split()[0] == step]

    def forget(self) -> None:
        (self.folder / "asked").unlink(missing_ok=True)

    def at(self, step: str, commands: str) -> None:
        """Shell commands that the stand-in runs at a step; none: it succeeds."""
        if commands:
            (self.folder / step).write_text(commands)
        else:
            (self.folder / step).unlink()

    def has_torch(self, build: str, sha: str) -> None:
        """What pip would take: `pip install --report`, the part of it that is read."""
        archive = {"hash": f"sha256={sha}"} if sha else {}
        found = {"metadata": {"version": build}, "download_info": {"archive_info": archive}}
        (self.folder / "report").write_text(json.dumps({"install": [found]}))

    def installation(self) -> dict[str, str]:
        """Variables of a shell that has sourced a ROS 2 installation."""
        prefix = self.folder / "opt" / "ros" / "jazzy"
        marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "rclpy"
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        return {"AMENT_PREFIX_PATH": str(prefix), "ROS_DISTRO": "jazzy"}


def hash_in(lock: str) -> str:
    """The first of torch itself in a lock."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    return re.search(r"^torch==[^#]*?sha256:([0-9a-f]{64})", text, re.MULTILINE)[1]  # type: ignore[index]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    machine = Machine(tmp_path)
    machine.has_torch("2.13.0", hash_in("torch"))
    return machine


@pytest.fixture
def ours(machine: Machine) -> Path:
    """A clone that is set up, with something in its environment that a new one would not have."""
    clone = machine.clone("ours")
    done = machine.set_up(clone)
    assert done.returncode == 0, done.stdout + done.stderr
    (clone / ".venv" / "kept").write_text("installed by hand")
    machine.forget()
    return clone


def kept(clone: Path) -> bool:
    return (clone / ".venv" / "kept").is_file()


def test_second_set_up_has_nothing_to_do(machine: Machine, ours: Path) -> None:
    done = machine.set_up(ours)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (machine.folder / "asked").exists()


def test_sourced_environment_of_another_clone_changes_nothing_here(machine: Machine, ours: Path) -> None:
    other = machine.clone("other")
    assert machine.set_up(other).returncode == 0
    machine.forget()
    done = machine.set_up(ours, source=other)
    assert done.returncode == 0, done.stderr
    assert kept(ours)
    assert not (machine.folder / "asked").exists()
    assert f"environment of another clone, {other}/.venv: not used here, nor changed" in done.stdout


def test_first_set_up_beside_a_sourced_environment_installs_wheels(machine: Machine, ours: Path) -> None:
    other = machine.clone("other")
    done = machine.set_up(other, source=ours)
    assert done.returncode == 0, done.stderr
    (venv,) = machine.asked("venv")
    assert "--system-site-packages" not in venv
    assert any("ros.lock" in line for line in machine.asked("pip"))
    assert f'AMENT_PREFIX_PATH="{other}/.venv"' in (other / ".venv" / "env.sh").read_text()


def test_own_environment_sourced_and_deleted_means_wheels(machine: Machine, ours: Path) -> None:
    gone = {"AMENT_PREFIX_PATH": str(ours / ".venv"), "ROS_DISTRO": "jazzy"}
    shutil.rmtree(ours / ".venv")
    assert machine.set_up(ours, **gone).returncode == 0
    assert "--system-site-packages" not in machine.asked("venv")[0]


def test_installation_is_used_when_it_is_sourced(machine: Machine) -> None:
    clone = machine.clone("ours")
    done = machine.set_up(clone, **machine.installation())
    assert done.returncode == 0, done.stderr
    assert "ROS 2 jazzy in " in done.stdout
    assert "--system-site-packages" in machine.asked("venv")[0]
    assert not any("ros.lock" in line for line in machine.asked("pip"))
    machine.forget()
    overlaid = machine.installation()
    overlaid["AMENT_PREFIX_PATH"] = f"{clone}/install:{overlaid['AMENT_PREFIX_PATH']}"
    (clone / "install").mkdir()
    assert machine.set_up(clone, **overlaid).stdout == "", "a workspace sourced on top is no other ROS 2"


def test_prefix_without_rclpy_is_named_and_not_used(machine: Machine, ours: Path) -> None:
    (machine.folder / "workspace").mkdir()
    done = machine.set_up(ours, AMENT_PREFIX_PATH=str(machine.folder / "workspace"), ROS_DISTRO="jazzy")
    assert done.returncode == 0
    assert f"{machine.folder}/workspace, where no rclpy is: ROS 2 comes from wheels" in done.stdout
    assert kept(ours)


@pytest.mark.parametrize("step", STEPS)
def test_failure_brings_the_environment_from_before_back(machine: Machine, ours: Path, step: str) -> None:
    installation = machine.installation()
    machine.at(step, "echo no network >&2; exit 3")
    done = machine.set_up(ours, **installation)
    assert done.returncode == 1
    assert "from wheels -> ROS 2 jazzy in " in done.stdout
    assert "no network" in done.stderr
    assert kept(ours) and not (ours / ".venv.aside").exists()
    assert "the one from before is back" in done.stdout
    machine.forget()
    assert machine.set_up(ours).stdout == "", "what is back is complete"
    machine.at(step, "")
    assert machine.set_up(ours, **installation).returncode == 0
    assert not kept(ours) and not (ours / ".venv.aside").exists()


@pytest.mark.parametrize("step", STEPS)
def test_next_start_after_a_kill_brings_the_environment_back(machine: Machine, ours: Path, step: str) -> None:
    installation = machine.installation()
    machine.at(step, 'kill -9 "$(cat "$MACHINE/pid")"; exit 1')
    assert machine.set_up(ours, **installation).returncode == -9
    assert not kept(ours)
    machine.at(step, "")
    done = machine.set_up(ours)
    # Not what the machine was asked for: colcon, which the killed set-up had started beside pip, may still be asking.
    (line,) = done.stdout.splitlines()
    assert "the one from before is back" in line
    assert kept(ours)


def test_kill_while_the_old_environment_is_removed_keeps_the_new(machine: Machine, ours: Path) -> None:
    assert machine.set_up(ours, **machine.installation()).returncode == 0
    (ours / ".venv" / "kept").touch()
    (ours / ".venv.aside" / "bin").mkdir(parents=True)
    machine.forget()
    assert machine.set_up(ours, **machine.installation()).stdout == ""
    assert kept(ours) and not (ours / ".venv.aside").exists()


def test_first_set_up_goes_on_where_it_was_killed(machine: Machine) -> None:
    clone = machine.clone("ours")
    machine.at("colcon", 'kill -9 "$(cat "$MACHINE/pid")"; exit 1')
    assert machine.set_up(clone).returncode == -9
    machine.at("colcon", "")
    machine.forget()
    assert machine.set_up(clone).returncode == 0
    assert machine.asked("venv") == []
    assert not any("ros.lock" in line for line in machine.asked("pip"))
    assert machine.asked("colcon")


def test_environment_of_somebody_else_is_not_touched(machine: Machine) -> None:
    clone = machine.clone("ours")
    (clone / ".venv" / "lib").mkdir(parents=True)
    done = machine.set_up(clone)
    assert done.returncode == 1
    assert f"{clone}/.venv was not made by this set-up" in done.stderr
    assert (clone / ".venv" / "lib").is_dir()


def test_installation_of_another_python_is_named_and_nothing_is_lost(machine: Machine, ours: Path) -> None:
    machine.at("import", "echo No module named rclpy >&2; exit 1")
    done = machine.set_up(ours, **machine.installation())
    assert done.returncode == 1
    assert "No module named rclpy" in done.stderr and "make PYTHON=/usr/bin/python3" in done.stderr
    assert kept(ours)


def test_environment_that_was_copied_is_made_anew_for_its_folder(machine: Machine, ours: Path) -> None:
    copy = machine.folder / "copy"
    shutil.copytree(ours, copy)
    done = machine.set_up(copy)
    assert done.returncode == 0
    assert f"folder {ours}/.venv -> folder {copy}/.venv" in done.stdout
    assert str(ours) not in (copy / ".venv" / "env.sh").read_text()


def test_test_profile_builds_on_the_demo_and_both_stay_done(machine: Machine, ours: Path) -> None:
    assert machine.set_up(ours, "test").returncode == 0
    assert kept(ours)
    assert any("torch.lock" in line for line in machine.asked("pip"))
    machine.forget()
    for profile in ("demo", "test"):
        assert machine.set_up(ours, profile).stdout == ""


@pytest.mark.parametrize(
    ("build", "sha", "installed"),
    [
        ("2.13.0", hash_in("torch"), "--require-hashes --no-deps -r {}/torch.lock"),
        ("2.13.0", "0" * 64, "--require-hashes --no-deps -r {}/torch.lock"),  # altered: pip refuses it
        ("2.13.0", "", "--require-hashes --no-deps -r {}/torch.lock"),
        ("2.13.0+cpu", hash_in("torch_cpu"), "--require-hashes --no-deps -r {}/torch_cpu.lock"),
        ("2.13.0+cpu", "0" * 64, "-c {}/constraints.txt torch==2.13.0+cpu"),  # of another Python, say
        ("2.13.0+rocm7.1", "", "-c {}/constraints.txt torch==2.13.0+rocm7.1"),
    ],
)
def test_torch_is_compared_with_the_lock_that_has_its_build_or_it_is_said(
    machine: Machine, build: str, sha: str, installed: str
) -> None:
    clone = machine.clone("ours")
    machine.has_torch(build, sha)
    done = machine.set_up(clone, "test")
    assert done.returncode == 0, done.stderr
    asked = [line for line in machine.asked("pip") if re.search(r"\btorch(==|\w*\.lock)", line)]
    assert len(asked) == 2 and "--dry-run" in asked[0] and asked[0].endswith(" torch==2.13.0")
    assert asked[1].endswith(installed.format(clone / "requirements"))
    said = f"installing torch {build}, of another index than PyPI: no lock has its hash"
    assert (said in done.stdout) == installed.startswith("-c")
    assert f"installing torch {build}" in done.stdout


def test_no_torch_is_found(machine: Machine) -> None:
    machine.at("pip", 'if [[ "$*" == *--report* ]]; then echo no network >&2; exit 3; fi')
    done = machine.set_up(machine.clone("ours"), "test")
    assert done.returncode == 1 and "pip finds no torch==2.13.0:\nno network" in done.stderr


def test_wheels_are_mended(ours: Path) -> None:
    (mended,) = (ours / ".venv").glob("share/*/cmake/*Export.cmake")
    assert mended.read_text() == 'INCLUDE "/here/python;/here/numpy"\n'


def variables_after(commands: str) -> dict[str, str]:
    """Environment of a strict shell after the commands."""
    run = ["bash", "-euo", "pipefail", "-c", f"{commands}\nenv -0"]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/mine"}
    out = subprocess.run(run, env=env, check=True, capture_output=True, text=True).stdout
    return dict(entry.split("=", 1) for entry in out.split("\0") if entry)


def test_sourcing_an_environment_leaves_the_one_before(machine: Machine, ours: Path) -> None:
    other = machine.clone("other")
    assert machine.set_up(other).returncode == 0
    overlay = other / ".venv" / "overlay" / "install" / "local_setup.bash"
    overlay.parent.mkdir(parents=True)
    overlay.write_text(f'export PYTHONPATH="{overlay.parent}:$PYTHONPATH" COLCON_PREFIX_PATH="{overlay.parent}"\n')
    alone = variables_after(f'source "{ours}/.venv/env.sh"')
    assert alone["AMENT_PREFIX_PATH"] == f"{ours}/.venv"
    assert alone["PATH"] == f"{ours}/.venv/bin:/usr/bin:/bin"
    assert alone["PYTHONPATH"] == "/mine"
    both = variables_after(f'source "{other}/.venv/env.sh"; source "{ours}/.venv/env.sh"')
    twice = variables_after(f'source "{ours}/.venv/env.sh"; source "{ours}/.venv/env.sh"')
    for found in (both, twice):
        assert {name: value.rstrip(":") for name, value in found.items() if value} == alone


def test_a_folder_with_a_space(machine: Machine) -> None:
    """colcon's scripts call the Python that is named for them without quotes."""
    clone = machine.clone("of mine")
    done = machine.set_up(clone)
    assert done.returncode == 0, done.stderr
    overlay = clone / ".venv" / "overlay" / "install" / "local_setup.bash"
    overlay.parent.mkdir(parents=True)
    overlay.write_text('test -f "$COLCON_PYTHON_EXECUTABLE"\nexport CALLED="$(echo $COLCON_PYTHON_EXECUTABLE -c 1)"\n')
    found = variables_after(f'source "{clone}/.venv/env.sh"')
    assert found["CALLED"] == f"{machine.folder}/python -c 1" and "COLCON_PYTHON_EXECUTABLE" not in found
    assert found["AMENT_PREFIX_PATH"] == f"{clone}/.venv"
    assert machine.set_up(clone).stdout == "", "nothing is left to do"


def test_python_of_another_clone_gives_way_to_that_of_the_machine(machine: Machine, ours: Path) -> None:
    other = machine.clone("other")
    own = machine.folder / "bin"
    own.mkdir()
    (own / "python3").write_text('#!/bin/sh\necho "this machine: $*"\n')
    (own / "python3").chmod(0o755)
    python = ours / ".venv" / "bin" / "python3"
    python.symlink_to(BASE_PYTHON)
    env = {"PATH": f"{python.parent}:{own}:/usr/bin:/bin", "MACHINE": str(machine.folder)}
    script = str(other / "requirements" / "set_up.py")
    run = [python, "-S", "-c", DRIVER, str(machine.folder), script, "demo"]
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert done.stdout == f"this machine: {script} demo\n", done.stderr


@pytest.mark.parametrize("profile", ["demo", "test"])
def test_what_is_imported_to_prove_it_is_what_its_locks_install(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` on a fresh machine has nothing of the tests' packages, which every other place does that is tried."""
    locks = {"demo": ("ros", "demo"), "test": ("test", "torch")}[profile]
    locked = {
        name
        for lock in locks
        for name in re.findall(r"(?m)^([\w-]+)==", (ROOT / f"requirements/{lock}.lock").read_text())
    }
    monkeypatch.syspath_prepend(str(ROOT / "requirements"))
    here = importlib.metadata.packages_distributions()
    imported = runpy.run_path(str(ROOT / "requirements" / "set_up.py"))["IMPORTS"][profile].split()
    own = ("bev_perception", "bev_perception_msgs.msg", "rclpy")  # of colcon; rclpy may be a ROS 2 installation's
    for name in set(imported) - set(own):
        makers = {re.sub(r"[-_.]+", "-", maker).lower() for maker in here[name]}
        assert makers & locked, f"{name} is of {makers}, which no lock of `make {profile}` has"
