"""Which processes a command has left behind."""

from __future__ import annotations

from pathlib import Path


def left_processes(named: Path) -> list[Path]:
    """/proc/PID/cmdline of every process whose command line names that path."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(named).encode() in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""
