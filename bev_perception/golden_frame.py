"""The golden frame: two frames of sensor data in a file, and the detections that they must lead to.

What a vehicle receives goes in (compressed and raw images with their calibrations, radar scans, poses), what it would
publish comes out, so that one file proves preprocessing, memory, engine, decoding and every fact that these use.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from bev_perception.bundle import GOLDEN_FRAME, Bundle
from bev_perception.model_spec import BundleError, ModelSpec
from bev_perception.preprocess.encodings import decode_image
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    RadarScan,
    RadarSweep,
    SensorFrame,
)

SIZE_GOAL = 80_000  # bytes of the images; a bundle travels in repositories and over the air
QUALITIES = (85, 70, 55, 40, 30, 20, 10)  # of JPEG: the best that meets the goal
D_ROOM = 14  # coefficients of the longest distortion model
COMPRESSED, RAW = "jpeg", "bgr8"
FRAMES = ("earlier", "later")


@dataclass(frozen=True)
class Expected:
    """What the later frame must give, strongest first: class names (M,), scores (M,), boxes (M, 7), velocity (M, 2),
    published (M,) bool: whether the bundle's thresholds let it pass; temporal_used: whether the memory was."""

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    velocity: np.ndarray
    published: np.ndarray
    temporal_used: bool


def read_golden_frame(bundle: Bundle) -> tuple[tuple[SensorFrame, SensorFrame], Expected]:
    """((earlier frame, later frame), what the later one must give). Raises BundleError."""
    arrays = bundle.arrays(GOLDEN_FRAME)
    try:
        frames = unpack_frames(arrays, bundle.spec)
        found = _under(arrays, "expected")
        names = [f.name for f in dataclasses.fields(Expected) if f.name != "temporal_used"]
        count = found["scores"].size
        shapes = {"boxes": (count, 7), "velocity": (count, 2)}
        for name in names:
            _require(found[name].shape == shapes.get(name, (count,)), f"expected.{name} is {found[name].shape}")
        expected = Expected(**{name: found[name] for name in names}, temporal_used=bool(found["temporal_used"]))
    except KeyError as error:
        raise BundleError(f"{bundle.path / GOLDEN_FRAME}: lacks {error}; copy the whole bundle again") from error
    except (ValueError, TypeError, IndexError, cv2.error) as error:
        raise BundleError(f"{bundle.path / GOLDEN_FRAME}: {error}; copy the whole bundle again") from error
    return frames, expected


def golden_frame_bytes(packed: Mapping[str, np.ndarray], expected: Expected) -> bytes:
    """The file that `read_golden_frame` reads. packed: of `pack_frames`."""
    found = {f"expected.{f.name}": np.asarray(getattr(expected, f.name)) for f in dataclasses.fields(expected)}
    file = io.BytesIO()
    np.savez_compressed(file, **packed, **found)  # type: ignore[arg-type]
    return file.getvalue()


def pack_frames(frames: tuple[SensorFrame, SensorFrame], spec: ModelSpec) -> dict[str, np.ndarray]:
    """Two frames as arrays that stay small: images little larger than the network's, as JPEG; radar returns rounded to
    centimetres and centimetres per second. That changes the question, not its worth.

    Raises ValueError where a sensor is missing, or the odometry jumped between them.
    """
    absent = sorted({name for frame in frames for name in frame.missing})
    if absent:
        raise ValueError(f"a golden frame needs every sensor, missing are {', '.join(absent)}")
    if len({frame.ego.epoch for frame in frames}) > 1:
        raise ValueError("the odometry jumped between the two frames")
    small = [[_shrunk(view, spec) for view in frame.cameras if view is not None] for frame in frames]
    for quality in QUALITIES:
        coded = [[_coded(view, quality) for view in views] for views in small]
        if sum(view.frame.data.nbytes for views in coded for view in views) <= SIZE_GOAL:
            break
    return {
        f"{name}.{key}": array
        for name, frame, views in zip(FRAMES, frames, coded)
        for key, array in _arrays(dataclasses.replace(frame, cameras=tuple(views))).items()
    }


def unpack_frames(arrays: Mapping[str, np.ndarray], spec: ModelSpec) -> tuple[SensorFrame, SensorFrame]:
    """(earlier, later) as a vehicle would have received them: every other camera sends raw images, the others JPEG.

    Raises KeyError, ValueError.
    """
    earlier, later = (_frame(_under(arrays, name), spec) for name in FRAMES)
    return earlier, later


def _shrunk(view: CameraView, spec: ModelSpec) -> CameraView:
    """The image decoded, at most a quarter wider than the network's, with its calibration."""
    calibration = view.calibration
    image = decode_image(view.frame, calibration.width)
    scale = min(1.0, 1.25 * spec.image.width / calibration.width)
    width, height = round(calibration.width * scale), round(calibration.height * scale)
    x, y = width / calibration.width, height / calibration.height
    K = np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5], [0, 0, 1]]) @ calibration.K
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return CameraView(
        dataclasses.replace(view.frame, encoding=RAW, data=image),
        dataclasses.replace(calibration, width=width, height=height, K=K),
        view.ego,
    )


def _coded(view: CameraView, quality: int) -> CameraView:
    _, data = cv2.imencode(".jpg", view.frame.data, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return dataclasses.replace(view, frame=dataclasses.replace(view.frame, encoding=COMPRESSED, data=data.reshape(-1)))


def _arrays(frame: SensorFrame) -> dict[str, np.ndarray]:
    """A frame of JPEG images -> arrays; sensors by name, so that the order is the spec's when they are read."""
    views = [view for view in frame.cameras if view is not None]
    sweeps = [sweep for radar in frame.radars for sweep in radar]
    calibrations = [view.calibration for view in views]
    arrays = {
        "stamp_ns": np.array(frame.stamp_ns),
        "ego": _ego_row(frame.ego),
        "cameras": np.array([view.frame.sensor for view in views], dtype=str),
        "camera_stamps": np.array([view.frame.stamp_ns for view in views], dtype=np.int64),
        "camera_egos": _rows([_ego_row(view.ego) for view in views], EGO_COLUMNS),
        "compressed": np.array([i % 2 == 0 for i in range(len(views))], dtype=bool),
        "sizes": np.array([(c.width, c.height) for c in calibrations], dtype=np.int64).reshape(-1, 2),
        "K": _rows([c.K.ravel() for c in calibrations], 9),
        "ego_from_cam": _rows([c.ego_from_cam.ravel() for c in calibrations], 16),
        "models": np.array([c.distortion_model for c in calibrations], dtype=str),
        "D": _rows([[*c.D, *[np.nan] * (D_ROOM - len(c.D))] for c in calibrations], D_ROOM),
        "radars": np.array([s.scan.sensor for s in sweeps], dtype=str),
        "sweep_stamps": np.array([s.scan.stamp_ns for s in sweeps], dtype=np.int64),
        "sweep_egos": _rows([_ego_row(s.ego) for s in sweeps], EGO_COLUMNS),
        "ego_from_radar": _rows([s.ego_from_radar.ravel() for s in sweeps], 16),
        "compensated": np.array([s.scan.compensated for s in sweeps], dtype=bool),
        "counts": np.array([len(s.scan.points) for s in sweeps], dtype=np.int64),
        "points": np.concatenate([np.zeros((0, 6)), *(np.round(s.scan.points, 2) for s in sweeps)]).astype(np.float32),
    }
    return arrays | {f"image.{view.frame.sensor}": view.frame.data for view in views}


def _frame(arrays: Mapping[str, np.ndarray], spec: ModelSpec) -> SensorFrame:
    """The reverse of `_arrays`. Raises KeyError, ValueError."""
    views = {str(name): _view(arrays, i, str(name)) for i, name in enumerate(arrays["cameras"])}
    counts, points = arrays["counts"], arrays["points"]
    _require((counts >= 0).all() and counts.sum() == len(points), f"{len(points)} returns, {counts.sum()} are told of")
    ends = np.cumsum(counts)
    sweeps = [
        RadarSweep(
            RadarScan(
                str(name),
                int(arrays["sweep_stamps"][i]),
                points[ends[i] - counts[i] : ends[i]].astype(np.float32).reshape(-1, 6),
                bool(arrays["compensated"][i]),
            ),
            arrays["ego_from_radar"][i].reshape(4, 4),
            _ego_of(arrays["sweep_egos"][i], int(arrays["sweep_stamps"][i])),
        )
        for i, name in enumerate(arrays["radars"])
    ]
    radars = {name: tuple(s for s in sweeps if s.scan.sensor == name) for name in spec.radars}
    absent = [name for name in spec.cameras if name not in views]
    _require(not absent, f"no image of {', '.join(absent)}")
    stamp_ns = int(arrays["stamp_ns"])
    missing = {name: "not_recorded" for name, of in radars.items() if not of}
    cameras = tuple(views[name] for name in spec.cameras)
    return SensorFrame(stamp_ns, _ego_of(arrays["ego"], stamp_ns), cameras, tuple(radars.values()), missing)


def _view(arrays: Mapping[str, np.ndarray], i: int, name: str) -> CameraView:
    stamp_ns, (width, height) = int(arrays["camera_stamps"][i]), arrays["sizes"][i]
    D = tuple(float(d) for d in arrays["D"][i] if not np.isnan(d))
    calibration = CameraCalibration(
        int(width),
        int(height),
        arrays["K"][i].reshape(3, 3),
        arrays["ego_from_cam"][i].reshape(4, 4),
        str(arrays["models"][i]),
        D,
    )
    frame = CameraFrame(name, stamp_ns, COMPRESSED, arrays[f"image.{name}"])
    if not arrays["compressed"][i]:
        frame = dataclasses.replace(frame, encoding=RAW, data=decode_image(frame, int(width)))
    return CameraView(frame, calibration, _ego_of(arrays["camera_egos"][i], stamp_ns))


EGO_COLUMNS = 22  # odom_from_ego row by row, linear, angular


def _ego_row(ego: EgoPose) -> np.ndarray:
    return np.concatenate([ego.odom_from_ego.ravel(), ego.linear, ego.angular])


def _ego_of(row: np.ndarray, stamp_ns: int) -> EgoPose:
    return EgoPose(stamp_ns, row[:16].reshape(4, 4), row[16:19], row[19:22])


def _rows(rows: list[Any], columns: int) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, columns)


def _under(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}


def _require(holds: Any, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
