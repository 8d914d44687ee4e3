"""A proposal as the parameter YAML and the calibration file of a rig, with the reasons beside the values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.calibration import HEADER
from bev_perception.geometry import quaternion_from_rotation
from bev_perception.rig.proposal import Proposal

PARAMETERS, CALIBRATION = "rig.param.yaml", "rig.calibration.yaml"
GUESS = "GUESS"
GROUPS = ("cameras", "radars")
HEAD = """\
# Parameters of the node, written by bring_up_rig from {source}.
# Lines that say GUESS are for you to look at; the others were measured or read. All parameters: docs/parameters.md.
/**:
  ros__parameters:
"""


def parameter_text(proposal: Proposal, bundle: str, calibration: Path, source: str) -> str:
    """The YAML that the node reads. calibration: named where the extrinsics come from the file."""
    values = {"bundle": bundle, **proposal.values}
    if proposal.from_file:
        values |= {"extrinsics.source": "file", "extrinsics.file": str(calibration)}
    lines = [HEAD.format(source=source).rstrip("\n")]
    plain = {name: value for name, value in values.items() if name.partition(".")[0] not in GROUPS}
    for name in sorted(plain, key=lambda name: ("." in name, name.partition(".")[0])):
        lines.append(f"    {name}: {_value(plain[name])}{_remark(name, proposal)}")
    for group in GROUPS:
        for sensor in dict.fromkeys(name.split(".")[1] for name in values if name.startswith(f"{group}.")):
            prefix = f"{group}.{sensor}"
            lines += ["", f"    # {sensor}: {proposal.remarks.get(prefix, '')}"]
            own = [name for name in values if name.startswith(f"{prefix}.")]
            lines += [f"    {name}: {_value(values[name])}{_remark(name, proposal)}" for name in own]
    return "\n".join(lines) + "\n"


def _remark(name: str, proposal: Proposal) -> str:
    words = [GUESS] if name in proposal.guesses else []
    words += [proposal.remarks[name]] if name in proposal.remarks else []
    return f"  # {': '.join(words)}" if words else ""


def _value(value: Any) -> str:
    """Of JSON, which YAML reads alike: texts in quotes, lists in brackets."""
    return json.dumps(value)


def calibration_text(proposal: Proposal, base_frame: str) -> str:
    """The YAML that load_extrinsics reads."""
    lines = [*HEADER.rstrip("\n").splitlines(), f"base_frame: {json.dumps(base_frame)}", "sensors:"]
    for sensor, mount in proposal.mounts.items():
        pose = mount.ego_from_sensor
        lines += [
            f"  {sensor}:  # {f'{GUESS}: ' if mount.guess else ''}{mount.origin}",
            f"    translation: {_numbers(pose[:3, 3], 6)}",
            f"    rotation_wxyz: {_numbers(quaternion_from_rotation(pose[:3, :3]), 9)}",
        ]
    return "\n".join(lines) + "\n"


def _numbers(values: Iterable[float] | np.ndarray, digits: int) -> str:
    return "[" + ", ".join(f"{round(float(value), digits) + 0.0}" for value in values) + "]"


def files_of(proposal: Proposal, bundle: str, out: Path, source: str) -> Mapping[Path, str]:
    """Path -> text of each file of the rig."""
    base_frame = str(proposal.values.get("base_frame", "base_link"))
    calibration = (out / CALIBRATION).resolve()
    return {
        out / PARAMETERS: parameter_text(proposal, bundle, calibration, source),
        out / CALIBRATION: calibration_text(proposal, base_frame),
    }
