"""ModelSpec: every fact about a model that the vehicle must know, stated by the bundle and enforced by the runtime."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bev_perception import __version__
from bev_perception.grid import BevGrid
from bev_perception.mounts import CameraMount
from bev_perception.plain import from_plain, parse_json, to_plain

# A bundle states its version, `format`.`minor`, and the oldest bev_perception that runs it, `runtime`. Whoever adds a
# field raises MINOR, sets RUNTIME to the version of the package that has the field (setup.py), and writes into
# ADDED_LATER what bundles without it meant. Whoever changes the meaning of a field raises FORMAT.
FORMAT, MINOR, RUNTIME = 1, 3, "0.1"
OLDEST: dict[str, Any] = {"minor": 0, "runtime": "0.1"}  # bundles of before state no more than their format
RUNTIME_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
# Regression channels of the CenterPoint head at a cell (Yin et al., CVPR 2021), in this order.
BOX_CHANNELS = ("dx", "dy", "z", "log_l", "log_w", "log_h", "sin_yaw", "cos_yaw", "vx", "vy")
# What a network may say of the spread of its own errors at a candidate, each as the natural logarithm of a standard
# deviation: the place along and across the line of sight and the height (m), the logarithms of the sizes, sine and
# cosine of the heading, the velocity along and across (m/s), and the logit of the candidate's class.
SPREAD_CHANNELS = (
    "along", "across", "z", "log_l", "log_w", "log_h", "sin_yaw", "cos_yaw", "speed_along", "speed_across", "logit",
)  # fmt: skip
# Whose variances add up to the whole: what the data leaves open, and what the network does not know (Choi et al., ICCV
# 2021).
SPREAD_PARTS = ("aleatoric", "epistemic")

# Planes that radar_bev may have, columns of radar_points (preprocess.radar makes both), and how images may be scaled
# (preprocess.images).
RADAR_CHANNELS = ("log_count", "rcs", "vx", "vy", "age", "dx", "dy")
PILLAR_COLUMNS = ("x", "y", "z", "rcs", "vx", "vy")
INTERPOLATIONS = ("area", "linear")
COLOR_ORDERS = ("bgr", "rgb")
CAMERA_FEATURES, MAP_FEATURES = "camera_features", "map_features"  # outputs for the health of sensors
PRECISIONS = ("fp32", "int8")  # of the graph: int8 where its convolutions are in 8 bits

# Names of sensors and classes are parts of parameter names, topics and counters.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,99}")
SENSOR_LIMIT, CLASS_LIMIT, CANDIDATE_LIMIT, SIDE_LIMIT = 64, 1000, 10_000, 10_000
TENSOR_LIMIT = 2**30  # elements; the largest that a student of a paper takes has 2**27
FEATURE_LIMIT = 4096  # of one camera, or of the maps
SECONDS_LIMIT = 60.0


class BundleError(ValueError):
    """A bundle that is missing, malformed, altered or of another format; the message says how to mend it."""


def _within(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low <= value <= high; NaN is not."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be within [{low:g}, {high:g}], found {value!r}")


def _check_names(what: str, names: tuple[str, ...], limit: int) -> None:
    """Raise ValueError for too many and for repeated names."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if len(names) > limit or repeated:
        raise ValueError(f"{what}: at most {limit} names, each once; found {len(names)}, {repeated} stand there twice")


@dataclass(frozen=True)
class ImageSpec:
    """The network's image: the source scaled to `zoom` times `width` with `interpolation`, of which the middle columns
    and the bottom rows are kept."""

    height: int = 128
    width: int = 352
    color_order: str = "bgr"
    interpolation: str = "area"
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"image.interpolation must be one of {INTERPOLATIONS}, found {self.interpolation!r}")
        if self.color_order not in COLOR_ORDERS:
            raise ValueError(f"image.color_order must be one of {COLOR_ORDERS}, found {self.color_order!r}")
        _within("image.height", self.height, 1, SIDE_LIMIT)
        _within("image.width", self.width, 1, SIDE_LIMIT)
        _within("image.zoom", self.zoom, 1.0, 10.0)

    @property
    def scaled_width(self) -> int:
        """Columns of the scaled source, before its sides are cut away."""
        return round(self.width * self.zoom)


@dataclass(frozen=True)
class RadarSpec:
    """Accumulation of radar points and the form in which the network takes them.

    format `map`: rasterised over the grid; `channels` names the planes of radar_bev.
    format `pillars`: the points themselves, grouped by the cells of a finer grid of `pillar_step` m, at most
    `pillar_points` in each of at most `max_pillars`, as PillarNet takes them (Shi et al., ECCV 2022; RadarDistill).
    Returns beyond `rcs_dbsm`, `z_m` (above base_link) or `max_speed_mps` (over ground) are no returns of such a radar
    and do not reach the network; the ranges are those of what it learnt from.
    """

    sweeps: int = 6
    max_age_s: float = 0.6
    channels: tuple[str, ...] = RADAR_CHANNELS
    format: str = "map"
    pillar_step: float = 0.1
    max_pillars: int = 4000
    pillar_points: int = 10
    rcs_dbsm: tuple[float, float] = (-64.0, 64.0)
    max_speed_mps: float = 70.0
    z_m: tuple[float, float] = (-10.0, 20.0)

    def __post_init__(self) -> None:
        known = set(self.channels) & set(RADAR_CHANNELS)
        if not known or len(known) < len(self.channels):
            raise ValueError(f"radar.channels must be some of {RADAR_CHANNELS}, each once, found {self.channels}")
        if self.format not in RADAR_FORMATS:
            raise ValueError(f"radar.format must be one of {tuple(RADAR_FORMATS)}, found {self.format!r}")
        if self.pillar_step <= 0 or self.max_pillars < 1 or self.pillar_points < 1:
            raise ValueError(f"radar.pillar_step, .max_pillars and .pillar_points must be positive, found {self}")
        _within("radar.sweeps", self.sweeps, 1, 1000)
        _within("radar.max_age_s", self.max_age_s, 1e-3, SECONDS_LIMIT)
        _within("radar.max_speed_mps", self.max_speed_mps, 1.0, 1000.0)
        for name in ("rcs_dbsm", "z_m"):
            low, high = getattr(self, name)
            if not -1000 <= low < high <= 1000:
                raise ValueError(f"radar.{name} must be a lower and a higher number within 1000, found {low}, {high}")


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
        _within("temporal.interval_s", self.interval_s, 1e-3, SECONDS_LIMIT)
        if not 0 < self.min_age_s <= self.interval_s <= self.max_age_s <= SECONDS_LIMIT:
            raise ValueError(
                f"temporal: 0 < min_age_s <= interval_s <= max_age_s <= {SECONDS_LIMIT:g} must hold, found "
                f"{self.min_age_s}, {self.interval_s}, {self.max_age_s}"
            )


@dataclass(frozen=True)
class HealthSpec:
    """How many numbers the network gives of each camera and of its maps for the health of sensors (docs/health.md);
    0: none, as most do."""

    camera_width: int = 0
    map_width: int = 0

    def __post_init__(self) -> None:
        _within("health.camera_width", self.camera_width, 0, FEATURE_LIMIT)
        _within("health.map_width", self.map_width, 0, FEATURE_LIMIT)


@dataclass(frozen=True)
class NmsGroup:
    """Classes that thin each other out, as those of one task of CenterPoint's head do.

    iou 0: of two boxes within ModelSpec.nms_radius the weaker goes; otherwise of two that overlap by more than that,
    seen from above, once length and width are multiplied by `scale`, one number for each class (scale-NMS of BEVDet,
    Huang et al. 2021; empty: as they are). most: boxes that stay, 0 for all.
    """

    classes: tuple[str, ...]
    iou: float = 0.0
    scale: tuple[float, ...] = ()
    most: int = 0

    def __post_init__(self) -> None:
        _within("nms.iou", self.iou, 0.0, 1.0)
        _within("nms.most", self.most, 0, CANDIDATE_LIMIT)
        for factor in self.scale:
            _within("nms.scale", factor, 0.01, 100.0)
        if len(self.scale) not in (0, len(self.classes)):
            raise ValueError(f"nms.scale needs a number for each of {self.classes}, or none at all; found {self.scale}")


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
    spread: the parts of SPREAD_PARTS that the graph gives of the variance of SPREAD_CHANNELS, none for a network that
    says nothing of its errors.
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
    nms: tuple[NmsGroup, ...] = ()  # a class in none is thinned out by itself, within its radius
    onnx_sha256: str = ""
    weights_sha256: dict[str, str] = field(default_factory=dict)
    precision: str = "fp32"
    mounts: dict[str, CameraMount] = field(default_factory=dict)  # accepted ones; of a camera without: any
    spread: tuple[str, ...] = ()
    health: HealthSpec = HealthSpec()
    format: int = FORMAT

    def __post_init__(self) -> None:
        _check_names("cameras and radars", self.cameras + self.radars, SENSOR_LIMIT)
        _check_names("classes", self.classes, CLASS_LIMIT)
        _within("top_k", self.top_k, 1, CANDIDATE_LIMIT)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, found {self.precision!r}")
        if unknown := sorted(set(self.mounts) - set(self.cameras)):
            raise ValueError(f"mounts: {unknown} are no cameras of the model; expected some of {self.cameras}")
        if self.spread not in (SPREAD_PARTS[:count] for count in range(len(SPREAD_PARTS) + 1)):
            raise ValueError(f"spread must be the first of {SPREAD_PARTS}, both or none, found {self.spread}")
        grouped = tuple(name for group in self.nms for name in group.classes)
        _check_names("classes of nms", grouped, CLASS_LIMIT)
        if unknown := sorted(set(grouped) - set(self.classes)):
            raise ValueError(f"nms names classes that there are not: {unknown}; expected some of {self.classes}")
        RADAR_FORMATS[self.radar.format](self)  # or ValueError: the form does not fit the grid
        for tensor in (*self.inputs(), *self.outputs()):
            if math.prod(tensor.shape) > TENSOR_LIMIT:
                raise ValueError(f"`{tensor.name}` would be {list(tensor.shape)}, more than {TENSOR_LIMIT} numbers")

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
        """What the engine gives, in order: the top-K candidates over classes and cells, how far they may be off, the
        state for the next step, and means and deviations of its features where the model has `health`."""
        tensors = [
            TensorSpec("scores", (self.top_k,), "float32"),
            TensorSpec("labels", (self.top_k,), "int64"),
            TensorSpec("cells", (self.top_k,), "int64"),  # ix * Y + iy
            TensorSpec("boxes", (self.top_k, len(BOX_CHANNELS)), "float32"),
        ]
        if self.spread:
            tensors.append(TensorSpec("log_std", (self.top_k, len(self.spread), len(SPREAD_CHANNELS)), "float32"))
        if self.temporal.state_channels:
            tensors.append(TensorSpec("bev", (self.temporal.state_channels, *self.grid.shape), "float32"))
        if self.health.camera_width:
            tensors.append(TensorSpec(CAMERA_FEATURES, (len(self.cameras), self.health.camera_width), "float32"))
        if self.health.map_width:
            tensors.append(TensorSpec(MAP_FEATURES, (self.health.map_width,), "float32"))
        return tuple(tensors)

    def to_json(self) -> str:
        """The text of model_spec.json: every fact, in the version of today whatever it was read from."""
        return json.dumps(self._stated(), indent=2) + "\n"

    def facts(self) -> str:
        """Every fact but the hash of the ONNX, which carries this text: JSON, the same text for the same facts."""
        facts = self._stated()
        del facts["onnx_sha256"]
        return json.dumps(facts, sort_keys=True, separators=(",", ":"))

    def _stated(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        return plain | {"minor": MINOR, "runtime": RUNTIME}


# Older bundles lack these: their radar was a map, its returns were not bounded, their ONNX held all weights, no image
# lost its sides, each class was thinned out by itself, all was in 32 bits, cameras might be mounted anyhow, and no
# network said how far its boxes may be off or of the sensors' health.
ADDED_LATER: dict[type, dict[str, Any]] = {
    RadarSpec: {
        "format": "map", "pillar_step": 0.1, "max_pillars": 4000, "pillar_points": 10,
        "rcs_dbsm": (-64.0, 64.0), "max_speed_mps": 70.0, "z_m": (-10.0, 20.0),
    },
    ImageSpec: {"zoom": 1.0},
    ModelSpec: {
        "weights_sha256": {}, "nms": (), "precision": "fp32", "mounts": {}, "spread": (), "health": HealthSpec(),
    },
}  # fmt: skip


def parse_spec(text: str, where: str = "model_spec.json") -> ModelSpec:
    """JSON text -> ModelSpec; where: the file, for errors. Raises BundleError naming the key that is wrong."""
    return _parse(text, where, {})


def parse_facts(text: str, where: str) -> ModelSpec:
    """What `ModelSpec.facts` gave -> ModelSpec without the hash of the ONNX. Raises BundleError."""
    return _parse(text, where, {"onnx_sha256": ""})


def check_runtime(needed: str, where: str) -> None:
    """Raises BundleError where this bev_perception is older than `needed`, "major.minor", or that is no version."""
    if not isinstance(needed, str) or not RUNTIME_VERSION.fullmatch(needed):
        raise BundleError(f"{where}: runtime {needed!r}, expected major.minor, such as {RUNTIME!r}; export it again")
    if _numbers(needed) > _numbers(__version__):
        raise BundleError(
            f"{where}: needs bev_perception {needed} or newer, this is {__version__}; update bev_perception on this "
            "machine, or export the bundle again with this version"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def _check_versions(data: Any, where: str) -> None:
    """Raises BundleError for what is no spec, or one that another version of bev_perception is needed for."""
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if type(found) is not int:
        raise BundleError(f"{where}: format {found!r}, this version reads {FORMAT}; export the bundle again")
    minor, runtime = (data.get(key, before) for key, before in OLDEST.items())
    if type(minor) is not int or minor < 0:
        raise BundleError(f"{where}: minor {minor!r}, expected a number from 0 on; export the bundle again")
    if found != FORMAT or minor > MINOR:
        newer = (found, minor) > (FORMAT, MINOR)
        raise BundleError(
            f"{where}: format {found}.{minor}, bev_perception {__version__} reads {FORMAT}.0 to {FORMAT}.{MINOR}; "
            + (f"update bev_perception on this machine to {runtime} or newer, or " if newer else "")
            + "export the bundle again with this version"
        )
    check_runtime(runtime, where)


def _parse(text: str, where: str, more: dict[str, Any]) -> ModelSpec:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{where}: not JSON as a bundle has it ({error})") from error
    _check_versions(data, where)
    data = {key: value for key, value in data.items() if key not in OLDEST}
    try:
        spec: ModelSpec = from_plain(ModelSpec, data | more, f"{where}:", ADDED_LATER)
        for key, high in (("score_threshold", 1.0), ("nms_radius", 100.0)):
            for name, value in getattr(spec, key).items():
                _within(f"{where}: {key}.{name}", value, 0.0, high)
    except ValueError as error:
        raise BundleError(f"{error}; export the bundle again with this version") from error
    odd = [name[:100] for name in (*spec.cameras, *spec.radars, *spec.classes) if not NAME.fullmatch(name)]
    if odd or not MODEL_NAME.fullmatch(spec.name):
        raise BundleError(
            f"{where}: names of sensors and classes must match {NAME.pattern}, found {odd}; that of the model "
            f"{MODEL_NAME.pattern}, found {spec.name[:100]!r}"
        )
    if not spec.cameras and not spec.radars:
        raise BundleError(f"{where}: `cameras` and `radars` are both empty; a student needs a sensor")
    for name in ("score_threshold", "nms_radius"):
        if set(getattr(spec, name)) != set(spec.classes):
            raise BundleError(
                f"{where}: `{name}` must name exactly the classes {spec.classes}, found {sorted(getattr(spec, name))}"
            )
    return spec
