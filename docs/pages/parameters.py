"""docs/parameters.md from bev_perception/parameter_table.py."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from bev_perception.inference.backend import BACKENDS
from bev_perception.model_spec import ModelSpec
from bev_perception.parameter_table import (
    ANY_TIME,
    NEVER,
    PARAMETERS,
    REQUIRED,
    UNCONFIGURED,
    Parameter,
    sensor_parameters,
)
from docs.pages.markdown import code, join, table, written_by

HEAD = f"""\
A vehicle needs five things of its own: the `bundle`, where the sensors publish (`cameras.*`, `radars.*`), where the
odometry is (`odometry.*`), how far each camera fires from the anchor (`cameras.*.offset_ms`), and where the sensors sit
(`extrinsics.*`). Everything else has a default that suits a rig like that of nuScenes. Start from a copy of
`bev_perception/config/perception.param.yaml`; what it leaves out has the default given here.

What a model is (its sensors, image size, classes, grid) is no parameter: the bundle states it ([bundle.md](bundle.md)).
Therefore the parameters of a camera, a radar or a class exist once for each one that the bundle names.

- An unknown name is an error that names the nearest known one. A missing value, a wrong type and a value out of range
  are errors too; `configure` reports all of them at once and the node stays unconfigured.
- *May change* says when a value is taken: `{UNCONFIGURED}` means that it takes effect at `configure` and is refused
  later, `{ANY_TIME}` that it applies from the next frame on, `{NEVER}` that only a new start of the process changes it.
- `ros2 param describe /bev_perception NAME` says the same of one parameter while the node runs.
- rclpy's own parameters (`use_sim_time`, `qos_overrides.*`) work as everywhere."""
TOGETHER = """\
Some values are only right or wrong beside others, and `configure` checks these too:

- `extrinsics.file` must be given when `extrinsics.source` is `file`; every `frame_id` when it is `tf_static`.
- `anchor` is a camera of the bundle, and its `offset_ms` is 0.
- `cameras.*.compressed` and `cameras.*.packets` are two kinds of message; at most one is true.
- `sync.camera_tolerance_ms` is at most half of `sync.period_ms`, or two images of one camera fit into a frame.
- `absent` names sensors of the bundle, not all of them, and not the `anchor`.
- `radar_fields.vx` and `radar_fields.vy` are given both, or neither and `radar_fields.doppler` instead; so it is with
  the fields of each radar.
- `radar_fields.x` and `.y` must not be empty with `layout: cartesian`, nor `.range` and `.azimuth` with `polar`."""
# Title -> (first words of the names, what the reader should know).
GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "Model and engine": (
        ("bundle", "deploy", "backend", "absent", *BACKENDS),
        "Which model runs, in which engine, and with which of its sensors.",
    ),
    "Frames and calibration": (
        ("base_frame", "odometry", "extrinsics"),
        "Frames follow REP-105: the odometry's frame is continuous. `map` jumps and must not be used. With "
        "`pose_twist` each pose gets the twist at its stamp, between the two nearest.",
    ),
    "Putting measurements together": (
        ("anchor", "sync"),
        "A frame has the stamp of the anchor camera. It is complete when nothing that can still arrive would change "
        "it; when its deadline has passed it goes without what is late.",
    ),
    "Reading messages": (
        ("limits", "radar_fields", "radar_limits", "image_reader", "cloud_reader", "qos"),
        "How radars name their fields (one radar alone: `radars.*.fields.*`), what a return can be, and the "
        "subscriptions to sensors. Odometry has a queue of 100, and `/tf_static` is latched. One topic alone: "
        "`qos_overrides./camera/cam_front/image_raw.subscription.reliability: reliable`.",
    ),
    "Looking at images": (
        ("images",),
        "Images that show nothing. `mask` takes the camera out of the frame, `tell` counts it, `off` does not "
        "look. A simulator without noise repeats its picture while nothing moves: `images.frozen: off`.",
    ),
    "Degraded modes": (
        ("front_cameras", "modes"),
        "What is lost has a name, and what that means is a decision of the vehicle: `ok`, `degraded` (the level of the "
        "status is `DEGRADED`) or `error` (`ERROR`: detections go on, but nothing may rely on them).",
    ),
    "Output": (("publish", "diagnostics"), "What is published ([messages.md](messages.md)), when the status warns."),
    "Keeping drives": (
        ("ring",),
        "The seconds around what is odd, as bags to choose training data from ([data_engine.md](data_engine.md)).",
    ),
}
# A model of one camera, one radar and one class: its parameters stand for those of every model.
ONE_OF_EACH = ModelSpec("", ("<CAMERA>",), ("<RADAR>",), {"<CLASS>": math.nan}, {"<CLASS>": 1.0}, ("<CLASS>",))
SENSOR_GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "Each camera": (("cameras",), "`<CAMERA>` is the camera's name in the bundle, `<camera>` the same in lower case."),
    "Each radar": (
        ("radars",),
        "`<RADAR>` is the radar's name in the bundle, `<radar>` the same in lower case. A message of radar_msgs says "
        "itself which of its fields is what. A `scan` is polar, with relative speed and without a cross section: set "
        "`fields.rcs: amplitude` where the driver writes one there. Of `tracks`, the speed along "
        "the line of sight is used.",
    ),
    "Each class": (("score_threshold",), "`<CLASS>` is the name of a class in the bundle."),
}


def page() -> str:
    groups = [*sections(PARAMETERS, GROUPS), *sections(sensor_parameters(ONE_OF_EACH), SENSOR_GROUPS)]
    source = "bev_perception/parameter_table.py and docs/pages/parameters.py"
    return join("# Parameters", written_by(source), HEAD, *groups, "## Checked together", TOGETHER)


def sections(rows: Iterable[Parameter], groups: dict[str, tuple[tuple[str, ...], str]]) -> list[str]:
    """A title, a sentence and a table for each group. Raises ValueError for a row of no group."""
    title_of = {word: title for title, (words, _) in groups.items() for word in words}
    members: dict[str, list[Parameter]] = {title: [] for title in groups}
    for row in rows:
        title = title_of.get(row.name.split(".")[0])
        if title is None:
            raise ValueError(f"parameter {row.name} belongs to no group of the page; add its first word to GROUPS")
        members[title].append(row)
    head = ("parameter", "type", "default", "allowed", "may change", "what it says")
    return [
        part
        for title, (_, sentence) in groups.items()
        for part in (f"## {title}", sentence, table(head, map(cells, members[title])))
    ]


def cells(row: Parameter) -> tuple[str, ...]:
    default = "must be given" if row.default is REQUIRED else value(row.default)
    description = re.sub(r"<\w+>", lambda found: code(found[0]), row.description)  # else it would be an HTML tag
    return code(row.name), row.type, default, allowed(row), row.change, description


def value(default: Any) -> str:
    """A default as one writes it in YAML; NaN stands for what the bundle says."""
    if isinstance(default, bool):
        return code(str(default).lower())
    if isinstance(default, float):
        return "the bundle's" if math.isnan(default) else code(default if len(repr(default)) < 9 else f"{default:.3f}")
    if isinstance(default, tuple):
        return code(f"[{', '.join(default)}]")
    return code(default) or "empty"


def allowed(row: Parameter) -> str:
    if row.limits:
        return f"{row.limits[0]:g} to {row.limits[1]:g}"
    return ("any of " if row.type == "string[]" else "") + ", ".join(map(code, row.choices))
