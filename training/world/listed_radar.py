"""One scan of a radar that lists what its receiver detects, nearest first, 125 at most.

The order of the steps is that of the signal: centres that answer, fluctuation, threshold, resolution, what the
processing adds, errors, states, list. The list is cut where it is full and not by strength: first stands the near scan
by distance (the order that the CAN interface calls sorted by range), then the far scan, and the 125th return ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bev_perception.model_spec import CLASSES
from training.world.radar import DTYPE, MAX_RETURNS, scan_radar
from training.world.receiver import (
    ARTEFACT_50,
    FAR_IN_NEAR,
    LOW_RCS,
    MULTI_TARGET,
    OUTSIDE,
    VALID,
    Detections,
    Receiver,
    additions,
    false_alarms,
    fluctuate,
    is_low,
    join,
    least_rcs,
    measured,
    resolved,
    rms_code,
    sigma_of_azimuth,
)
from training.world.rig import SensorMount
from training.world.scatterers import Body, Echoes, Surroundings, echoes, together
from training.world.world import World

Floats = NDArray[np.float64]

# As the CAN interface names the states: outside the field of view; above 95 m in the near range; an artefact at 50.
OUTSIDE_DEG, NEAR_VALID_M, ARTEFACT_DEG = 60.0, 95.0, (45.0, 55.0)


@dataclass(frozen=True)
class States:
    """How detections are marked.

    multi_target, artefact_50: shares marked as several targets, and, about 50 degrees, as that artefact.
    staggered: share of the ambiguous speeds that is said to be so because of a staggered ramp.
    candidate: of still ones, the least and the greatest share that is called a candidate for it, and the metres on
    which that grows by one. moves_ms: the speed over ground (m/s) from which on one moves.
    """

    multi_target: float
    artefact_50: float
    staggered: float
    candidate: tuple[float, float, float]
    moves_ms: float


@dataclass(frozen=True)
class ListedRadar:
    """What a radar is made of: the town's strength by class and material, the receiver, the states, and the scans.

    near_m, far_m, far_deg: the reach of the near and of the far scan (m), and the half width of the far one.
    """

    bodies: dict[str, Body]
    around: Surroundings
    receiver: Receiver
    states: States
    near_m: float
    far_m: float
    far_deg: float

    def __post_init__(self) -> None:
        if set(self.bodies) != set(CLASSES):
            raise ValueError(f"bodies must be those of {sorted(CLASSES)}, found {sorted(self.bodies)}")


def scan_radar_as(
    radar: ListedRadar | None, world: World, mount: SensorMount, stamp_ns: int, rng: np.random.Generator
) -> NDArray[np.void]:
    """One scan of such a radar, as `scan_listed` describes it; of None that of the profile `clear`, `scan_radar`."""
    if radar is None:
        return scan_radar(world, mount, stamp_ns, rng)
    return scan_listed(radar, world, mount, stamp_ns, rng)


def scan_listed(
    radar: ListedRadar, world: World, mount: SensorMount, stamp_ns: int, rng: np.random.Generator
) -> NDArray[np.void]:
    """One scan: a structured array of `training.world.radar.DTYPE` in the sensor frame.

    As in nuScenes: places lie on the grid of the CAN interface with z = 0; vx_comp, vy_comp is the radial speed over
    ground, vx, vy the speed against the sensor (of still echoes with what the yaw rate moves across, of others along x
    alone).
    Raises ValueError for a mount that is no radar.
    """
    if mount.kind != "radar":
        raise ValueError(f"{mount.name} is a {mount.kind}, not a radar; choose one of the RADAR_ mounts")
    world_from_sensor = world.ego_pose(stamp_ns) @ mount.ego_from_sensor
    vx, vy, yaw_rate = world.ego_twist(stamp_ns)
    lever = mount.ego_from_sensor[:3, 3]
    own = mount.ego_from_sensor[:2, :2].T @ np.array([vx - yaw_rate * lever[1], vy + yaw_rate * lever[0]])
    found = echoes(world, world_from_sensor, stamp_ns, radar.bodies, radar.around)
    found = _with_mirrors(radar, found, rng)
    noisy = radar.receiver.interference_db * (rng.random() < radar.receiver.interference)
    rain = world.conditions.rain
    near = _detect(radar, found, own, rain, noisy, rng)
    near = near.at(near.distance < radar.near_m)
    beyond = (near.distance >= NEAR_VALID_M) & (near.state == VALID)
    near = replace(near, state=np.where(beyond, FAR_IN_NEAR, near.state))
    far = _detect(radar, found, own, rain, noisy, rng)
    far = far.at((far.distance < radar.far_m) & (np.abs(far.azimuth) < np.deg2rad(radar.far_deg)))
    listed = join([scan.at(np.argsort(scan.distance, kind="stable")) for scan in (near, far)])
    return _fields(radar, listed.at(np.arange(min(len(listed), MAX_RETURNS))), own, yaw_rate, rng)


def _with_mirrors(radar: ListedRadar, found: Echoes, rng: np.random.Generator) -> Echoes:
    """Moving objects a second time, behind a wall that reflects them (Kraus et al., Using machine learning to detect
    ghost images in automotive radar, ITSC 2020)."""
    moves = np.hypot(*found.velocity.T) > radar.states.moves_ms
    moving = np.flatnonzero(moves & (rng.random(len(found.rcs)) < radar.receiver.mirrors))
    walls = np.flatnonzero((found.wall != 0).any(axis=1))
    if not len(moving) or not len(walls):
        return found
    wall = rng.choice(walls, len(moving))
    normal = found.wall[wall] / np.linalg.norm(found.wall[wall], axis=1)[:, None]
    across = np.einsum("ij,ij->i", found.xy[moving] - found.xy[wall], normal)
    speed = np.einsum("ij,ij->i", found.velocity[moving], normal)
    ghosts = Echoes(
        found.xy[moving] - 2 * across[:, None] * normal,
        found.velocity[moving] - 2 * speed[:, None] * normal,
        found.rcs[moving] - radar.receiver.mirror_db,
        found.micro[moving],
        np.zeros((len(moving), 2)),
    )
    # An image lies behind its wall; before it there is none.
    behind = np.hypot(*ghosts.xy.T) > np.hypot(*found.xy[wall].T)
    return together([found, ghosts.at(behind)])


def _detect(
    radar: ListedRadar, found: Echoes, own: Floats, rain: float, noisy_db: float, rng: np.random.Generator
) -> Detections:
    receiver, wide = radar.receiver, np.deg2rad(radar.around.wide_deg)
    distance, azimuth = np.hypot(*found.xy.T), np.arctan2(found.xy[:, 1], found.xy[:, 0])
    unit = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
    speed = np.einsum("ij,ij->i", found.velocity, unit) * (1 + found.micro * rng.normal(0, 1, len(unit)))
    rcs = fluctuate(receiver, found.rcs, rng) - rain * (receiver.rain_db_per_m * distance + receiver.wet_db)
    echo = Detections(distance, azimuth, speed, rcs, np.full(len(rcs), VALID))
    echo = echo.at(rcs > least_rcs(receiver, distance, azimuth, noisy_db))
    echo = echo.at(resolved(receiver, echo, echo.speed - _along(echo.azimuth, own)))
    more = additions(receiver, echo, rng)
    told = (more.rcs > least_rcs(receiver, more.distance, more.azimuth, noisy_db)) & (np.abs(more.azimuth) < wide)
    more = more.at(told)
    noise = false_alarms(receiver, radar.near_m, wide, noisy_db, rng)
    all_of = measured(receiver, join([_marked(radar, join([echo, noise]), rng), more]), rng)
    outside = np.abs(all_of.azimuth) >= np.deg2rad(OUTSIDE_DEG)
    return replace(all_of, state=np.where(outside, OUTSIDE, all_of.state))


def _along(azimuth: Floats, vector: Floats) -> Floats:
    return np.cos(azimuth) * vector[0] + np.sin(azimuth) * vector[1]


def _marked(radar: ListedRadar, echo: Detections, rng: np.random.Generator) -> Detections:
    """With the states that the processing gives to detections themselves."""
    n, states = len(echo), radar.states
    aside = np.rad2deg(np.abs(echo.azimuth))
    state = np.where(is_low(radar.receiver, echo.rcs, rng), LOW_RCS, echo.state)
    state = np.where(rng.random(n) < states.multi_target, MULTI_TARGET, state)
    low, high = ARTEFACT_DEG
    state = np.where((aside > low) & (aside < high) & (rng.random(n) < states.artefact_50), ARTEFACT_50, state)
    return replace(echo, state=state)


def _fields(
    radar: ListedRadar, found: Detections, own: Floats, yaw_rate: float, rng: np.random.Generator
) -> NDArray[np.void]:
    n, receiver, states = len(found), radar.receiver, radar.states
    metres, speeds, strengths = receiver.grid
    x = np.round(found.distance * np.cos(found.azimuth) / metres) * metres
    y = np.round(found.distance * np.sin(found.azimuth) / metres - 0.5) * metres + metres / 2
    azimuth = np.arctan2(y, x)
    moving = np.abs(found.speed) > states.moves_ms
    unsure = rng.random(n) < np.where(moving, receiver.lost_doppler[1], receiver.lost_doppler[0])
    wrong = unsure & (rng.random(n) < receiver.aliased)
    speed = found.speed + wrong * rng.normal(0, receiver.alias_ms, n)
    unknown = found.state == OUTSIDE
    moving = np.abs(speed) > states.moves_ms
    # Against the sensor: what is taken to stand also moves across with the yaw rate; of others only x is told.
    vy = np.where(moving, 0.0, np.round((-own[1] - yaw_rate * x) / speeds) * speeds)
    radial = speed - _along(azimuth, own)
    along_x = np.maximum(np.cos(azimuth), 0.2)
    vx = np.round((radial - vy * np.sin(azimuth)) / along_x / speeds) * speeds
    # No speed is given outside, yet its compensation is: a false speed over ground.
    vx, vy = np.where(unknown, 0.0, vx), np.where(unknown, 0.0, vy)
    over_ground = vx * np.cos(azimuth) + vy * np.sin(azimuth) + _along(azimuth, own) * receiver.odometer
    across = found.distance * sigma_of_azimuth(receiver, azimuth)

    out = np.zeros(n, DTYPE)
    out["x"], out["y"] = x, y
    out["vx"], out["vy"] = vx, vy
    out["vx_comp"], out["vy_comp"] = over_ground * np.cos(azimuth), over_ground * np.sin(azimuth)
    out["rcs"] = np.maximum(receiver.floor_dbsm, np.round(found.rcs / strengths) * strengths)
    out["id"] = np.arange(n)
    out["is_quality_valid"] = 1
    out["invalid_state"] = found.state
    ambiguous = np.where(rng.random(n) < states.staggered, 2, 1)
    out["ambig_state"] = np.where(unknown, 0, np.where(unsure, ambiguous, 3))
    out["dyn_prop"] = _dynamics(states, over_ground, moving, unknown, found.distance, rng)
    # Probability of a false alarm: below a quarter; as likely as not of what is marked; no doubt outside.
    sound = np.isin(found.state, (VALID, FAR_IN_NEAR, MULTI_TARGET))
    out["pdh0"] = np.where(unknown, 7, np.where(sound, 1, 2))
    c, s, of_distance = np.cos(azimuth), np.sin(azimuth), receiver.sigma[0]
    for name, sigma in (
        ("x_rms", np.hypot(c * of_distance, s * across)),
        ("y_rms", np.hypot(s * of_distance, c * across)),
        ("vx_rms", np.full(n, receiver.sigma[3])),
        ("vy_rms", np.full(n, receiver.sigma[3])),
    ):
        out[name] = np.where(unknown, 0, rms_code(sigma))
    return out


def _dynamics(
    states: States,
    over_ground: Floats,
    moving: NDArray[np.bool_],
    unknown: NDArray[np.bool_],
    distance: Floats,
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """dyn_prop: 0 moving, 2 oncoming, 1 stationary, 3 candidate for it (the further the likelier), 4 unknown."""
    least, most, metres = states.candidate
    candidate = rng.random(len(distance)) < np.clip(distance / metres, least, most)
    still = np.where(candidate, 3, 1)
    return np.where(unknown, 4, np.where(moving, np.where(over_ground > 0, 0, 2), still)).astype(np.int8)
