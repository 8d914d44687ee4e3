"""docs/extending.md is true: its steps, carried out in a copy of the repository, are all that it takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from extension_steps import PAGE, ROOT, Step, carry_out, copy_tree, steps_of, with_row

THINGS = list(dict.fromkeys(step.thing for step in steps_of()))
# Tests of the repository that walk the tables, and what the page adds to them.
WALKS = (
    "test/test_floors.py", "test/test_experiments.py", "test/test_students.py", "test/test_backend.py",
    "test/test_conversions.py", "test/test_parameters.py",
)  # fmt: skip
ADDED = (
    "climbs or each_other or floors or run_of_each_size or radar_cells or lidar_cells or refused_with or thermal16"
    " or choice"
)


@pytest.fixture(scope="module")
def said(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of the uses of the additions, and of the repository's own tests, in a copy that has them.

    In one process, since imports are most of the time. Nothing of this checkout is on its path.
    """
    for name in ("torch", "lightning", "onnx"):
        pytest.importorskip(name, reason=f"needs {name}")
    copy = copy_tree(tmp_path_factory.mktemp("extended"))
    carry_out(steps_of(), copy)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(copy), *others]), "OMP_NUM_THREADS": "1"}
    for pages in ("docs.figures", "docs.pages"):  # as `make docs` does: it must be able to
        subprocess.run([sys.executable, "-m", pages], cwd=copy, env=env, check=True, capture_output=True)
    chosen = f"extension_runs or (({ADDED}) and not step_reaches)"
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "test/extension_runs.py", *WALKS, "-k", chosen]
    env["EXTENSION_DATA"] = str(tiny_dataset)
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    return f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "use",
    [
        "test_the_student_trains_and_drives_as_a_bundle",
        "test_the_teacher_trains_and_teaches_by_the_loss",
        "test_the_camera_drives_as_one_of_a_known_encoding",
        "test_the_backend_drives_as_onnxruntime_does",
        "test_the_node_runs_the_backend_and_publishes_the_message",
    ],
)
def test_what_was_added_works(said: str, use: str) -> None:
    left_out = re.search(r"^SKIPPED \[1\] test/extension_runs.py:\d+: (.*)", said, re.MULTILINE)
    if "node" in use and left_out:
        pytest.skip(left_out[1])
    assert f"PASSED test/extension_runs.py::{use}\n" in said, said[-6000:]


def test_tests_that_walk_tables_take_new_rows_up_and_all_pass(said: str) -> None:
    assert not re.findall(r"^(?:FAILED|ERROR) .*", said, re.MULTILINE), said[-6000:]
    passed = "\n".join(re.findall(r"^PASSED .*", said, re.MULTILINE))
    for row in (
        "pytorch[radar_cells]",
        "precision[radar_cells]",
        "[near-lidar_cells]",
        "-thermal16-",
        "no_import_climbs",
    ):
        assert row in passed, f"no test ran with {row}\n{said[-6000:]}"


# ---- page, table and steps


@pytest.mark.parametrize("thing", THINGS)
def test_the_table_of_the_architecture_names_what_the_steps_touch(thing: str) -> None:
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", (PAGE.parent / "architecture.md").read_text(), re.MULTILINE)
    (row,) = (row for row in rows if row[0] == f"{thing[0].lower()}{thing[1:]}")
    steps = [step for step in steps_of() if step.thing == thing]
    pattern = re.compile("|".join(re.escape(p).replace("<name>", r"\w+") for p in re.findall(r"`(.*?)`", row[1])))
    written = [step.path for step in steps if not step.table]
    assert not [path for path in written if not pattern.fullmatch(path)]
    assert len(written) == len(re.findall(r"`", row[1])) / 2
    assert {(s.table, s.path) for s in steps if s.table} == set(re.findall(r"`(\w+)` of `([\w/.]+)`", row[2]))


def test_the_code_of_the_page_follows_the_rules_of_the_repository(tmp_path: Path) -> None:
    if shutil.which("ruff") is None:
        pytest.skip("ruff is not installed")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for number, step in enumerate(step for step in steps_of() if not step.table):
        (tmp_path / f"step{number}.py").write_text(step.code)
    for command in (["ruff", "check", "--quiet"], ["ruff", "format", "--check", "--quiet"]):
        done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_row_of_the_table_has_an_example() -> None:
    table = (PAGE.parent / "architecture.md").read_text().split("| to add |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| (an? .*?) \|", table, re.MULTILINE)) == sorted(t[0].lower() + t[1:] for t in THINGS)


@pytest.mark.parametrize("table", ["{}", "{'a': 1}", "{\n    'a': 1,\n}", "(1, 2)", "(\n    1,\n)"])
def test_a_row_is_added_at_the_end_of_a_table(table: str) -> None:
    source = f'"""A file."""\n\nimport math\n\nTABLE: object = {table}\nAFTER = 1\n'
    row = "'b': two" if table.startswith("{") else "two"
    changed = with_row(source, Step("", "", "TABLE", f"import os\n\ntwo = len(os.sep) + 1\n\n{row},\n"))
    found: dict[str, object] = {}
    exec(changed, found)
    before = eval(table)
    assert found["TABLE"] == (before | {"b": 2} if isinstance(before, dict) else (*before, 2)) and found["AFTER"] == 1
    assert changed.index("import math") < changed.index("import os") < changed.index("two =") < changed.index("TABLE")


def test_steps_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("TABLE = []\n")
    with pytest.raises(ValueError, match=r"there\.py is to be written, but it is there"):
        carry_out([Step("", "there.py", "", "")], tmp_path)
    with pytest.raises(ValueError, match=r"there\.py has no table TABLE"):
        carry_out([Step("", "there.py", "TABLE", "1")], tmp_path)
    (tmp_path / "page.md").write_text(
        "## A thing\n\nWrite `a.py`:\n\n```python\n1\n```\n\nThen:\n\n```python\n2\n```\n"
    )
    with pytest.raises(ValueError, match="'A thing': a block of Python without"):
        steps_of(tmp_path / "page.md")
