"""A keyframe's files, read as the vehicle would see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bev_perception.geometry import invert
from bev_perception.model_spec import ModelSpec
from bev_perception.preprocess.compressed import COMPRESSED, compression_of
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    RadarScan,
    RadarSweep,
    SensorFrame,
)
from training.data.config import EVERY_RETURN, RadarFilter
from training.data.nuscenes import Keyframe, SensorFile
from training.data.radar_pcd import read_radar_pcd


def sensor_frame(keyframe: Keyframe, spec: ModelSpec, returns: RadarFilter = EVERY_RETURN) -> SensorFrame:
    """The keyframe as the vehicle would see it: files read, nothing decoded; absent sensors named in `missing`.

    Raises FileNotFoundError and ValueError naming sample and file.
    """
    cameras: list[CameraView | None] = []
    radars: list[tuple[RadarSweep, ...]] = []
    missing: dict[str, str] = {}
    for name in spec.cameras:
        file = keyframe.cameras.get(name)
        if file is None:
            missing[name] = "not_in_data_set"
            cameras.append(None)
            continue
        if not Path(file.path).is_file():
            raise FileNotFoundError(f"sample {keyframe.token}: no file {file.path}; unpack the archive that holds it")
        data = np.fromfile(file.path, dtype=np.uint8)
        encoding = compression_of(data[:8].tobytes())
        if encoding is None:
            raise ValueError(
                f"sample {keyframe.token} of {keyframe.scene}: {name}: {file.path} begins with {data[:8].tobytes()!r}, "
                f"expected one of {', '.join(COMPRESSED)}; convert the images, or copy the file again"
            )
        frame = CameraFrame(name, file.stamp_ns, encoding, data)
        if file.K is None:
            raise ValueError(f"sample {keyframe.token}: {name} has no camera_intrinsic in calibrated_sensor.json")
        calibration = CameraCalibration(file.width, file.height, file.K, file.ego_from_sensor)
        cameras.append(CameraView(frame, calibration, EgoPose(file.stamp_ns, file.global_from_ego)))
    for name in spec.radars:
        sweeps = keyframe.radars.get(name, ())
        if not sweeps:
            missing[name] = "not_in_data_set"
        try:
            radars.append(tuple(_radar_sweep(name, file, returns) for file in sweeps))
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"sample {keyframe.token}: {error}") from error
    return SensorFrame(
        keyframe.stamp_ns, EgoPose(keyframe.stamp_ns, keyframe.global_from_ego), tuple(cameras), tuple(radars), missing
    )


def sensor_from_ego(keyframe: Keyframe, file: SensorFile) -> np.ndarray:
    """(4, 4) from the ego frame at the keyframe's stamp into the sensor of one of its files, at the file's own."""
    return invert(file.ego_from_sensor) @ invert(file.global_from_ego) @ keyframe.global_from_ego


def _radar_sweep(name: str, file: SensorFile, returns: RadarFilter) -> RadarSweep:
    raw = read_radar_pcd(file.path)
    raw = raw[kept_returns(raw, returns)]
    points = np.stack([raw[c].astype(np.float32) for c in ("x", "y", "z", "rcs", "vx_comp", "vy_comp")], axis=1)
    return RadarSweep(
        RadarScan(name, file.stamp_ns, points), file.ego_from_sensor, EgoPose(file.stamp_ns, file.global_from_ego)
    )


def kept_returns(raw: np.ndarray, returns: RadarFilter) -> np.ndarray:
    """(P,) bool over the fields of a radar file."""
    kept = np.ones(len(raw), dtype=bool)
    for name in ("invalid_state", "dyn_prop", "ambig_state"):
        allowed = getattr(returns, name)
        if allowed is not None:
            kept &= np.isin(raw[name], allowed)
    distance = np.hypot(raw["x"], raw["y"])
    return kept & (distance >= returns.range_m[0]) & (distance <= returns.range_m[1])
