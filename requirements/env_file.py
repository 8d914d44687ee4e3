"""The text of `.venv/env.sh`: what a shell needs to work with bev_perception."""

from __future__ import annotations

from pathlib import Path

HEADER = "# Source this (bash) to work with bev_perception; written by requirements/set_up.py."

# Leaves the environment that the shell is in, as `activate` does: nothing of it may be found afterwards.
LEAVE = """\
without_environment() {
  local IFS=: entry kept=""
  for entry in $1; do case "$entry/" in "$VIRTUAL_ENV"/*) ;; *) kept="$kept:$entry" ;; esac; done
  echo "${kept#:}"
}
for name in ${VIRTUAL_ENV:+PATH PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH}; do
  if [ -n "${!name:-}" ]; then export "$name=$(without_environment "${!name}")"; fi
done
unset -f without_environment; unset name
"""


def env_text(venv: Path, overlay: Path, wheels: bool) -> str:
    """wheels: ROS 2 comes from wheels, which make `venv` its prefix; otherwise its own set-up file was sourced before.

    overlay: holds colcon's `install/`, whose scripts call Python by a path without quotes: the one that `venv` was made
    by, which has no space in it where `venv` may.
    """
    python = (venv / "bin" / "python").resolve()
    lines = [f'export VIRTUAL_ENV="{venv}"', f'export PATH="{venv}/bin:$PATH"']
    if wheels:
        # The wheels restart every Python once to set the library path; setting it here saves that.
        libraries = [venv / "lib", *sorted(venv.glob("lib/python*/site-packages/ros_*.libs"))]
        lines += [
            f'export AMENT_PREFIX_PATH="{venv}"',
            f'export CMAKE_PREFIX_PATH="{venv}"',
            f'export LD_LIBRARY_PATH="{":".join(map(str, libraries))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',
            "export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1",
            "export ROS_DISTRO=jazzy",
        ]
    lines += [
        "# Stay on this machine, so that two of them on one network do not hear each other.",
        "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST",
        f'if [ -f "{overlay}/install/local_setup.bash" ]; then',
        f'  COLCON_PYTHON_EXECUTABLE="{python}" source "{overlay}/install/local_setup.bash"',
        "fi",
    ]
    return f"{HEADER}\n{LEAVE}" + "\n".join(lines) + "\n"
