"""Measurements of many sensors -> frames: what belongs together, who is late and why.

The rule, for a frame with stamp t (the anchor camera's stamp):
- camera c: an image within `camera_tolerance_ns` of t + offset(c), the first one that is not early by more than half
  the tolerance, else the latest;
- radar: its newest `radar_sweeps` scans in [t - radar_max_age_ns, t - radar_settle_ns];
- ego poses at t and at every chosen stamp, interpolated.
The frame is complete when no message to come can change it, given that each sensor sends in order: every live camera
has such a first image or one beyond, every live radar a scan at or after t - radar_settle_ns, and a pose lies at or
after all stamps. Then the frame is a function of the messages alone, whatever their order of arrival. A sensor is
live until it has been silent for `silence_ns`. When `deadline_ns` has passed since t the frame goes as it is.
Where the anchor is missing, the stamps come from another camera's images (stamp - offset), or from the radars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from bev_perception.ego_motion import MotionLimits, PoseBuffer
from bev_perception.stamped_buffer import NS, StampedBuffer
from bev_perception.structures import (
    RADAR_COLUMNS,
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    Epoch,
    RadarScan,
    RadarSweep,
    SensorFrame,
    same_calibration,
)
from bev_perception.sync_config import SensorHealth, SyncConfig

ODOMETRY = "odometry"


class FrameSynchronizer:
    """Feed it with add_*, then poll; see the module's text for the rule. Not thread-safe.

    counters: `SENSOR/reason` for each refused message and each sensor missing from a frame, `frame/reason` for each
    frame not delivered, `reset/reason`.
    A change of calibration and a reset begin a new epoch, which the frames assembled from then on carry.
    """

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self.counters: Counter[str] = Counter()
        self._calibrations: dict[str, CameraCalibration] = {}
        self._ego_from_radar: dict[str, np.ndarray] = {}
        self._poses = PoseBuffer(MotionLimits(config.max_extrapolation_ns, max_speed_mps=config.max_speed_mps))
        self._now_ns: int | None = None
        self._epoch = Epoch()
        self._clear()

    def set_camera_calibration(self, name: str, calibration: CameraCalibration) -> bool:
        """Holds for the frames to come; True when it replaces a different one (counted).

        One that is the same up to jitter replaces nothing, so that many small steps add up to a change.
        """
        known = self._calibrations.get(name)
        if known is not None and same_calibration(known, calibration):
            return False
        self._calibrations[name] = calibration
        if known is not None:
            self._calibration_changed(name)
        return known is not None

    def set_radar_extrinsics(self, name: str, ego_from_radar: np.ndarray) -> bool:
        """(4, 4) float64; holds for the frames to come; True when it replaces a different one (counted)."""
        known = self._ego_from_radar.get(name)
        self._ego_from_radar[name] = ego_from_radar
        changed = known is not None and not np.array_equal(known, ego_from_radar)
        if changed:
            self._calibration_changed(name)
        return changed

    def add_camera(self, frame: CameraFrame) -> str:
        """ "" or the counted reason for which the image is refused."""
        if frame.sensor not in self._cameras:
            return self._refuse(frame.sensor, "unknown_sensor")
        buffer = self._cameras[frame.sensor]
        return self._add(frame.sensor, frame.stamp_ns, buffer.newest_ns, lambda: self._cameras[frame.sensor].add(frame))

    def add_radar(self, scan: RadarScan) -> str:
        """ "" or the counted reason for which the scan is refused."""
        if scan.sensor not in self._radars:
            return self._refuse(scan.sensor, "unknown_sensor")
        if scan.points.ndim != 2 or scan.points.shape[1] != len(RADAR_COLUMNS):
            return self._refuse(scan.sensor, "bad_layout")
        buffer = self._radars[scan.sensor]
        return self._add(scan.sensor, scan.stamp_ns, buffer.newest_ns, lambda: self._radars[scan.sensor].add(scan))

    def add_pose(self, pose: EgoPose) -> str:
        """ "" or the counted reason for which the pose is refused."""
        return self._add(ODOMETRY, pose.stamp_ns, self._poses.newest_ns, lambda: self._poses.add(pose))

    def poll(self, now_ns: int) -> list[SensorFrame]:
        """Frames that are due at `now_ns` (the clock of the stamps), in stamp order."""
        if self._now_ns is not None and now_ns < self._now_ns - self.config.jump_back_ns:
            self.reset("time_jump_back")
        self._now_ns = now_ns
        frames = []
        while (stamp_ns := self._next_stamp()) is not None and self._is_due(stamp_ns):
            frame = self._assemble(stamp_ns)
            if frame is not None:
                frames.append(frame)
            self._finish(stamp_ns)
        return frames

    def reset(self, reason: str) -> None:
        """Forget all measurements (not the calibrations); counted."""
        self.counters[f"reset/{reason}"] += 1
        self._begin_epoch(reason)
        self._poses.reset()
        self._clear()

    def sensor_states(self, now_ns: int) -> dict[str, SensorHealth]:
        """Health of every camera, every radar and the odometry."""
        sources = {n: (b.newest_ns, b.rate_hz()) for n, b in self._cameras.items()}
        sources |= {n: (b.newest_ns, b.rate_hz()) for n, b in self._radars.items()}
        sources[ODOMETRY] = (self._poses.newest_ns, self._poses.rate_hz())
        return {name: self._health(name, now_ns, newest_ns, rate) for name, (newest_ns, rate) in sources.items()}

    # ---- intake

    def _clear(self) -> None:
        # Images wait here until their frame is due: a deadline's worth, and some more while the anchor is awaited.
        images = 4 + 4 * self.config.deadline_ns // self.config.period_ns
        self._cameras: dict[str, StampedBuffer[CameraFrame]] = {c: StampedBuffer(images) for c in self.config.cameras}
        self._radars: dict[str, StampedBuffer[RadarScan]] = {r: StampedBuffer(64) for r in self.config.radars}
        self._now_ns = None
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._missing: dict[str, str] = {}

    def _add(self, sensor: str, stamp_ns: int, newest_ns: int | None, add: Callable[[], str]) -> str:
        """Check the stamp against the clock (against the sensor's own stamps before the first poll), then take it."""
        now_ns = self._now_ns
        if now_ns is not None and stamp_ns > now_ns + self.config.max_future_ns:
            return self._refuse(sensor, "future_stamp")
        if now_ns is not None and stamp_ns < now_ns - self.config.max_past_ns:
            return self._refuse(sensor, "too_old")
        if newest_ns is not None and stamp_ns < newest_ns - self.config.jump_back_ns:
            self.reset("time_jump_back")
        reason = add()
        if reason:
            return self._refuse(sensor, reason)
        self._first_ns = min(stamp_ns, self._first_ns if self._first_ns is not None else stamp_ns)
        return ""

    def _calibration_changed(self, sensor: str) -> None:
        self.counters[f"{sensor}/calibration_changed"] += 1
        self._begin_epoch("calibration_changed")

    def _begin_epoch(self, reason: str) -> None:
        self._epoch = Epoch(self._epoch.number + 1, reason)

    def _refuse(self, sensor: str, reason: str) -> str:
        self.counters[f"{sensor}/{reason}"] += 1
        return reason

    # ---- which stamp is next, and is it due

    def _next_stamp(self) -> int | None:
        """Stamp of the next frame as far as the messages tell; a later message may still show an earlier one."""
        half = self.config.period_ns // 2
        earliest = self._last_ns + half if self._last_ns is not None else None
        anchor = self._first_slot([self.config.anchor], earliest)
        virtual = self._first_slot([c for c in self.config.cameras if c != self.config.anchor], earliest)
        if anchor is not None and (virtual is None or virtual >= anchor - half or self._last_ns is None):
            return anchor
        if virtual is not None:
            return virtual
        # Radars tell the time only where a whole period has passed without an image.
        after = self._last_ns + self.config.period_ns if self._last_ns is not None else None
        stamps = [s.stamp_ns + self.config.radar_settle_ns for r in self._radars.values() for s in r.items]
        return min((t for t in stamps if after is None or t >= after), default=None)

    def _first_slot(self, cameras: list[str], earliest: int | None) -> int | None:
        """Smallest stamp - offset of the waiting images, not before `earliest`."""
        slots = (
            i.stamp_ns - self.config.offset(c) for c in cameras if c in self._cameras for i in self._cameras[c].items
        )
        return min((t for t in slots if earliest is None or t > earliest), default=None)

    def _is_due(self, stamp_ns: int) -> bool:
        """True when the frame is complete, or its deadline has passed."""
        assert self._now_ns is not None
        passed_ns = self._now_ns - stamp_ns
        if self._last_ns is None and not self._waiting_images(self.config.anchor):
            # Nothing has been delivered yet: give the anchor time to appear before another camera sets the stamps.
            assert self._first_ns is not None
            if self._now_ns - self._first_ns < self.config.startup_ns:
                return False
        return passed_ns >= self.config.deadline_ns or self._is_complete(stamp_ns)

    def _is_complete(self, stamp_ns: int) -> bool:
        config, needed_ns = self.config, stamp_ns
        for name, buffer in self._cameras.items():
            target, tolerance = stamp_ns + config.offset(name), config.camera_tolerance_ns
            image = self._image(name, stamp_ns)
            if image is not None:
                needed_ns = max(needed_ns, image.stamp_ns)
            settled = image is not None and image.stamp_ns >= target - tolerance // 2
            if not settled and self._awaited(buffer.newest_ns, target, target + tolerance):
                return False
        for scans in self._radars.values():
            target = stamp_ns - config.radar_settle_ns
            if self._awaited(scans.newest_ns, target, target - 1):
                return False
        return not self._awaited(self._poses.newest_ns, needed_ns, needed_ns - 1, always=True)

    def _awaited(self, newest_ns: int | None, target_ns: int, satisfied_beyond_ns: int, always: bool = False) -> bool:
        """True while a sensor that is expected to speak has said nothing newer than `satisfied_beyond_ns`."""
        if newest_ns is None:
            return always or self._first_ns is None or target_ns - self._first_ns < self.config.startup_ns
        if newest_ns > satisfied_beyond_ns:
            return False
        return always or target_ns - newest_ns <= self.config.silence_ns

    # ---- what goes into the frame

    def _image(self, camera: str, stamp_ns: int) -> CameraFrame | None:
        target, tolerance = stamp_ns + self.config.offset(camera), self.config.camera_tolerance_ns
        images = self._cameras[camera].between(target - tolerance, target + tolerance)
        timely = (image for image in images if image.stamp_ns >= target - tolerance // 2)
        return next(timely, images[-1] if images else None)

    def _waiting_images(self, camera: str) -> bool:
        return camera in self._cameras and bool(self._cameras[camera].items)

    def _assemble(self, stamp_ns: int) -> SensorFrame | None:
        ego = self._poses.at(stamp_ns)
        if ego is None:
            self._missing = {ODOMETRY: "no_pose"}
            self.counters["frame/no_pose"] += 1
            return None
        missing: dict[str, str] = {}
        cameras = tuple(self._view(name, ego, missing) for name in self.config.cameras)
        radars = tuple(self._sweeps(name, ego, missing) for name in self.config.radars)
        self._missing = missing
        self.counters.update(f"{name}/{reason}" for name, reason in missing.items())
        if not any(cameras) and not any(radars):
            self.counters["frame/no_sensor"] += 1
            return None
        return SensorFrame(stamp_ns, ego, cameras, radars, missing, self._epoch)

    def _view(self, name: str, ego: EgoPose, missing: dict[str, str]) -> CameraView | None:
        image, calibration = self._image(name, ego.stamp_ns), self._calibrations.get(name)
        target = ego.stamp_ns + self.config.offset(name)
        if image is None:
            beyond = target + self.config.camera_tolerance_ns
            missing[name] = self._absence(self._cameras[name].newest_ns, target, beyond, "out_of_tolerance")
            return None
        pose = self._poses.at(image.stamp_ns)
        if calibration is None:
            missing[name] = "no_calibration"
        elif pose is None:
            missing[name] = "no_pose"
        elif pose.epoch != ego.epoch:
            missing[name] = "pose_jump"
        else:
            return CameraView(image, calibration, pose)
        return None

    def _sweeps(self, name: str, ego: EgoPose, missing: dict[str, str]) -> tuple[RadarSweep, ...]:
        target = ego.stamp_ns - self.config.radar_settle_ns
        scans = self._radars[name].between(ego.stamp_ns - self.config.radar_max_age_ns, target)
        if not scans:
            missing[name] = self._absence(self._radars[name].newest_ns, target, target, "no_scan")
            return ()
        ego_from_radar = self._ego_from_radar.get(name)
        if ego_from_radar is None:
            missing[name] = "no_calibration"
            return ()
        poses = [(scan, self._poses.at(scan.stamp_ns)) for scan in reversed(scans[-self.config.radar_sweeps :])]
        sweeps = tuple(RadarSweep(s, ego_from_radar, p) for s, p in poses if p is not None and p.epoch == ego.epoch)
        if not sweeps:
            missing[name] = "no_pose" if all(p is None for _, p in poses) else "pose_jump"
        return sweeps

    def _absence(self, newest_ns: int | None, target_ns: int, beyond_ns: int, skipped: str) -> str:
        """Why a sensor has nothing for a frame."""
        if newest_ns is None:
            return "never_seen"
        if target_ns - newest_ns > self.config.silence_ns:
            return "stale"
        return skipped if newest_ns > beyond_ns else "late"

    def _finish(self, stamp_ns: int) -> None:
        """The frame is done: drop what no later frame can use."""
        self._last_ns = stamp_ns
        next_ns = stamp_ns + self.config.period_ns // 2
        anchor = self._cameras.get(self.config.anchor)
        if anchor is not None:
            for _ in anchor.between(stamp_ns + 1, next_ns):
                self._refuse(self.config.anchor, "too_close")
            anchor.forget_before(next_ns + 1)
        for name, buffer in self._cameras.items():
            buffer.forget_before(next_ns + 1 + self.config.offset(name) - self.config.camera_tolerance_ns)
        for scans in self._radars.values():
            scans.forget_before(next_ns - self.config.radar_max_age_ns)

    def _health(self, name: str, now_ns: int, newest_ns: int | None, rate_hz: float) -> SensorHealth:
        if newest_ns is None:
            return SensorHealth("never_seen", float("inf"), 0.0, "never_seen")
        age_s = (now_ns - newest_ns) / NS
        if now_ns - newest_ns > self.config.silence_ns:
            return SensorHealth("stale", age_s, rate_hz, "stale")
        reason = self._missing.get(name, "")
        return SensorHealth("degraded" if reason else "ok", age_s, rate_hz, reason)
