"""Messages that are too large are refused by the node and the replay alike, and what is just not too large is used."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
from test_intake import NOW, Listening, cloud


@pytest.mark.parametrize("kind", ["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"])
def test_images_beyond_the_limit_are_refused_by_their_size(tmp_path: Path, kind: str) -> None:
    compressed = kind.endswith("CompressedImage")
    values = {"limits.message_bytes": 100_000, "cameras.cam_a.compressed": compressed}
    listening = Listening(tmp_path, values)
    source = listening.sources["cam_a"]
    assert source.kind == kind
    assert not listening.intake.is_too_large(source, 100_000) and not listening.told
    assert listening.intake.is_too_large(source, 100_001)
    ((sensor, reason, detail),) = listening.told
    assert (sensor, reason) == ("cam_a", "message_too_large") and detail.startswith("100001 bytes, allowed are 100000")
    assert listening.intake.faults["cam_a"] == (reason, detail)
    assert listening.taken.counters == {"cam_a/message_too_large": 1}


def test_scans_of_more_returns_than_the_limit_are_refused(tmp_path: Path) -> None:
    listening = Listening(tmp_path, {"limits.radar_returns": 20})
    listening.take("radar_a", cloud(20))
    assert not listening.told and listening.newest_ns("radar_a") == NOW
    listening.take("radar_a", cloud(21, stamp_ns=NOW + 1))
    ((sensor, reason, detail),) = listening.told
    assert (sensor, reason) == ("radar_a", "too_many_returns")
    assert detail == "21 returns, allowed are 20 (limits.radar_returns)"
    assert listening.newest_ns("radar_a") == NOW
