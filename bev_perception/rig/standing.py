"""Radar returns of what stands, and of what has a box, while they pass: stretches of the drive, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bev_perception.evaluation.objects import Objects
from bev_perception.geometry import invert, transform_boxes
from bev_perception.preprocess.radar import finite_returns
from bev_perception.rig.thinned import Thinned
from bev_perception.structures import RadarSweep, SensorFrame
from bev_perception.sync_config import NS

STRETCH_M, STRETCHES = 60.0, 8  # what odometry carries without drift, and how many of them are kept
STEP_M = 1.0  # driven from one scan that is kept to the next: a vehicle that stands sees the same again and again
STANDING_MPS = 0.4
NEAREST_M, FARTHEST_M = 2.0, 45.0  # nearer is the vehicle itself; further, an azimuth's error is a metre
BOX_M = 2.0  # a return this near to a box may be of it
LEAST_BOX_M = 1.2  # long; of anything shorter a radar sees a spot, not a side
RETURNS_KEPT = 1000  # of a radar in a stretch

STILL = np.dtype([("radar", "i4"), ("arm", "f8", 2), ("pose", "f8", (2, 3))])
HELD = np.dtype([("radar", "i4"), ("arm", "f8", 2), ("mount", "f8", 2), ("box", "f8", 7)])


@dataclass(frozen=True)
class Returns:
    """still (P,) STILL: returns of what stands; `arm` is from the radar to the return along the axes of base_link, as
    the extrinsics say, `pose` (2, 3) takes a place of base_link to odom, the radar's own place taken in. held (Q,)
    HELD: returns near a box; arm and `mount`, the radar's place, and the box in base_link at the scan. stretch (P,): in
    which stretch of the drive; poses of different ones are not related."""

    radars: tuple[str, ...]
    still: np.ndarray
    stretch: np.ndarray
    held: np.ndarray


@dataclass
class _Stretch:
    epoch: int
    metres: float = 0.0
    place: np.ndarray | None = None
    still: list[np.ndarray] = field(default_factory=list)
    held: list[np.ndarray] = field(default_factory=list)


class StandingHeard:
    """Give it every frame, with the boxes that belong to it or None; `finish` says what was there."""

    def __init__(self, radars: tuple[str, ...]) -> None:
        self._radars = radars
        self._stretches: Thinned[tuple[np.ndarray, np.ndarray]] = Thinned(STRETCHES)
        self._now: _Stretch | None = None
        self._last: dict[str, np.ndarray] = {}

    def add(self, frame: SensorFrame, objects: Objects | None) -> None:
        place = frame.ego.odom_from_ego[:2, 3]
        now = self._now
        if now is None or now.epoch != frame.ego.epoch or now.metres > STRETCH_M:
            self._close()
            now = self._now = _Stretch(frame.ego.epoch)
        if now.place is not None:
            now.metres += float(np.linalg.norm(place - now.place))
        now.place = place
        for k, (name, sweeps) in enumerate(zip(self._radars, frame.radars)):
            if not sweeps or sweeps[0].ego.epoch != frame.ego.epoch:
                continue
            before = self._last.get(name)
            if before is None or np.linalg.norm(place - before) >= STEP_M:
                self._last[name] = place
                now.still.append(_still(k, sweeps[0]))
                now.held.append(_held(k, sweeps[0], frame, objects))

    def finish(self) -> Returns:
        self._close()
        kept = self._stretches.values
        still = [still for still, _ in kept]
        return Returns(
            self._radars,
            np.concatenate([np.zeros(0, STILL), *still]),
            np.repeat(np.arange(len(kept)), [len(rows) for rows in still]),
            np.concatenate([np.zeros(0, HELD), *(held for _, held in kept)]),
        )

    def _close(self) -> None:
        now, self._now, self._last = self._now, None, {}
        if now is not None and now.still and now.metres > STEP_M:
            self._stretches.offer(lambda: (_thin(now.still, STILL), _thin(now.held, HELD)))


def _thin(parts: list[np.ndarray], kind: np.dtype) -> np.ndarray:
    """All rows, of each radar at most RETURNS_KEPT, evenly spread."""
    rows = np.concatenate([np.zeros(0, kind), *parts])
    chosen = [
        of[np.unique(np.linspace(0, len(of) - 1, min(len(of), RETURNS_KEPT)).astype(int))]
        for of in (np.flatnonzero(rows["radar"] == k) for k in np.unique(rows["radar"]))
    ]
    return rows[np.sort(np.concatenate(chosen))] if chosen else rows


def _arms(sweep: RadarSweep) -> tuple[np.ndarray, np.ndarray]:
    """((P, 2) from the radar to each return along the vehicle's axes, (P,) speed over ground), of those in reach."""
    points, _, velocity = finite_returns([sweep])
    distance = np.hypot(points[:, 0], points[:, 1])
    within = (distance > NEAREST_M) & (distance < FARTHEST_M)
    points, velocity = points[within], velocity[within]
    return (points[:, :3] @ sweep.ego_from_radar[:3, :3].T)[:, :2], np.hypot(velocity[:, 0], velocity[:, 1])


def _still(k: int, sweep: RadarSweep) -> np.ndarray:
    arm, speed = _arms(sweep)
    arm = arm[speed < STANDING_MPS]
    pose, mount = sweep.ego.odom_from_ego, sweep.ego_from_radar[:2, 3]
    rows = np.zeros(len(arm), STILL)
    rows["radar"], rows["arm"] = k, arm
    rows["pose"][:, :, :2] = pose[:2, :2]
    rows["pose"][:, :, 2] = pose[:2, :2] @ mount + pose[:2, 3]
    return rows


def _held(k: int, sweep: RadarSweep, frame: SensorFrame, objects: Objects | None) -> np.ndarray:
    if objects is None:
        return np.zeros(0, HELD)
    seen = objects.select((objects.num_points != 0) & (objects.boxes[:, 3] > LEAST_BOX_M))
    moved = seen.later((sweep.scan.stamp_ns - frame.stamp_ns) / NS).boxes
    boxes = transform_boxes(invert(sweep.ego.odom_from_ego) @ frame.ego.odom_from_ego, moved)
    arm, _ = _arms(sweep)
    mount = sweep.ego_from_radar[:2, 3]
    if not len(boxes) or not len(arm):
        return np.zeros(0, HELD)
    local = np.abs(in_box_frame(boxes[None], (arm + mount)[:, None]))
    outside = np.linalg.norm(np.maximum(local - boxes[None, :, 3:5] / 2, 0), axis=2)
    nearest = outside.argmin(axis=1)
    near = outside.min(axis=1) < BOX_M
    rows = np.zeros(int(near.sum()), HELD)
    rows["radar"], rows["arm"], rows["mount"], rows["box"] = k, arm[near], mount, boxes[nearest[near]]
    return rows


def in_box_frame(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Boxes (..., 7) and points (..., 2) of one frame -> (..., 2) from the box's middle along its length and width."""
    c, s = np.cos(boxes[..., 6]), np.sin(boxes[..., 6])
    away = points - boxes[..., :2]
    return np.stack([c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]], axis=-1)
