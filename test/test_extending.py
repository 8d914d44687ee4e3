"""docs/extending.md is true: its steps, carried out in a copy of the repository, are all that it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from extension_steps import ROOT, carry_out, copy_tree, steps_of


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which every step of the page was carried out."""
    copy = copy_tree(tmp_path_factory.mktemp("extended"))
    carry_out(steps_of(), copy)
    return copy


def run_in(copy: Path, *command: str) -> str:
    """What a Python command prints in the copy, and nothing of this checkout is imported. Fails where it fails."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(copy), *others]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_student_teacher_and_loss_are_trained_and_exported(extended: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    for name in ("torch", "lightning", "onnx"):
        pytest.importorskip(name, reason=f"training needs {name}")
    run_in(extended, "test/extension_runs.py", "training", str(tiny_dataset), str(tmp_path))
