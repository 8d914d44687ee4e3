"""A recording's frames as pictures by which a calibration is judged, and what moves from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from bev_perception.calibration import CalibrationError, StaticTree
from bev_perception.conversions import read_points, stamp_ns
from bev_perception.ego_motion import integrate_twist
from bev_perception.evaluation.draw import draw_boxes
from bev_perception.evaluation.objects import Objects
from bev_perception.geometry import invert, transform_boxes, transform_points
from bev_perception.measurements import Measurements
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.preprocess.images import img_from_cam
from bev_perception.preprocess.radar import over_ground, own_velocities
from bev_perception.rig.boxes_heard import BoxesHeard
from bev_perception.rig.epipolar import Pair
from bev_perception.rig.found import radar_fields
from bev_perception.rig.overlay import MOVING_MPS, draw_ground, draw_horizon, draw_points, draw_returns
from bev_perception.rig.pairs import PairsHeard, picture_of, picture_spec
from bev_perception.rig.perturb import perturbed
from bev_perception.rig.survey import CLOUD, TRANSFORMS
from bev_perception.rig.thinned import Thinned
from bev_perception.sensors.intake import SensorIntake, Source
from bev_perception.sensors.sensor_calibration import TF_STATIC
from bev_perception.structures import CameraView, EgoPose, SensorFrame
from bev_perception.sync import FrameSynchronizer
from bev_perception.sync_config import NS

LIDAR_AGE_NS = NS // 5


@dataclass(frozen=True)
class Moment:
    """A frame to be drawn; lidar (P, 3): points in the vehicle's frame at lidar_ego; objects: boxes at the frame's
    stamp, or None."""

    frame: SensorFrame
    lidar: np.ndarray | None = None
    lidar_ego: EgoPose | None = None
    objects: Objects | None = None


@dataclass(frozen=True)
class Views:
    """moments: some frames, evenly spread. pairs: camera -> points that were found again in the next image, poses:
    camera -> ego_from_cam (4, 4)."""

    moments: tuple[Moment, ...]
    pairs: Mapping[str, tuple[Pair, ...]]
    poses: Mapping[str, np.ndarray]


@dataclass
class _Extras:
    """The newest of what the node does not listen to."""

    tree: StaticTree = field(default_factory=StaticTree)
    lidar: tuple[int, str, np.ndarray] | None = None
    boxes: BoxesHeard = field(default_factory=BoxesHeard)


class Viewer:
    """Give the messages of `sources` to `intake`, then call `poll`; `finish` says what was seen. Bounded.

    topics: topic -> type of what there is, among it what the node does not listen to. Raises CalibrationError as
    SensorIntake does.
    """

    def __init__(self, config: NodeConfig, spec: ModelSpec, count: int, topics: Mapping[str, str]) -> None:
        self.taken = Measurements(config.sync_config(spec))
        self.intake = SensorIntake(config, self.taken)
        self._config, self._count, self._extras = config, count, _Extras()
        self.sources = (*self.intake.sources, *_other_sources(topics, config, self._extras))
        self._sync = FrameSynchronizer(self.taken)
        self._moments: Thinned[Moment] = Thinned(max(2, 2 * count))
        self._pairs = PairsHeard(spec.cameras)
        self._waiting: SensorFrame | None = None

    def poll(self) -> None:
        for frame in self._sync.poll():
            if self._waiting is not None:  # what belongs to it may have come after it was made
                self._moments.offer(partial(_moment, self._waiting, self._config, self._extras))
            self._waiting = frame
            self._pairs.add(frame)

    def finish(self) -> Views:
        moments = self._moments.values
        chosen = moments[:: max(1, len(moments) // self._count)][: self._count]
        return Views(tuple(chosen), self._pairs.pairs, self._pairs.poses)


def _other_sources(topics: Mapping[str, str], config: NodeConfig, extras: _Extras) -> list[Source]:
    """LiDAR, transforms and true boxes: what only a check wants to hear. Sensors named with a blank are nobody's."""
    used = {radar.topic for radar in config.radars.values()}
    found = [
        Source(t, "other cloud", CLOUD, _lidar(extras)) for t, kind in topics.items() if kind == CLOUD and t not in used
    ]
    found.append(extras.boxes.source)

    def transforms(message: Any) -> None:
        try:
            extras.tree.add(message.transforms)
        except CalibrationError:
            return  # the intake tells of it

    return [*found, Source(f"/{TF_STATIC}", "transforms", TRANSFORMS, transforms)]


def _lidar(extras: _Extras) -> Callable[[Any], None]:
    def take(message: Any) -> None:
        points = read_points(message)
        names = points.dtype.names or ()
        if not {"x", "y", "z"} <= set(names) or radar_fields(dict.fromkeys(names, 0.0)) is not None:
            return
        xyz = np.stack([points[name].astype(np.float64) for name in "xyz"], axis=1)
        xyz = xyz[np.isfinite(xyz).all(axis=1)]
        extras.lidar = (stamp_ns(message.header.stamp), message.header.frame_id, xyz)

    return take


def _moment(frame: SensorFrame, config: NodeConfig, extras: _Extras) -> Moment:
    objects = extras.boxes.at(frame.stamp_ns)
    if extras.lidar is None or abs(extras.lidar[0] - frame.stamp_ns) > LIDAR_AGE_NS:
        return Moment(frame, objects=objects)
    stamp, name, points = extras.lidar
    try:
        ego_from_lidar = extras.tree.lookup(config.base_frame, name)
    except CalibrationError:
        return Moment(frame, objects=objects)
    # at the LiDAR's own stamp, as far as the frame's twist carries
    moved = integrate_twist(frame.ego.linear, frame.ego.angular, (stamp - frame.stamp_ns) / NS)
    ego = replace(frame.ego, stamp_ns=stamp, odom_from_ego=frame.ego.odom_from_ego @ moved)
    return Moment(frame, transform_points(ego_from_lidar, points), ego, objects)


def draw(moment: Moment, view: CameraView, spec: ModelSpec, change: Mapping[str, float]) -> np.ndarray | None:
    """One camera's picture with what the calibration says lies in it, the camera turned or moved by `change`."""
    image = picture_of(view)
    if image is None:
        return None
    image = np.ascontiguousarray(image)
    cam_from_ego = invert(perturbed(view.calibration.ego_from_cam, change))
    img_from_ego = img_from_cam(view.calibration, picture_spec(view.calibration)) @ cam_from_ego

    def from_ego(ego: EgoPose) -> np.ndarray:
        """The vehicle's frame at the image's stamp from that at another."""
        return invert(view.ego.odom_from_ego) @ ego.odom_from_ego

    draw_ground(image, img_from_ego)
    draw_horizon(image, img_from_ego)
    if moment.lidar is not None and moment.lidar_ego is not None:
        draw_points(image, img_from_ego, transform_points(from_ego(moment.lidar_ego), moment.lidar))
    for sweeps in moment.frame.radars:
        for sweep in sweeps[:1]:
            velocity = over_ground(sweep.scan.points.astype(np.float64), own_velocities([sweep]))
            points = transform_points(from_ego(sweep.ego) @ sweep.ego_from_radar, sweep.scan.points[:, :3])
            draw_returns(image, img_from_ego, points, np.hypot(velocity[:, 0], velocity[:, 1]) > MOVING_MPS)
    if moment.objects is not None:
        boxes = transform_boxes(from_ego(moment.frame.ego), moment.objects.boxes)
        draw_boxes(image, img_from_ego, replace(moment.objects, boxes=boxes), labels=False)
    return image
