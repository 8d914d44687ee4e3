"""nuScenes' binary radar .pcd files as numpy arrays; the devkit's reader unpacks them point by point in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NUMPY_KINDS = {"F": "f", "I": "i", "U": "u"}


def read_radar_pcd(path: str | Path) -> np.ndarray:
    """A binary .pcd -> structured array (P,) with the file's own fields (x, y, z, dyn_prop, id, rcs, vx, vy ...).

    Trusts POINTS, not the file size: nuScenes' files carry trailing bytes. A cloud whose first point is NaN is an empty
    sweep (the devkit's rule) and comes back with no points.
    Raises FileNotFoundError, and ValueError naming the file when it is not a binary pcd or is truncated.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such radar file; unpack the set's archive that holds it")
    raw = Path(path).read_bytes()
    end = raw.find(b"DATA binary\n")
    if end < 0:
        raise ValueError(f"{path}: no `DATA binary` line; expected a binary .pcd as nuScenes writes it")
    header = dict(
        line.split(" ", 1) for line in raw[:end].decode("ascii").splitlines() if line and not line.startswith("#")
    )
    names, sizes, kinds = header["FIELDS"].split(), header["SIZE"].split(), header["TYPE"].split()
    dtype = np.dtype([(n, f"<{NUMPY_KINDS[k]}{s}") for n, s, k in zip(names, sizes, kinds, strict=True)])
    count, start = int(header["POINTS"]), end + len(b"DATA binary\n")
    if len(raw) - start < count * dtype.itemsize:
        raise ValueError(
            f"{path}: {count} points of {dtype.itemsize} bytes announced, {len(raw) - start} bytes found; "
            "the file is cut off, copy it again"
        )
    points = np.frombuffer(raw, dtype, count, start)
    return points[:0] if count and np.isnan(points["x"][0]) else points
