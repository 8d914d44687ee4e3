"""What the sensors have said so far: taken in, checked, kept for a while, and put together into one frame."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np

from bev_perception.ego_motion import MotionLimits, PoseBuffer
from bev_perception.stamp_guard import StampGuard
from bev_perception.stamped_buffer import StampedBuffer
from bev_perception.structures import (
    DEADLINE,
    ODOMETRY,
    RADAR_COLUMNS,
    CameraCalibration,
    CameraFrame,
    CameraView,
    Composition,
    EgoPose,
    Epoch,
    RadarScan,
    RadarSweep,
    SensorFrame,
    same_calibration,
    same_extrinsics,
)
from bev_perception.sync_config import ABSENT, SyncConfig


class Measurements:
    """Feed it with add_*; `assemble` makes a frame of what is there. Bounded; not thread-safe.

    counters: `SENSOR/reason` for each refused message and each sensor missing from a frame, `frame/reason` for each
    frame not made or closed by its deadline, `reset/reason`.
    missing: sensor -> reason, of the newest frame that was tried; made: whether it could be. held_up: the caller says
    that messages have waited for long before they were taken in; what is absent then was `overloaded` by us, not late
    by itself.
    A change of calibration and a reset begin a new epoch, which the frames assembled from then on carry.
    """

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self.counters: Counter[str] = Counter()
        self.now_ns: int | None = None
        self.held_up = False
        self.made = True
        self.resets = 0
        self.poses = PoseBuffer(MotionLimits(config.max_extrapolation_ns, max_speed_mps=config.max_speed_mps))
        self._guard = StampGuard(config)
        self._calibrations: dict[str, CameraCalibration] = {}
        self._ego_from_radar: dict[str, np.ndarray] = {}
        self._uncalibrated: set[str] = set()  # lost their calibration; the old one tells whether a new one differs
        self._epoch = Epoch()
        self._clear()

    # ---- taking in

    def set_camera_calibration(self, name: str, calibration: CameraCalibration) -> bool:
        """Holds for the frames to come; True when it replaces a different one (counted).

        One that is the same up to jitter replaces nothing, so that many small steps add up to a change.
        """
        known = self._calibrations.get(name)
        self._uncalibrated.discard(name)
        if known is not None and same_calibration(known, calibration):
            return False
        self._calibrations[name] = calibration
        if known is not None:
            self._calibration_changed(name)
        return known is not None

    def set_radar_extrinsics(self, name: str, ego_from_radar: np.ndarray) -> bool:
        """(4, 4) float64; holds for the frames to come; True when it replaces a different one (counted), which one that
        is the same up to jitter does not."""
        known = self._ego_from_radar.get(name)
        self._uncalibrated.discard(name)
        if known is not None and same_extrinsics(known, ego_from_radar):
            return False
        self._ego_from_radar[name] = ego_from_radar
        if known is not None:
            self._calibration_changed(name)
        return known is not None

    def drop_calibration(self, name: str) -> bool:
        """Of a camera or a radar: it is masked until there is a new one. True where there was one (counted)."""
        lost = (name in self._calibrations or name in self._ego_from_radar) and name not in self._uncalibrated
        if lost:
            self._uncalibrated.add(name)
            self.counters[f"{name}/calibration_lost"] += 1
        return lost

    def advance(self, now_ns: int) -> None:
        """Tell the time, on the clock of the stamps. A clock that was set back resets everything."""
        if self.now_ns is not None and now_ns < self.now_ns - self.config.jump_back_ns:
            self.reset("time_jump_back")
        self.now_ns = now_ns

    def add_camera(self, frame: CameraFrame) -> str:
        """ "" or the counted reason for which the image is refused."""
        if frame.sensor not in self.cameras:
            return self.refuse(frame.sensor, "unknown_sensor")
        return self._add(frame.sensor, frame.stamp_ns, lambda: self.cameras[frame.sensor].add(frame))

    def add_radar(self, scan: RadarScan) -> str:
        """ "" or the counted reason for which the scan is refused."""
        if scan.sensor not in self.radars:
            return self.refuse(scan.sensor, "unknown_sensor")
        if scan.points.ndim != 2 or scan.points.shape[1] != len(RADAR_COLUMNS):
            return self.refuse(scan.sensor, "bad_layout")
        return self._add(scan.sensor, scan.stamp_ns, lambda: self.radars[scan.sensor].add(scan))

    def add_pose(self, pose: EgoPose) -> str:
        """ "" or the counted reason for which the pose is refused."""
        return self._add(ODOMETRY, pose.stamp_ns, lambda: self.poses.add(pose))

    def refuse(self, sensor: str, reason: str) -> str:
        """Count a refused message -> the reason."""
        self.counters[f"{sensor}/{reason}"] += 1
        return reason

    def reset(self, reason: str) -> None:
        """Forget all measurements (not the calibrations); counted."""
        self.counters[f"reset/{reason}"] += 1
        self.resets += 1
        self._begin_epoch(reason)
        self.poses.reset()
        self._guard.clear()
        self._clear()

    def _clear(self) -> None:
        # Images wait here until their frame is due: a deadline's worth, and some more while the anchor is awaited.
        images = 4 + 4 * self.config.deadline_ns // self.config.period_ns
        self.cameras: dict[str, StampedBuffer[CameraFrame]] = {
            c: StampedBuffer(images) for c in self.config.cameras if c not in self.config.absent
        }
        self.radars: dict[str, StampedBuffer[RadarScan]] = {
            r: StampedBuffer(64) for r in self.config.radars if r not in self.config.absent
        }
        self.missing: dict[str, str] = {}
        # Since the reset: the smallest stamp that was taken, and the stamp of the last frame that was made.
        self.first_ns: int | None = None
        self.last_ns: int | None = None

    def _add(self, sensor: str, stamp_ns: int, add: Callable[[], str]) -> str:
        reason = self._guard.check(sensor, stamp_ns, self.now_ns)
        if reason == "time_jump_back":
            self.reset(reason)
            reason = self._guard.check(sensor, stamp_ns, self.now_ns)
        elif reason == "restarted":
            self._restart(sensor)
            reason = ""
        reason = reason or add()
        if reason:
            return self.refuse(sensor, reason)
        self.first_ns = stamp_ns if self.first_ns is None else min(stamp_ns, self.first_ns)
        return ""

    def _restart(self, sensor: str) -> None:
        """A sensor's stamps go on from an earlier time: what it said before belongs to another one."""
        self.counters[f"{sensor}/restarted"] += 1
        if sensor == ODOMETRY:
            self.poses.reset()
        else:
            (self.cameras if sensor in self.cameras else self.radars)[sensor].clear()

    def _calibration_changed(self, sensor: str) -> None:
        self.counters[f"{sensor}/calibration_changed"] += 1
        self._begin_epoch("calibration_changed")

    def _begin_epoch(self, reason: str) -> None:
        self._epoch = Epoch(self._epoch.number + 1, reason)

    # ---- what goes into a frame

    def has(self, sensor: str, stamp_ns: int) -> bool:
        """Whether a camera's image or a radar's scan of just this stamp is here."""
        if sensor in self.cameras:
            return self.cameras[sensor].get(stamp_ns) is not None
        return sensor in self.radars and self.radars[sensor].get(stamp_ns) is not None

    def newest(self, sensor: str) -> tuple[int | None, float]:
        """(stamp of the newest measurement taken, rate in Hz) of a sensor or of odometry."""
        if sensor == ODOMETRY:
            return self.poses.newest_ns, self.poses.rate_hz()
        if sensor in self.cameras:
            return self.cameras[sensor].newest_ns, self.cameras[sensor].rate_hz()
        return self.radars[sensor].newest_ns, self.radars[sensor].rate_hz()

    def image(self, camera: str, stamp_ns: int) -> CameraFrame | None:
        """The image of a camera for the frame at `stamp_ns`: the rule of bev_perception.sync."""
        target, tolerance = stamp_ns + self.config.offset(camera), self.config.camera_tolerance_ns
        images = self.cameras[camera].between(target - tolerance, target + tolerance)
        timely = (image for image in images if image.stamp_ns >= target - tolerance // 2)
        return next(timely, images[-1] if images else None)

    def scans(self, radar: str, stamp_ns: int) -> list[RadarScan]:
        """The scans of a radar for the frame at `stamp_ns`, newest first: the rule of bev_perception.sync."""
        oldest, newest = stamp_ns - self.config.radar_max_age_ns, stamp_ns - self.config.radar_settle_ns
        return self.radars[radar].between(oldest, newest)[-self.config.radar_sweeps :][::-1]

    def assemble(self, stamp_ns: int, closed_by: str, of: Composition | None = None) -> SensorFrame | None:
        """The frame at a stamp, of what is there by the rule, or of exactly the measurements of an earlier composition.

        None where there is no pose or no sensor at all; counted, and `missing` says which.
        """
        until_ns = of.pose_ns if of else None
        ego = self.poses.at(stamp_ns, until_ns)
        self.made = False
        if ego is None:
            reason = "overloaded" if self.held_up else "no_pose"
            self.missing = {ODOMETRY: reason}
            self.counters[f"frame/{reason}"] += 1
            return None
        missing: dict[str, str] = {}
        cameras: list[CameraView | None] = []
        radars: list[tuple[RadarSweep, ...]] = []
        for name in self.config.cameras:
            if name in self.config.absent:
                missing[name] = ABSENT
                cameras.append(None)
                continue
            image = self.cameras[name].get(of.newest_ns(name)) if of else self.image(name, stamp_ns)
            cameras.append(self._view(name, image, ego, until_ns, missing))
        for name in self.config.radars:
            if name in self.config.absent:
                missing[name] = ABSENT
                radars.append(())
                continue
            known = self.radars[name]
            named = [known.get(t) for t in of.stamps_ns.get(name, ())] if of else self.scans(name, stamp_ns)
            scans = [scan for scan in named if scan is not None]
            radars.append(self._sweeps(name, scans, ego, until_ns, missing))
        if of:
            missing |= {name: reason for name, reason in of.missing.items() if name in missing}
        self.missing = missing
        self.counters["frame/closed_by_deadline"] += closed_by == DEADLINE
        self.counters.update(f"{name}/{reason}" for name, reason in missing.items() if reason != ABSENT)
        if not any(cameras) and not any(radars):
            self.counters["frame/no_sensor"] += 1
            return None
        self.made = True
        composition = self._composition(ego, cameras, radars, missing, closed_by, until_ns or self.poses.newest_ns or 0)
        return SensorFrame(stamp_ns, ego, tuple(cameras), tuple(radars), missing, self._epoch, composition)

    def _view(
        self, name: str, image: CameraFrame | None, ego: EgoPose, until_ns: int | None, missing: dict[str, str]
    ) -> CameraView | None:
        if image is None:
            target = ego.stamp_ns + self.config.offset(name)
            beyond = target + self.config.camera_tolerance_ns
            missing[name] = self._absence(self.cameras[name].newest_ns, target, beyond, "out_of_tolerance")
            return None
        calibration, pose = self._calibrations.get(name), self.poses.at(image.stamp_ns, until_ns)
        if calibration is None or name in self._uncalibrated:
            missing[name] = "no_calibration"
        elif pose is None:
            missing[name] = "no_pose"
        elif pose.epoch != ego.epoch:
            missing[name] = "pose_jump"
        else:
            return CameraView(image, calibration, pose)
        return None

    def _sweeps(
        self, name: str, scans: list[RadarScan], ego: EgoPose, until_ns: int | None, missing: dict[str, str]
    ) -> tuple[RadarSweep, ...]:
        if not scans:
            target = ego.stamp_ns - self.config.radar_settle_ns
            missing[name] = self._absence(self.radars[name].newest_ns, target, target, "no_scan")
            return ()
        ego_from_radar = self._ego_from_radar.get(name)
        if ego_from_radar is None or name in self._uncalibrated:
            missing[name] = "no_calibration"
            return ()
        poses = [(scan, self.poses.at(scan.stamp_ns, until_ns)) for scan in scans]
        sweeps = tuple(RadarSweep(s, ego_from_radar, p) for s, p in poses if p is not None and p.epoch == ego.epoch)
        if not sweeps:
            missing[name] = "no_pose" if all(p is None for _, p in poses) else "pose_jump"
        return sweeps

    def _absence(self, newest_ns: int | None, target_ns: int, beyond_ns: int, skipped: str) -> str:
        """Why a sensor has nothing for a frame."""
        if newest_ns is None:
            return "never_seen"
        if self.held_up:
            return "overloaded"
        if target_ns - newest_ns > self.config.silence_ns:
            return "stale"
        return skipped if newest_ns > beyond_ns else "late"

    def _composition(
        self,
        ego: EgoPose,
        cameras: list[CameraView | None],
        radars: list[tuple[RadarSweep, ...]],
        missing: dict[str, str],
        closed_by: str,
        pose_ns: int,
    ) -> Composition:
        stamps: dict[str, tuple[int, ...]] = {}
        stamps |= {name: (view.frame.stamp_ns,) for name, view in zip(self.config.cameras, cameras) if view}
        stamps |= {n: tuple(s.scan.stamp_ns for s in sweeps) for n, sweeps in zip(self.config.radars, radars) if sweeps}
        poses = [ego, *(v.ego for v in cameras if v), *(s.ego for sweeps in radars for s in sweeps)]
        crc = zlib.crc32(np.stack([p.odom_from_ego for p in poses]).tobytes())
        return Composition(closed_by, stamps, missing, pose_ns, crc)
