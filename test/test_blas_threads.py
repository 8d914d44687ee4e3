"""The node's processes share no matrix product among threads: OpenBLAS's wait for the next one in a loop."""

from __future__ import annotations

import os
import subprocess
import sys


def test_the_ros_side_limits_openblas_before_numpy_is_imported() -> None:
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    program = "import os, sys, bev_perception.ros; print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
