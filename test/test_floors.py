"""No import leads to the same floor or a higher one, and no files import each other: nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from floors import FLOORS, ROOT, circles, climbs, imports_between, is_module, units_named


def test_no_import_climbs() -> None:
    assert not climbs(ROOT), "\n".join(climbs(ROOT))


def test_every_unit_of_the_floors_exists_once() -> None:
    names = [unit for package, row in FLOORS for unit in units_named(package, row)]
    assert len(names) == len(set(names))
    assert not [name for name in names if not is_module(name)]
    assert not [row for package, names in FLOORS for row in names.split() if not units_named(package, row)]


def test_no_files_import_each_other() -> None:
    assert circles(imports_between(ROOT)) == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("training/changes.py", "from training.run import Run", "training.changes:1: imports training.run,"),
        ("training/data/clips.py", "def f():\n    from training.run import Run", "training.data.clips:2: imports"),
        ("training/study.py", "from training.overfit import overfit", "training.study:1: imports training.overfit"),
        ("bev_perception/replay.py", "HELP = 'python -m bev_perception.evaluation.demo X'", "bev_perception.replay:1"),
        ("bev_perception/replay.py", "Child(['bev_perception.evaluation.demo', 'x'])", "bev_perception.replay:1"),
        ("training/extra.py", "from training.run import Run", "training.extra: has no floor"),
    ],
)
def test_a_climbing_import_is_caught(tmp_path: Path, path: str, source: str, said: str) -> None:
    for name in ("training/run.py", "training/overfit.py", "bev_perception/evaluation/demo.py", path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / path).write_text(source)
    assert [line.startswith(said) for line in climbs(tmp_path)] == [True]
    (tmp_path / path).write_text('"""A docstring may say: python -m training.overfit."""\n')
    assert climbs(tmp_path) == ([] if path != "training/extra.py" else [f"{said}; give its unit one in FLOORS"])


def test_a_circle_is_found() -> None:
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]
    assert circles([("a", "b"), ("b", "c"), ("a", "c")]) == []
