"""A process of several that fails ends at once, with its message; the others then say one line, not a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

from training.command_line import TrainingStopped
from training.trainer.failures import explained

ROOT = Path(__file__).parent.parent
# Something that a process waits for when it ends, as for a group of processes that is no more.
SCRIPT = """
import atexit, time
from training.command_line import errors_as_text
atexit.register(time.sleep, 600)
@errors_as_text
def main():
    print("a line before")
    raise {error}
main()
"""


def failed(error: str, **env: str) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": str(ROOT), "RANK": "3", "WORLD_SIZE": "8"} | env
    command = [sys.executable, "-c", SCRIPT.format(error=error)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)


def test_it_does_not_wait_for_the_others() -> None:
    done = failed("ValueError('sample a: file b is missing')")
    assert (done.returncode, done.stdout) == (1, "a line before\n")
    assert done.stderr == "error in process 3 of 8: sample a: file b is missing\n"


def test_a_mistake_in_the_program_shows_where_it_is_and_ends_as_soon() -> None:
    done = failed("KeyError('x')")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert done.stderr.endswith("error in process 3 of 8: 'x'\n")


def test_the_others_say_that_one_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_run import RUN

    error = RuntimeError("[../third_party/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:12345")
    with pytest.raises(RuntimeError, match="closed by peer"), explained(RUN, tmp_path / "last.ckpt"):
        raise error
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingStopped, match="connection to another process of this run is lost"):
        with explained(RUN, tmp_path / "last.ckpt"):
            raise error
