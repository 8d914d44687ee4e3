"""The folder of a run: all that is needed to repeat it, and a guard against mixing two runs.

run.json says what is trained. Each start of the command adds to starts.json: command, code, data, batch, machine,
packages; what is not committed is kept beside it as start<N>.diff.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bev_perception.files import write_atomic
from training.changes import differences
from training.data.source import Source
from training.run import Run, run_from_plain, run_to_plain

PACKAGES = (
    "torch", "lightning", "numpy", "opencv-python-headless", "onnx", "onnxscript", "onnxruntime", "nuscenes-devkit",
    "spconv",
)  # fmt: skip
CODE = Path(__file__).parents[2]
SOURCES = ("training", "bev_perception")


def begin(out: Path, run: Run, source: Source, digest: str, processes: int = 1) -> None:
    """Write down this start. digest: of the data set's index.

    A run may go on in smaller batches of which more make a step, or the reverse: its steps stay the same. Raises
    ValueError when `out` has checkpoints of another run or other data, saying what differs.
    """
    out.mkdir(parents=True, exist_ok=True)
    plain = _as_stored(run)
    starts = _read(out / "starts.json", [])
    if any(out.glob("*.ckpt")):
        changed = changes_since(out, run, source, digest)
        if changed:
            raise ValueError(
                f"{out} was begun with another run; choose another --out, or take the run that is there. What differs "
                "(there -> now):\n  " + "\n  ".join(changed)
            )
    commit, diff = _git("rev-parse", "HEAD").decode().strip(), uncommitted()
    if diff:
        write_atomic(out / f"start{len(starts)}.diff", diff)
    start = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "code": {"commit": commit or None, "uncommitted": bool(diff)},
        "data": {
            "root": str(source.root.resolve()),
            "version": source.version,
            "digest": digest,
            "classes": dict(source.classes),
        },
        "batch": {"batch_size": run.batch_size, "accumulate": run.optim.accumulate},
        "machine": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
            "processes": processes,
        },
        "packages": {name: _version(name) for name in PACKAGES},
    }
    write_atomic(out / "run.json", json.dumps(plain, indent=2).encode() + b"\n")
    write_atomic(out / "starts.json", json.dumps([*starts, start], indent=1).encode() + b"\n")


def changes_since(out: Path, run: Run, source: Source, digest: str) -> list[str]:
    """In what this run and this data differ from those that `out` was begun with, `name: there -> now` each."""
    plain, starts = _as_stored(run), _read(out / "starts.json", [])
    changed = differences(_in_batches_of(plain, _before(out / "run.json")), plain)
    if starts and starts[-1]["data"]["digest"] != digest:
        changed.append(
            f"data: tables of {starts[-1]['data']['root']} -> other tables, or other --classes, of {source.root}"
        )
    return changed


def _as_stored(run: Run) -> dict[str, Any]:
    return json.loads(json.dumps(run_to_plain(run)))  # type: ignore[no-any-return]


def _before(path: Path) -> dict[str, Any]:
    """The run that was begun, in today's fields: one that an older version did not have takes its default, which is
    what that version did."""
    before: dict[str, Any] = _read(path, {})
    try:
        return json.loads(json.dumps(run_to_plain(run_from_plain(before, str(path)))))  # type: ignore[no-any-return]
    except (KeyError, ValueError):  # of another kind altogether: the differences will tell
        return before


def _in_batches_of(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The run `before` with batch_size and optim.accumulate of `now` where a step has as many samples in both."""
    if not before or len({run["batch_size"] * run["optim"]["accumulate"] for run in (before, now)}) > 1:
        return before
    optim = before["optim"] | {"accumulate": now["optim"]["accumulate"]}
    return before | {"batch_size": now["batch_size"], "optim": optim}


def uncommitted() -> bytes:
    """A patch from the commit to the code that runs, for `git apply`; files of SOURCES that git does not know yet are
    in it, ignored ones are not."""
    unknown = _git("ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCES).decode().split("\0")
    added = [_git("diff", "--binary", "--no-index", "--", "/dev/null", name) for name in unknown if name]
    return b"".join([_git("diff", "--binary", "HEAD"), *added])


def _git(*arguments: str) -> bytes:
    """Output of git about this code; empty where there is no git or no repository (an installed copy)."""
    try:
        done = subprocess.run(["git", "-C", str(CODE), *arguments], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode in (0, 1) else b""  # 1: `diff --no-index` found a difference


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.is_file() else default
