"""torchrun tells all processes to end: because one of them has failed, or because it was told to itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("lightning", reason="needs lightning")

SCRIPT = Path(__file__).parent / "ddp_ends.py"


def begun(*arguments: str | Path) -> subprocess.Popen[str]:
    """ddp_ends.py in two processes of torchrun, with what they say in one pipe."""
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    env = own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, SCRIPT, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_where_one_fails_the_others_do_not_save_and_end(tiny_dataset: Path, tmp_path: Path) -> None:
    with begun(tiny_dataset, tmp_path / "out", "fails") as two:
        said, _ = two.communicate(timeout=300)
    assert two.returncode == 1, said
    assert "error in process 1 of 2: samples/CAM_FRONT/a.jpg is cut off\n" in said
    # It may mean either, so it promises nothing.
    assert "SIGTERM: saving after this step, unless another process has failed\n" in said
    assert "error in process 0 of 2: the connection to another process of this run is lost" in said
    assert re.findall(r"exitcode +: (-?\d+)", said) == ["1", "1"], f"none was killed\n{said}"
    assert not (tmp_path / "out" / "last.ckpt").exists()


def test_where_torchrun_is_told_to_end_all_save_once(tiny_dataset: Path, tmp_path: Path) -> None:
    with begun(tiny_dataset, tmp_path / "out", "told") as two:
        assert two.stdout is not None
        before = next(line for line in two.stdout if " is in step 2" in line)
        two.send_signal(signal.SIGTERM)
        said, _ = two.communicate(timeout=300)
    assert two.returncode == 1, before + said
    steps = re.findall(rf"stopped: SIGTERM: saved {tmp_path}/out/last.ckpt of step (\d+);", said)
    assert len(steps) == 2 and steps[0] == steps[1], said
    assert sorted(re.findall(r"process \d ends with \d+", said)) == [f"process {rank} ends with 75" for rank in (0, 1)]
    saved = torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == int(steps[0])
    assert not (tmp_path / "out" / "previous.ckpt").exists(), "saved twice"
