"""Messages on their way through the node's own intake and synchroniser, looked at while they pass: once, bounded."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bev_perception.conversions import MessageError, stamp_ns
from bev_perception.ego_motion import integrate_twist
from bev_perception.geometry import invert
from bev_perception.measurements import Measurements
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig, RadarConfig
from bev_perception.preprocess.encodings import ImageError, decode_image, source_size
from bev_perception.preprocess.radar import own_velocities
from bev_perception.rig.boxes_heard import BoxesHeard
from bev_perception.rig.direction import direction_of
from bev_perception.rig.doppler import fit_velocity
from bev_perception.rig.outlines import OutlinesHeard
from bev_perception.rig.pairs import PairsHeard
from bev_perception.rig.place import placed_by_boxes, placed_by_radars
from bev_perception.rig.standing import StandingHeard
from bev_perception.rig.summary import Drive, Heard, Motion, Offer, Picture, Summary
from bev_perception.rig.thinned import Thinned
from bev_perception.rig.times import TimesHeard, fold, phase_of
from bev_perception.sensors.intake import SensorIntake, Source
from bev_perception.sensors.radar_messages import read_radar
from bev_perception.structures import CameraFrame, EgoPose, RadarScan, RadarSweep, SensorFrame
from bev_perception.sync import FrameSynchronizer
from bev_perception.sync_config import MS, NS

# Speeds relative to the sensor that radars of cars send beside those over ground (ARS 408, nuScenes).
RELATIVE_COLUMNS = ("vx", "vy")
SCANS_KEPT, PHASES_KEPT, IMAGES_KEPT = 400, 1000, 24
IMAGE_WIDTH = 160  # of which colours are looked at
LEAST_MPS = 2.0  # slower, a radar's own motion says little of where it looks
SHIFT_M = 0.1  # and a tenth of the step: a pose that moved more than its twist says was corrected
LONGEST_STEP_NS = 500 * MS
SKY_SHARE, SKY_LEVEL = 0.3, 120.0  # rows from the top, and how bright a sky is at least


class RigListener:
    """Give the messages of `sources` to `intake`, then call `poll`; `finish` says what was heard.

    The sources are the intake's, with an eye on what passes: nothing is converted twice, and what is refused is refused
    by the node's own rules. boxes: the topic of boxes, heard where somebody sends them. Raises CalibrationError as
    SensorIntake does.
    """

    def __init__(self, config: NodeConfig, spec: ModelSpec, boxes: str) -> None:
        self.config, self.spec = config, spec
        self.taken = Measurements(config.sync_config(spec))
        self.details: dict[str, str] = {}
        self.intake = SensorIntake(config, self.taken, self._report)
        self._boxes = BoxesHeard(boxes)
        heard = tuple(replace(s, convert=partial(self._pass, s)) for s in self.intake.sources)
        self.sources = (*heard, self._boxes.source)
        self._sync = FrameSynchronizer(self.taken)
        self._inputs = self.intake.sources
        self._times = {source.sensor: TimesHeard() for source in self._inputs}
        self._sizes: dict[str, Counter[tuple[int, int]]] = {name: Counter() for name in config.cameras}
        self._encodings: dict[str, Counter[str]] = {name: Counter() for name in config.cameras}
        self._colors = {name: Thinned[tuple[float, float] | None](IMAGES_KEPT) for name in config.cameras}
        self._phases = {name: Thinned[int](PHASES_KEPT) for name in config.cameras}
        self._relative: dict[str, deque[RadarScan]] = {name: deque(maxlen=64) for name in config.radars}
        self._motions = {name: _MotionHeard() for name in config.radars}
        self._columns: dict[str, tuple[str, ...]] = {}
        self._odometry = _DriveHeard()
        self._pairs = PairsHeard(spec.cameras)
        self._standing, self._outlines = StandingHeard(spec.radars), OutlinesHeard(spec.cameras)
        self._waiting: SensorFrame | None = None
        self._frames = 0
        self._used: Counter[str] = Counter()

    def poll(self) -> None:
        """Make the frames that are due, and look at them."""
        for frame in self._sync.poll():
            self._look_at(frame)

    def finish(
        self,
        source: str,
        seconds: float,
        topics: Mapping[str, tuple[Offer, ...]],
        notes: Sequence[str] = (),
        live: bool = False,
    ) -> Summary:
        self._compare_last()
        returns = self._standing.finish()
        times = {name: heard.finish() for name, heard in self._times.items()}
        refused = {name: self._refused(name) for name in times}
        period_ns = self.taken.config.period_ns
        phases = {name: phase_of(found.values, period_ns) for name, found in self._phases.items() if found.values}
        found, poses = self._pairs.pairs, self._pairs.poses
        gaps = {name: self.intake.calibration.gap(name) for name in (*self.config.cameras, *self.config.radars)}
        return Summary(
            source=source,
            config=self.config,
            spec=self.spec,
            seconds=seconds,
            topics=topics,
            heard={
                s.sensor: Heard(s.sensor, s.topic, s.kind, times[s.sensor], refused[s.sensor]) for s in self._inputs
            },
            counters=dict(self.taken.counters),
            details=dict(self.details),
            frames=self._frames,
            used=dict(self._used),
            gaps={name: gap for name, gap in gaps.items() if gap},
            pictures={name: self._picture(name) for name in self.config.cameras},
            phases={name: (mean / MS, agreement) for name, (mean, agreement) in phases.items()},
            motions={name: found.finish() for name, found in self._motions.items()},
            radar_columns=self._columns,
            directions={name: direction_of(found[name], poses[name]) for name in found},
            by_radars=placed_by_radars(returns),
            by_boxes=placed_by_boxes(returns),
            outlines=self._outlines.finish(),
            boxes=self._boxes.heard,
            drive=self._odometry.finish(),
            notes=tuple(notes),
            live=live,
        )

    def _refused(self, sensor: str) -> dict[str, int]:
        prefix = f"{sensor}/"
        return {name.removeprefix(prefix): n for name, n in self.taken.counters.items() if name.startswith(prefix)}

    def _picture(self, name: str) -> Picture:
        colors = [found for found in self._colors[name].values if found is not None]
        sky, whole = zip(*colors) if colors else ((), ())
        sky = tuple(value for value in sky if not math.isnan(value))
        return Picture(dict(self._sizes[name]), dict(self._encodings[name]), sky, tuple(whole))

    def _report(self, sensor: str, reason: str, detail: str) -> None:
        self.details[f"{sensor}/{reason}" if sensor else reason] = detail

    # ---- messages

    def _pass(self, source: Source, message: Any) -> Any:
        """What the source makes of a message, noted."""
        self._note_stamp(source, message)
        self._note_frames(source, message)
        found = source.convert(message)
        if isinstance(found, CameraFrame):
            self._note_image(found)
        elif isinstance(found, RadarScan):
            self._note_scan(self.config.radars[found.sensor], found, message)
        elif isinstance(found, Sequence):
            for pose in found:
                if isinstance(pose, EgoPose):
                    self._odometry.add(pose)
        return found

    def _note_stamp(self, source: Source, message: Any) -> None:
        stamped = message.transforms if hasattr(message, "transforms") else (message,)
        try:
            stamp = stamp_ns(stamped[0].header.stamp) if len(stamped) else 0
        except MessageError:
            stamp = 0
        self._times[source.sensor].add(stamp, self.taken.now_ns or stamp)

    def _note_frames(self, source: Source, message: Any) -> None:
        if hasattr(message, "child_frame_id"):
            self._odometry.frames.update((message.header.frame_id, message.child_frame_id))

    def _note_image(self, frame: CameraFrame) -> None:
        name = frame.sensor
        anchor = self._times.get(self.taken.config.anchor)
        if anchor is not None and anchor.newest_ns is not None and name != self.taken.config.anchor:
            step, period_ns = frame.stamp_ns - anchor.newest_ns, self.taken.config.period_ns
            if abs(step) < 4 * period_ns:
                self._phases[name].offer(lambda: fold(step, period_ns))
        self._encodings[name][frame.encoding] += 1
        try:
            self._sizes[name][source_size(frame)] += 1
        except ImageError:
            return  # the pipeline says so, with its reason
        self._colors[name].offer(lambda: _colors(frame))

    def _note_scan(self, radar: RadarConfig, scan: RadarScan, message: Any) -> None:
        if not scan.compensated:
            self._relative[radar.name].append(scan)
        names = tuple(field.name for field in getattr(message, "fields", ()))
        self._columns[radar.name] = names
        if scan.compensated and set(RELATIVE_COLUMNS) <= set(names):
            fields = replace(radar.fields, vx=RELATIVE_COLUMNS[0], vy=RELATIVE_COLUMNS[1], velocity="relative")
            self._relative[radar.name].append(read_radar(message, radar.name, fields, kind=radar.kind)[0])

    # ---- frames

    def _look_at(self, frame: SensorFrame) -> None:
        self._frames += 1
        self._pairs.add(frame)
        self._compare_last()
        self._waiting = frame
        self._used.update(n for n in (*self.spec.cameras, *self.spec.radars) if n not in frame.missing)
        for name, sweeps in zip(self.spec.radars, frame.radars):
            if sweeps:
                self._motions[name].add(sweeps[0], self._relative[name])

    def _compare_last(self) -> None:
        """The frame before this one, as boxes that belong to it may have come after it was made."""
        frame, self._waiting = self._waiting, None
        if frame is None:
            return
        objects = self._boxes.at(frame.stamp_ns)
        self._standing.add(frame, objects)
        if objects is not None:
            self._outlines.add(frame, objects)


class _MotionHeard:
    """The newest scan of each frame: how the radar moves by its returns, and by odometry and extrinsics."""

    def __init__(self) -> None:
        self._pairs: Thinned[tuple[np.ndarray, np.ndarray, float] | None] = Thinned(SCANS_KEPT)
        self._over_ground: Thinned[tuple[np.ndarray, np.ndarray] | None] = Thinned(SCANS_KEPT)
        self._last_ns = 0
        self._scans = 0

    def add(self, sweep: RadarSweep, relative: Sequence[RadarScan]) -> None:
        scan = sweep.scan
        if scan.stamp_ns == self._last_ns:
            return
        self._last_ns = scan.stamp_ns
        self._scans += 1
        own = own_velocities([replace(sweep, scan=replace(scan, compensated=False))])[0][:2]
        if float(np.hypot(*own)) < LEAST_MPS:
            return
        if scan.compensated:
            self._over_ground.offer(lambda: _fitted(scan.points, own))
        known = next((r for r in reversed(relative) if r.stamp_ns == scan.stamp_ns), None)
        if known is not None:
            self._pairs.offer(lambda: _fitted_with_share(known.points, own))

    def finish(self) -> Motion:
        pairs = [found for found in self._pairs.values if found is not None]
        left = [found for found in self._over_ground.values if found is not None]
        return Motion(
            found=_rows(pair[0] for pair in pairs),
            expected=_rows(pair[1] for pair in pairs),
            over_ground=_rows(pair[0] for pair in left),
            over_ground_expected=_rows(pair[1] for pair in left),
            standing=np.array([pair[2] for pair in pairs]),
            scans=self._scans,
        )


def _rows(vectors: Any) -> np.ndarray:
    return np.array(list(vectors), dtype=np.float64).reshape(-1, 2)


def _fitted_with_share(points: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
    fit = fit_velocity(points)
    return None if fit is None else (fit.velocity, own, fit.standing)


def _fitted(points: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    fit = fit_velocity(points)
    return None if fit is None else (fit.velocity, own)


class _DriveHeard:
    """Poses in the order in which they come."""

    def __init__(self) -> None:
        self.frames: set[str] = set()
        self._last: EgoPose | None = None
        self._metres = self._radians = self._top_mps = self._off_m = 0.0
        self._steps = self._shifts = 0

    def add(self, pose: EgoPose) -> None:
        last, self._last = self._last, pose
        if last is None or not 0 < pose.stamp_ns - last.stamp_ns <= LONGEST_STEP_NS:
            return
        dt_s = (pose.stamp_ns - last.stamp_ns) / NS
        moved = invert(last.odom_from_ego) @ pose.odom_from_ego
        linear, angular = (last.linear + pose.linear) / 2, (last.angular + pose.angular) / 2
        said = integrate_twist(linear, angular, dt_s)
        off = float(np.linalg.norm(moved[:3, 3] - said[:3, 3]))
        length = float(np.linalg.norm(said[:3, 3]))
        self._steps += 1
        self._off_m = max(self._off_m, off)
        self._shifts += off > SHIFT_M + 0.1 * length
        self._metres += length
        self._radians += abs(float(angular[2])) * dt_s
        self._top_mps = max(self._top_mps, float(np.linalg.norm(pose.linear)))

    def finish(self) -> Drive:
        frames = tuple(sorted(filter(None, self.frames)))
        return Drive(self._metres, self._radians, self._top_mps, self._steps, self._shifts, self._off_m, frames)


def _colors(frame: CameraFrame) -> tuple[float, float] | None:
    """(blue minus red of the bright parts at the top, NaN where there is none; of the whole), grey levels of 255."""
    try:
        image = decode_image(frame, IMAGE_WIDTH)
    except ImageError:
        return None
    small = image[:: max(1, image.shape[0] // 90), :: max(1, image.shape[1] // IMAGE_WIDTH)].astype(np.float32)
    difference = small[..., 0] - small[..., 2]
    top = round(SKY_SHARE * len(small))
    bright = small[:top].mean(axis=2) > SKY_LEVEL
    sky = float(difference[:top][bright].mean()) if bright.mean() > 0.05 else math.nan
    return sky, float(difference.mean())
