"""A rig that is not as its calibration, clocks and odometry say. Functions of a frame, a size and the moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from bev_perception.geometry import invert, make_transform, rotation_from_yaw
from bev_perception.structures import EgoPose, SensorFrame
from training.robustness.moment import Moment, Track, change_poses


def cameras_turned(frame: SensorFrame, degrees: float, moment: Moment) -> SensorFrame:
    """Each camera's true direction differs from its calibration by `degrees` about an axis of its own, drawn once."""

    def turned(name: str, ego_from_sensor: np.ndarray) -> np.ndarray:
        return ego_from_sensor @ make_transform(_rotation(_axis(moment, name), np.radians(degrees)), np.zeros(3))

    return _moved_cameras(frame, turned)


def cameras_shifted(frame: SensorFrame, metres: float, moment: Moment) -> SensorFrame:
    """As `cameras_turned`, by `metres` in a direction."""
    return _moved_cameras(frame, lambda name, pose: pose @ make_transform(np.eye(3), metres * _axis(moment, name)))


def radars_turned(frame: SensorFrame, degrees: float, moment: Moment) -> SensorFrame:
    """Each radar's mounting yaw is wrong by `degrees`, to a side that is drawn once."""

    def moved(name: str, pose: np.ndarray) -> np.ndarray:
        side = 1.0 if _axis(moment, name)[0] > 0 else -1.0
        return pose @ make_transform(rotation_from_yaw(side * np.radians(degrees)), np.zeros(3))

    radars = tuple(
        tuple(replace(s, ego_from_radar=moved(s.scan.sensor, s.ego_from_radar)) for s in sweeps)
        for sweeps in frame.radars
    )
    return replace(frame, radars=radars)


def cameras_late(frame: SensorFrame, milliseconds: float, moment: Moment) -> SensorFrame:
    """Images are stamped so much too late: each is placed where the vehicle was `milliseconds` after it was taken."""
    return replace(
        frame,
        cameras=tuple(view and replace(view, ego=_later(view.ego, milliseconds, moment)) for view in frame.cameras),
    )


def radars_late(frame: SensorFrame, milliseconds: float, moment: Moment) -> SensorFrame:
    """As `cameras_late`, of scans."""
    radars = tuple(
        tuple(replace(s, ego=_later(s.ego, milliseconds, moment)) for s in sweeps) for sweeps in frame.radars
    )
    return replace(frame, radars=radars)


def odometry_drifts(frame: SensorFrame, percent: float, moment: Moment) -> SensorFrame:
    """Wheels of the wrong size and a gyroscope with a bias: every step is `percent` too long, and the heading turns by
    as many tenths of a degree a second."""
    return change_poses(frame, lambda stamp_ns, odom_from_ego: _drifted(moment.track, percent, stamp_ns))


def _drifted(track: Track, percent: float, stamp_ns: int) -> np.ndarray:
    """The pose that odometry says: its steps from the scene's first pose on, each with its error, one after another."""
    stamps = [int(stamp) for stamp in track.stamps_ns if stamp < stamp_ns] + [stamp_ns]
    said = true = track.at(stamps[0])
    for before, after in pairwise(stamps):
        pose = track.at(after)
        step = invert(true) @ pose
        step[:3, 3] *= 1.0 + percent / 100.0
        turn = np.radians(percent / 10.0) * (after - before) / 1e9
        said, true = said @ step @ make_transform(rotation_from_yaw(turn), np.zeros(3)), pose
    return said


def _later(pose: EgoPose, milliseconds: float, moment: Moment) -> EgoPose:
    step = invert(moment.track.at(pose.stamp_ns)) @ moment.track.at(pose.stamp_ns + round(milliseconds * 1e6))
    return replace(pose, odom_from_ego=pose.odom_from_ego @ step)


def _moved_cameras(frame: SensorFrame, moved: Callable[[str, np.ndarray], np.ndarray]) -> SensorFrame:
    cameras = []
    for view in frame.cameras:
        if view is not None:
            pose = moved(view.frame.sensor, view.calibration.ego_from_cam)
            view = replace(view, calibration=replace(view.calibration, ego_from_cam=pose))
        cameras.append(view)
    return replace(frame, cameras=tuple(cameras))


def _axis(moment: Moment, sensor: str) -> np.ndarray:
    """(3,) of length one, the sensor's own in the whole run."""
    names = (*moment.spec.cameras, *moment.spec.radars)
    axes = moment.rng_of_run().normal(size=(len(names), 3))
    axis = axes[names.index(sensor)]
    return axis / np.linalg.norm(axis)


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
