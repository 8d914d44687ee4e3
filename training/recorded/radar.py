"""A radar's returns as a nuScenes .pcd: over ground and as measured, with the states that the driver has recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bev_perception.parameters import NodeConfig, RadarConfig
from bev_perception.preprocess.radar import over_ground, own_velocities
from bev_perception.sensors.radar_messages import RADAR_KINDS
from bev_perception.structures import EgoPose, RadarScan, RadarSweep
from training.tables.files import RADAR_DTYPE, radar_pcd

# What no driver has said: neither moving nor standing, unambiguous, valid. nuscenes-devkit's filter lets them pass.
UNSTATED = {"dyn_prop": 4, "ambig_state": 3, "invalid_state": 0, "is_quality_valid": 1}
MEASURED = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")


def recorded_fields(scan: RadarScan, message: Any, radar: RadarConfig, config: NodeConfig) -> dict[str, np.ndarray]:
    """Those of nuScenes' other fields that the message has, (P,) each, of the returns that are in the scan.

    Of clouds whose fields say x, y, vx and vy alone: there a return of the scan is known again by its numbers.
    """
    fields = radar.fields
    if radar.kind != "cloud" or fields.layout != "cartesian" or not fields.vx:
        return {}
    returns = RADAR_KINDS[radar.kind].returns(message, config.cloud_reader)
    names = returns.dtype.names or ()
    wanted = [n for n in RADAR_DTYPE.names or () if n not in MEASURED and n in names and returns[n].ndim == 1]
    columns = [returns[n] if n in names else np.zeros(len(returns)) for n in (fields.x, fields.y, fields.z, fields.rcs)]
    columns += [returns[fields.vx], returns[fields.vy]]
    rows = np.stack([np.asarray(c, dtype=np.float32).reshape(len(returns), -1)[:, 0] for c in columns], axis=1)
    # What is left out is left out for its numbers: equal returns are all in the scan, or none.
    kept = np.isin(_as_one(rows), _as_one(scan.points))
    return {name: returns[name][kept] for name in wanted} if kept.sum() == len(scan.points) else {}


def _as_one(rows: np.ndarray) -> np.ndarray:
    """(P, 6) float32 -> (P,) of their bytes."""
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)


def radar_file(scan: RadarScan, fields: dict[str, np.ndarray], ego_from_radar: np.ndarray, ego: EgoPose) -> bytes:
    """Bytes of the .pcd. What the scan has of velocities is kept to the last bit; the other kind, relative or over
    ground, follows from the radar's own motion."""
    returns = np.zeros(len(scan.points), dtype=RADAR_DTYPE)
    for name, value in (UNSTATED | fields).items():
        returns[name] = value
    own = own_velocities([RadarSweep(replace(scan, compensated=False), ego_from_radar, ego)])
    points = scan.points.astype(np.float64)
    other = over_ground(points, np.repeat(-own if scan.compensated else own, len(points), axis=0))
    has, lacks = (("vx_comp", "vy_comp"), ("vx", "vy"))[:: 1 if scan.compensated else -1]
    for column, name in enumerate(("x", "y", "z", "rcs", *has)):
        returns[name] = scan.points[:, column]
    for column, name in enumerate(lacks):
        if name not in fields:
            returns[name] = other[:, column]
    return radar_pcd(returns)
