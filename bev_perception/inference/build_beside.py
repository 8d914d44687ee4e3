"""A TensorRT engine built by a process of its own at low priority: whoever runs another one keeps its time.

What it leaves in the engine cache is then read by `open_backend` of this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_perception.inference.tensorrt_api import BuildError

BACKEND = "tensorrt"  # the one whose engines are built
PROGRAM = (sys.executable, "-m", "bev_perception.inference.build_engine")
NICE = 10
LOOK_S = 0.2
TAIL = 2000  # characters of what a build said that go into an error


def build_beside(
    bundle: Path,
    options: Mapping[str, Any],
    cancelled: Callable[[], bool],
    log: Callable[[str], None],
    program: Sequence[str] = PROGRAM,
) -> None:
    """options: of the backend. Returns when the cache has the engine, or when `cancelled` says so
    and the process has been ended. Raises BuildError with the end of what the build said."""
    command = ["nice", "-n", str(NICE), *program, str(bundle)]
    command += [word for name, value in options.items() for word in _words(name, value)]
    log(f"building the engine beside the running one: {' '.join(command)}")
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=os.environ.copy())
        try:
            while process.poll() is None and not cancelled():
                try:
                    process.wait(LOOK_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:  # the cache survives that at every step
                process.kill()
                process.wait()
        said.seek(0)
        text = said.read().decode(errors="replace")
    if cancelled():
        return
    if process.returncode != 0:
        raise BuildError(f"the engine was not built (exit status {process.returncode}): {text[-TAIL:].strip()}")
    for line in text.splitlines():
        log(line)


def _words(name: str, value: Any) -> list[str]:
    """An option of the backend as build_engine takes it; what is empty is left to its default."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list | tuple):
        return [f"--{flag}", *map(str, value)] if value else []
    return [f"--{flag}", str(value)] if str(value) else []
