"""`make test-fast` leaves out what conftest.py names, and nothing that is not there."""

from __future__ import annotations

from pathlib import Path

import conftest

TESTS = Path(__file__).resolve().parent


def test_files_that_are_left_out_exist() -> None:
    assert sorted(conftest.SLOW_FILES - {path.stem for path in TESTS.glob("test_*.py")}) == []


def test_this_test_is_fast(request) -> None:
    assert request.node.get_closest_marker("fast")
