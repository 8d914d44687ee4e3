"""Set-up behind `make demo` and `make test`: virtual environment, pinned packages, ROS 2, `colcon build`.

    python3 requirements/set_up.py demo|test

Everything goes to `.venv/`, where `env.sh` is what to source afterwards. Each step leaves a stamp with the hash of
what it was made from, so a step runs again only when its inputs changed. With a ROS 2 sourced, that one is used and
the virtual environment sees its packages; otherwise ROS 2 is installed from wheels, which turns `.venv` into a ROS
prefix. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
OVERLAY = VENV / "overlay"  # colcon's build, install and log: apart from those of a `colcon build` by hand
LOG = VENV / "set_up.log"
PYTHONS = ((3, 11), (3, 12))

# Prefix of the machine that built the ROS wheels: it is written into their exported CMake files.
WHEEL_BUILDER = "/opt/python/"

START = time.monotonic()


def say(text: str) -> None:
    print(f"[set-up {time.monotonic() - START:5.1f} s] {text}", flush=True)


def give_up(text: str) -> None:
    sys.exit(f"\nset-up failed: {text}")


def sourced_ros() -> str:
    """Name of the ROS 2 distribution whose set-up file was sourced; empty when the wheels are to be used."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    if str(VENV) in prefixes:  # .venv/env.sh was sourced: the wheels
        return ""
    return os.environ.get("ROS_DISTRO", "") if any(prefixes) else ""


def use_supported_python() -> None:
    """Re-executes this script with a supported Python if the one that runs it is not."""
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


def check_compiler() -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        give_up("no C++ compiler found (c++, g++, clang++ or $CXX). On Debian or Ubuntu: apt install build-essential")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.is_file():
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        give_up(f"{header} is missing: the messages need Python's headers. On Debian: apt install python{version}-dev")


def digest(*parts: str | Path) -> str:
    """Hash of texts and of files' names and contents."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(f"{part}\0".encode())
        if isinstance(part, Path):
            sha.update(part.read_bytes())
    return sha.hexdigest()


def stamp(name: str) -> Path:
    return VENV / f".stamp-{name}"


def is_done(name: str, key: str) -> bool:
    return stamp(name).is_file() and stamp(name).read_text() == key


def run(command: list[str | Path], what: str, env: dict[str, str] | None = None) -> None:
    """Runs a command with its output in the log; on failure shows the end of the output and stops."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n{done.stdout}\n")
    if done.returncode != 0:
        print("\n".join(done.stdout.splitlines()[-40:]), file=sys.stderr)
        give_up(f"{what} (exit status {done.returncode}). The end of its output is above, all of it in {LOG}.")


def make_venv() -> None:
    if VENV.exists():
        say("removing the virtual environment: Python, ROS 2 or the folder changed")
        shutil.rmtree(VENV)
    say(f"virtual environment with Python {sys.version.split()[0]}, ROS 2 from {sourced_ros() or 'wheels'}")
    options = ["--system-site-packages"] if sourced_ros() else []
    python = getattr(sys, "_base_executable", sys.executable)  # this may run in the environment that was just removed
    made = subprocess.run([python, "-m", "venv", *options, VENV], capture_output=True, text=True)
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        give_up(f"`{python} -m venv` says:\n{made.stdout}{made.stderr}\nOn Debian: apt install python3-venv")
    if sourced_ros():
        rclpy = subprocess.run([VENV_PYTHON, "-c", "import rclpy"], capture_output=True, text=True)
        if rclpy.returncode != 0:
            give_up(
                f"ROS 2 {sourced_ros()} is sourced, but {sys.executable} cannot import its rclpy:\n{rclpy.stderr}\n"
                "Name the Python that this ROS 2 was built for: make PYTHON=/usr/bin/python3"
            )


def pip_install(*arguments: str | Path) -> None:
    # --no-compile: byte code is made when a module is first imported, instead of for tens of thousands of files now.
    pip: list[str | Path] = [
        VENV_PYTHON,
        "-m",
        "pip",
        "install",
        "--no-compile",
        "--no-input",
        "--disable-pip-version-check",
    ]
    run([*pip, "-c", REQUIREMENTS / "constraints.txt", *arguments], "pip could not install the packages")


def mend_ros_wheels() -> None:
    """Puts this machine's include folders where the wheels' CMake files name those of the machine that built them."""
    query = "import numpy, sysconfig; print(sysconfig.get_paths()['include']); print(numpy.get_include())"
    python_include, numpy_include = subprocess.check_output([VENV_PYTHON, "-c", query], text=True).split("\n")[:2]
    for path in VENV.glob("share/*/cmake/*Export.cmake"):
        text = path.read_text()
        if WHEEL_BUILDER not in text:
            continue
        folders = [entry for entry in text.replace('"', ";").split(";") if entry.startswith(WHEEL_BUILDER)]
        for folder in sorted(set(folders), key=len, reverse=True):
            text = text.replace(folder, numpy_include if "/numpy/" in folder else python_include)
        path.write_text(text)


def write_env() -> None:
    """Writes .venv/env.sh, and without a sourced ROS 2 the environment in which `.venv` is the ROS prefix."""
    lines = [
        "# Source this (bash) to work with bev_perception; written by requirements/set_up.py.",
        f'export VIRTUAL_ENV="{VENV}"',
        f'export PATH="{VENV}/bin:$PATH"',
    ]
    if not sourced_ros():
        # The wheels restart every Python once to set the library path; setting it here saves that.
        libraries = [VENV / "lib", *sorted(VENV.glob("lib/python*/site-packages/ros_*.libs"))]
        lines += [
            f'export AMENT_PREFIX_PATH="{VENV}"',
            f'export CMAKE_PREFIX_PATH="{VENV}"',
            f'export LD_LIBRARY_PATH="{":".join(map(str, libraries))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',
            "export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1",
            "export ROS_DISTRO=jazzy",
        ]
    lines += [
        "# Stay on this machine, so that two of them on one network do not hear each other.",
        "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST",
        f'if [ -f "{OVERLAY}/install/local_setup.bash" ]; then source "{OVERLAY}/install/local_setup.bash"; fi',
    ]
    env_file = VENV / "env.sh"
    temporary = env_file.with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n")
    os.replace(temporary, env_file)


def colcon_build(*options: str) -> None:
    jobs = len(os.sched_getaffinity(0))
    # Not the program `colcon`: scripts are installed for the Python that runs it, which has to be that of .venv.
    colcon = "import sys; from colcon_core.command import main; sys.exit(main(argv=sys.argv[1:]))"
    build = (
        f'source "{VENV}/env.sh" && python -c "{colcon}" --log-base "{OVERLAY}/log" build --symlink-install'
        f' --build-base "{OVERLAY}/build" --install-base "{OVERLAY}/install" {" ".join(options)}'
        f' --cmake-args -DPython3_EXECUTABLE="{VENV_PYTHON}" -DBUILD_TESTING=OFF'
    )
    run(["bash", "-c", build], "colcon build", env={**os.environ, "MAKEFLAGS": f"-j{jobs}"})


def colcon_inputs() -> list[Path]:
    messages = ROOT / "bev_perception_msgs"
    files = [*messages.rglob("*.msg"), messages / "CMakeLists.txt", messages / "package.xml"]
    files += [ROOT / "package.xml", ROOT / "setup.py", ROOT / "setup.cfg", ROOT / "colcon_defaults.yaml"]
    files += [*ROOT.glob("launch/*.py"), *ROOT.glob("bev_perception/config/*")]
    return sorted(files)


def set_up(profile: str) -> None:
    constraints = REQUIREMENTS / "constraints.txt"
    ros_prefix = os.environ["AMENT_PREFIX_PATH"] if sourced_ros() else ""
    base_key = digest(str(VENV), sys.version, sourced_ros(), ros_prefix)
    if not is_done("venv", base_key):
        check_compiler()
        make_venv()
        stamp("venv").write_text(base_key)

    ros_key = digest(base_key, constraints, REQUIREMENTS / "ros.txt", Path(__file__).resolve())
    if not is_done("ros", ros_key):
        if not sourced_ros():
            say("installing ROS 2 Jazzy and colcon")
            pip_install("-r", REQUIREMENTS / "ros.txt")
            mend_ros_wheels()
        elif subprocess.run([VENV_PYTHON, "-c", "import colcon_core"], capture_output=True).returncode != 0:
            say("installing colcon")
            pip_install("colcon-common-extensions")
        write_env()
        stamp("ros").write_text(ros_key)

    with ThreadPoolExecutor(max_workers=1) as beside:  # the compiler and pip have a core each
        colcon_key = digest(ros_key, *colcon_inputs())
        building = None
        if not is_done("colcon", colcon_key):
            say("building the messages and the package with colcon")
            building = beside.submit(colcon_build)

        demo_key = digest(base_key, constraints, REQUIREMENTS / "demo.txt")
        if not is_done("demo", demo_key):
            say("installing OpenCV, ONNX Runtime, rosbags, nuscenes-devkit, the ray caster")
            pip_install("-r", REQUIREMENTS / "demo.txt")
            stamp("demo").write_text(demo_key)

        test_key = digest(base_key, constraints, REQUIREMENTS / "test.txt")
        if profile == "test" and not is_done("test", test_key):
            lines = (REQUIREMENTS / "test.txt").read_text().splitlines()
            (torch,) = (line for line in lines if line.startswith("torch=="))
            say(f"installing {torch}")
            pip_install(torch)
            say("installing Lightning, ONNX, pytest, the TensorRT for RTX builder")
            pip_install("-r", REQUIREMENTS / "test.txt")
            stamp("test").write_text(test_key)

        if building is not None:
            building.result()
            stamp("colcon").write_text(colcon_key)

    # Message packages that tests need and no wheel has; a ROS 2 installation has the real ones.
    stand_ins = ROOT / "test" / "stand_ins"
    stand_ins_key = digest(colcon_key, *sorted(path for path in stand_ins.rglob("*") if path.is_file()))
    if profile == "test" and not sourced_ros() and not is_done("stand_ins", stand_ins_key):
        say("building stand-ins of message packages for the tests")
        colcon_build("--base-paths", f'"{stand_ins}"')
        stamp("stand_ins").write_text(stand_ins_key)


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in ("demo", "test"):
        sys.exit("usage: python3 requirements/set_up.py demo|test")
    use_supported_python()
    lock = os.open(REQUIREMENTS, os.O_RDONLY)  # two `make` at once: the second waits and finds the work done
    fcntl.flock(lock, fcntl.LOCK_EX)
    set_up(sys.argv[1])


if __name__ == "__main__":
    main()
