"""camera_info and static transforms -> the calibration of each sensor, and what it still lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bev_perception.calibration import CalibrationError, StaticTree, load_extrinsics
from bev_perception.conversions import MessageError, check_frame
from bev_perception.measurements import Measurements
from bev_perception.mounts import CameraMount, mount_of, unlike
from bev_perception.parameters import CameraConfig, NodeConfig, RadarConfig
from bev_perception.sensors.camera_info import to_calibration
from bev_perception.sensors.plausible import FORWARD, OPTICAL, camera_fault, order_fault, radar_fault, side_fault
from bev_perception.structures import CameraCalibration, same_calibration, same_extrinsics

TF_STATIC = "tf_static"
MOUNT_UNLIKE = "mount_unlike"


def read_extrinsics(config: NodeConfig) -> dict[str, np.ndarray]:
    """{sensor name: ego_from_sensor (4, 4)} of the calibration file of the parameters; {} where they name none.

    Raises CalibrationError for what concerns the file as a whole.
    """
    path = config.extrinsics_file
    if path is None:
        return {}
    poses = load_extrinsics(path, config.base_frame, [*config.cameras, *config.radars])
    fault = order_fault([poses[name] for name in config.cameras], [poses[name] for name in config.radars])
    if fault and config.refuse_implausible:
        raise CalibrationError(f"{path}: {fault} (or set extrinsics.implausible: use)")
    return poses


class SensorCalibration:
    """What is known goes to the measurements at once. A newer statement replaces an older one; one that cannot be used
    takes the older one away: the sensor is no longer what it was, and nobody knows what it is. How cameras may be
    mounted is up to the model in service: the one that the config is for, until another one is told of (`accept`).

    notice(sensor, reason, detail) is called for extrinsics that cannot be, tell for each change while running (which
    the measurements count).

    Raises CalibrationError where the parameters name a calibration file that cannot be used.
    """

    def __init__(
        self,
        config: NodeConfig,
        taken: Measurements,
        notice: Callable[[str, str, str], None],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._config, self._taken, self._notice, self._tell = config, taken, notice, tell
        self._newest_info: dict[str, Any] = {}
        # What those of them say that can be used; ego_from_cam is how rectification turned the camera.
        self._infos: dict[str, CameraCalibration] = {}
        self._newest_extrinsics: dict[str, np.ndarray] = {}
        self._extrinsics: dict[str, np.ndarray] = {}  # those of them that can be used
        self._calibrations: dict[str, CameraCalibration] = {}  # also of cameras that are mounted otherwise
        self._mounts = {camera.name: camera.mount for camera in config.cameras.values() if camera.mount is not None}
        self._tree = StaticTree()
        # What was wrong with the newest statement about a sensor.
        self._bad_info: dict[str, str] = {}
        self._bad_transform: dict[str, str] = {}
        self._unlike: dict[str, str] = {}  # camera -> how it is mounted otherwise than the model accepts
        self._set_extrinsics(read_extrinsics(config))

    def gap(self, sensor: str) -> str:
        """What the calibration of a sensor lacks, or ""."""
        camera = self._config.cameras.get(sensor)
        gaps = []
        if camera is not None and sensor not in self._infos:
            gaps.append(self._bad_info.get(sensor, f"nothing usable arrived on {camera.info_topic}"))
        if sensor not in self._extrinsics:
            gaps.append(self._bad_transform.get(sensor, "nothing arrived on /tf_static"))
        if not gaps and self._is_masked(sensor):
            gaps.append(f"{MOUNT_UNLIKE}: {self._unlike[sensor]}")
        return "; ".join(gaps)

    def of_camera(self, name: str) -> CameraCalibration | None:
        """The camera's calibration, once both halves of it are known and it may be used."""
        return None if self._is_masked(name) else self._calibrations.get(name)

    def of_radar(self, name: str) -> np.ndarray | None:
        """ego_from_radar (4, 4), once it is known."""
        return self._extrinsics.get(name)

    def accept(self, mounts: Mapping[str, CameraMount]) -> None:
        """Another model is in service: camera -> how that one accepts it to be mounted; of those without, anyhow."""
        self._mounts = dict(mounts)
        for name in tuple(self._calibrations):
            self._use_or_mask(name, "another model accepts how it is mounted")

    def unlike(self, mounts: Mapping[str, CameraMount]) -> dict[str, str]:
        """Camera -> in words, of those that are known to be mounted otherwise than a model accepts."""
        found = {
            name: mount_of(known.ego_from_cam, known.K, known.width)
            for name, known in self._calibrations.items()
            if name in mounts
        }
        return {name: f"{name} {said}" for name, mount in found.items() if (said := unlike(mount, mounts[name]))}

    def camera_info(self, camera: CameraConfig, msg: Any) -> None:
        """sensor_msgs/CameraInfo. Raises MessageError where it cannot be used, once for messages that say the same."""
        newest = self._newest_info.get(camera.name)
        if newest is not None and _same_info(newest, msg):
            return
        self._newest_info[camera.name] = msg
        try:
            check_frame(msg.header.frame_id, camera.frame_id, f"header.frame_id of {camera.info_topic}")
            info = to_calibration(msg, np.eye(4), camera.rectified)
        except MessageError as error:
            self._infos.pop(camera.name, None)
            self._bad_info[camera.name] = str(error)
            self._forget(camera.name)
            raise
        known = self._infos.get(camera.name)
        if known is not None and same_calibration(known, info):
            return
        self._infos[camera.name] = info
        self._set_camera(camera, f"{camera.info_topic} changed while running")

    def tf_static(self, msg: Any) -> None:
        """tf2_msgs/TFMessage. Raises MessageError where a transform cannot be used, after the others were taken."""
        fault = ""
        try:
            self._tree.add(msg.transforms)
        except CalibrationError as error:
            fault = str(error)
        found = {}
        sensors: list[CameraConfig | RadarConfig] = [*self._config.cameras.values(), *self._config.radars.values()]
        for sensor in sensors:
            try:
                found[sensor.name] = self._tree.lookup(self._config.base_frame, sensor.frame_id)
            except CalibrationError as error:
                self._bad_transform[sensor.name] = str(error)
                self._newest_extrinsics.pop(sensor.name, None)
                if self._extrinsics.pop(sensor.name, None) is not None:
                    self._forget(sensor.name)
        self._set_extrinsics(found)
        if fault:
            raise MessageError("bad_transform", fault)

    def _forget(self, sensor: str) -> None:
        self._calibrations.pop(sensor, None)
        self._mask(sensor)

    def _mask(self, sensor: str) -> None:
        if self._taken.drop_calibration(sensor):
            self._tell(sensor, "calibration_lost", self.gap(sensor))

    def _set_extrinsics(self, found: dict[str, np.ndarray]) -> None:
        changed = "its static transform changed while running"
        for name, ego_from_sensor in found.items():
            known = self._newest_extrinsics.get(name)
            if known is not None and same_extrinsics(known, ego_from_sensor):
                continue
            self._newest_extrinsics[name] = ego_from_sensor
            if self._refused(name, ego_from_sensor):
                continue
            self._extrinsics[name] = ego_from_sensor
            if name in self._config.cameras:
                self._set_camera(self._config.cameras[name], changed)
            elif self._taken.set_radar_extrinsics(name, ego_from_sensor):
                self._tell(name, "calibration_changed", changed)

    def _refused(self, name: str, ego_from_sensor: np.ndarray) -> bool:
        """Tell where no sensor can sit like that; True where the sensor is not to be used then."""
        if name in self._config.cameras:
            fault = camera_fault(ego_from_sensor) or side_fault(name, ego_from_sensor, OPTICAL)
        else:
            fault = radar_fault(ego_from_sensor) or side_fault(name, ego_from_sensor, FORWARD)
        if fault is None:
            return False
        self._notice(name, fault.reason, fault.detail)
        if self._config.refuse_implausible:
            self._extrinsics.pop(name, None)
            self._bad_transform[name] = f"{fault.reason}: {fault.detail}"
            self._forget(name)
        return self._config.refuse_implausible

    def _set_camera(self, camera: CameraConfig, changed: str) -> None:
        """Tell the measurements as soon as both halves are known; they say, and count, whether one was replaced."""
        info, ego_from_cam = self._infos.get(camera.name), self._extrinsics.get(camera.name)
        if info is None or ego_from_cam is None:
            return
        self._calibrations[camera.name] = replace(info, ego_from_cam=ego_from_cam @ info.ego_from_cam)
        self._use_or_mask(camera.name, changed)

    def _use_or_mask(self, camera: str, changed: str) -> None:
        """Tell where a camera is mounted otherwise than the model in service accepts, once for each way."""
        if said := self.unlike(self._mounts).get(camera):
            detail = f"{said}; train for this rig, or set extrinsics.unlike: use"
            if self._unlike.get(camera) != detail:
                self._notice(camera, MOUNT_UNLIKE, detail)
            self._unlike[camera] = detail
        else:
            self._unlike.pop(camera, None)
        if self._is_masked(camera):
            self._mask(camera)
        elif self._taken.set_camera_calibration(camera, self._calibrations[camera]):
            self._tell(camera, "calibration_changed", changed)

    def _is_masked(self, camera: str) -> bool:
        return self._config.refuse_unlike and camera in self._unlike


def _same_info(a: Any, b: Any) -> bool:
    """Whether two camera_info messages say the same."""
    scalars = ("width", "height", "distortion_model", "binning_x", "binning_y", "roi")
    return (
        a.header.frame_id == b.header.frame_id
        and all(getattr(a, n) == getattr(b, n) for n in scalars)
        and all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True) for n in ("k", "d", "r", "p"))
    )
