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
EGO_COLUMNS = 22  # of a pose: odom_from_ego row by row, linear, angular
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
        found = _checked(arrays, "expected", LAYOUT_EXPECTED)
        expected = Expected(
            found["classes"],
            found["scores"],
            found["boxes"],
            found["velocity"],
            found["published"],
            bool(found["temporal_used"]),
        )
    except (ValueError, cv2.error) as error:
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

    Raises ValueError.
    """
    earlier, later = (_frame(arrays, name, spec) for name in FRAMES)
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


# Array of a frame -> kinds of numpy's dtypes, shape: N cameras, S sweeps, P returns.
LAYOUT: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "stamp_ns": ("i", ()),
    "ego": ("f", (EGO_COLUMNS,)),
    "cameras": ("U", ("N",)),
    "camera_stamps": ("i", ("N",)),
    "camera_egos": ("f", ("N", EGO_COLUMNS)),
    "compressed": ("b", ("N",)),
    "sizes": ("i", ("N", 2)),
    "K": ("f", ("N", 9)),
    "ego_from_cam": ("f", ("N", 16)),
    "models": ("U", ("N",)),
    "D": ("f", ("N", D_ROOM)),
    "radars": ("U", ("S",)),
    "sweep_stamps": ("i", ("S",)),
    "sweep_egos": ("f", ("S", EGO_COLUMNS)),
    "ego_from_radar": ("f", ("S", 16)),
    "compensated": ("b", ("S",)),
    "counts": ("i", ("S",)),
    "points": ("f", ("P", 6)),
}
LAYOUT_EXPECTED: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "classes": ("U", ("M",)),
    "scores": ("f", ("M",)),
    "boxes": ("f", ("M", 7)),
    "velocity": ("f", ("M", 2)),
    "published": ("b", ("M",)),
    "temporal_used": ("b", ()),
}


def _checked(
    arrays: Mapping[str, np.ndarray], name: str, layout: Mapping[str, tuple[str, tuple[int | str, ...]]]
) -> dict[str, np.ndarray]:
    """The arrays called `name.KEY`, by key. Raises ValueError for what is not laid out so."""
    found = {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
    sizes: dict[str, int] = {}
    for key, (kinds, shape) in layout.items():
        if key not in found:
            raise ValueError(f"lacks `{name}.{key}`")
        array = found[key]
        wanted = tuple(
            sizes.setdefault(n, *array.shape[i : i + 1]) if isinstance(n, str) and array.ndim > i else n
            for i, n in enumerate(shape)
        )
        if array.shape != wanted or array.dtype.kind not in kinds:
            raise ValueError(f"`{name}.{key}` is {array.dtype} {list(array.shape)}, expected {list(wanted)} of {kinds}")
    return found


def _frame(arrays: Mapping[str, np.ndarray], name: str, spec: ModelSpec) -> SensorFrame:
    """The reverse of `_arrays`. Raises ValueError."""
    of = _checked(arrays, name, LAYOUT)
    views = {str(camera): _view(of, i, str(camera)) for i, camera in enumerate(of["cameras"])}
    counts, points, ends = of["counts"], of["points"], np.cumsum(of["counts"])
    if (counts < 0).any() or (counts > len(points)).any() or counts.sum() != len(points):
        raise ValueError(f"{len(points)} returns in `{name}.points`, {counts.tolist()} are told of")
    sweeps = [
        RadarSweep(
            RadarScan(
                str(radar),
                int(of["sweep_stamps"][i]),
                points[ends[i] - counts[i] : ends[i]].astype(np.float32),
                bool(of["compensated"][i]),
            ),
            of["ego_from_radar"][i].reshape(4, 4),
            _ego_of(of["sweep_egos"][i], int(of["sweep_stamps"][i])),
        )
        for i, radar in enumerate(of["radars"])
    ]
    radars = {radar: tuple(s for s in sweeps if s.scan.sensor == radar) for radar in spec.radars}
    absent = [name for name in spec.cameras if name not in views] + [name for name in spec.radars if not radars[name]]
    if absent:
        raise ValueError(f"nothing of {', '.join(absent)}")
    stamp_ns = int(of["stamp_ns"])
    cameras = tuple(views[camera] for camera in spec.cameras)
    return SensorFrame(stamp_ns, _ego_of(of["ego"], stamp_ns), cameras, tuple(radars.values()))


def _view(of: Mapping[str, np.ndarray], i: int, name: str) -> CameraView:
    stamp_ns, (width, height) = int(of["camera_stamps"][i]), of["sizes"][i]
    calibration = CameraCalibration(
        int(width),
        int(height),
        of["K"][i].reshape(3, 3),
        of["ego_from_cam"][i].reshape(4, 4),
        str(of["models"][i]),
        tuple(float(d) for d in of["D"][i] if not np.isnan(d)),
    )
    image = of.get(f"image.{name}")
    if image is None or image.dtype != np.uint8 or image.ndim != 1:
        raise ValueError(f"`image.{name}` is not there, or not bytes")
    frame = CameraFrame(name, stamp_ns, COMPRESSED, image)
    if not of["compressed"][i]:
        frame = dataclasses.replace(frame, encoding=RAW, data=decode_image(frame, int(width)))
    return CameraView(frame, calibration, _ego_of(of["camera_egos"][i], stamp_ns))


def _ego_row(ego: EgoPose) -> np.ndarray:
    return np.concatenate([ego.odom_from_ego.ravel(), ego.linear, ego.angular])


def _ego_of(row: np.ndarray, stamp_ns: int) -> EgoPose:
    return EgoPose(stamp_ns, row[:16].reshape(4, 4), row[16:19], row[19:22])


def _rows(rows: list[Any], columns: int) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, columns)
