"""What memory an engine is taken to need before it is opened, and what there is. Of the machine, not of a GPU."""

from __future__ import annotations

import os

from bev_perception.bundle import Bundle

# Weights in a few forms and working memory. The shipped network: 15.6 MiB of ONNX, 131 MiB with ONNX Runtime.
MIB = 2**20
PER_BYTE, BESIDE = 6, 64 * MIB


def needed(bundle: Bundle) -> int:
    """Bytes."""
    files = [bundle.onnx_path, *(bundle.path / name for name in bundle.spec.weights_sha256)]
    return PER_BYTE * sum(file.stat().st_size for file in files) + BESIDE


def resident() -> int:
    """Of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
