"""Memory of the machine that a build takes, known before it begins. The GPU's own is gpu.Gpu.require."""

from __future__ import annotations

from bev_perception.inference.tensorrt_api import BuildError

# A byte of ONNX took 19 with TensorRT for RTX 1.7 (docs/inference.md). Beside: for CUDA's context and TensorRT's
# libraries on a GPU, which was not measured.
PER_BYTE, BESIDE = 20, 1024 * 2**20
MIB = 2**20


def available() -> int:
    """What the machine can still give away, in bytes. Raises OSError where it does not say."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not say what is available")


def needed_to_build(onnx_bytes: int) -> int:
    """Bytes."""
    return PER_BYTE * onnx_bytes + BESIDE


def require_memory_to_build(onnx_bytes: int) -> None:
    """Raise BuildError where the machine has less than a build is taken to need."""
    needed, free = needed_to_build(onnx_bytes), available()
    if needed > free:
        raise BuildError(
            f"a build is taken to need {needed / MIB:.0f} MiB and {free / MIB:.0f} are free; end what else runs, or "
            "build on a machine of the same kind and copy the engine cache"
        )
