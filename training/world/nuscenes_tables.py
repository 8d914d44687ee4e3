"""The fixed vocabulary of a nuScenes-format data set (categories, attributes, visibility), tokens and radar files."""

from __future__ import annotations

import hashlib

import numpy as np

CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
# token -> (level, lower end of the visible share)
VISIBILITY = {"1": ("v0-40", 0.0), "2": ("v40-60", 0.4), "3": ("v60-80", 0.6), "4": ("v80-100", 0.8)}

RADAR_FIELDS = (
    "x y z dyn_prop id rcs vx vy vx_comp vy_comp is_quality_valid ambig_state x_rms y_rms "
    "invalid_state pdh0 vx_rms vy_rms"
)
RADAR_DTYPE = np.dtype(
    [
        (name, {"F4": "<f4", "I1": "i1", "I2": "<i2"}[code])
        for name, code in zip(RADAR_FIELDS.split(), "F4 F4 F4 I1 I2 F4 F4 F4 F4 F4 I1 I1 I1 I1 I1 I1 I1 I1".split())
    ]
)


def token_of(*names: object) -> str:
    """32 hexadecimal digits that depend on nothing but the names: the same row always has the same token."""
    return hashlib.md5("/".join(map(str, names)).encode(), usedforsecurity=False).hexdigest()


def visibility_token(visible_share: float) -> str:
    """'1' to '4' for a share in [0, 1]."""
    return max(token for token, (_, low) in VISIBILITY.items() if visible_share >= low)


def static_tables() -> dict[str, list[dict]]:
    """The rows of the category, attribute and visibility tables."""
    return {
        "category": [{"token": token_of("category", name), "name": name, "description": ""} for name in CATEGORIES],
        "attribute": [{"token": token_of("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES],
        "visibility": [
            {
                "token": token,
                "level": level,
                "description": f"visible share of the pixels of all images: {level[1:]} %",
            }
            for token, (level, _) in VISIBILITY.items()
        ],
    }


def radar_pcd(returns: np.ndarray) -> bytes:
    """Structured radar returns (P,) with the 18 nuScenes fields -> bytes of a nuScenes binary .pcd (43-byte records).

    An empty scan becomes one record of NaN, which is how nuScenes marks it and nuscenes-devkit reads it (as (18, 0)).
    Raises ValueError when a field is missing.
    """
    missing = [name for name in RADAR_DTYPE.names or () if name not in (returns.dtype.names or ())]
    if missing:
        raise ValueError(f"radar returns lack the fields {missing}; they have {returns.dtype.names}")
    records = np.zeros(max(len(returns), 1), dtype=RADAR_DTYPE)
    for name in RADAR_DTYPE.names or ():
        if len(returns):
            records[name] = returns[name]
        elif RADAR_DTYPE[name].kind == "f":
            records[name] = np.nan
    sizes = [RADAR_DTYPE[name].itemsize for name in RADAR_DTYPE.names or ()]
    types = [RADAR_DTYPE[name].kind.upper() for name in RADAR_DTYPE.names or ()]
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {RADAR_FIELDS}\n"
        f"SIZE {' '.join(map(str, sizes))}\nTYPE {' '.join(types)}\nCOUNT {' '.join('1' for _ in sizes)}\n"
        f"WIDTH {len(records)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(records)}\nDATA binary\n"
    )
    # nuScenes' own files go on after the last record, and nuscenes-devkit asserts that they do.
    return header.encode() + records.tobytes() + b"\0"
