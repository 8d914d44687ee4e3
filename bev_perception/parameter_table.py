"""Every parameter of the node in one table: name, type, default, range, when it may change.

No ROS: offline tools read the same YAML. A bundle states the facts of the model, parameters what an integrator chooses.
Sensor parameters exist once per sensor of the bundle (`cameras.CAM_FRONT.topic`), thresholds once per class.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from bev_perception.conversions import CLOUD_READERS, IMAGE_READERS
from bev_perception.inference import precisions
from bev_perception.inference.backend import BACKENDS
from bev_perception.inference.builder import LEVELS, BuildOptions
from bev_perception.inference.tensorrt_api import BUILDERS
from bev_perception.messages import PUBLISHERS
from bev_perception.model_spec import ModelSpec
from bev_perception.modes import MODES, SEVERITIES
from bev_perception.preprocess.contents import CHOICES, ImageChecks
from bev_perception.ring.config import RingConfig
from bev_perception.ring.triggers import TRIGGERS
from bev_perception.sensors.odometry_messages import ODOMETRY_SOURCES, OdometryConfig
from bev_perception.sensors.radar_checks import RadarLimits
from bev_perception.sensors.radar_messages import ANGLE_UNITS, LAYOUTS, RADAR_KINDS, VELOCITIES, RadarFields
from bev_perception.sync_config import MS, SyncConfig

PACKAGE_SCHEME = "package://bev_perception/"
# Names that rclpy itself owns; they are not ours to judge.
ROS_PREFIXES = ("use_sim_time", "qos_overrides.", "start_type_description_service")


class ParameterError(ValueError):
    """One or more parameters are unknown, missing or out of range; the message has one line for each."""


class Required:
    """The default of a parameter that has none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = Required()
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "double": (int, float),
    "string": (str,),
    "string[]": (list, tuple),
}
ANY_TIME, UNCONFIGURED, NEVER = "any time", "while unconfigured", "never"


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    type: bool, int, double, string or string[]. default: a value or REQUIRED. limits: (lowest, highest) of a number.
    choices: the words that are allowed: the table itself whose keys they are, so that a row there is all it takes.
    change: ANY_TIME, UNCONFIGURED (takes effect at configure, refused later) or NEVER (read-only after start).
    """

    name: str
    type: str
    default: Any
    description: str
    limits: tuple[float, float] | None = None
    choices: Collection[str] = ()
    change: str = UNCONFIGURED

    @property
    def read_only(self) -> bool:
        return self.change == NEVER


P = Parameter


def _sync_time(name: str, description: str, limits: tuple[float, float]) -> Parameter:
    """The row of `sync.NAME_ms`, whose default is that of SyncConfig.NAME_ns."""
    default = getattr(SyncConfig, f"{name.removeprefix('sync.').removesuffix('_ms')}_ns")
    return P(name, "double", default / MS, description, limits)


def _radar_field(name: str, description: str, choices: Collection[str] = ()) -> Parameter:
    """The row of `radar_fields.NAME`, whose default is that of RadarFields.NAME; each radar has one of its own, too."""
    return P(name, "string", getattr(RadarFields, name.removeprefix("radar_fields.")), description, choices=choices)


def _odometry(name: str, kind: str, description: str, **more: Any) -> Parameter:
    """The row of `odometry.NAME`, whose default is that of OdometryConfig.NAME."""
    return P(name, kind, getattr(OdometryConfig, name.removeprefix("odometry.")), description, **more)


def _radar_limit(name: str, description: str, limits: tuple[float, float]) -> Parameter:
    """The row of `radar_limits.NAME`, whose default is that of RadarLimits.NAME."""
    return P(name, "double", getattr(RadarLimits, name.removeprefix("radar_limits.")), description, limits)


def _image_check(name: str, description: str) -> Parameter:
    """The row of `images.NAME`, whose default is that of ImageChecks.NAME."""
    return P(name, "string", getattr(ImageChecks, name.removeprefix("images.")), description, choices=CHOICES)


def _ring(name: str, kind: str, description: str, **more: Any) -> Parameter:
    """The row of `ring.NAME`, whose default is that of RingConfig.NAME."""
    return P(name, kind, getattr(RingConfig, name.removeprefix("ring.")), description, **more)


FRONT_CAMERAS = ("CAM_FRONT",)
THRESHOLD = "score_threshold."  # and the class
FROM_TF, FROM_FILE = "tf_static", "file"  # extrinsics.source
REFUSE, USE = "refuse", "use"  # extrinsics.implausible, extrinsics.unlike
INHERIT = "inherit"  # radars.NAME.fields.*
PARAMETERS: tuple[Parameter, ...] = (
    P("bundle", "string", REQUIRED, f"Directory of the model bundle; may start with {PACKAGE_SCHEME}"),
    P(
        "deploy.folder",
        "string",
        "",
        "Directory in which the vehicle keeps the bundle in service, the one before and the journal of deployments; "
        "what it says is what runs. Empty: `bundle` is, and nothing can be deployed",
    ),
    P(
        "deploy.public_key",
        "string",
        "",
        "PEM file: only bundles that were signed with its other half are deployed (sign_bundle). Empty: all are",
    ),
    P("backend", "string", "onnxruntime", "What runs the network", choices=BACKENDS),
    P("onnxruntime.threads", "int", 0, "Threads of the onnxruntime backend; 0: at most four", (0, 256)),
    P("openvino.threads", "int", 0, "Threads of the openvino backend; 0: at most four", (0, 256)),
    P(
        "tensorrt.precision",
        "string",
        precisions.AS_BUNDLE,
        f"Precision of the TensorRT engine; {precisions.AS_BUNDLE}: the graph's. An engine of another is refused",
        choices=precisions.CHOICES,
    ),
    P("tensorrt.cache", "string", "", "Directory of built engines; empty: the default places of build_engine"),
    P("tensorrt.builder", "string", "tensorrt", "Which TensorRT: NVIDIA's, or the one for RTX", choices=BUILDERS),
    P(
        "tensorrt.workspace_mib",
        "int",
        BuildOptions.workspace_mib,
        "Device memory, in MiB, that the layers of a TensorRT engine may use beside inputs and outputs",
        (1, 1_000_000),
    ),
    P("tensorrt.level", "int", BuildOptions.level, "How long TensorRT's builder tries", (LEVELS[0], LEVELS[-1])),
    P("tensorrt.plugins", "string[]", (), "Libraries with layers of their own that TensorRT loads first"),
    P("tensorrt.graph", "bool", True, "Replay the TensorRT engine as a CUDA graph"),
    P(
        "base_frame",
        "string",
        "base_link",
        "Frame of the detections and of odometry's child_frame_id (REP-105)",
        change=NEVER,
    ),
    P("absent", "string[]", (), "Sensors of the model that this vehicle does not have: masked, and no fault"),
    _odometry(
        "odometry.source",
        "string",
        "nav_msgs/Odometry; PoseStamped and TwistStamped; or /tf from odometry.frame to base_frame",
        choices=ODOMETRY_SOURCES,
    ),
    _odometry("odometry.topic", "string", "nav_msgs/Odometry with pose and twist (source: odometry)"),
    _odometry("odometry.pose_topic", "string", "geometry_msgs/PoseStamped of base_frame (source: pose_twist)"),
    _odometry("odometry.twist_topic", "string", "geometry_msgs/TwistStamped in base_frame (source: pose_twist)"),
    _odometry("odometry.frame", "string", "Frame of the odometry's pose: continuous, never `map` (REP-105)"),
    P(
        "odometry.difference_ms",
        "double",
        OdometryConfig.difference_ns / MS,
        "Poses over this time give the twist where none is stated, or the stated one is wrong",
        (10.0, 200.0),
    ),
    _odometry(
        "odometry.twist_tolerance_mps",
        "double",
        "A stated speed further from that of the poses (by this and a tenth) is wrong, and theirs is used",
        limits=(0.01, 100.0),
    ),
    _odometry(
        "odometry.twist_tolerance_rps",
        "double",
        "The same for the rate of turn, rad/s",
        limits=(0.001, 100.0),
    ),
    P(
        "extrinsics.source",
        "string",
        FROM_TF,
        "Where the sensors sit: /tf_static or a YAML file",
        choices=(FROM_TF, FROM_FILE),
    ),
    P(
        "extrinsics.file",
        "string",
        "",
        f"Calibration YAML when extrinsics.source is `file`; may start with {PACKAGE_SCHEME}",
    ),
    P(
        "extrinsics.implausible",
        "string",
        REFUSE,
        "Extrinsics that no sensor of a car can have: the sensor is masked, or they are only told",
        choices=(REFUSE, USE),
    ),
    P(
        "extrinsics.unlike",
        "string",
        REFUSE,
        "Cameras mounted otherwise than the bundle accepts: they are masked, or it is only told",
        choices=(REFUSE, USE),
    ),
    P(
        "extrinsics.watch_share",
        "double",
        0.03,
        "Share of the time, by the wall clock, in which a thread watches, while driving, whether sensors look where "
        "they should; told, never corrected. 0: none",
        (0.0, 0.5),
    ),
    P("anchor", "string", "", "Camera whose stamp is the frame's stamp; empty: the last camera that is not absent"),
    P(
        "front_cameras",
        "string[]",
        FRONT_CAMERAS,
        "Cameras that look ahead, for the mode `front_cameras_lost`; those that the bundle does not have are left out",
    ),
    _sync_time("sync.period_ms", "Period of the anchor camera", (1.0, 10_000.0)),
    _sync_time("sync.camera_tolerance_ms", "Largest deviation from anchor stamp + offset", (0.1, 5000.0)),
    _sync_time(
        "sync.radar_settle_ms",
        "Younger scans are left to the next frame, none is waited for; more than their way takes",
        (0.0, 500.0),
    ),
    _sync_time("sync.deadline_ms", "A frame goes without sensors that are later than this", (0.0, 5000.0)),
    _sync_time("sync.max_extrapolation_ms", "Poses are extrapolated at most this far", (0.0, 1000.0)),
    _sync_time("sync.silence_ms", "A sensor silent for this long is not waited for", (1.0, 60_000.0)),
    _sync_time("sync.startup_ms", "A sensor never seen is waited for this long at start", (0.0, 60_000.0)),
    _sync_time("sync.jump_back_ms", "Stamps or clock this far back: time restarted", (1.0, 60_000.0)),
    _sync_time("sync.max_future_ms", "Stamps further ahead of the clock are refused", (0.0, 60_000.0)),
    _sync_time("sync.max_past_ms", "Stamps further behind the clock are refused", (1.0, 600_000.0)),
    P(
        "sync.max_speed_mps",
        "double",
        SyncConfig.max_speed_mps,
        "Faster motion between two poses is a jump",
        (1.0, 200.0),
    ),
    _radar_field("radar_fields.layout", "x, y[, z] or range, azimuth[, elevation]", LAYOUTS),
    _radar_field("radar_fields.x", "Field name (cartesian): metres, sensor frame"),
    _radar_field("radar_fields.y", "Field name (cartesian)"),
    _radar_field("radar_fields.z", "Field name (cartesian); absent in the cloud or empty: 0"),
    _radar_field("radar_fields.range", "Field name (polar): metres"),
    _radar_field("radar_fields.azimuth", "Field name (polar): about +z from +x"),
    _radar_field("radar_fields.elevation", "Field name (polar): up from the x-y plane; absent or empty: 0"),
    _radar_field("radar_fields.angle_unit", "Unit of azimuth and elevation", ANGLE_UNITS),
    _radar_field("radar_fields.rcs", "Field name: radar cross section, dBsm; empty: 0"),
    _radar_field("radar_fields.velocity", "Speed over ground, or relative to the sensor", VELOCITIES),
    _radar_field("radar_fields.vx", "Field name: radial speed along x, m/s; empty: use `doppler`"),
    _radar_field("radar_fields.vy", "Field name: radial speed along y, m/s; empty: use `doppler`"),
    _radar_field("radar_fields.doppler", "Field name: radial speed, m/s, positive away; used when vx, vy are empty"),
    _radar_limit("radar_limits.range_m", "Returns beyond this are left out", (1.0, 10_000.0)),
    _radar_limit("radar_limits.speed_mps", "Returns faster than this are left out", (1.0, 10_000.0)),
    _radar_limit("radar_limits.rcs_dbsm", "Returns of a cross section beyond this, + or -, are left out", (1.0, 1e6)),
    P(
        "radar_limits.empty_ms",
        "double",
        RadarLimits.empty_ns / MS,
        "A radar without any return for longer, while another one sees, is masked (not with kind `tracks`)",
        (100.0, 86_400_000.0),
    ),
    _image_check("images.black", "An image that is black all over"),
    _image_check("images.uniform", "An image of one colour, or of stripes without end"),
    _image_check("images.noise", "An image whose pixels have nothing to do with their neighbours"),
    _image_check("images.frozen", "The same picture with new stamps, for a second or though the vehicle moved"),
    P(
        "limits.message_bytes",
        "int",
        20_000_000,
        "Larger messages of cameras and radars are refused before anything is made of them: they would hold up others",
        (100_000, 2_000_000_000),
    ),
    P(
        "limits.radar_returns",
        "int",
        10_000,
        "Scans with more returns or tracks are refused before anything is made of them",
        (1, 100_000_000),
    ),
    P("image_reader", "string", "numpy", "Reads raw images; both give the same arrays", choices=IMAGE_READERS),
    P("cloud_reader", "string", "numpy", "Reads point clouds; both give the same arrays", choices=CLOUD_READERS),
    P("qos.depth", "int", 5, "Queue of each sensor subscription", (1, 1000), change=NEVER),
    P(
        "qos.reliability",
        "string",
        "best_effort",
        "Of sensor subscriptions",
        choices=("best_effort", "reliable"),
        change=NEVER,
    ),
    P("publish.outputs", "string[]", ("detections", "markers"), "Messages to publish", choices=PUBLISHERS),
    P(
        "publish.marker_lifetime_s",
        "double",
        1.0,
        "Markers vanish after this; longer than the cycle, or they flicker",
        (0.0, 60.0),
        change=ANY_TIME,
    ),
    P(
        "publish.status_rate_hz",
        "double",
        10.0,
        "Rate of status and /diagnostics, on the wall clock",
        (0.1, 100.0),
        change=NEVER,
    ),
    P(
        "diagnostics.max_age_ms",
        "double",
        500.0,
        "Older data at publication is a warning",
        (1.0, 60_000.0),
        change=ANY_TIME,
    ),
    P(
        "diagnostics.output_timeout_ms",
        "double",
        1500.0,
        "No detections for this long is an error",
        (1.0, 60_000.0),
        change=ANY_TIME,
    ),
    _ring(
        "ring.folder",
        "string",
        "Directory for bags of the seconds around a trigger, written from a ring in memory. Empty: there is no ring",
    ),
    _ring("ring.seconds", "double", "How long the ring is: what was heard before is forgotten", limits=(1.0, 600.0)),
    _ring("ring.mib", "int", "Memory of the ring at most, in MiB; it is shorter where that does", limits=(1, 100_000)),
    _ring("ring.after_s", "double", "How long a bag goes on after its trigger", limits=(0.0, 60.0)),
    _ring(
        "ring.pause_s", "double", "After a bag none is written for so long, but by the service", limits=(0.0, 86_400.0)
    ),
    _ring("ring.folder_mib", "int", "With so many MiB in `ring.folder` no bag is added", limits=(1, 100_000_000)),
    _ring("ring.triggers", "string[]", "What makes a bag; `asked` is the service ~/keep", choices=TRIGGERS),
    _ring("ring.uncertainty", "double", "Mean entropy of the detections, nats, that makes one", limits=(0.01, 0.7)),
    _ring("ring.braking_mps2", "double", "Deceleration by odometry that makes one, m/s2", limits=(0.1, 100.0)),
    _ring(
        "ring.jpeg_quality",
        "int",
        "Of raw images, which are kept as JPEG as far as 3 % of a core allow; 0: as they come, which takes memory",
        limits=(0, 100),
    ),
    P("diagnostics.hardware_id", "string", "", "Of /diagnostics; empty: the name of the host", change=NEVER),
)
PARAMETERS += tuple(
    P(f"modes.{name}", "string", mode.severity, f"{mode.description}: how bad is that?", choices=SEVERITIES)
    for name, mode in MODES.items()
)
# `{}` is the sensor's name in lower case in defaults, its name as it stands in parameter names.
CAMERA_PARAMETERS: tuple[Parameter, ...] = (
    P("topic", "string", "/camera/{}/image_raw", "sensor_msgs/Image, or CompressedImage where `compressed` is true"),
    P("info_topic", "string", "/camera/{}/camera_info", "sensor_msgs/CameraInfo of that image"),
    P("compressed", "bool", False, "The topic carries sensor_msgs/CompressedImage (JPEG, PNG, H.264 or H.265)"),
    P("packets", "bool", False, "The topic carries ffmpeg_image_transport_msgs/FFMPEGPacket (H.264 or H.265)"),
    P("rectified", "bool", False, "The topic carries rectified images: use P and R of camera_info, no distortion"),
    P(
        "bits",
        "int",
        16,
        "Bits in use of each sample of a 16-bit image, from the lowest on (10, 12, 14 or all)",
        (8, 16),
    ),
    P("offset_ms", "double", 0.0, "Stamp of this camera minus stamp of the anchor within one sweep", (-1000.0, 1000.0)),
    P(
        "frame_id",
        "string",
        "{}",
        "Optical frame in headers and tf; empty: not checked (needs extrinsics.source: file)",
    ),
)
RADAR_PARAMETERS: tuple[Parameter, ...] = (
    P("topic", "string", "/radar/{}/points", "Where the radar publishes what `kind` says"),
    P("kind", "string", "cloud", "sensor_msgs/PointCloud2, radar_msgs/RadarScan or RadarTracks", choices=RADAR_KINDS),
    P("frame_id", "string", "{}", "Frame in headers and tf; empty: not checked (needs extrinsics.source: file)"),
    P(
        "field_of_view_deg",
        "double",
        360.0,
        "Horizontal, about the x axis, at its widest: returns beside it are left out; 360: not checked",
        (1.0, 360.0),
    ),
)


def _own_field(row: Parameter) -> Parameter:
    """`radar_fields.NAME` -> `fields.NAME` of one radar."""
    choices = (INHERIT, *row.choices) if row.choices else ()
    description = f"{row.description}; `{INHERIT}`: as {row.name} (kind `cloud`), or as the message defines"
    return replace(
        row, name=row.name.replace("radar_fields", "fields"), default=INHERIT, description=description, choices=choices
    )


def sensor_parameters(spec: ModelSpec) -> tuple[Parameter, ...]:
    """The rows that exist because of the bundle: per camera, per radar, per class."""
    rows = _rows_of_sensors(spec.cameras, spec.radars)
    for label in spec.classes:
        text = f"Detections of {label} below this score are not published"
        rows.append(P(f"{THRESHOLD}{label}", "double", spec.score_threshold[label], text, (0.0, 1.0), change=ANY_TIME))
    return tuple(rows)


def parameters_of_any_bundle(names: Iterable[str]) -> tuple[Parameter, ...]:
    """The rows that these names may mean, as long as it is not known which sensors and classes the bundle has: those of
    every sensor that is named, and every threshold."""
    parts = [name.split(".", 2) for name in names]
    named = {group: sorted({p[1] for p in parts if p[0] == group and len(p) == 3}) for group in ("cameras", "radars")}
    thresholds = [name for name in names if name.startswith(THRESHOLD)]
    rows = [*PARAMETERS, *_rows_of_sensors(named["cameras"], named["radars"])]
    return (*rows, *(P(name, "double", 0.0, "", (0.0, 1.0)) for name in thresholds))


def _rows_of_sensors(cameras: Iterable[str], radars: Iterable[str]) -> list[Parameter]:
    rows = []
    own_fields = tuple(_own_field(row) for row in PARAMETERS if row.name.startswith("radar_fields."))
    for group, names, table in (
        ("cameras", cameras, CAMERA_PARAMETERS),
        ("radars", radars, RADAR_PARAMETERS + own_fields),
    ):
        for sensor in names:
            for row in table:
                default = row.default.format(sensor.lower()) if isinstance(row.default, str) else row.default
                rows.append(replace(row, name=f"{group}.{sensor}.{row.name}", default=default))
    return rows


def check_value(row: Parameter, value: Any) -> Any:
    """The value in the row's type (a whole number is a fine double). Raises ParameterError."""
    right_type: bool = isinstance(value, PYTHON_TYPES[row.type])
    if not right_type or (isinstance(value, bool) and row.type != "bool"):
        raise ParameterError(f"{row.name}: expected {row.type}, found {value!r} ({type(value).__name__})")
    checked: Any = tuple(value) if row.type == "string[]" else float(value) if row.type == "double" else value
    if row.type == "double" and not math.isfinite(checked):
        raise ParameterError(f"{row.name}: expected a finite number, found {value}")
    if row.limits and not row.limits[0] <= checked <= row.limits[1]:
        allowed = f"[{row.limits[0]:g}, {row.limits[1]:g}]"
        raise ParameterError(f"{row.name}: {value} is outside {allowed}; {row.description}")
    for item in checked if row.type == "string[]" else (checked,):
        if row.type == "string[]" and not isinstance(item, str):
            raise ParameterError(f"{row.name}: expected a list of texts, found {item!r} in it")
        if row.choices and item not in row.choices:
            hint = did_you_mean(str(item), row.choices)
            raise ParameterError(f"{row.name}: {item!r} is not one of {', '.join(row.choices)}{hint}")
    return checked


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_names(names: Iterable[str], rows: Iterable[Parameter]) -> list[str]:
    """One line for each name that is in no row and does not belong to rclpy, naming the closest known one."""
    known = [row.name for row in rows]
    strangers = [name for name in names if name not in known and not name.startswith(ROS_PREFIXES)]
    return [f"{name}: no such parameter{did_you_mean(name, known)}" for name in strangers]
