"""ROS parameter YAML or ROS parameters -> NodeConfig, checked as a whole. The rows stand in parameter_table.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bev_perception.model_spec import ModelSpec, load_bundle
from bev_perception.parameter_table import (
    PACKAGE_SCHEME,
    PARAMETERS,
    REQUIRED,
    ParameterError,
    check_value,
    did_you_mean,
    sensor_parameters,
    unknown_names,
)
from bev_perception.sync_config import SyncConfig

PACKAGE_ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class RadarFields:
    """How a radar's point cloud names its fields; see the parameters `radar_fields.*`."""

    layout: str = "cartesian"
    x: str = "x"
    y: str = "y"
    z: str = "z"
    range: str = "range"
    azimuth: str = "azimuth"
    elevation: str = "elevation"
    angle_unit: str = "rad"
    rcs: str = "rcs"
    velocity: str = "compensated"
    vx: str = "vx_comp"
    vy: str = "vy_comp"
    doppler: str = ""


@dataclass(frozen=True)
class CameraConfig:
    """One camera; offset_ns is its stamp minus the anchor's within a sweep."""

    name: str
    topic: str
    info_topic: str
    compressed: bool
    rectified: bool
    offset_ns: int
    frame_id: str


@dataclass(frozen=True)
class RadarConfig:
    """One radar."""

    name: str
    topic: str
    frame_id: str


@dataclass(frozen=True)
class NodeConfig:
    """All parameters, checked, for one bundle. sync: keywords of SyncConfig; times in integer nanoseconds."""

    bundle: Path
    backend: str
    backend_options: dict[str, Any]
    base_frame: str
    odometry_topic: str
    odometry_frame: str
    extrinsics_source: str
    extrinsics_file: Path | None
    anchor: str
    sync: dict[str, Any]
    radar_fields: RadarFields
    image_reader: str
    cloud_reader: str
    qos_depth: int
    qos_reliability: str
    outputs: tuple[str, ...]
    marker_lifetime_s: float
    status_rate_hz: float
    max_age_ms: float
    output_timeout_ms: float
    cameras: dict[str, CameraConfig]
    radars: dict[str, RadarConfig]
    score_threshold: dict[str, float]

    def sync_config(self, spec: ModelSpec) -> SyncConfig:
        """What the synchroniser needs: the integrator's tolerances with the bundle's sensors and radar window."""
        return SyncConfig(
            cameras=spec.cameras,
            radars=spec.radars,
            anchor=self.anchor,
            offsets_ns={name: camera.offset_ns for name, camera in self.cameras.items()},
            radar_sweeps=spec.radar.sweeps,
            radar_max_age_ns=round(spec.radar.max_age_s * 1e9),
            **self.sync,
        )


def resolve_path(text: str) -> Path:
    """`package://bev_perception/...` -> the installed package; `~` is expanded; anything else as it stands."""
    if text.startswith(PACKAGE_SCHEME):
        return PACKAGE_ROOT / text[len(PACKAGE_SCHEME) :]
    return Path(text).expanduser()


def make_config(values: dict[str, Any], spec: ModelSpec) -> NodeConfig:
    """Flat {parameter name: value} -> NodeConfig for the sensors and classes of `spec`.

    Raises ParameterError with every fault, one line each.
    """
    rows = PARAMETERS + sensor_parameters(spec)
    errors = unknown_names(values, rows)
    v: dict[str, Any] = {}
    for row in rows:
        value = values.get(row.name, row.default)
        if value is REQUIRED or (row.default is REQUIRED and value in ("", None)):
            errors.append(f"{row.name}: is required and not given; {row.description}")
            continue
        try:
            v[row.name] = check_value(row, value)
        except ParameterError as error:
            errors.append(str(error))
    if not errors:
        errors = _inconsistencies(v, spec)
    if errors:
        raise ParameterError("\n".join(errors))
    return _build(v, spec)


def _inconsistencies(v: dict[str, Any], spec: ModelSpec) -> list[str]:
    """Faults that only show when parameters are seen together."""
    errors = []
    if v["extrinsics.source"] == "file" and not v["extrinsics.file"]:
        errors.append("extrinsics.file: is required when extrinsics.source is `file`")
    if v["anchor"] and v["anchor"] not in spec.cameras:
        hint = did_you_mean(v["anchor"], spec.cameras)
        errors.append(f"anchor: {v['anchor']!r} is no camera of the bundle ({', '.join(spec.cameras)}){hint}")
        return errors
    if bool(v["radar_fields.vx"]) != bool(v["radar_fields.vy"]):
        errors.append("radar_fields.vx and .vy: give both, or neither and `radar_fields.doppler`")
    if not v["radar_fields.vx"] and not v["radar_fields.doppler"]:
        errors.append("radar_fields: give vx and vy, or doppler")
    required = ("x", "y") if v["radar_fields.layout"] == "cartesian" else ("range", "azimuth")
    layout = v["radar_fields.layout"]
    empty = [name for name in required if not v[f"radar_fields.{name}"]]
    errors += [f"radar_fields.{name}: must not be empty with layout {layout}" for name in empty]
    if v["extrinsics.source"] == "tf_static":
        for name, value in v.items():
            if name.endswith(".frame_id") and not value:
                errors.append(f"{name}: is required when extrinsics.source is `tf_static`")
    anchor = _anchor(v, spec)
    offset = v[f"cameras.{anchor}.offset_ms"] if anchor else 0.0
    if offset != 0.0:
        errors.append(f"cameras.{anchor}.offset_ms: {anchor} is the anchor, its offset is 0, found {offset}")
    if 2 * v["sync.camera_tolerance_ms"] > v["sync.period_ms"]:
        found = f"{v['sync.camera_tolerance_ms']} with a period of {v['sync.period_ms']:.3f} ms"
        errors.append(f"sync.camera_tolerance_ms: must be at most half of sync.period_ms, found {found}")
    return errors


def _anchor(v: dict[str, Any], spec: ModelSpec) -> str:
    """The camera that sets the stamps; "" for a model of radars alone, which sets them by their scans."""
    anchor: str = v["anchor"]
    return anchor or (spec.cameras[-1] if spec.cameras else "")


def _build(v: dict[str, Any], spec: ModelSpec) -> NodeConfig:
    def ns(name: str) -> int:
        return round(v[name] * 1e6)

    cameras = {
        c: CameraConfig(
            c,
            topic=v[f"cameras.{c}.topic"],
            info_topic=v[f"cameras.{c}.info_topic"],
            compressed=v[f"cameras.{c}.compressed"],
            rectified=v[f"cameras.{c}.rectified"],
            offset_ns=ns(f"cameras.{c}.offset_ms"),
            frame_id=v[f"cameras.{c}.frame_id"],
        )
        for c in spec.cameras
    }
    options = f"{v['backend']}."
    prefix = "radar_fields."
    fields = {name[len(prefix) :]: value for name, value in v.items() if name.startswith(prefix)}
    return NodeConfig(
        bundle=resolve_path(v["bundle"]),
        backend=v["backend"],
        backend_options={name[len(options) :]: value for name, value in v.items() if name.startswith(options)},
        base_frame=v["base_frame"],
        odometry_topic=v["odometry.topic"],
        odometry_frame=v["odometry.frame"],
        extrinsics_source=v["extrinsics.source"],
        extrinsics_file=resolve_path(v["extrinsics.file"]) if v["extrinsics.file"] else None,
        anchor=_anchor(v, spec),
        sync={
            "period_ns": ns("sync.period_ms"),
            "camera_tolerance_ns": ns("sync.camera_tolerance_ms"),
            "radar_settle_ns": ns("sync.radar_settle_ms"),
            "deadline_ns": ns("sync.deadline_ms"),
            "max_extrapolation_ns": ns("sync.max_extrapolation_ms"),
            "silence_ns": ns("sync.silence_ms"),
            "startup_ns": ns("sync.startup_ms"),
            "jump_back_ns": ns("sync.jump_back_ms"),
            "max_future_ns": ns("sync.max_future_ms"),
            "max_past_ns": ns("sync.max_past_ms"),
            "max_speed_mps": v["sync.max_speed_mps"],
        },
        radar_fields=RadarFields(**fields),
        image_reader=v["image_reader"],
        cloud_reader=v["cloud_reader"],
        qos_depth=v["qos.depth"],
        qos_reliability=v["qos.reliability"],
        outputs=v["publish.outputs"],
        marker_lifetime_s=v["publish.marker_lifetime_s"],
        status_rate_hz=v["publish.status_rate_hz"],
        max_age_ms=v["diagnostics.max_age_ms"],
        output_timeout_ms=v["diagnostics.output_timeout_ms"],
        cameras=cameras,
        radars={r: RadarConfig(r, v[f"radars.{r}.topic"], v[f"radars.{r}.frame_id"]) for r in spec.radars},
        score_threshold={label: v[f"score_threshold.{label}"] for label in spec.classes},
    )


def parse_yaml(path: str | Path, node_name: str = "bev_perception") -> dict[str, Any]:
    """ROS parameter YAML -> flat {parameter name: value} of the sections that apply to `node_name` (`/**`, its name).

    Raises ParameterError when the file is not such a YAML. `make_config` checks names and values.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ParameterError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(tree, dict):
        found = type(tree).__name__
        raise ParameterError(f"{path}: expected `/**:` or `{node_name}:` with `ros__parameters:` below, found {found}")
    values: dict[str, Any] = {}
    matched = False
    for section in ("/**", node_name, f"/{node_name}"):
        if section in tree:
            matched = True
            body = tree[section].get("ros__parameters") if isinstance(tree[section], dict) else None
            if not isinstance(body, dict):
                raise ParameterError(f"{path}: `{section}:` has no `ros__parameters:` below it")
            values.update(_flatten(body))
    if not matched:
        raise ParameterError(f"{path}: no section `/**:` or `{node_name}:`, found {sorted(map(str, tree))}")
    return values


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def load_config(bundle_path: str | Path, params: str | Path | None, backend: str | None = None) -> NodeConfig:
    """Parameters as the node would have them; without a YAML its defaults."""
    values = parse_yaml(params) if params else {}
    values["bundle"] = str(bundle_path)
    if backend:
        values["backend"] = backend
    return make_config(values, load_bundle(bundle_path).spec)
