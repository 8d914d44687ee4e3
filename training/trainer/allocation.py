"""Host memory that a training step frees and the next one takes again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees -> whether the C library can be told so (glibc can).

    By default glibc gives large blocks back at once, and the next step gets them anew from the system, zeroed page
    by page. Measured on a CPU: 15,000 to 27,000 page faults and a tenth of a small taught step, 200 and 1 % with this.
    The price is memory that stays taken: 4.8 GB instead of 4.1 for BEVDet at paper size.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
