"""docs/first_day.md works as it is written: its commands are run in its order, and say what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from domains import next_domain

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "first_day.md"
# Number -> why it is not run here, and where it is.
NOT_RUN = {
    1: "needs the network; `make demo` is test_demo_parts.py with a small model",
    2: "a person looks; test_report_browser.py opens the page in a browser",
    3: "is what runs this",
    4: "test_set_up.py sources it",
    14: "half a minute of export and another run of the network; test_export.py and test_evaluate_drives.py do both",
    17: "trains for minutes; test_train_small.py makes each of its steps small",
    18: "needs step 14; test_quantize.py",
    19: "a minute of real time, on a machine that is not busy; test_deploy_node.py",
    20: "the same",
}
NEEDS = ("rclpy", "bev_perception_msgs", "tf2_msgs", "trimesh", "embreex", "nuscenes")
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class Step:
    number: int
    title: str
    commands: str
    shown: tuple[str, ...]


def steps(page: str) -> list[Step]:
    """A heading with a number, a block of commands, and perhaps one of lines that one sees."""
    found = []
    for part in re.split(r"(?m)^## ", page)[1:]:
        number, title = re.match(r"(\d+)\. (.+)", part).groups()  # type: ignore[union-attr]
        (commands,) = re.findall(r"```bash\n(.*?)```", part, re.DOTALL)
        shown = re.findall(r"```text\n(.*?)```", part, re.DOTALL)
        found.append(Step(int(number), title, commands, tuple("".join(shown).splitlines())))
    return found


STEPS = steps(PAGE.read_text())


def pattern(line: str) -> re.Pattern[str]:
    """What a line says, with any numbers; `...` stands for what was left out."""
    parts = [r"[-+]?[\d.e+-]+".join(map(re.escape, NUMBER.sub("\0", part).split("\0"))) for part in line.split("...")]
    return re.compile(".*".join(parts))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that looks like a clone, where the commands leave what they make."""
    for name in ("bev_perception", "bev_perception_msgs", "training", "setup.py", "package.xml"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_there_are_twenty_steps_and_each_is_run_or_has_a_reason() -> None:
    assert [step.number for step in STEPS] == list(range(1, 21))
    assert all(step.commands.strip() for step in STEPS)
    assert len([step for step in STEPS if step.shown and step.number not in NOT_RUN]) > 8
    assert len(NOT_RUN) < 10


def test_a_shown_line_is_found_whatever_its_numbers_and_nothing_else() -> None:
    shown = pattern("RADAR: 0.85 px, -3 degrees, ...")
    assert shown.fullmatch("RADAR: 1.2e+03 px, +0.1 degrees, and more")
    assert not shown.fullmatch("RADAR: many px, 3 degrees, and more")
    assert not shown.fullmatch("CAMERA: 0.85 px, -3 degrees, and more")


def test_the_day(clone: Path) -> None:
    for package in NEEDS:
        pytest.importorskip(package, reason=f"the day needs {package}")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ROS_DOMAIN_ID": next_domain(),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "XDG_CACHE_HOME": str(clone / "cache"),
    }
    for step in STEPS:
        if step.number in NOT_RUN:
            continue
        # -m: each process in the background is a group of its own, as in a shell that somebody types in.
        script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{step.commands}"
        done = subprocess.run(["bash", "-emc", script], cwd=clone, env=environment, timeout=500, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        said = f"{step.number}. {step.title}, exit status {done.returncode}:\n{done.stdout}"
        assert done.returncode == 0, said
        lines = done.stdout.splitlines()
        missing = [line for line in step.shown if not any(map(pattern(line).fullmatch, lines))]
        assert not missing, f"the page shows {missing}, which is not in what was said:\n{said}"
