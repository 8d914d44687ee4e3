"""The workflows for whoever hosts the repository: valid, pinned, and of one mind with what the package declares."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_packaging import setup_keywords

from docs.measured import read

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
TESTS = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())


def matrix(job: str) -> dict[str, Any]:
    return TESTS["jobs"][job]["strategy"]["matrix"]


def declared() -> list[str]:
    """The Pythons of setup.py's classifiers."""
    classifiers = ast.literal_eval(setup_keywords()["classifiers"])
    return [found[1] for line in classifiers if (found := re.search(r":: Python :: (3\.\d+)$", line))]


def test_the_runtime_runs_on_every_python_that_is_declared() -> None:
    assert matrix("runtime")["python"] == declared()


def test_what_is_left_out_has_no_wheels() -> None:
    rows = read("platforms.csv")
    missing = [(row["python"], row["asked"]) for row in rows if row["outcome"].startswith("no wheels")]
    excluded = [(row["python"], row["numpy"]) for row in matrix("runtime")["exclude"]]
    assert excluded == [pair for pair in missing if pair[0] in declared()]


def test_everything_runs_on_the_pythons_of_the_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "requirements")
    import sourced

    assert matrix("all")["python"] == [f"{major}.{minor}" for major, minor in sourced.PYTHONS]


def test_every_distribution_of_the_page_has_a_job() -> None:
    page = (ROOT / "docs" / "platforms.md").read_text()
    (table,) = re.findall(r"^\| distribution \|.*\n\| ---.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    named = {row.split("|")[1].strip().lower() for row in table.splitlines()}
    assert {*matrix("ros")["distribution"], *(row["distribution"] for row in matrix("vehicle")["include"])} == named


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(path: Path) -> None:
    text = path.read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    for used in uses:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{used}: pinned by its commit's hash?"
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job or "timeout-minutes" not in job]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_the_workflows_call_is_there(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = path.read_text()
    targets = {
        word for line in re.findall(r"\bmake ([a-z -]+?)(?: [A-Z]+=|$)", text, re.MULTILINE) for word in line.split()
    }
    assert targets == {"lint", "test", "platforms"}
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
    named = re.findall(r"\btest/\w+\.py", text)
    assert named and not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_schema_holds(path: Path) -> None:
    checker = shutil.which("check-jsonschema", path=f"{Path(sys.executable).parent}")
    if checker is None:
        pytest.skip("check-jsonschema is not installed: pip install check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
