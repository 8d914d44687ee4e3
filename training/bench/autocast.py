"""NVIDIA's AutoCast (ModelOpt), in a process and with packages of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bev_perception.files import write_atomic

PINS = Path(__file__).resolve().parents[2] / "requirements" / "autocast.txt"
DONE = "installed.txt"  # the pins that the folder was filled from


def installed(folder: Path) -> Path:
    """`folder` with the packages of PINS in it, installed now where they are not there.

    Raises ChildProcessError with what pip says where they are not to be had.
    """
    if (folder / DONE).is_file() and (folder / DONE).read_text() == PINS.read_text():
        return folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    _run([*command, "-r", str(PINS)], dict(os.environ))
    write_atomic(folder / DONE, PINS.read_text())
    return folder


def autocast(model: bytes, inputs: Mapping[str, np.ndarray], packages: Path) -> bytes:
    """The ONNX with FP16 where AutoCast's defaults put it, inputs and outputs as they are.

    inputs: of one frame, from which it takes its ranges; its own random ones fail on uint8. packages: `installed`.
    Raises ChildProcessError with what AutoCast says where it fails.
    """
    with tempfile.TemporaryDirectory() as work:
        source, target, ranges = Path(work, "fp32.onnx"), Path(work, "fp16.onnx"), Path(work, "inputs.npz")
        source.write_bytes(model)
        np.savez(ranges, **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "modelopt.onnx.autocast", "--onnx_path", str(source)]
        command += ["--output_path", str(target), "--calibration_data", str(ranges), "--keep_io_types"]
        paths = [str(packages.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        _run(command, os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
        return target.read_bytes()


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout)[-2000:]}")
