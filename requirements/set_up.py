"""Set-up behind `make demo` and `make test`: virtual environment, pinned packages, ROS 2, `colcon build`.

    python3 requirements/set_up.py demo|test

Everything goes to `.venv/`, where `env.sh` is what to source afterwards. Each step leaves a stamp that says what it
was made from, so a step runs again only when its inputs changed. With a ROS 2 sourced, that one is used and
the virtual environment sees its packages; otherwise ROS 2 is installed from wheels, which turns `.venv` into a ROS
prefix. Standard library only: this runs before anything is installed.

Nothing is destroyed before its successor is proven. An environment that must be made anew (Python, ROS 2 or the folder
changed) waits in `.venv.aside`, for paths in an environment are absolute and the new one must be made in place. It
goes when the new one imports what it should, and comes back when anything fails: at once, or at the next start when
the set-up was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from env_file import env_text
from sourced import VENV, give_up, remarks, sourced_ros, use_python_of_this_machine, use_supported_python

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
ASIDE = ROOT / ".venv.aside"  # the environment before, while its successor is made
LOG = ROOT / ".venv.log"
VENV_PYTHON = VENV / "bin" / "python"
OVERLAY = VENV / "overlay"  # colcon's build, install and log: apart from those of a `colcon build` by hand

PIP_INSTALL: list[str | Path] = [VENV_PYTHON, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
TORCH_LOCKS = ("torch", "torch_cpu")  # PyPI's build, and one of another index

# What a proven environment imports.
IMPORTS = {
    "demo": "rclpy bev_perception bev_perception_msgs.msg numpy cv2 onnxruntime openvino rosbags trimesh embreex",
    "test": "torch lightning nuscenes onnx onnxscript scipy tensorboard pytest hypothesis mypy",
}

# Prefix of the machine that built the ROS wheels: it is written into their exported CMake files.
WHEEL_BUILDER = "/opt/python/"

START = time.monotonic()


def say(text: str) -> None:
    print(f"[set-up {time.monotonic() - START:5.1f} s] {text}", flush=True)


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


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


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
        close_fds=False,  # a child that outlives a killed set-up keeps its lock, so that the next one waits for it
    )
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n{done.stdout}\n")
    if done.returncode != 0:
        print("\n".join(done.stdout.splitlines()[-40:]), file=sys.stderr)
        give_up(f"{what} (exit status {done.returncode}). The end of its output is above, all of it in {LOG}.")


def what_it_is_for() -> str:
    """What an environment cannot outlive, a line each."""
    return f"folder {VENV}\nPython {sys.version}\nROS 2 {sourced_ros() or 'from wheels'}".replace(" \n", " ")


def what_changed(now: str) -> str:
    """How the environment that is there differs from `what_it_is_for()` now, in words."""
    before = stamp("venv").read_text().splitlines() if stamp("venv").is_file() else []
    changes = [f"{old} -> {new}" for old, new in zip(before, now.splitlines()) if old != new]
    if len(before) != len(now.splitlines()):
        return "it was never finished, or was made by an earlier set-up"
    return "; ".join(changes)


@contextmanager
def environment_aside(new: str) -> Iterator[None]:
    """Moves the environment away while the block makes its successor, and back unless that is proven in the end."""
    if not any(VENV.glob(".stamp-*")):
        give_up(f"{VENV} was not made by this set-up. Move it away, or delete it if nobody needs it; then start again.")
    say(f"the environment must be made anew: {what_changed(new)}")
    os.rename(VENV, ASIDE)
    try:
        yield
    finally:
        settle()


def settle() -> None:
    """Of two environments keeps one: the new one if it is proven, else the one from before."""
    if not ASIDE.is_dir():
        return
    if any(VENV.glob(f"{stamp('proven').name}-*")):
        shutil.rmtree(ASIDE)
        return
    if VENV.exists():
        shutil.rmtree(VENV)
    os.rename(ASIDE, VENV)
    say(f"no new environment was finished: the one from before is back in {VENV}")


def make_venv() -> None:
    say(f"virtual environment with Python {sys.version.split()[0]}, ROS 2 {sourced_ros() or 'from wheels'}")
    VENV.mkdir()
    write(stamp("begun"), "")  # from here on the folder is known as one of this set-up
    options = ["--system-site-packages"] if sourced_ros() else []
    python = getattr(sys, "_base_executable", sys.executable)  # this may run in the environment that was moved away
    made = subprocess.run([python, "-m", "venv", *options, VENV], capture_output=True, text=True, close_fds=False)
    if made.returncode != 0:
        shutil.rmtree(VENV)
        give_up(f"`{python} -m venv` says:\n{made.stdout}{made.stderr}\nOn Debian: apt install python3-venv")
    if sourced_ros():
        rclpy = subprocess.run([VENV_PYTHON, "-c", "import rclpy"], capture_output=True, text=True)
        if rclpy.returncode != 0:
            give_up(
                f"sourced is ROS 2 {sourced_ros()}, but {sys.executable} cannot import its rclpy:\n{rclpy.stderr}\n"
                "Name the Python that this ROS 2 was built for: make PYTHON=/usr/bin/python3"
            )


def pip_install(*arguments: str | Path) -> None:
    # --no-compile: byte code is made when a module is first imported, instead of for tens of thousands of files now.
    run([*PIP_INSTALL, "--no-compile", *arguments], "pip could not install the packages")


def install_locked(name: str) -> None:
    """What a lock lists, whole as it is: pip takes no file of another hash, and nothing besides."""
    pip_install("--require-hashes", "--no-deps", "-r", REQUIREMENTS / f"{name}.lock")


def build_of(pin: str) -> tuple[str, str]:
    """Version with its label, and SHA-256, of the file that pip takes for a pin on this machine."""
    command = [*PIP_INSTALL, "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", pin]
    asked = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, close_fds=False)
    if asked.returncode != 0:
        give_up(f"pip finds no {pin}:\n{asked.stderr}")
    (found,) = json.loads(asked.stdout)["install"]
    # `hash` in older pip, `hashes` in newer
    sha = re.search(r"\b[0-9a-f]{64}\b", json.dumps(found["download_info"].get("archive_info")))
    return found["metadata"]["version"], sha[0] if sha else ""


def install_torch(pin: str) -> None:
    """The build that pip is set up for: of the locks that which has its file. A build with a label is another index's
    choice, and where no lock has it that is said; without a label it is PyPI's, and pip refuses any other file."""
    build, sha = build_of(pin)
    locks = [name for name in TORCH_LOCKS if sha and sha in (REQUIREMENTS / f"{name}.lock").read_text()]
    if "+" in build and not locks:
        say(f"installing torch {build}, of another index than PyPI: no lock has its hash, so it is not checked")
        pip_install("-c", REQUIREMENTS / "constraints.txt", f"torch=={build}")
        return
    say(f"installing torch {build}")
    install_locked((locks or TORCH_LOCKS)[0])


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
        write(path, text)


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
    files = [*messages.rglob("*.msg"), *messages.rglob("*.action")]
    files += [messages / "CMakeLists.txt", messages / "package.xml"]
    files += [ROOT / "package.xml", ROOT / "setup.py", ROOT / "setup.cfg", ROOT / "colcon_defaults.yaml"]
    files += [*ROOT.glob("launch/*.py"), *ROOT.glob("bev_perception/config/*")]
    return sorted(files)


def install(profile: str, environment: str) -> None:
    """Every step from the virtual environment on; each whose inputs changed."""
    constraints = REQUIREMENTS / "constraints.txt"
    ros_key = digest(environment, constraints, REQUIREMENTS / "ros.lock", Path(__file__).resolve())
    if not is_done("ros", ros_key):
        if not sourced_ros():
            say("installing ROS 2 Jazzy and colcon")
            install_locked("ros")
            mend_ros_wheels()
        elif subprocess.run([VENV_PYTHON, "-c", "import colcon_core"], capture_output=True).returncode != 0:
            say("installing colcon")
            pip_install("-c", constraints, "colcon-common-extensions")
        write(VENV / "env.sh", env_text(VENV, OVERLAY, wheels=not sourced_ros()))
        write(stamp("ros"), ros_key)

    with ThreadPoolExecutor(max_workers=1) as beside:  # the compiler and pip have a core each
        colcon_key = digest(ros_key, *colcon_inputs())
        building = None
        if not is_done("colcon", colcon_key):
            say("building the messages and the package with colcon")
            building = beside.submit(colcon_build)

        demo_key = digest(environment, constraints, REQUIREMENTS / "demo.lock")
        if not is_done("demo", demo_key):
            say("installing OpenCV, ONNX Runtime, OpenVINO, rosbags, the ray caster")
            install_locked("demo")
            write(stamp("demo"), demo_key)

        test_list = REQUIREMENTS / "test.txt"
        test_locks = [REQUIREMENTS / f"{name}.lock" for name in ("test", *TORCH_LOCKS)]
        test_key = digest(environment, constraints, test_list, *test_locks)
        if profile == "test" and not is_done("test", test_key):
            (torch,) = (line for line in test_list.read_text().splitlines() if line.startswith("torch=="))
            say("installing Lightning, ONNX, pytest, the TensorRT for RTX builder")
            install_locked("test")
            install_torch(torch)
            write(stamp("test"), test_key)

        if building is not None:
            building.result()
            write(stamp("colcon"), colcon_key)

    # Message packages that tests need and no wheel has; a ROS 2 installation has the real ones.
    stand_ins = ROOT / "test" / "stand_ins"
    stand_ins_key = digest(colcon_key, *sorted(path for path in stand_ins.rglob("*") if path.is_file()))
    if profile == "test" and not sourced_ros() and not is_done("stand_ins", stand_ins_key):
        say("building stand-ins of message packages for the tests")
        colcon_build("--base-paths", f'"{stand_ins}"')
        write(stamp("stand_ins"), stand_ins_key)

    proof = digest(colcon_key, demo_key, *[test_key] * (profile == "test"))
    if not is_done(f"proven-{profile}", proof):
        prove(profile)
        write(stamp(f"proven-{profile}"), proof)


def prove(profile: str) -> None:
    """Imports in the finished environment what `make` needs there, and from there."""
    say("importing what was installed")
    names = dict.fromkeys(f"{IMPORTS['demo']} {IMPORTS[profile]}".split())
    check = f"import {', '.join(names)}"
    check += "; assert bev_perception_msgs.__file__, 'the messages that colcon built are not found'"
    if not sourced_ros():
        check += f"; assert rclpy.__file__.startswith('{VENV}/'), f'rclpy comes from {{rclpy.__file__}}'"
    what = "the environment does not import what it should; `make clean` and then again makes it from nothing"
    run(["bash", "-c", f'source "{VENV}/env.sh" && python -c "{check}"'], what)


def set_up(profile: str) -> None:
    settle()  # after a set-up that was killed
    environment = what_it_is_for()
    if is_done("venv", environment):
        install(profile, environment)
        return
    check_compiler()
    with environment_aside(environment) if VENV.exists() else nullcontext():
        make_venv()
        write(stamp("venv"), environment)
        install(profile, environment)


def lock_out_others() -> None:
    """Of two `make` at once the second waits and finds the work done. Children that live longer keep the lock."""
    lock = os.open(REQUIREMENTS, os.O_RDONLY)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up of this clone is at work: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in ("demo", "test"):
        sys.exit("usage: python3 requirements/set_up.py demo|test")
    use_python_of_this_machine()
    use_supported_python()
    lock_out_others()
    for remark in remarks():
        say(remark)
    set_up(sys.argv[1])


if __name__ == "__main__":
    main()
