"""ROS parameter YAML or ROS parameters -> NodeConfig, checked as a whole. The rows stand in parameter_table.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bev_perception.bundle import load_bundle
from bev_perception.conversions import LAYOUTS, RadarFields
from bev_perception.model_spec import ModelSpec
from bev_perception.parameter_table import (
    FROM_FILE,
    FROM_TF,
    FRONT_CAMERAS,
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
from bev_perception.yaml_file import YamlError, read_yaml

NODE_NAME = "bev_perception"
PACKAGE_ROOT = Path(__file__).resolve().parent
SHIPPED_PARAMETERS = PACKAGE_ROOT / "config" / "perception.param.yaml"
SHIPPED_BUNDLE = PACKAGE_ROOT / "bundles" / "demo"


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
    """All parameters, checked, for one bundle.

    extrinsics_file: None where they come from /tf_static. sync: keywords of SyncConfig; times in integer nanoseconds.
    """

    bundle: Path
    backend: str
    backend_options: dict[str, Any]
    base_frame: str
    odometry_topic: str
    odometry_frame: str
    extrinsics_file: Path | None
    anchor: str
    front_cameras: tuple[str, ...]
    modes: dict[str, str]
    sync: dict[str, Any]
    radar_fields: RadarFields
    image_reader: str
    cloud_reader: str
    qos_depth: int
    qos_reliability: str
    outputs: tuple[str, ...]
    marker_lifetime_s: float
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
    """`package://bev_perception/...` -> the installed package; `~` is expanded; anything else as it stands.

    Raises ParameterError for the home of a user that there is not.
    """
    if text.startswith(PACKAGE_SCHEME):
        return PACKAGE_ROOT / text[len(PACKAGE_SCHEME) :]
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ParameterError(f"{text}: {error}; write the whole path") from error


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
    if v["extrinsics.source"] == FROM_FILE and not v["extrinsics.file"]:
        errors.append(f"extrinsics.file: is required when extrinsics.source is `{FROM_FILE}`")
    errors += _shared_topics(v)
    if v["anchor"] and v["anchor"] not in spec.cameras:
        hint = did_you_mean(v["anchor"], spec.cameras)
        errors.append(f"anchor: {v['anchor']!r} is no camera of the bundle ({', '.join(spec.cameras)}){hint}")
        return errors
    known = {*spec.cameras, *FRONT_CAMERAS}
    errors += [
        f"front_cameras: {name!r} is none of {', '.join(spec.cameras)}{did_you_mean(name, spec.cameras)}"
        for name in v["front_cameras"]
        if name not in known
    ]
    if bool(v["radar_fields.vx"]) != bool(v["radar_fields.vy"]):
        errors.append("radar_fields.vx and .vy: give both, or neither and `radar_fields.doppler`")
    if not v["radar_fields.vx"] and not v["radar_fields.doppler"]:
        errors.append("radar_fields: give vx and vy, or doppler")
    layout = v["radar_fields.layout"]
    empty = [name for name in LAYOUTS[layout].needed if not v[f"radar_fields.{name}"]]
    errors += [f"radar_fields.{name}: must not be empty with layout {layout}" for name in empty]
    if v["extrinsics.source"] == FROM_TF:
        for name, value in v.items():
            if name.endswith(".frame_id") and not value:
                errors.append(f"{name}: is required when extrinsics.source is `{FROM_TF}`")
    anchor = _anchor(v, spec)
    offset = v[f"cameras.{anchor}.offset_ms"] if anchor else 0.0
    if offset != 0.0:
        errors.append(f"cameras.{anchor}.offset_ms: {anchor} is the anchor, its offset is 0, found {offset}")
    if 2 * v["sync.camera_tolerance_ms"] > v["sync.period_ms"]:
        found = f"{v['sync.camera_tolerance_ms']} with a period of {v['sync.period_ms']:.3f} ms"
        errors.append(f"sync.camera_tolerance_ms: must be at most half of sync.period_ms, found {found}")
    return errors


def _shared_topics(v: dict[str, Any]) -> list[str]:
    """One line for each topic that two inputs name: one of them would take the other's data for its own."""
    users: dict[str, list[str]] = {}
    for name, topic in v.items():
        if name.endswith("topic"):
            users.setdefault(topic.lstrip("/"), []).append(name)
    return [
        f"{', '.join(names)}: all name the topic {v[names[0]]!r}; every sensor has its own"
        for names in users.values()
        if len(names) > 1
    ]


def _anchor(v: dict[str, Any], spec: ModelSpec) -> str:
    """The camera that sets the stamps; "" for a model of radars alone, which sets them by their scans."""
    anchor: str = v["anchor"]
    return anchor or (spec.cameras[-1] if spec.cameras else "")


def _build(v: dict[str, Any], spec: ModelSpec) -> NodeConfig:
    """The parameters of a group are the fields of what they configure, by the same names."""

    def group(name: str) -> dict[str, Any]:
        return {key.removeprefix(f"{name}."): value for key, value in v.items() if key.startswith(f"{name}.")}

    return NodeConfig(
        bundle=resolve_path(v["bundle"]),
        backend=v["backend"],
        backend_options=group(v["backend"]),
        base_frame=v["base_frame"],
        odometry_topic=v["odometry.topic"],
        odometry_frame=v["odometry.frame"],
        extrinsics_file=resolve_path(v["extrinsics.file"]) if v["extrinsics.source"] == FROM_FILE else None,
        anchor=_anchor(v, spec),
        front_cameras=tuple(v["front_cameras"]),
        modes=group("modes"),
        sync=_in_ns(group("sync")),
        radar_fields=RadarFields(**group("radar_fields")),
        image_reader=v["image_reader"],
        cloud_reader=v["cloud_reader"],
        qos_depth=v["qos.depth"],
        qos_reliability=v["qos.reliability"],
        outputs=v["publish.outputs"],
        marker_lifetime_s=v["publish.marker_lifetime_s"],
        max_age_ms=v["diagnostics.max_age_ms"],
        output_timeout_ms=v["diagnostics.output_timeout_ms"],
        cameras={name: CameraConfig(name, **_in_ns(group(f"cameras.{name}"))) for name in spec.cameras},
        radars={name: RadarConfig(name, **group(f"radars.{name}")) for name in spec.radars},
        score_threshold=group("score_threshold"),
    )


def _in_ns(values: dict[str, Any]) -> dict[str, Any]:
    """What is called `..._ms` -> `..._ns`, integer nanoseconds; the rest as it is."""
    times = {key for key in values if key.endswith("_ms")}
    return {
        f"{key.removesuffix('_ms')}_ns" if key in times else key: round(value * 1e6) if key in times else value
        for key, value in values.items()
    }


def parse_yaml(path: str | Path) -> dict[str, Any]:
    """ROS parameter YAML -> flat {parameter name: value} of the sections that apply to the node (`/**`, its name).

    Raises ParameterError when the file is not such a YAML. `make_config` checks names and values.
    """
    path = Path(path)
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read ({error})") from error
    except YamlError as error:
        raise ParameterError(str(error)) from error
    if not isinstance(tree, dict):
        found = type(tree).__name__
        raise ParameterError(f"{path}: expected `/**:` or `{NODE_NAME}:` with `ros__parameters:` below, found {found}")
    if {NODE_NAME, f"/{NODE_NAME}"} <= set(tree):
        raise ParameterError(f"{path}: `{NODE_NAME}:` and `/{NODE_NAME}:` are the same node; make them one section")
    values: dict[str, Any] = {}
    matched = False
    for section in ("/**", NODE_NAME, f"/{NODE_NAME}"):
        if section in tree:
            matched = True
            body = tree[section].get("ros__parameters") if isinstance(tree[section], dict) else None
            if not isinstance(body, dict):
                raise ParameterError(f"{path}: `{section}:` has no `ros__parameters:` below it")
            values.update(_flatten(body, str(path)))
    if not matched:
        raise ParameterError(f"{path}: no section `/**:` or `{NODE_NAME}:`, found {sorted(map(str, tree))}")
    return values


def _flatten(tree: dict[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """`a: {b: 1}` -> {"a.b": 1}. Raises ParameterError for a name that is written in both ways."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found = _flatten(value, where, f"{name}.") if isinstance(value, dict) else {name: value}
        repeated = sorted(flat.keys() & found.keys())
        if repeated:
            raise ParameterError(f"{where}: {', '.join(repeated)} stands there twice; which value holds? Leave one")
        flat.update(found)
    return flat


def load_config(bundle_path: str | Path, params: str | Path | None, backend: str | None = None) -> NodeConfig:
    """Parameters as the node would have them; without a YAML its defaults."""
    values = parse_yaml(params) if params else {}
    values["bundle"] = str(bundle_path)
    if backend:
        values["backend"] = backend
    return make_config(values, load_bundle(bundle_path).spec)
