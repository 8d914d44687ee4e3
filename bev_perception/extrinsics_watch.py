"""Where cameras and radars look, estimated while driving: told, never corrected. No ROS.

The doctor's checks (rig/), a little at a time: a radar's own motion by its standing returns against odometry's, and the
points of a camera's images against the lines on which the vehicle's motion must carry them. Each sensor has its turn,
what was found of the last minute or two counts, and after each piece of work the watch rests, so that it works no more
than its share of the time.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from bev_perception.preprocess.radar import own_velocities
from bev_perception.rig.direction import LOST_PX, best_turn
from bev_perception.rig.doppler import fit_velocity, middle_deg, yaw_off_deg
from bev_perception.rig.epipolar import Pair, mean_distance
from bev_perception.rig.pairs import STEP_M, follows, moved_m, pair_of
from bev_perception.rig.perturb import TURNS
from bev_perception.structures import (
    CameraCalibration,
    CameraView,
    RadarSweep,
    SensorFrame,
    same_calibration,
    same_extrinsics,
)
from bev_perception.sync_config import NS
from bev_perception.usual.reading import Reading
from bev_perception.worker import Budget

DRIFT = "extrinsics_drift"  # the reason under which it is told
RADAR_WINDOW_S = 60.0
SCANS, LEAST_SCANS = 120, 20  # of a radar within the window: kept, and enough to judge by
CAMERA_WINDOW_S = 120.0
PAIRS, LEAST_PAIRS, EVERY = 12, 4, 2  # of a camera's images; judged anew after so many more
LASTING, LEAST_LASTING = 3, 2  # estimates of a camera whose median counts, and that it takes to be sure
LEAST_MPS = 2.0
RADAR_DEG, CAMERA_DEG = 0.5, 0.75  # what is told of
SURE = 3.0  # standard errors
TURNED_ROUND_DEG = 150.0
PATIENCE_NS = 10 * NS  # with a camera whose images do not do

ALL_RADARS = ""  # a turn of every radar's newest scan
RADAR_TURNS = 3  # between two cameras

Calibration = CameraCalibration | np.ndarray  # of a radar ego_from_radar (4, 4)
Drift = tuple[float, float, bool, str]  # degrees, the limit, whether that is told, and in words


class ExtrinsicsWatch:
    """Give it frames in stamp order, in one thread; `readings` may be asked in another.

    share: of the time in which it may work. While it does it has a core, and OpenCV's threads help with a quarter of a
    pair of images. So time is the wall clock's (used_s, now_s): a thread's CPU time lacks what others do for it, the
    process's has what the network takes beside it.
    """

    def __init__(
        self,
        cameras: tuple[str, ...],
        radars: tuple[str, ...],
        share: float,
        used_s: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = Budget(share, used_s, now_s)
        self._cameras, self._radars = cameras, radars
        # A scan costs a thirtieth of two images, and more of them are wanted.
        turns = [turn for name in cameras for turn in (*[ALL_RADARS] * RADAR_TURNS, name)] or [ALL_RADARS]
        self._turns = deque(turns)
        self._turn_ns = 0  # when the camera whose turn it is had its first frame
        self._readings: dict[str, Reading] = {}
        self._calibrations: dict[str, Calibration] = {}  # with which what was collected was measured
        self._watches: dict[str, _Watch] = {}
        for name in (*cameras, *radars):
            self._begin_anew(name)

    def add(self, frame: SensorFrame) -> None:
        """One piece of work at most, once the watch has rested. Where it raises that turn is over all the same, and the
        sensor begins anew."""
        self._follow_calibrations(frame)
        if self._budget.owed_s() > 0:
            return
        self._turn_ns = self._turn_ns or frame.stamp_ns
        done = True
        try:
            with self._budget.work():
                done = self._look(frame)
        finally:
            if done or not 0 <= frame.stamp_ns - self._turn_ns < PATIENCE_NS:
                self._turns.rotate(-1)
                self._turn_ns = 0

    def readings(self) -> tuple[Reading, ...]:
        """Of the sensors that were looked at long enough; scores and thresholds in degrees."""
        return tuple(self._readings.values())

    def _follow_calibrations(self, frame: SensorFrame) -> None:
        """What was seen of a sensor that sat elsewhere, or through another lens, is another question."""
        now: dict[str, Calibration] = {n: v.calibration for n, v in zip(self._cameras, frame.cameras) if v is not None}
        now |= {name: sweeps[0].ego_from_radar for name, sweeps in zip(self._radars, frame.radars) if sweeps}
        for name, calibration in now.items():
            known = self._calibrations.setdefault(name, calibration)
            if known is not calibration and not _same(known, calibration):
                self._calibrations[name] = calibration
                self._begin_anew(name)

    def _look(self, frame: SensorFrame) -> bool:
        """Whether whose turn it is has had it."""
        camera = self._turns[0]
        if camera != ALL_RADARS:
            return self._look_at(camera, frame.cameras[self._cameras.index(camera)], frame.stamp_ns)
        errors = []
        for radar, sweeps in zip(self._radars, frame.radars):
            try:
                self._look_at(radar, sweeps[0] if sweeps else None, frame.stamp_ns)
            except Exception as error:  # of one radar, which costs the others nothing
                errors.append(error)
        if errors:
            raise errors[0]
        return True

    def _look_at(self, name: str, measured: Any, stamp_ns: int) -> bool:
        """Of a camera its view, of a radar its newest sweep; None where there is none."""
        try:
            done = self._watches[name].add(measured)
            if done:
                self._read(name, self._watches[name].drift(stamp_ns), stamp_ns)
        except Exception:
            self._begin_anew(name)
            raise
        return done

    def _begin_anew(self, name: str) -> None:
        """What was collected of a sensor, and said of it, holds no longer."""
        self._watches[name] = _CameraWatch() if name in self._cameras else _RadarWatch()
        self._read(name, None, 0)

    def _read(self, name: str, found: Drift | None, stamp_ns: int) -> None:
        if found is None:
            self._readings = {n: reading for n, reading in self._readings.items() if n != name}
            return
        degrees, limit, is_off, text = found
        before = self._readings.get(name)
        since_ns = (before.since_ns if before is not None and before.alarm else stamp_ns) if is_off else None
        self._readings = self._readings | {name: Reading(name, degrees, limit, since_ns, text)}


def _same(a: Calibration, b: Calibration) -> bool:
    if isinstance(a, CameraCalibration):
        return isinstance(b, CameraCalibration) and same_calibration(a, b)
    return not isinstance(b, CameraCalibration) and same_extrinsics(a, b)


class _Watch(Protocol):
    """Of one sensor."""

    def add(self, measured: Any) -> bool:
        """What it measured, None for nothing. Whether it has had its turn."""

    def drift(self, stamp_ns: int) -> Drift | None:
        """None as long as there is too little to say anything."""


class _RadarWatch:
    """Angles (degrees) between how a radar moves by its returns and by odometry, with the stamps of the scans."""

    def __init__(self) -> None:
        self._angles: deque[tuple[int, float]] = deque(maxlen=SCANS)

    def add(self, sweep: RadarSweep | None) -> bool:
        """Always its turn. Speeds over ground say nothing: what stands has none, wherever it is seen."""
        if sweep is not None and not sweep.scan.compensated:
            self._add(sweep)
        return True

    def _add(self, sweep: RadarSweep) -> None:
        stamp_ns = sweep.scan.stamp_ns
        if self._angles and stamp_ns < self._angles[-1][0]:  # time has jumped back
            self._angles.clear()
        expected = own_velocities([sweep])[:, :2]
        if (self._angles and stamp_ns == self._angles[-1][0]) or float(np.hypot(*expected[0])) < LEAST_MPS:
            return
        fit = fit_velocity(sweep.scan.points)
        if fit is not None:
            self._angles.append((stamp_ns, float(yaw_off_deg(fit.velocity[None], expected)[0])))

    def drift(self, stamp_ns: int) -> Drift | None:
        angles = np.array([angle for at, angle in self._angles if stamp_ns - at < RADAR_WINDOW_S * NS])
        if len(angles) < LEAST_SCANS:
            return None
        yaw = middle_deg(angles)
        spread = 1.4826 * float(np.median(np.abs((angles - yaw + 180.0) % 360.0 - 180.0)))
        error = 1.2533 * spread / math.sqrt(len(angles))  # of a median
        text = f"yaw {yaw:+.2f} +- {error:.2f} degrees by {len(angles)} scans against odometry"
        if abs(yaw) > TURNED_ROUND_DEG:
            text += "; it looks the other way, or the sign of its speeds is wrong"
        return abs(yaw), RADAR_DEG, abs(yaw) - SURE * error > RADAR_DEG, text


class _CameraWatch:
    """Pairs of images of one camera, and the turn that fits them best."""

    def __init__(self) -> None:
        self._pairs: deque[tuple[int, Pair]] = deque(maxlen=PAIRS)
        self._before: CameraView | None = None
        self._pose = np.eye(4)
        self._new = 0
        self._turns: deque[dict[str, float]] = deque(maxlen=LASTING)
        self._text = ""

    def add(self, view: CameraView | None) -> bool:
        """Whether a pair was made, or none can be."""
        before = self._before
        if view is None:
            self._before = None
            return True
        if before is None or not follows(before, view):
            self._before = view
            return False
        if moved_m(before, view) < STEP_M:
            return False
        self._before = None
        self._pose = view.calibration.ego_from_cam
        pair = pair_of(before, view)
        if pair is not None:
            self._pairs.append((view.frame.stamp_ns, pair))
            self._new += 1
        return True

    def drift(self, stamp_ns: int) -> Drift | None:
        pairs = [pair for at, pair in self._pairs if 0 <= stamp_ns - at < CAMERA_WINDOW_S * NS]
        if len(pairs) < LEAST_PAIRS:
            self._turns.clear()
        elif self._new >= EVERY or not self._turns:
            self._new = 0
            self._estimate(pairs)
        if not self._turns:
            return None
        middle = {name: float(np.median([turn[name] for turn in self._turns])) for name in TURNS}
        degrees = max(map(abs, middle.values()))
        turns = ", ".join(f"{name} {value:+.2f}" for name, value in middle.items() if value)
        words = f"turned by {turns} degrees it fits better" if turns else "no turn fits better"
        lasts = len(self._turns) >= LEAST_LASTING
        return degrees, CAMERA_DEG, lasts and degrees >= CAMERA_DEG, words + self._text

    def _estimate(self, pairs: list[Pair]) -> None:
        here = mean_distance(pairs, self._pose)
        if math.isnan(here):
            return
        turn, least = best_turn(pairs, self._pose)
        if least <= LOST_PX:  # or points were not followed
            self._turns.append(turn)
            self._text = f": {least:.2f} px off the lines of motion, not {here:.2f}, in {len(pairs)} pairs of images"
