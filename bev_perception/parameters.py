"""ROS parameter YAML or ROS parameters -> NodeConfig, checked as a whole. The rows stand in parameter_table.py."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bev_perception.bundle import load_bundle
from bev_perception.model_spec import ModelSpec
from bev_perception.mounts import CameraMount
from bev_perception.parameter_table import (
    FROM_FILE,
    FROM_TF,
    FRONT_CAMERAS,
    INHERIT,
    PACKAGE_SCHEME,
    PARAMETERS,
    REFUSE,
    REQUIRED,
    ParameterError,
    check_value,
    did_you_mean,
    sensor_parameters,
    unknown_names,
)
from bev_perception.preprocess.contents import ImageChecks
from bev_perception.ring.config import RingConfig
from bev_perception.sensors.odometry_messages import OdometryConfig
from bev_perception.sensors.radar_checks import RadarLimits
from bev_perception.sensors.radar_messages import LAYOUTS, RADAR_KINDS, RadarFields
from bev_perception.sync_config import SyncConfig
from bev_perception.yaml_file import YamlError, read_yaml

NODE_NAME = "bev_perception"
PACKAGE_ROOT = Path(__file__).resolve().parent
SHIPPED_PARAMETERS = PACKAGE_ROOT / "config" / "perception.param.yaml"
SHIPPED_BUNDLE = PACKAGE_ROOT / "bundles" / "demo"


@dataclass(frozen=True)
class CameraConfig:
    """One camera; offset_ns is its stamp minus the anchor's within a sweep; mount: what the model accepts, or None."""

    name: str
    topic: str
    info_topic: str
    compressed: bool
    packets: bool
    rectified: bool
    bits: int
    offset_ns: int
    frame_id: str
    mount: CameraMount | None = None


@dataclass(frozen=True)
class RadarConfig:
    """One radar; kind: a key of RADAR_KINDS. view_rad: its whole horizontal field of view."""

    name: str
    topic: str
    kind: str
    frame_id: str
    view_rad: float
    fields: RadarFields


@dataclass(frozen=True)
class NodeConfig:
    """All parameters, checked, for one bundle.

    extrinsics_file: None where they come from /tf_static. sync: keywords of SyncConfig; times in integer nanoseconds.
    cameras, radars: those that the vehicle has; the others of the bundle are `absent`.
    """

    bundle: Path
    backend: str
    backend_options: dict[str, Any]
    base_frame: str
    odometry: OdometryConfig
    absent: tuple[str, ...]
    extrinsics_file: Path | None
    refuse_implausible: bool
    refuse_unlike: bool
    watch_share: float
    anchor: str
    front_cameras: tuple[str, ...]
    modes: dict[str, str]
    sync: dict[str, Any]
    radar_limits: RadarLimits
    image_checks: ImageChecks
    max_message_bytes: int
    max_radar_returns: int
    image_reader: str
    cloud_reader: str
    qos_depth: int
    qos_reliability: str
    outputs: tuple[str, ...]
    marker_lifetime_s: float
    max_age_ms: float
    output_timeout_ms: float
    ring: RingConfig
    cameras: dict[str, CameraConfig]
    radars: dict[str, RadarConfig]
    score_threshold: dict[str, float]

    def sync_config(self, spec: ModelSpec) -> SyncConfig:
        """What the synchroniser needs: the integrator's tolerances with the bundle's sensors and radar window."""
        return SyncConfig(
            cameras=spec.cameras,
            radars=spec.radars,
            absent=frozenset(self.absent),
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
    errors += _wrong_absences(v, spec)
    errors += _shared_topics(v)
    if v["anchor"] and v["anchor"] not in spec.cameras:
        hint = did_you_mean(v["anchor"], spec.cameras)
        errors.append(f"anchor: {v['anchor']!r} is no camera of the bundle ({', '.join(spec.cameras)}){hint}")
        return errors
    for name in _present(spec.radars, v):
        errors += [error for error in _wrong_fields(name, v) if error not in errors]
    known = {*spec.cameras, *FRONT_CAMERAS}
    errors += [
        f"front_cameras: {name!r} is none of {', '.join(spec.cameras)}{did_you_mean(name, spec.cameras)}"
        for name in v["front_cameras"]
        if name not in known
    ]
    if v["extrinsics.source"] == FROM_TF:
        for group, sensors in (("cameras", spec.cameras), ("radars", spec.radars)):
            names = [f"{group}.{sensor}.frame_id" for sensor in _present(sensors, v)]
            wrong = f"is required when extrinsics.source is `{FROM_TF}`"
            errors += [f"{name}: {wrong}" for name in names if not v[name]]
    for name in _present(spec.cameras, v):
        if v[f"cameras.{name}.compressed"] and v[f"cameras.{name}.packets"]:
            errors.append(f"cameras.{name}: compressed and packets are two kinds of message; set one of both")
    anchor = _anchor(v, spec)
    offset = v[f"cameras.{anchor}.offset_ms"] if anchor else 0.0
    if offset != 0.0:
        errors.append(f"cameras.{anchor}.offset_ms: {anchor} is the anchor, its offset is 0, found {offset}")
    if 2 * v["sync.camera_tolerance_ms"] > v["sync.period_ms"]:
        found = f"{v['sync.camera_tolerance_ms']} with a period of {v['sync.period_ms']:.3f} ms"
        errors.append(f"sync.camera_tolerance_ms: must be at most half of sync.period_ms, found {found}")
    return errors


def _wrong_absences(v: dict[str, Any], spec: ModelSpec) -> list[str]:
    known = (*spec.cameras, *spec.radars)
    errors = [
        f"absent: {name!r} is no sensor of the bundle ({', '.join(known)}){did_you_mean(name, known)}"
        for name in v["absent"]
        if name not in known
    ]
    if not _present(known, v):
        errors.append(f"absent: names every sensor of the bundle ({', '.join(known)}); at least one must be there")
    if v["anchor"] in v["absent"]:
        errors.append(f"anchor: {v['anchor']!r} is absent; choose another camera, or leave it empty")
    return errors


def _wrong_fields(radar: str, v: dict[str, Any]) -> list[str]:
    """What does not fit together in the field map of one radar; faults that all radars share name the common map."""
    fields = _radar_fields(radar, v)
    where = "radar_fields" if fields == RadarFields(**_group("radar_fields", v)) else f"radars.{radar}.fields"
    errors = []
    if bool(fields.vx) != bool(fields.vy):
        errors.append(f"{where}.vx and .vy: give both, or neither and `doppler`")
    elif not fields.vx and not fields.doppler:
        errors.append(f"{where}: give vx and vy, or doppler")
    empty = [name for name in LAYOUTS[fields.layout].needed if not getattr(fields, name)]
    return errors + [f"{where}.{name}: must not be empty with layout {fields.layout}" for name in empty]


def _radar_fields(radar: str, v: dict[str, Any]) -> RadarFields:
    """What the message defines or the common map says, replaced by what is said of this radar."""
    common = RADAR_KINDS[v[f"radars.{radar}.kind"]].fields or RadarFields(**_group("radar_fields", v))
    return replace(common, **{k: name for k, name in _group(f"radars.{radar}.fields", v).items() if name != INHERIT})


def _present(sensors: Iterable[str], v: dict[str, Any]) -> list[str]:
    return [name for name in sensors if name not in v["absent"]]


def _shared_topics(v: dict[str, Any]) -> list[str]:
    """One line for each topic that two inputs name: one of them would take the other's data for its own."""
    users: dict[str, list[str]] = {}
    for name, topic in v.items():
        if name.endswith("topic") and not set(name.split(".")) & set(v["absent"]):
            users.setdefault(topic.lstrip("/"), []).append(name)
    return [
        f"{', '.join(names)}: all name the topic {v[names[0]]!r}; every sensor has its own"
        for names in users.values()
        if len(names) > 1
    ]


def _anchor(v: dict[str, Any], spec: ModelSpec) -> str:
    """The camera that sets the stamps; "" without cameras: then the radars set them by their scans."""
    anchor: str = v["anchor"]
    return anchor or next(reversed(_present(spec.cameras, v)), "")


def _group(name: str, v: dict[str, Any]) -> dict[str, Any]:
    """The parameters `NAME.*` by what follows."""
    return {key.removeprefix(f"{name}."): value for key, value in v.items() if key.startswith(f"{name}.")}


def _radar(name: str, v: dict[str, Any]) -> RadarConfig:
    own = {key: v[f"radars.{name}.{key}"] for key in ("topic", "kind", "frame_id", "field_of_view_deg")}
    view_rad = math.radians(own.pop("field_of_view_deg"))
    return RadarConfig(name, **own, view_rad=view_rad, fields=_radar_fields(name, v))


def _build(v: dict[str, Any], spec: ModelSpec) -> NodeConfig:
    """The parameters of a group are the fields of what they configure, by the same names."""

    def group(name: str) -> dict[str, Any]:
        return _group(name, v)

    return NodeConfig(
        bundle=resolve_path(v["bundle"]),
        backend=v["backend"],
        backend_options=group(v["backend"]),
        base_frame=v["base_frame"],
        odometry=OdometryConfig(**_in_ns(group("odometry"))),
        absent=v["absent"],
        extrinsics_file=resolve_path(v["extrinsics.file"]) if v["extrinsics.source"] == FROM_FILE else None,
        refuse_implausible=v["extrinsics.implausible"] == REFUSE,
        refuse_unlike=v["extrinsics.unlike"] == REFUSE,
        watch_share=v["extrinsics.watch_share"],
        anchor=_anchor(v, spec),
        front_cameras=tuple(v["front_cameras"]),
        modes=group("modes"),
        sync=_in_ns(group("sync")),
        radar_limits=RadarLimits(**_in_ns(group("radar_limits"))),
        image_checks=ImageChecks(**group("images")),
        max_message_bytes=v["limits.message_bytes"],
        max_radar_returns=v["limits.radar_returns"],
        image_reader=v["image_reader"],
        cloud_reader=v["cloud_reader"],
        qos_depth=v["qos.depth"],
        qos_reliability=v["qos.reliability"],
        outputs=v["publish.outputs"],
        marker_lifetime_s=v["publish.marker_lifetime_s"],
        max_age_ms=v["diagnostics.max_age_ms"],
        output_timeout_ms=v["diagnostics.output_timeout_ms"],
        ring=RingConfig(**group("ring")),
        cameras={
            n: CameraConfig(n, mount=spec.mounts.get(n), **_in_ns(group(f"cameras.{n}")))
            for n in _present(spec.cameras, v)
        },
        radars={name: _radar(name, v) for name in _present(spec.radars, v)},
        score_threshold=group("score_threshold"),
    )


def _in_ns(values: dict[str, Any]) -> dict[str, Any]:
    """What is called `..._ms` -> `..._ns`, integer nanoseconds; the rest as it is."""
    times = {key for key in values if key.endswith("_ms")}
    return {
        f"{key.removesuffix('_ms')}_ns" if key in times else key: round(value * 1e6) if key in times else value
        for key, value in values.items()
    }


def parse_yaml(path: str | Path, node: str = f"/{NODE_NAME}") -> dict[str, Any]:
    """ROS parameter YAML -> flat {parameter name: value} of the sections that apply to the node: `/**` and others with
    wildcards, then that of its name. node: its name with its namespace.

    Raises ParameterError when the file is not such a YAML. `make_config` checks names and values.
    """
    path = Path(path)
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read ({error})") from error
    except YamlError as error:
        raise ParameterError(str(error)) from error
    name = node.lstrip("/")
    if not isinstance(tree, dict):
        found = type(tree).__name__
        raise ParameterError(f"{path}: expected `/**:` or `{name}:` with `ros__parameters:` below, found {found}")
    if {name, f"/{name}"} <= set(tree):
        raise ParameterError(f"{path}: `{name}:` and `/{name}:` are the same node; make them one section")
    sections = [section for section in tree if _applies(section, node)]
    if not sections:
        raise ParameterError(f"{path}: no section `/**:` or `{name}:`, found {sorted(map(str, tree))}")
    values: dict[str, Any] = {}
    for section in sorted(sections, key=lambda section: section.lstrip("/") == name):
        body = tree[section].get("ros__parameters") if isinstance(tree[section], dict) else None
        if not isinstance(body, dict):
            raise ParameterError(f"{path}: `{section}:` has no `ros__parameters:` below it")
        values.update(_flatten(body, str(path)))
    return values


def _applies(section: str, node: str) -> bool:
    """Whether a section means the node: `*` stands for one part of a name, `**` for any number of them."""
    parts = section.lstrip("/").split("/")
    forms = {"*": "/[^/]+", "**": "(/[^/]+)*"}
    return re.fullmatch("".join(forms.get(part, "/" + re.escape(part)) for part in parts), node) is not None


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
