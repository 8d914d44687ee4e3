"""Where the sensors sit: a YAML file of extrinsics, and the walk through a tree of static transforms (/tf_static)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bev_perception.files import write_atomic
from bev_perception.geometry import invert, make_transform, quaternion_from_rotation, rotation_from_quaternion
from bev_perception.yaml_file import YamlError, read_yaml

HEADER = """\
# Extrinsics of the sensors: p_base = R(rotation_wxyz) p_sensor + translation (metres; quaternion w x y z).
# Camera frames are optical (z forward, x right, y down), radar frames x forward, y left, z up.
"""


class CalibrationError(ValueError):
    """Extrinsics that are missing, malformed or not rigid; the message says how to mend them."""


def load_extrinsics(path: str | Path, base_frame: str, sensors: Iterable[str]) -> dict[str, np.ndarray]:
    """{sensor name: ego_from_sensor (4, 4)} for every name in `sensors`. Raises CalibrationError."""
    path = Path(path)
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error})") from error
    except YamlError as error:
        raise CalibrationError(str(error)) from error
    if not isinstance(tree, dict) or set(tree) != {"base_frame", "sensors"} or not isinstance(tree["sensors"], dict):
        raise CalibrationError(f"{path}: expected the keys `base_frame` and `sensors` (a map from name to pose)")
    if tree["base_frame"] != base_frame:
        raise CalibrationError(
            f"{path}: is relative to {tree['base_frame']!r}, the node's base_frame is {base_frame!r}"
        )
    missing = [name for name in sensors if name not in tree["sensors"]]
    if missing:
        raise CalibrationError(f"{path}: has no entry for {', '.join(missing)}; it has {', '.join(tree['sensors'])}")
    return {name: _parse_pose(tree["sensors"][name], f"{path}: {name}") for name in sensors}


def _parse_pose(entry: Any, where: str) -> np.ndarray:
    if not isinstance(entry, dict) or set(entry) != {"translation", "rotation_wxyz"}:
        expected = "`translation: [x, y, z]` and `rotation_wxyz: [w, x, y, z]`"
        raise CalibrationError(f"{where}: expected {expected}, found {entry!r}")
    try:
        for key, values in entry.items():
            if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
                raise ValueError(f"{key} must be a list of numbers, found {values!r}")
        translation = np.array(entry["translation"], dtype=np.float64)
        quaternion = np.array(entry["rotation_wxyz"], dtype=np.float64)
        if translation.shape != (3,) or quaternion.shape != (4,) or not np.isfinite(translation).all():
            raise ValueError(f"expected 3 and 4 finite numbers, found {entry!r}")
        if abs(np.linalg.norm(quaternion) - 1) > 1e-3:
            angles = "; these look like angles" if np.abs(quaternion).max() > 1.5 else ""
            found = f"rotation_wxyz has norm {np.linalg.norm(quaternion):.4f}, a rotation has 1{angles}"
            raise ValueError(f"{found}: write a quaternion w x y z")
        return make_transform(rotation_from_quaternion(quaternion), translation)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{where}: {error}") from error


def save_extrinsics(path: str | Path, base_frame: str, ego_from_sensor: Mapping[str, np.ndarray]) -> None:
    """Write the YAML that load_extrinsics reads, atomically."""
    sensors = {
        name: {
            "translation": [round(float(x), 6) + 0.0 for x in pose[:3, 3]],
            "rotation_wxyz": [round(float(x), 9) + 0.0 for x in quaternion_from_rotation(pose[:3, :3])],
        }
        for name, pose in ego_from_sensor.items()
    }
    tree = {"base_frame": base_frame, "sensors": sensors}
    body = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120)
    write_atomic(path, HEADER + body)


class StaticTree:
    """The static transforms heard so far. Frame names as in the messages; a leading `/` is ignored."""

    def __init__(self) -> None:
        self._parent: dict[str, tuple[str, np.ndarray]] = {}

    def add(self, transforms: Iterable[Any]) -> list[str]:
        """geometry_msgs/TransformStamped -> edges; a newer one for the same child replaces the old.

        Returns the children whose transform is new or differs. Raises CalibrationError on a malformed transform,
        after taking the good ones.
        """
        changed, errors = [], []
        for message in transforms:
            child, parent = message.child_frame_id.lstrip("/"), message.header.frame_id.lstrip("/")
            t, q = message.transform.translation, message.transform.rotation
            try:
                translation = np.array([t.x, t.y, t.z])
                if not child or not parent or child == parent or not np.isfinite(translation).all():
                    raise ValueError(f"translation {translation.tolist()}")
                parent_from_child = make_transform(
                    rotation_from_quaternion(np.array([q.w, q.x, q.y, q.z])), translation
                )
            except ValueError as error:
                errors.append(f"transform {parent!r} -> {child!r}: {error}")
                continue
            known = self._parent.get(child)
            if known is None or known[0] != parent or not np.allclose(known[1], parent_from_child, rtol=0, atol=1e-9):
                self._parent[child] = (parent, parent_from_child)
                changed.append(child)
        if errors:
            raise CalibrationError("; ".join(errors))
        return changed

    @property
    def children(self) -> list[str]:
        """Frames that have a parent, in the order in which they were first heard of."""
        return list(self._parent)

    def lookup(self, target: str, source: str) -> np.ndarray:
        """target_from_source (4, 4), by way of their common ancestor. Raises CalibrationError naming what is known."""
        root_target, chain_target = self._to_root(target.lstrip("/"))
        root_source, chain_source = self._to_root(source.lstrip("/"))
        if root_target != root_source:
            known = sorted(set(self._parent) | {parent for parent, _ in self._parent.values()})
            raise CalibrationError(
                f"no static transforms from {source!r} to {target!r}; known frames: {known or 'none'}"
            )
        return invert(chain_target) @ chain_source

    def _to_root(self, frame: str) -> tuple[str, np.ndarray]:
        """(root frame, root_from_frame)."""
        root_from_frame = np.eye(4)
        seen = {frame}
        while frame in self._parent:
            frame, parent_from_child = self._parent[frame]
            if frame in seen:
                raise CalibrationError(f"static transforms form a loop through {frame!r}")
            seen.add(frame)
            root_from_frame = parent_from_child @ root_from_frame
        return frame, root_from_frame
