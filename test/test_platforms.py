"""requirements/platforms.py: what it makes of pip's and pytest's answers. README and setup.py follow what was tried."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_workflows import declared

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "requirements"))
import platforms  # noqa: E402

sys.path.pop(0)

RAN = platforms.Row(
    "3.12.1", "numpy<2", "", "ran", "2026-12-01", numpy="1.26.4", passed=7, skipped=1, frames=12, boxes=3
)
TRIED = platforms.read(platforms.ROWS)
README = (ROOT / "README.md").read_text()


def test_rows_come_back_and_the_last_of_a_platform_counts(tmp_path: Path) -> None:
    table = tmp_path / "platforms.csv"
    older = replace(RAN, python="3.12.0", passed=1)
    other = [replace(RAN, python="3.9.2"), replace(RAN, ros="jazzy"), replace(RAN, python="3.12", asked="numpy>=2")]
    platforms.write(table, [older, *other, RAN])
    assert platforms.read(table) == [other[0], RAN, other[1], other[2]], "3.9 is before 3.12"
    assert platforms.read(tmp_path / "none.csv") == []
    table.write_text("python,numpy\n3.12,1.26\n")
    with pytest.raises(ValueError, match="other columns"):
        platforms.read(table)


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"failed": 1}, False),
        ({"passed": 0}, False),
        ({"frames": 0}, False),
        ({"outcome": "no wheels of numpy<2", "passed": 0, "frames": 0}, True),
    ],
)
def test_good_is_what_passed_whole_or_cannot_be_there(changes: dict[str, Any], good: bool) -> None:
    assert replace(RAN, **changes).good is good


def test_tests_are_counted_whatever_kept_them_from_passing(tmp_path: Path) -> None:
    """Of real runs: a file that cannot be imported is a failure, too."""
    import subprocess

    (tmp_path / "test_some.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): assert False\n"
        "def test_d(): pytest.skip('no')\n@pytest.fixture\ndef bad(): 1 / 0\ndef test_e(bad): pass\n"
    )
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", "-c", "none.ini"]
    command += ["--rootdir", str(tmp_path), "--continue-on-collection-errors", str(tmp_path)]
    (tmp_path / "none.ini").write_text("[pytest]\n")
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert platforms.counted(tmp_path / "out.xml") == {"passed": 2, "skipped": 1, "failed": 3}


def test_missing_wheels_are_told_from_a_pip_that_failed() -> None:
    told = "ERROR: Could not find a version ...\nERROR: No matching distribution found for numpy<2\n"
    assert platforms.what_is_missing(told) == "no wheels of numpy<2"
    assert platforms.what_is_missing("ERROR: HTTP error 503 while getting numpy") == ""


def test_nothing_of_the_shell_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "ROS_DISTRO"):
        monkeypatch.setenv(name, "/somewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/env")
    monkeypatch.setenv("PATH", "/env/bin:/usr/bin")
    seen = platforms.clean_environment()
    assert seen["PATH"] == "/usr/bin" and "/somewhere" not in seen.values() and "VIRTUAL_ENV" not in seen


def test_what_was_tried_passed_and_everything_declared_was_tried() -> None:
    assert TRIED and not [row for row in TRIED if not row.good]
    ran = {".".join(row.python.split(".")[:2]) for row in TRIED if row.outcome == "ran"}
    assert set(declared()) == ran


@pytest.mark.parametrize("what", ["Python", "numpy"])
def test_the_readme_says_what_was_tried(what: str) -> None:
    (tried,) = re.findall(rf"^\| {what} \| .*? \| (.*) \|$", README, re.MULTILINE)
    for row in TRIED:
        version = row.numpy if what == "numpy" else ".".join(row.python.split(".")[:2])
        assert row.outcome != "ran" or re.search(rf"\b{re.escape(version)}\b", tried), f"{version} was tried"
