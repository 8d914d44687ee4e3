"""Drives of the tiny rig, edited as recordings are, and the data sets that they become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_bundle
import tiny_drive
from bag_copies import copy_bag, rows_of

from bev_perception.evaluation.result_bag import make_typestore
from training.bag_to_nuscenes import main
from training.tables.vocabulary import TABLES

VERSION = "v1.0-trainval"
STORE = make_typestore()
INFO, IMAGE, CLOUD = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
ODOMETRY, COMPRESSED = "nav_msgs/msg/Odometry", "sensor_msgs/msg/CompressedImage"


def make_drive(folder: Path) -> dict[str, Path]:
    """The drive `town` of the tiny rig with its bundle and parameters."""
    tiny_bundle.write_bundle(folder / "bundle")
    tiny_drive.write_drive(folder / "town", frames=16)
    return {
        "bag": folder / "town",
        "bundle": folder / "bundle",
        "params": tiny_drive.write_params(folder / "params.yaml"),
        "folder": folder,
    }


def convert(drive: dict[str, Path], out: Path, *more: str, bag: Path | None = None, **parameters: object) -> int:
    params = tiny_drive.write_params(out.parent / "other.yaml", **parameters) if parameters else drive["params"]
    names = ["--bundle", str(drive["bundle"]), "--params", str(params)]
    return main([str(bag or drive["bag"]), str(out), *names, *more])


def changed(bag: Path, target: Path, edits: dict[str, Callable[[Any, str], Any]]) -> Path:
    """A copy in which messages of a type are edited: edit(message, topic) -> message, None to leave it out, or
    (type, message)."""

    def change(row: tuple[str, str, int, bytes]) -> list[tuple[str, str, int, bytes]]:
        topic, kind, ns, raw = row
        if kind not in edits:
            return [row]
        found = edits[kind](STORE.deserialize_cdr(raw, kind), topic)
        if found is None:
            return []
        kind, message = found if isinstance(found, tuple) else (kind, found)
        return [(topic, kind, ns, bytes(STORE.serialize_cdr(message, kind)))]

    return copy_bag(bag, target, change=change)


def messages_of(bag: Path, kind: str) -> dict[tuple[str, int], Any]:
    """(frame, stamp) -> message, read by rosbags alone."""
    found = (STORE.deserialize_cdr(raw, kind) for _, of, _, raw in rows_of(bag) if of == kind)
    return {(m.header.frame_id, m.header.stamp.sec * 10**9 + m.header.stamp.nanosec): m for m in found}


def tables_of(out: Path) -> dict[str, dict[str, dict]]:
    """Table -> token -> row."""
    read = {name: json.loads((out / VERSION / f"{name}.json").read_text()) for name in TABLES}
    return {name: {row["token"]: row for row in rows} for name, rows in read.items()}


def files_of(out: Path, channel: str) -> dict[int, tuple[Path, dict, dict]]:
    """Stamp (ns) -> file, ego pose and calibration, of every sample_data row of a channel."""
    tables = tables_of(out)
    found = {}
    for row in tables["sample_data"].values():
        calibrated = tables["calibrated_sensor"][row["calibrated_sensor_token"]]
        if tables["sensor"][calibrated["sensor_token"]]["channel"] == channel:
            pose = tables["ego_pose"][row["ego_pose_token"]]
            found[row["timestamp"] * 1000] = (out / row["filename"], pose, calibrated)
    return dict(sorted(found.items()))


def content(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def refused(drive, tmp_path, capsys, *more: str, bag: Path | None = None, **parameters: object) -> str:
    out = tmp_path / "refused"
    assert convert(drive, out, *more, bag=bag, **parameters) == 1
    assert not out.exists(), "nothing was written"
    return capsys.readouterr().err
