"""ModelSpec: every fact about a model that the vehicle must know, stated by the bundle and enforced by the runtime.

A bundle is a directory: model.onnx, model_spec.json, golden.npz (an input and the output it must give), MODEL_CARD.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.grid import BevGrid

FORMAT = 1
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
# Regression channels of the CenterPoint head at a peak (methods: CenterPoint, targets), in this order.
BOX_CHANNELS = ("dx", "dy", "z", "log_l", "log_w", "log_h", "sin_yaw", "cos_yaw", "vx", "vy")


# Planes that radar_bev may have (preprocess.radar makes them) and how images may be scaled (preprocess.images).
RADAR_CHANNELS = ("log_count", "rcs", "vx", "vy", "age", "dx", "dy")
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
    """Accumulation and rasterisation of radar points; `channels` names the planes of radar_bev."""

    sweeps: int = 6
    max_age_s: float = 0.6
    channels: tuple[str, ...] = RADAR_CHANNELS

    def __post_init__(self) -> None:
        if not self.channels or set(self.channels) - set(RADAR_CHANNELS):
            raise ValueError(f"radar.channels must be some of {RADAR_CHANNELS}, found {self.channels}")


@dataclass(frozen=True)
class TemporalSpec:
    """The student was trained with a previous state about `interval_s` old; states outside [min, max] are not used."""

    state_channels: int = 64
    interval_s: float = 0.5
    min_age_s: float = 0.2
    max_age_s: float = 1.1


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and numpy dtype name of one engine input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ModelSpec:
    """Facts about one exported student. Distances in metres, scores in [0, 1]; dicts are keyed by class name."""

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

    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the engine takes, in order."""
        n, r = len(self.cameras), len(self.radars)
        x, y = self.grid.shape
        return (
            TensorSpec("images", (n, self.image.height, self.image.width, 3), "uint8"),
            TensorSpec("img_from_ego", (n, 4, 4), "float32"),
            TensorSpec("camera_valid", (n,), "float32"),
            TensorSpec("radar_bev", (len(self.radar.channels), x, y), "float32"),
            TensorSpec("radar_valid", (r,), "float32"),
            TensorSpec("prev_bev", (self.temporal.state_channels, x, y), "float32"),
            TensorSpec("prev_from_curr", (4, 4), "float32"),
            TensorSpec("prev_valid", (1,), "float32"),
            TensorSpec("prev_dt", (1,), "float32"),
        )

    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the engine gives, in order: the top-K peaks over classes and cells, and the state for the next step."""
        x, y = self.grid.shape
        return (
            TensorSpec("scores", (self.top_k,), "float32"),
            TensorSpec("labels", (self.top_k,), "int64"),
            TensorSpec("cells", (self.top_k,), "int64"),  # ix * Y + iy
            TensorSpec("boxes", (self.top_k, len(BOX_CHANNELS)), "float32"),
            TensorSpec("bev", (self.temporal.state_channels, x, y), "float32"),
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def _from_dict(cls: type, data: dict[str, Any], where: str) -> Any:
    """Build a dataclass from JSON; unknown or missing keys and wrong types are errors, lists become tuples."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    missing = sorted(set(fields) - set(data))
    if unknown or missing:
        raise BundleError(
            f"{where}: unknown keys {unknown}, missing keys {missing}; export the bundle again with this version"
        )
    for key, value in data.items():
        expected = JSON_TYPES.get(str(fields[key].type))
        if expected is not None and (not isinstance(value, expected) or isinstance(value, bool)):
            raise BundleError(f"{where}: `{key}` must be of type {fields[key].type}, found {value!r}")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error


# Annotation of a field -> what it is in JSON.
JSON_TYPES: dict[str, Any] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "tuple[str, ...]": list,
    "dict[str, float]": dict,
}
NESTED = {"grid": BevGrid, "image": ImageSpec, "radar": RadarSpec, "temporal": TemporalSpec}


def parse_spec(text: str, where: str = "model_spec.json") -> ModelSpec:
    """JSON text -> ModelSpec. Raises BundleError naming the key that is wrong."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BundleError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise BundleError(f"{where}: format {found!r}, this version reads {FORMAT}; export the bundle again")
    for key, cls in NESTED.items():
        if not isinstance(data.get(key), dict):
            raise BundleError(f"{where}: `{key}` must be an object, found {data.get(key)!r}")
        data[key] = _from_dict(cls, data[key], f"{where}: {key}")
    spec: ModelSpec = _from_dict(ModelSpec, data, where)
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
                f"bundle {path}: {name} is missing; a bundle is the directory that `python -m training.export` writes"
            )
    spec = parse_spec((path / "model_spec.json").read_text(), str(path / "model_spec.json"))
    found = hashlib.sha256((path / "model.onnx").read_bytes()).hexdigest()
    if found != spec.onnx_sha256:
        raise BundleError(
            f"bundle {path}: model.onnx has sha256 {found[:12]}..., the spec expects {spec.onnx_sha256[:12]}...; "
            "the file was altered or belongs to another bundle, copy the whole bundle again"
        )
    return Bundle(path, spec)
