"""An engine that another process builds: at low priority, ended when asked, and its failures in words."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bev_perception.inference import build_engine
from bev_perception.inference.build_beside import NICE, build_beside
from bev_perception.inference.tensorrt_api import BuildError
from bev_perception.parameter_table import PARAMETERS

TELLS = (sys.executable, "-c", "import os, sys; print('nice', os.nice(0)); print(*sys.argv[1:])")
OPTIONS = {"precision": "fp16", "cache": ""}


def test_it_is_built_at_low_priority_with_the_backends_options() -> None:
    said: list[str] = []
    build_beside(Path("/bundle"), OPTIONS, lambda: False, said.append, TELLS)
    assert said[1:] == [f"nice {NICE}", "/bundle --precision fp16"]


def test_every_option_of_the_backend_is_one_of_the_command() -> None:
    """As the node's parameters have them; what is empty is left out."""
    rows = {row.name.removeprefix("tensorrt."): row for row in PARAMETERS if row.name.startswith("tensorrt.")}
    options = {name: row.default for name, row in rows.items()} | {"plugins": ["a.so", "b.so"], "graph": False}
    said: list[str] = []
    build_beside(Path("/bundle"), options, lambda: False, said.append, TELLS)
    words = said[2].split()
    asked = build_engine._parser().parse_args(words)
    assert {name: getattr(asked, name) for name in options} == options
    assert "--cache" not in words and {"--no-graph", "--workspace-mib"} <= set(words)


def test_a_build_that_fails_says_why() -> None:
    program = (sys.executable, "-c", "import sys; print('x' * 9000); sys.exit('no such operator')")
    with pytest.raises(BuildError, match=r"exit status 1\): x*\s*no such operator$") as caught:
        build_beside(Path("/bundle"), OPTIONS, lambda: False, lambda text: None, program)
    assert len(str(caught.value)) < 2200


def test_the_real_program_takes_the_options() -> None:
    """Whether TensorRT is there or not: the folder is none, and the program says so."""
    with pytest.raises(BuildError, match=r"bundle /nowhere: model\.onnx is missing"):
        build_beside(Path("/nowhere"), OPTIONS | {"cache": "/tmp/x"}, lambda: False, lambda text: None)


def test_a_build_is_ended_when_the_deployment_is(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = (
        sys.executable,
        "-c",
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)",
    )
    started = time.monotonic()
    build_beside(Path("/bundle"), OPTIONS, lambda: pid.exists() and bool(pid.read_text()), lambda text: None, program)
    assert time.monotonic() - started < 50
    assert subprocess.run(["kill", "-0", pid.read_text()], capture_output=True).returncode != 0
