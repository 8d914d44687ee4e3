"""nuScenes' binary radar .pcd files as numpy arrays; the devkit's reader unpacks them point by point in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NUMPY_KINDS = {"F": "f", "I": "i", "U": "u"}


READ = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")  # fields that a sample is made of


def read_radar_pcd(path: str | Path) -> np.ndarray:
    """`read_pcd`, and of a cloud whose first point is NaN, which is an empty sweep (the devkit's rule), no points."""
    points = read_pcd(path)
    return points[:0] if len(points) and np.isnan(points["x"][0]) else points


def read_pcd(path: str | Path) -> np.ndarray:
    """A binary .pcd -> structured array (P,) with the file's own fields (x, y, z, dyn_prop, id, rcs, vx, vy ...).

    Trusts POINTS, not the file size: nuScenes' files carry trailing bytes.
    Raises FileNotFoundError, and ValueError naming the file when it is not a binary pcd, has another header than PCD's,
    lacks a field that is read, or is truncated.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such radar file; unpack the set's archive that holds it")
    raw = Path(path).read_bytes()
    end = raw.find(b"DATA binary\n")
    if end < 0:
        raise ValueError(f"{path}: no `DATA binary` line; expected a binary .pcd as nuScenes writes it")
    try:
        dtype, count = _layout(raw[:end].decode("ascii"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: the header is not a PCD header with FIELDS, SIZE, TYPE and POINTS ({error!r}); the file is "
            "damaged, copy it again"
        ) from error
    start = end + len(b"DATA binary\n")
    if len(raw) - start < count * dtype.itemsize:
        raise ValueError(
            f"{path}: {count} points of {dtype.itemsize} bytes announced, {len(raw) - start} bytes found; "
            "the file is cut off, copy it again"
        )
    return np.frombuffer(raw, dtype, count, start)


def _layout(header: str) -> tuple[np.dtype, int]:
    """Type of a point and number of points. Raises KeyError, TypeError or ValueError for what is no such header."""
    lines = dict(line.split(" ", 1) for line in header.splitlines() if line and not line.startswith("#"))
    names, sizes, kinds = lines["FIELDS"].split(), lines["SIZE"].split(), lines["TYPE"].split()
    dtype = np.dtype([(n, f"<{NUMPY_KINDS[k]}{s}") for n, s, k in zip(names, sizes, kinds, strict=True)])
    lacking = [name for name in READ if name not in names]
    if lacking:
        raise ValueError(f"FIELDS lack {lacking}")
    if set(lines.get("COUNT", "1").split()) != {"1"}:
        raise ValueError(f"COUNT is {lines['COUNT']}, expected one value of each field")
    count = int(lines["POINTS"])
    if count < 0 or count != int(lines.get("WIDTH", count)) * int(lines.get("HEIGHT", 1)):
        raise ValueError(f"POINTS is {count}, WIDTH and HEIGHT are {lines.get('WIDTH')} and {lines.get('HEIGHT')}")
    return dtype, count
