"""A recording -> everything that the node would take in, each image and scan on its own pose, and the keyframes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.bags.recording import open_bag
from bev_perception.bags.storage import BagError, Note
from bev_perception.evaluation.frames import absent_topics, hear
from bev_perception.evaluation.objects import Objects
from bev_perception.measurements import Measurements
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.sensors.intake import SensorIntake
from bev_perception.structures import ODOMETRY, CameraCalibration, CameraFrame, EgoPose, RadarScan, SensorFrame
from bev_perception.sync import FrameSynchronizer
from bev_perception.sync_config import ABSENT, NS
from training.recorded.lidar import LIDAR, LidarInput, LidarSweep
from training.recorded.radar import recorded_fields

PATIENCE_NS = NS  # what has no pose after so long has none
STARTUP_NS = NS
Measured = CameraFrame | RadarScan | LidarSweep
Stretch = tuple[int, int]  # of unbroken time and odometry: resets of the measurements, jumps of the odometry


@dataclass(frozen=True)
class Taken:
    """One image or scan. calibration: of a camera; else ego_from_sensor (4, 4). fields: nuScenes' fields of a radar's
    returns that the message has, by name."""

    channel: str
    stamp_ns: int
    measurement: Measured
    calibration: CameraCalibration | np.ndarray
    ego: EgoPose
    stretch: Stretch
    fields: dict[str, np.ndarray]


@dataclass(frozen=True)
class Moment:
    """A keyframe: the pose at its stamp, the stamp of each sensor's measurement in it by the node's rule, and the
    objects in its ego frame where they are known."""

    stamp_ns: int
    ego: EgoPose
    stretch: Stretch
    stamps_ns: dict[str, int]
    objects: Objects | None


@dataclass(frozen=True)
class _Waiting:
    """Until the pose at its stamp is known; placed(pose) is what comes of it then, None where that is nothing."""

    sensor: str
    stamp_ns: int
    heard_ns: int
    placed: Callable[[EgoPose], Taken | Moment | None]


class Drive:
    """One run over a recording, as the node hears it: iterate over it once. Nothing is kept but what awaits its pose.

    labels: (stamp, objects) in the order of time, of which no more is read than is due; then keyframes are at such
    stamps, where the node makes a frame of the sensors; without, at the node's frames. Either way period_ns apart.
    lidar: the topic to read beside those of the parameters.
    counters, details: as in a replay.
    """

    def __init__(
        self,
        bag: Path,
        spec: ModelSpec,
        config: NodeConfig,
        period_ns: int,
        labels: Iterator[tuple[int, Objects]] | None,
        lidar: str = "",
        note: Note = lambda text: None,
        watch: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._bag, self._config, self._note, self._watch = bag, config, note, watch
        self._taken = Measurements(config.sync_config(spec))
        self._intake = SensorIntake(config, self._taken, self.report, self._heard)
        self._lidar = LidarInput(lidar, config, self._swept) if lidar else None
        self._keyframes = _Keyframes(period_ns, self._taken.config.period_ns // 2, labels)
        self._waiting: list[_Waiting] = []
        self.details: dict[str, str] = {}

    @property
    def counters(self) -> Counter[str]:
        return self._taken.counters

    def report(self, sensor: str, reason: str, detail: str) -> None:
        """Of a reason that is counted: told once."""
        name = f"{sensor}/{reason}" if sensor else reason
        if name not in self.details:
            self._note(f"{name}: {detail} (counted from here on)")
        self.details[name] = detail

    def __iter__(self) -> Iterator[Taken | Moment]:
        """Raises BagError."""
        sources = (*self._intake.sources, *(self._lidar.sources if self._lidar else ()))
        synchronizer = FrameSynchronizer(self._taken)
        with open_bag(self._bag, self._note) as recording:
            for _ in hear(recording, self._intake, sources, self._taken, self._watch):
                for frame in synchronizer.poll():
                    chosen = self._keyframes.choose(frame, self._stretch(frame.ego))
                    if chosen is not None:
                        newest = {name: stamps[0] for name, stamps in frame.composition.stamps_ns.items()}
                        self._wait("frame", chosen[0], partial(self._moment, *chosen, newest))
                yield from self._on_poses()
            yield from self._on_poses(at_end=True)

    def _heard(self, measurement: CameraFrame | RadarScan, message: Any) -> None:
        fields = {}
        if isinstance(measurement, RadarScan):
            fields = recorded_fields(measurement, message, self._config.radars[measurement.sensor], self._config)
        self._wait(measurement.sensor, measurement.stamp_ns, partial(self._placed, measurement, fields))

    def _swept(self, sweep: LidarSweep) -> None:
        self._wait(LIDAR, sweep.stamp_ns, partial(self._placed, sweep, {}))

    def _wait(self, sensor: str, stamp_ns: int, placed: Callable[[EgoPose], Taken | Moment | None]) -> None:
        self._waiting.append(_Waiting(sensor, stamp_ns, self._taken.now_ns or 0, placed))

    def _stretch(self, ego: EgoPose) -> Stretch:
        return self._taken.resets, ego.epoch

    def _on_poses(self, at_end: bool = False) -> Iterator[Taken | Moment]:
        """What has its pose by now, or will have none."""
        poses, now_ns = self._taken.poses, self._taken.now_ns or 0
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            known = poses.newest_ns is not None and poses.newest_ns >= item.stamp_ns
            if not known and not at_end and now_ns - item.heard_ns <= PATIENCE_NS:
                self._waiting.append(item)
            elif (ego := poses.at(item.stamp_ns)) is None:
                self.count(item.sensor, "no_pose", "no odometry around its stamp")
            elif (placed := item.placed(ego)) is not None:
                yield placed

    def _moment(self, stamp_ns: int, objects: Objects | None, newest: dict[str, int], ego: EgoPose) -> Moment:
        return Moment(stamp_ns, ego, self._stretch(ego), newest, objects)

    def _placed(self, measurement: Measured, fields: dict[str, np.ndarray], ego: EgoPose) -> Taken | None:
        sensor, calibration = measurement.sensor, self._calibration(measurement)
        if calibration is None:
            self.count(sensor, "no_calibration", self._gap(sensor))
            return None
        return Taken(sensor, measurement.stamp_ns, measurement, calibration, ego, self._stretch(ego), fields)

    def _calibration(self, measurement: Measured) -> CameraCalibration | np.ndarray | None:
        if isinstance(measurement, CameraFrame):
            return self._intake.calibration.of_camera(measurement.sensor)
        if isinstance(measurement, RadarScan):
            return self._intake.calibration.of_radar(measurement.sensor)
        return self._lidar.ego_from_lidar if self._lidar else None

    def _gap(self, sensor: str) -> str:
        return self._lidar.gap if self._lidar and sensor == LIDAR else self._intake.calibration.gap(sensor)

    def count(self, sensor: str, reason: str, detail: str) -> None:
        """Something is left out, or not as it was recorded: counted, and told once."""
        self.counters[f"{sensor}/{reason}"] += 1
        self.report(sensor, reason, detail)


class _Keyframes:
    """Which of the node's frames become keyframes: `period_ns` apart, and where there are labels, those with one.

    The first of a stretch waits for STARTUP_NS for a frame that lacks no sensor.
    """

    def __init__(self, period_ns: int, slack_ns: int, labels: Iterator[tuple[int, Objects]] | None) -> None:
        self._period_ns, self._slack_ns, self._labels = period_ns, slack_ns, labels
        self._label = next(labels, None) if labels is not None else None
        self._stretch: Stretch | None = None
        self._begun_ns = self._due_ns = self._last_ns = 0
        self._first = True

    def choose(self, frame: SensorFrame, stretch: Stretch) -> tuple[int, Objects | None] | None:
        """(stamp of the keyframe, its objects), or None where the frame is none."""
        stamp = frame.stamp_ns
        if stretch != self._stretch:
            self._stretch, self._begun_ns, self._first = stretch, stamp, True
        label = self._label_at(stamp)
        if self._labels is not None and label is None:
            return None
        if self._first:
            lacks = any(reason != ABSENT for reason in frame.missing.values())
            if lacks and stamp - self._begun_ns < STARTUP_NS:
                return None
        elif stamp < self._due_ns - self._slack_ns:
            return None
        late = self._first or stamp > self._due_ns + self._slack_ns
        self._due_ns = (stamp if late else self._due_ns) + self._period_ns
        self._first = False
        if label is None or self._labels is None:
            return stamp, None
        self._label = next(self._labels, None)
        return label

    def _label_at(self, stamp_ns: int) -> tuple[int, Objects] | None:
        """The label of a frame's time, where there is one; those before are passed over."""
        if self._labels is None:
            return None
        went_back, self._last_ns = stamp_ns < self._last_ns, stamp_ns
        while self._label is not None and went_back and self._label[0] > stamp_ns + self._slack_ns:
            self._label = next(self._labels, None)  # of the time that was set back
        while self._label is not None and self._label[0] < stamp_ns - self._slack_ns:
            self._label = next(self._labels, None)
        near = self._label is not None and self._label[0] <= stamp_ns + self._slack_ns
        return self._label if near else None


def check_ready(bag: Path, spec: ModelSpec, config: NodeConfig, lidar: str, note: Note) -> None:
    """Reads as far as everything is known without which nothing can be placed.

    Raises BagError where the recording lacks a topic that the parameters name, or nothing usable comes on one that says
    where the vehicle is or a sensor sits: a data set would lack a sensor, and training would take it for switched off.
    """
    taken = Measurements(config.sync_config(spec))
    intake = SensorIntake(config, taken)
    swept = LidarInput(lidar, config, lambda sweep: None) if lidar else None
    sources = [*intake.sources, *(swept.sources if swept else ())]
    with open_bag(bag, note) as recording:
        faults = absent_topics(recording, sources)
        if not faults:
            small = [source for source in sources if source.sensor not in {*config.cameras, *config.radars}]
            for _ in hear(recording, intake, small, taken):
                faults = _gaps(intake, config, swept)
                if not faults and taken.poses.newest_ns is not None:
                    return
        if not faults or taken.poses.newest_ns is None:
            found = ": ".join(intake.faults.get(ODOMETRY, ("nothing arrived",)))
            faults.setdefault(ODOMETRY, f"{ODOMETRY}: no pose ({found})")
        raise BagError(
            f"{bag} is refused, and nothing was written:\n  "
            + "\n  ".join(faults.values())
            + "\nmend the parameters (--params), give a calibration file (extrinsics.source: file), or name a sensor "
            "that the vehicle does not have in `absent`"
        )


def _gaps(intake: SensorIntake, config: NodeConfig, lidar: LidarInput | None) -> dict[str, str]:
    """Sensor -> what its calibration lacks."""
    gaps = {name: intake.calibration.gap(name) for name in (*config.cameras, *config.radars)}
    if lidar and lidar.ego_from_lidar is None:
        gaps[LIDAR] = lidar.gap
    return {name: f"{name}: {gap}" for name, gap in gaps.items() if gap}
