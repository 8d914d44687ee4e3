"""What of this machine decides whether the node runs: engine, GPU, packages, shared memory, buffers of the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.frame_proof import open_proven
from bev_perception.missing import mend
from bev_perception.parameters import NodeConfig
from bev_perception.rig.finding import Finding, Verdict, or_fine
from bev_perception.ros.shared_memory import find_problems

RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_max")
LEAST_BUFFER = 8 * 2**20  # bytes: a raw image and some more, where it comes over a socket
FAST_DDS, CYCLONE = "rmw_fastrtps_cpp", "rmw_cyclonedds_cpp"
NVIDIA_SMI_S = 20.0
NOT_INSTALLED = 7
TRY_BRIDGE = f"""import importlib.util, sys
if importlib.util.find_spec("cv_bridge") is None: sys.exit({NOT_INSTALLED})
import cv_bridge.boost.cv_bridge_boost"""
PACKAGES = ("onnxruntime", "openvino", "tensorrt", "opencv-python", "opencv-python-headless")


@dataclass(frozen=True)
class Machine:
    """engine_fault: why the engine that the parameters ask for does not open or does not reproduce the bundle, or "".
    gpu: name and driver of each GPU, "" where there is none. bridge_fault: why cv_bridge, which is installed, cannot be
    imported, or ""; None where it is not. receive_buffer: bytes, None where it is not known. shared_memory: what keeps
    Fast DDS from it."""

    backend: str
    engine_fault: str
    gpu: str
    packages: tuple[str, ...]
    numpy: str
    bridge_fault: str | None
    image_reader: str
    middleware: str
    receive_buffer: int | None
    shared_memory: tuple[str, ...]


def look_at_machine(config: NodeConfig, bundle: Bundle) -> Machine:
    """Opens the engine and proves it, which takes some seconds."""
    return Machine(
        backend=config.backend,
        engine_fault=_engine_fault(config, bundle),
        gpu=_gpu(),
        packages=tuple(_versions()),
        numpy=np.__version__,
        bridge_fault=_bridge_fault(),
        image_reader=config.image_reader,
        middleware=os.environ.get("RMW_IMPLEMENTATION") or FAST_DDS,
        receive_buffer=_number(RECEIVE_BUFFER),
        shared_memory=tuple(f"{problem.reason}: {problem.detail}" for problem in find_problems(os.environ)),
    )


def _engine_fault(config: NodeConfig, bundle: Bundle) -> str:
    try:
        engine, _ = open_proven(bundle, config.backend, **config.backend_options)
    except ImportError as error:
        return mend(error) or str(error)
    except Exception as error:  # of a driver, an engine, a GPU: whatever it is, the node would not come up either
        return f"{type(error).__name__}: {error}"
    engine.close()
    return ""


def _gpu() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    asked = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _bridge_fault() -> str | None:
    """In a process of its own: built for another numpy, it may end the one that imports it."""
    asked = [sys.executable, "-c", TRY_BRIDGE]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == NOT_INSTALLED:
        return None
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit status {done.returncode}")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check_engine(machine: Machine) -> list[Finding]:
    has = ", ".join(machine.packages) or "no engine"
    if machine.engine_fault:
        expected = f"{machine.backend} that opens the bundle and reproduces its golden sample and frame"
        mend = "install it, build the engine (build_engine), or set `backend`"
        return [Finding("engine", "error", f"{machine.engine_fault} (installed: {has})", expected, mend)]
    return [Finding("engine", "ok", f"{machine.backend} reproduces the bundle; installed: {has}")]


def check_gpu(machine: Machine) -> list[Finding]:
    if machine.backend != "tensorrt":
        return [Finding("gpu", "ok", machine.gpu or f"none, and {machine.backend} needs none")]
    if not machine.gpu:
        mend = "install NVIDIA's driver, give the container --gpus all, or set `backend: onnxruntime`"
        return [Finding("gpu", "error", "nvidia-smi finds no GPU", "one with a driver", mend)]
    return [Finding("gpu", "ok", machine.gpu)]


def check_cv_bridge(machine: Machine) -> list[Finding]:
    if machine.bridge_fault is None:
        if machine.image_reader == "cv_bridge":
            mend = "install ros-<distro>-cv-bridge, or set `image_reader: numpy`"
            return [Finding("cv_bridge", "error", "it is not installed", "image_reader is cv_bridge", mend)]
        return [Finding("cv_bridge", "ok", f"numpy {machine.numpy}; cv_bridge is not installed, and not needed")]
    if machine.bridge_fault:
        needed = machine.image_reader == "cv_bridge"
        text = f"cv_bridge does not work with numpy {machine.numpy}: {machine.bridge_fault}"
        mend = 'pip install "numpy<2", against which the packages of apt are built'
        return [Finding("cv_bridge", "error" if needed else "warning", text, "one numpy for both", mend)]
    return [Finding("cv_bridge", "ok", f"works with numpy {machine.numpy}")]


def check_shared_memory(machine: Machine) -> list[Finding]:
    found = [
        Finding("shared_memory", _severity(text), text, "room in /dev/shm for images", "docs/vehicle.md, step 4")
        for text in machine.shared_memory
    ]
    fine = "nothing keeps Fast DDS from it" if machine.middleware == FAST_DDS else f"not asked for {machine.middleware}"
    return or_fine(found, "shared_memory", fine)


def _severity(text: str) -> Verdict:
    """What processes that are gone left behind only takes room."""
    return "warning" if text.startswith("shm_left_over") else "error"


def check_buffers(machine: Machine) -> list[Finding]:
    if machine.receive_buffer is None:
        return [Finding("dds_buffers", "unknown", "net.core.rmem_max cannot be read", "Linux", "ask sysctl")]
    has = f"net.core.rmem_max is {machine.receive_buffer / 2**20:.1f} MiB"
    if machine.receive_buffer >= LEAST_BUFFER:
        return [Finding("dds_buffers", "ok", has)]
    mend = f"sudo sysctl -w net.core.rmem_max={64 * 2**20}"
    if machine.middleware == CYCLONE:
        return [Finding("dds_buffers", "error", has, "8 MiB or more: images come over sockets", mend)]
    expected = "8 MiB or more where images come from another machine; shared memory needs none"
    return [Finding("dds_buffers", "warning", has, expected, mend)]


# name -> check of the machine that the node is to run on.
MACHINE_CHECKS: dict[str, Callable[[Machine], list[Finding]]] = {
    "engine": check_engine,
    "gpu": check_gpu,
    "cv_bridge": check_cv_bridge,
    "shared_memory": check_shared_memory,
    "dds_buffers": check_buffers,
}


def check_machine(machine: Machine) -> list[Finding]:
    return [finding for check in MACHINE_CHECKS.values() for finding in check(machine)]
