"""How long threads of training spin before they sleep: as `training` asks, unless the user has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASKED = "import training, os; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in __import__('sys').modules)"


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_the_users_word_stands_and_ours_comes_before_torch(given: dict[str, str], kept: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP_"))}
    said = subprocess.run([sys.executable, "-c", ASKED], env=own | given, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [kept, "False"]
