"""On which Pythons and numpys does the runtime run? Tries it, in environments that are thrown away.

    python requirements/platforms.py [--python python3.13 ...] [--numpy "numpy<2" ...] [--ros jazzy|kilted]

For each Python and numpy: a copy of the repository, a virtual environment in it with the newest packages that pip finds
wheels for (no torch, no nuscenes-devkit), the tests of the runtime in it (those of `make test-fast` that need neither),
a second of a synthetic drive, and its replay. `--ros` adds a ROS 2 from wheels, the messages built by colcon, and the
tests that need them. What came of it is a row of docs/data/platforms.csv, which `python -m docs` makes the table of
docs/platforms.md from; a row of the same Python, numpy and ROS is replaced. Exit status 1 where something failed.

A Python that is not on this machine is asked of pip alone: are there wheels of all that it needs?
Standard library only, for Python 3.10 and later.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "docs" / "data" / "platforms.csv"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
NUMPYS = ("numpy<2", "numpy>=2")
EXTRAS = "evaluation,openvino,video,signing"  # of setup.py: all of the runtime that is on PyPI
TOOLS = ("pytest", "hypothesis", "onnx")  # of the tests
ABOUT_THE_ROWS = ("test/test_platforms.py", "test/test_workflows.py")  # they ask what this command writes at its end
# Of the slow tests those that start the node and play recordings to it.
NODE_TESTS = ("test/test_node_lifecycle.py", "test/test_node_messages.py", "test/test_play_record.py")
SHOWN = {  # column -> package
    "numpy": "numpy",
    "opencv": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "rosbags": "rosbags",
}
# Beside ROS 2's own variables, those of a shell that has an environment: none of it may be found.
HIDDEN = ("PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "ROS_DISTRO", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")


@dataclass(frozen=True)
class Row:
    """What was tried on one platform. asked: what pip was asked for; outcome: `ran`, or why not."""

    python: str
    asked: str
    ros: str
    outcome: str
    date: str
    numpy: str = ""
    opencv: str = ""
    onnxruntime: str = ""
    openvino: str = ""
    rosbags: str = ""
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    frames: int = 0
    boxes: int = 0

    @property
    def platform(self) -> tuple[tuple[int, ...], str, str]:
        return tuple(map(int, self.python.split(".")[:2])), self.asked, self.ros

    @property
    def good(self) -> bool:
        return self.outcome != "ran" or (self.passed > 0 and self.failed == 0 and self.frames > 0)


def read(path: Path) -> list[Row]:
    """The rows of a table; none where it is not there. Raises ValueError where its columns are others."""
    if not path.is_file():
        return []
    numbers = {field.name for field in fields(Row) if field.type == "int"}
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != tuple(field.name for field in fields(Row)):
            raise ValueError(f"{path} has other columns than {[field.name for field in fields(Row)]}: delete it")
        return [Row(**{name: int(cell) if name in numbers else cell for name, cell in row.items()}) for row in table]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Whole or not at all, in the order of Python, numpy and ROS; of two rows of one platform the last."""
    newest = {row.platform: row for row in rows}
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(newest[platform]) for platform in sorted(newest))
    os.replace(part, path)


def counted(junit: Path) -> dict[str, int]:
    """passed, skipped and failed tests of pytest's XML; a file whose tests cannot be collected is a failed one."""
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    sums = dict.fromkeys(("tests", "skipped", "failures", "errors"), 0)
    for suite in suites:
        for name in sums:
            sums[name] += int(suite.get(name, "0"))
    failed = sums["failures"] + sums["errors"]
    return {"passed": sums["tests"] - sums["skipped"] - failed, "skipped": sums["skipped"], "failed": failed}


def what_is_missing(told: str) -> str:
    """The packages that pip, in what it told, found no file of; empty where it failed for another reason."""
    missing = re.findall(r"No matching distribution found for ([^\s;]+)", told)
    return f"no wheels of {', '.join(dict.fromkeys(missing))}" if missing else ""


def clean_environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in HIDDEN and not k.endswith("_PREFIX_PATH")}
    around = os.environ.get("VIRTUAL_ENV", "")
    folders = [f for f in kept["PATH"].split(os.pathsep) if not around or not f.startswith(around)]
    # As in test/conftest.py, and so that pip neither asks nor says what it could be.
    return kept | {"PATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@dataclass(frozen=True)
class Trial:
    """A copy of the repository with a virtual environment, for one Python."""

    copy: Path
    interpreter: str

    @property
    def python(self) -> Path:
        return self.copy / ".venv" / "bin" / "python"

    def run(self, *command: str | Path, sourced: bool = False) -> subprocess.CompletedProcess[str]:
        """In the copy; its output goes to a log as well. sourced: after the environment's env.sh, which has ROS."""
        words = [str(word) for word in command]
        if sourced:
            words = ["bash", "-c", 'source .venv/env.sh && exec "$@"', "bash", *words]
        done = subprocess.run(words, cwd=self.copy, env=clean_environment(), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)  # fmt: skip
        with (self.copy / "trial.log").open("a") as log:
            log.write(f"$ {' '.join(words)}\n{done.stdout}\n")
        return done

    def must(self, *command: str | Path, sourced: bool = False) -> str:
        """Its output. Raises RuntimeError with the end of that where it fails."""
        done = self.run(*command, sourced=sourced)
        if done.returncode != 0:
            raise RuntimeError("\n".join([f"{' '.join(map(str, command))}: exit status {done.returncode}",
                                          *done.stdout.splitlines()[-30:]]))  # fmt: skip
        return done.stdout

    def make(self) -> None:
        """Copies what git knows or would add, and makes an environment without packages."""
        names = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.copy / name)
        self.must(self.interpreter, "-m", "venv", ".venv")

    def install(self, numpy: str, ros: str) -> str:
        """Why there are no packages; empty when they are installed."""
        wanted: list[str | Path] = [f".[{EXTRAS}]", *TOOLS, numpy]
        if ros:
            wanted += ["-r", self._ros_packages(ros)]
        pip = (self.python, "-m", "pip", "install", "--no-input", "--no-compile", "--prefer-binary")
        done = self.run(*pip, "--only-binary", ":all:", "--no-binary", "empy", *wanted)
        if done.returncode != 0:
            missing = what_is_missing(done.stdout)
            if not missing:
                raise RuntimeError("\n".join(["pip failed", *done.stdout.splitlines()[-30:]]))
            return missing
        if ros:
            self._build_messages(ros)
        return ""

    def _ros_packages(self, ros: str) -> Path:
        """ros.txt without its numpy, which is tried here. Its pins are Jazzy's; unpinned the names mean Kilted."""
        lines = [line for line in (ROOT / "requirements" / "ros.txt").read_text().splitlines() if "numpy" not in line]
        if ros == "kilted":
            lines = [re.sub(r"^(ros-[\w-]+)==.*", r"\1", line).replace("-jazzy-", "-kilted-") for line in lines]
            lines.append("ros-ament-cmake-ros-core")  # its wheels need it to generate messages and do not bring it
        path = self.copy / "ros_packages.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    def _build_messages(self, ros: str) -> None:
        """By the steps of the copy's own set-up, with the packages that are there."""
        steps = (
            "import set_up as s; s.mend_ros_wheels(); text = s.env_text(s.VENV, s.OVERLAY, wheels=True);"
            f"s.write(s.VENV / 'env.sh', text.replace('ROS_DISTRO=jazzy', 'ROS_DISTRO={ros}'));"
            "s.colcon_build(); s.colcon_build('--base-paths', str(s.ROOT / 'test' / 'stand_ins'))"
        )
        self.must(self.python, "-c", f"import sys; sys.path.insert(0, 'requirements'); {steps}")

    def versions(self) -> dict[str, str]:
        listed = json.loads(self.must(self.python, "-m", "pip", "list", "--format", "json").splitlines()[0])
        installed = {entry["name"].lower(): entry["version"] for entry in listed}
        return {column: installed[package] for column, package in SHOWN.items()}

    def test(self, ros: str) -> dict[str, int]:
        """passed, skipped, failed. What fails is run once more, alone: some tests wait, and a busy machine is late."""
        counts = self._pytest(ros, "-m", "fast")
        if ros:
            counts = {name: counts[name] + more for name, more in self._pytest(ros, *NODE_TESTS).items()}
        return counts

    def _pytest(self, ros: str, *chosen: str) -> dict[str, int]:
        (self.copy / "tests.xml").unlink(missing_ok=True)
        left_out = [f"--ignore={path}" for path in ABOUT_THE_ROWS]
        command = (self.python, "-m", "pytest", "-q", "--junitxml=tests.xml", *left_out, *chosen)
        done = self.run(*command, sourced=bool(ros))
        if not (self.copy / "tests.xml").is_file():
            raise RuntimeError("\n".join(["pytest wrote no results", *done.stdout.splitlines()[-30:]]))
        for line in done.stdout.splitlines():
            if line.startswith(("FAILED", "ERROR")):
                print(f"  {line}", flush=True)
        counts = counted(self.copy / "tests.xml")
        if counts["failed"] and "--last-failed" not in chosen:
            again = self._pytest(ros, "--last-failed", *chosen)
            counts |= {"passed": counts["passed"] + again["passed"], "failed": again["failed"]}
        return counts

    def replay(self) -> dict[str, int]:
        """Frames and boxes of a drive of a second that is rendered and replayed here."""
        self.must(self.python, *"-m training.world bag drive --seed 903 --duration 1 --scale 0.1 --workers 1".split())
        told = self.must(self.python, *"-m bev_perception.replay drive --bundle".split(),
                         "bev_perception/bundles/demo", "--out", "replayed")  # fmt: skip
        found = re.search(r"(\d+) frames, (\d+) boxes in", told)
        if not found:
            raise RuntimeError(f"the replay said:\n{told}")
        return {"frames": int(found[1]), "boxes": int(found[2])}


def tried(python: str, interpreter: str, numpy: str, ros: str, keep: bool) -> Row:
    """Raises RuntimeError where something other than wheels is missing."""
    about = {"asked": numpy, "ros": ros, "date": datetime.date.today().isoformat()}
    copy = Path(tempfile.mkdtemp(prefix=f"bev_perception_{python}_"))
    trial = Trial(copy, interpreter)
    try:
        trial.make()
        missing = trial.install(numpy, ros)
        if missing:
            return Row(python=python, outcome=missing, **about)
        whole = trial.must(trial.python, "-c", "import platform; print(platform.python_version())").strip()
        found = {**trial.versions(), **trial.replay(), **trial.test(ros)}
        return Row(python=whole, outcome="ran", **about, **found)  # type: ignore[arg-type]
    finally:
        if keep:
            print(f"  kept: {copy}")
        else:
            shutil.rmtree(copy)


def asked_of_pip(python: str, numpy: str) -> Row:
    """For a Python that is not here: does pip find wheels of all that setup.py names?"""
    (named,) = re.findall(r"install_requires=\[(.*)\]", (ROOT / "setup.py").read_text())
    wanted = [package for package in named.replace('"', "").split(", ") if package != "numpy"]
    wanted += [numpy, "trimesh", "embreex", "openvino", "av"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary", ":all:"]
        command += ["--python-version", python, "--target", folder, *wanted]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    outcome = "not here; there are wheels of all packages"
    if done.returncode != 0:
        outcome = what_is_missing(done.stderr)
        if not outcome:
            raise RuntimeError(f"pip failed:\n{done.stderr}")
    today = datetime.date.today().isoformat()
    return Row(python=python, asked=numpy, ros="", outcome=outcome, date=today)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, help=f"versions, of {' '.join(PYTHONS)}")
    parser.add_argument("--numpy", nargs="+", default=NUMPYS, help="what pip is asked for, such as numpy<2")
    parser.add_argument("--ros", choices=("jazzy", "kilted"), default="", help="with this ROS 2, from wheels")
    parser.add_argument("--keep", action="store_true", help="leave copies and environments where they are made")
    args = parser.parse_args(argv)
    good = True
    for python in args.python:
        interpreter = shutil.which(f"python{python}", path=clean_environment()["PATH"])
        for numpy in args.numpy:
            print(f"Python {python}, {numpy}, {args.ros or 'without ROS'}", flush=True)
            try:
                row = (
                    tried(python, interpreter, numpy, args.ros, args.keep)
                    if interpreter
                    else asked_of_pip(python, numpy)
                )
            except RuntimeError as error:
                print(f"  {error}", file=sys.stderr)
                good = False
                continue
            counts = f"{row.passed} passed, {row.skipped} skipped, {row.failed} failed; {row.frames} frames"
            print(f"  {row.outcome}: {counts}", flush=True)
            write(ROWS, [*read(ROWS), row])
            good = good and row.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
