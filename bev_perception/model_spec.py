"""ModelSpec: every fact about a model that the vehicle must know, stated by the bundle and enforced by the runtime.

A bundle is a directory: model.onnx, model_spec.json, golden.npz (an input and the output it must give), MODEL_CARD.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.grid import BevGrid
from bev_perception.plain import from_plain, to_plain

FORMAT = 1
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
# Regression channels of the CenterPoint head at a peak (Yin et al., CVPR 2021), in this order.
BOX_CHANNELS = ("dx", "dy", "z", "log_l", "log_w", "log_h", "sin_yaw", "cos_yaw", "vx", "vy")


# Planes that radar_bev may have, columns of radar_points (preprocess.radar makes both), and how images may be scaled
# (preprocess.images).
RADAR_CHANNELS = ("log_count", "rcs", "vx", "vy", "age", "dx", "dy")
PILLAR_COLUMNS = ("x", "y", "z", "rcs", "vx", "vy")
INTERPOLATIONS = ("area", "linear")
COLOR_ORDERS = ("bgr", "rgb")


class BundleError(ValueError):
    """A bundle that is missing, malformed, altered or of another format; the message says how to mend it."""


@dataclass(frozen=True)
class ImageSpec:
    """The network's image: the source scaled to `width` with `interpolation`, its top rows cut away to `height`."""

    height: int = 128
    width: int = 352
    color_order: str = "bgr"
    interpolation: str = "area"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"image.interpolation must be one of {INTERPOLATIONS}, found {self.interpolation!r}")
        if self.color_order not in COLOR_ORDERS:
            raise ValueError(f"image.color_order must be one of {COLOR_ORDERS}, found {self.color_order!r}")


@dataclass(frozen=True)
class RadarSpec:
    """Accumulation of radar points and the form in which the network takes them.

    format `map`: rasterised over the grid; `channels` names the planes of radar_bev.
    format `pillars`: the points themselves, grouped by the cells of a finer grid of `pillar_step` m, at most
    `pillar_points` in each of at most `max_pillars`, as PillarNet takes them (Shi et al., ECCV 2022; RadarDistill).
    """

    sweeps: int = 6
    max_age_s: float = 0.6
    channels: tuple[str, ...] = RADAR_CHANNELS
    format: str = "map"
    pillar_step: float = 0.1
    max_pillars: int = 4000
    pillar_points: int = 10

    def __post_init__(self) -> None:
        if not self.channels or set(self.channels) - set(RADAR_CHANNELS):
            raise ValueError(f"radar.channels must be some of {RADAR_CHANNELS}, found {self.channels}")
        if self.format not in RADAR_FORMATS:
            raise ValueError(f"radar.format must be one of {tuple(RADAR_FORMATS)}, found {self.format!r}")
        if self.pillar_step <= 0 or self.max_pillars < 1 or self.pillar_points < 1:
            raise ValueError(f"radar.pillar_step, .max_pillars and .pillar_points must be positive, found {self}")


@dataclass(frozen=True)
class TemporalSpec:
    """The student was trained with a previous state about `interval_s` old; states outside [min, max] are not used.

    state_channels 0: a student without memory.
    """

    state_channels: int = 64
    interval_s: float = 0.5
    min_age_s: float = 0.2
    max_age_s: float = 1.1

    def __post_init__(self) -> None:
        if self.state_channels < 0:
            raise ValueError(f"temporal.state_channels must be 0 (no memory) or more, found {self.state_channels}")


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and numpy dtype name of one engine input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def _map_inputs(spec: ModelSpec) -> list[TensorSpec]:
    return [TensorSpec("radar_bev", (len(spec.radar.channels), *spec.grid.shape), "float32")]


def _pillar_inputs(spec: ModelSpec) -> list[TensorSpec]:
    spec.pillar_grid()  # or ValueError
    pillars, points = spec.radar.max_pillars, spec.radar.pillar_points
    # int32: TensorRT 8 takes no int64 inputs.
    return [
        TensorSpec("radar_points", (pillars, points, len(PILLAR_COLUMNS)), "float32"),
        TensorSpec("radar_counts", (pillars,), "int32"),
        TensorSpec("radar_cells", (pillars,), "int32"),  # ix * Y + iy of pillar_grid(), each at most once
    ]


# RadarSpec.format -> what the network takes of the radars; preprocess.radar.RADAR_ARRAYS makes it.
RADAR_FORMATS: dict[str, Callable[[ModelSpec], list[TensorSpec]]] = {"map": _map_inputs, "pillars": _pillar_inputs}


@dataclass(frozen=True)
class ModelSpec:
    """Facts about one exported student. Distances in metres, scores in [0, 1]; dicts are keyed by class name.

    A student may lack cameras, radars or memory; inputs() and outputs() then lack what belongs to them.
    """

    name: str
    cameras: tuple[str, ...]
    radars: tuple[str, ...]
    score_threshold: dict[str, float]
    nms_radius: dict[str, float]
    classes: tuple[str, ...] = CLASSES
    grid: BevGrid = field(default_factory=BevGrid)
    image: ImageSpec = ImageSpec()
    radar: RadarSpec = RadarSpec()
    temporal: TemporalSpec = TemporalSpec()
    top_k: int = 200
    onnx_sha256: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        RADAR_FORMATS[self.radar.format](self)  # or ValueError: the form does not fit the grid

    def pillar_grid(self) -> BevGrid:
        """The grid's range in cells of radar.pillar_step. Raises ValueError unless they divide the grid's cells."""
        cells = self.grid.step / self.radar.pillar_step
        if abs(cells - round(cells)) > 1e-6:
            raise ValueError(
                f"radar.pillar_step must divide grid.step into whole cells, found {self.radar.pillar_step} and "
                f"{self.grid.step} ({cells:g} cells)"
            )
        return dataclasses.replace(self.grid, step=self.radar.pillar_step)

    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the engine takes, in order."""
        tensors: list[TensorSpec] = []
        if self.cameras:
            n = len(self.cameras)
            tensors += [
                TensorSpec("images", (n, self.image.height, self.image.width, 3), "uint8"),
                TensorSpec("img_from_ego", (n, 4, 4), "float32"),
                TensorSpec("camera_valid", (n,), "float32"),
            ]
        if self.radars:
            tensors += [
                *RADAR_FORMATS[self.radar.format](self),
                TensorSpec("radar_valid", (len(self.radars),), "float32"),
            ]
        if self.temporal.state_channels:
            tensors += [
                TensorSpec("prev_bev", (self.temporal.state_channels, *self.grid.shape), "float32"),
                TensorSpec("prev_from_curr", (4, 4), "float32"),
                TensorSpec("prev_valid", (1,), "float32"),
                TensorSpec("prev_dt", (1,), "float32"),
            ]
        return tuple(tensors)

    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the engine gives, in order: the top-K peaks over classes and cells, and the state for the next step."""
        tensors = [
            TensorSpec("scores", (self.top_k,), "float32"),
            TensorSpec("labels", (self.top_k,), "int64"),
            TensorSpec("cells", (self.top_k,), "int64"),  # ix * Y + iy
            TensorSpec("boxes", (self.top_k, len(BOX_CHANNELS)), "float32"),
        ]
        if self.temporal.state_channels:
            tensors.append(TensorSpec("bev", (self.temporal.state_channels, *self.grid.shape), "float32"))
        return tuple(tensors)

    def to_json(self) -> str:
        return json.dumps(to_plain(self), indent=2) + "\n"


# Older bundles lack these: their radar was a map.
ADDED_LATER: dict[type, dict[str, Any]] = {
    RadarSpec: {"format": "map", "pillar_step": 0.1, "max_pillars": 4000, "pillar_points": 10},
}


def parse_spec(text: str, where: str = "model_spec.json") -> ModelSpec:
    """JSON text -> ModelSpec; where: the file, for errors. Raises BundleError naming the key that is wrong."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BundleError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise BundleError(f"{where}: format {found!r}, this version reads {FORMAT}; export the bundle again")
    try:
        spec: ModelSpec = from_plain(ModelSpec, data, f"{where}:", ADDED_LATER)
    except ValueError as error:
        raise BundleError(f"{error}; export the bundle again with this version") from error
    if not spec.cameras and not spec.radars:
        raise BundleError(f"{where}: `cameras` and `radars` are both empty; a student needs a sensor")
    for name in ("score_threshold", "nms_radius"):
        if set(getattr(spec, name)) != set(spec.classes):
            raise BundleError(
                f"{where}: `{name}` must name exactly the classes {spec.classes}, found {sorted(getattr(spec, name))}"
            )
    return spec


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    spec: ModelSpec

    @property
    def onnx_path(self) -> Path:
        return self.path / "model.onnx"

    def golden(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(inputs, outputs) of the golden sample; arrays named as in the spec."""
        with np.load(self.path / "golden.npz", allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        inputs = {t.name: arrays[f"in.{t.name}"] for t in self.spec.inputs()}
        outputs = {t.name: arrays[f"out.{t.name}"] for t in self.spec.outputs() if f"out.{t.name}" in arrays}
        return inputs, outputs


def load_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle: files present, spec valid, ONNX hash as the spec says. Raises BundleError."""
    path = Path(path)
    for name in ("model.onnx", "model_spec.json", "golden.npz"):
        if not (path / name).is_file():
            raise BundleError(
                f"bundle {path}: {name} is missing; a bundle is the directory that the export of a checkpoint writes"
            )
    spec = parse_spec((path / "model_spec.json").read_text(), str(path / "model_spec.json"))
    found = hashlib.sha256((path / "model.onnx").read_bytes()).hexdigest()
    if found != spec.onnx_sha256:
        raise BundleError(
            f"bundle {path}: model.onnx has sha256 {found[:12]}..., the spec expects {spec.onnx_sha256[:12]}...; "
            "the file was altered or belongs to another bundle, copy the whole bundle again"
        )
    return Bundle(path, spec)
