"""A recording -> SensorFrames: what the node does between its topics and the synchroniser, without ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.calibration import CalibrationError, StaticTree, load_extrinsics
from bev_perception.evaluation.bag import BagError, bag_topics, read_bag
from bev_perception.model_spec import ModelSpec
from bev_perception.parameters import NodeConfig
from bev_perception.ros import conversions
from bev_perception.ros.conversions import MessageError
from bev_perception.structures import SensorFrame
from bev_perception.sync import FrameSynchronizer

ODOMETRY = "odometry"


@dataclass
class BagInputs:
    """Converts messages by topic and hands them to the synchroniser. counters: refused messages by reason."""

    spec: ModelSpec
    config: NodeConfig
    sync: FrameSynchronizer
    counters: Counter[str] = field(default_factory=Counter)
    reset_reason: str = ""  # set when a calibration changes: the pipeline's memory has to be emptied

    def __post_init__(self) -> None:
        config = self.config
        self._tree = StaticTree()
        self._extrinsics: dict[str, np.ndarray] = {}
        self._infos: dict[str, Any] = {}
        self._topics: dict[str, Any] = {config.odometry_topic: (self._odometry, None)}
        for camera in config.cameras.values():
            self._topics[camera.topic] = (self._image, camera)
            self._topics[camera.info_topic] = (self._camera_info, camera)
        for radar in config.radars.values():
            self._topics[radar.topic] = (self._radar, radar)
        if config.extrinsics_source == "file":
            assert config.extrinsics_file is not None  # make_config checked it
            names = [*config.cameras, *config.radars]
            self._set_extrinsics(load_extrinsics(config.extrinsics_file, config.base_frame, names))
        else:
            self._topics["/tf_static"] = (self._tf_static, None)

    @property
    def topics(self) -> set[str]:
        return set(self._topics)

    def add(self, topic: str, message: Any) -> None:
        """Take one message. What cannot be used is counted here or, once converted, by the synchroniser."""
        handler, source = self._topics[topic]
        name = source.name if source is not None else ODOMETRY if handler == self._odometry else "tf_static"
        try:
            handler(message, source)
        except MessageError as error:
            self.counters[f"{name}/{error.reason}"] += 1
        except CalibrationError as error:
            self.counters[f"{name}/bad_transform: {error}"] += 1

    def _image(self, message: Any, camera: Any) -> None:
        conversions.check_frame(message.header.frame_id, camera.frame_id, f"header.frame_id of {camera.topic}")
        if camera.compressed:
            self.sync.add_camera(conversions.to_compressed_frame(message, camera.name))
            return
        info = self._infos.get(camera.name)
        if info is not None and (info.width, info.height) != (message.width, message.height):
            found = f"image {message.width}x{message.height}, camera_info {info.width}x{info.height}"
            raise MessageError("image_size_differs", found)
        self.sync.add_camera(conversions.to_camera_frame(message, camera.name, self.config.image_reader))

    def _radar(self, message: Any, radar: Any) -> None:
        conversions.check_frame(message.header.frame_id, radar.frame_id, f"header.frame_id of {radar.topic}")
        scan, _ = conversions.read_radar(message, radar.name, self.config.radar_fields, self.config.cloud_reader)
        self.sync.add_radar(scan)

    def _odometry(self, message: Any, _: Any) -> None:
        self.sync.add_pose(conversions.to_ego_pose(message, self.config.odometry_frame, self.config.base_frame))

    def _camera_info(self, message: Any, camera: Any) -> None:
        known = self._infos.get(camera.name)
        if known is not None and _same_calibration(known, message):
            return
        conversions.to_calibration(message, np.eye(4), camera.rectified)  # refuse before anything is replaced
        self._infos[camera.name] = message
        self._set_calibration(camera)
        if known is not None:
            self.reset_reason = "calibration_changed"

    def _tf_static(self, message: Any, _: Any) -> None:
        self._tree.add(message.transforms)
        found = {}
        sensors: list[Any] = [*self.config.cameras.values(), *self.config.radars.values()]
        for sensor in sensors:
            try:
                found[sensor.name] = self._tree.lookup(self.config.base_frame, sensor.frame_id)
            except CalibrationError:
                self.counters[f"{sensor.name}/no_transform"] += 1
        self._set_extrinsics(found)

    def _set_extrinsics(self, found: dict[str, np.ndarray]) -> None:
        for name, ego_from_sensor in found.items():
            known = self._extrinsics.get(name)
            if known is not None and np.allclose(known, ego_from_sensor, rtol=0, atol=1e-9):
                continue
            self._extrinsics[name] = ego_from_sensor
            if name in self.config.cameras:
                self._set_calibration(self.config.cameras[name])
            else:
                self.sync.set_radar_extrinsics(name, ego_from_sensor)
            if known is not None:
                self.reset_reason = "calibration_changed"

    def _set_calibration(self, camera: Any) -> None:
        info, ego_from_cam = self._infos.get(camera.name), self._extrinsics.get(camera.name)
        if info is not None and ego_from_cam is not None:
            self.sync.set_camera_calibration(
                camera.name, conversions.to_calibration(info, ego_from_cam, camera.rectified)
            )


def _same_calibration(a: Any, b: Any) -> bool:
    scalars = ("width", "height", "distortion_model", "binning_x", "binning_y", "roi")
    arrays = ("k", "d", "p")
    return all(getattr(a, n) == getattr(b, n) for n in scalars) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays
    )


def read_frames(
    bag: str | Path, spec: ModelSpec, config: NodeConfig, inputs: BagInputs | None = None
) -> Iterator[tuple[int, SensorFrame]]:
    """(record time ns, frame) of every frame the synchroniser makes of a recording, in order.

    Time ends with the last message, as it does for a node that listens to a player's /clock. Raises BagError where
    the recording has none of the topics that the parameters name.
    """
    inputs = inputs or BagInputs(spec, config, FrameSynchronizer(config.sync_config(spec)))
    present = set(bag_topics(bag))
    wanted = inputs.topics
    needed = {config.odometry_topic} | {c.topic for c in config.cameras.values()}
    if not needed & present:
        raise BagError(
            f"{bag} has none of the topics that the parameters name ({', '.join(sorted(needed))}); "
            f"it has {', '.join(sorted(present)) or 'no topics'}"
        )
    for message in read_bag(bag, wanted):
        inputs.add(message.topic, message.message)
        for frame in inputs.sync.poll(message.record_ns):
            yield message.record_ns, frame
