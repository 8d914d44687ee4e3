"""Pools of processes: order, errors, and no worker that outlives its parent."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh")

from training.world.generate import ordered_map

SLEEPERS = """
import os, sys, time
from pathlib import Path

def sleep(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    folder = sys.argv[1]
    {pool}
"""
# What has a pool -> its workers, and how they are put to sleep.
POOLS = {
    "the synthetic world": (2, """
    from training.world.generate import ordered_map
    list(ordered_map(sleep, [folder] * 2, 2))"""),
    "check_data": (2, """
    from training.data import file_checks
    file_checks.AT_ONCE, file_checks.fault_of = 1, sleep
    file_checks.bad_files([folder] * 2, 2)"""),
    "a bench": (1, """
    from training.bench.scale import alone
    alone(sleep, folder)"""),
}  # fmt: skip


def test_results_come_in_order_and_errors_reach_the_caller() -> None:
    assert list(ordered_map(math.sqrt, [9.0, 4.0, 1.0, 0.0], 2)) == [3, 2, 1, 0]
    with pytest.raises(ValueError, match="math"):
        list(ordered_map(math.sqrt, [1.0, -1.0, 4.0], 2))


@pytest.mark.parametrize("pool", POOLS)
def test_workers_of_a_killed_parent_leave(pool: str, tmp_path: Path) -> None:
    count, code = POOLS[pool]
    (tmp_path / "sleepers.py").write_text(SLEEPERS.format(pool=code.strip()))
    pids = tmp_path / "pids"
    pids.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "sleepers.py"), str(pids)], env=environment)
    try:
        _wait(lambda: len(list(pids.iterdir())) == count, f"{count} workers at work")
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    workers = [int(path.name) for path in pids.iterdir()]
    _wait(lambda: not any(_runs(pid) for pid in workers), "the workers' end")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait(done, what: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, f"waited {limit_s:.0f} s for {what}"
        time.sleep(0.1)
