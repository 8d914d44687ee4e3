"""What is too large is refused by its bytes, before anything is made of it: of every kind of message that can be."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
from intake_rig import NOW, Listening, cloud, image

from bev_perception.sensors.intake import INFO_BYTES, PACKET, Source

LIMIT, RETURNS = 200_000, 100


def listening(folder: Path, **values: Any) -> Listening:
    return Listening(folder, {"limits.message_bytes": LIMIT, "limits.radar_returns": RETURNS, **values})


def serialised_radar(count: int, width_only: bool = False) -> bytes:
    """The beginning of a little-endian message: header of an empty frame, then a number, or height and width."""
    head = b"\0\1\0\0" + struct.pack("<iII", 3, 5, 1) + b"\0" * 4
    return head + (struct.pack("<II", 1, count) if width_only else struct.pack("<I", count))


def refuses(of: Listening, source: Source, serialised: bytes) -> str:
    """The reason, "" where the message is let through."""
    before = of.taken.counters.copy()
    refused = of.intake.is_too_large(source, serialised)
    (name,) = (of.taken.counters - before) or ("/",)
    assert bool(name.strip("/")) == refused and (not refused or name.startswith(f"{source.sensor}/"))
    return name.rpartition("/")[2]


CONFIGS: dict[str, tuple[dict[str, Any], str, str, int]] = {
    "Image": ({}, "cam_a", "sensor_msgs/msg/Image", LIMIT),
    "CompressedImage": ({"cameras.cam_a.compressed": True}, "cam_a", "sensor_msgs/msg/CompressedImage", LIMIT),
    "FFMPEGPacket": ({"cameras.cam_a.packets": True}, "cam_a", PACKET, LIMIT),
    "CameraInfo": ({}, "cam_a camera_info", "sensor_msgs/msg/CameraInfo", INFO_BYTES),
    "PointCloud2": ({}, "radar_a", "sensor_msgs/msg/PointCloud2", LIMIT),
    "RadarScan": ({"radars.radar_a.kind": "scan"}, "radar_a", "radar_msgs/msg/RadarScan", LIMIT),
    "RadarTracks": ({"radars.radar_a.kind": "tracks"}, "radar_a", "radar_msgs/msg/RadarTracks", LIMIT),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_bytes(tmp_path: Path, kind: str) -> None:
    values, sensor, message, limit = CONFIGS[kind]
    made = listening(tmp_path, **values)
    source = made.sources[sensor]
    assert (source.kind, source.max_bytes) == (message, limit)
    assert refuses(made, source, bytes(limit)) == ""
    assert refuses(made, source, bytes(limit + 1)) == "message_too_large"
    assert made.intake.faults[sensor][1].startswith(f"{limit + 1} bytes, allowed are {limit} (")
    assert refuses(made, source, bytes(99_000_000)) == "message_too_large"


@pytest.mark.parametrize("kind", ["PointCloud2", "RadarScan", "RadarTracks"])
def test_returns(tmp_path: Path, kind: str) -> None:
    """By what the header says, whatever follows: also of a header that lies, and of a message that is cut."""
    values, sensor, _, _ = CONFIGS[kind]
    made = listening(tmp_path, **values)
    for count, reason in ((RETURNS, ""), (RETURNS + 1, "too_many_returns"), (4_000_000_000, "too_many_returns")):
        assert refuses(made, made.sources[sensor], serialised_radar(count, kind == "PointCloud2")) == reason
    assert made.intake.faults[sensor] == (
        "too_many_returns", f"4000000000 returns, allowed are {RETURNS} (limits.radar_returns)",
    )  # fmt: skip
    assert refuses(made, made.sources[sensor], b"") == ""


def test_what_was_not_asked_for_its_bytes_is_asked_for_its_returns(tmp_path: Path) -> None:
    made = listening(tmp_path)
    made.take("radar_a", cloud(RETURNS + 1))
    assert made.taken.counters == {"radar_a/too_many_returns": 1}
    made.take("radar_a", cloud(RETURNS))
    made.take("cam_a", image(stamp_ns=NOW))
    assert made.newest_ns("radar_a") == made.newest_ns("cam_a") == NOW


def test_odometry_and_transforms_have_no_limit(tmp_path: Path) -> None:
    made = listening(tmp_path)
    for sensor in ("odometry", "tf_static"):
        assert made.sources[sensor].max_bytes is None and refuses(made, made.sources[sensor], bytes(10**6)) == ""
