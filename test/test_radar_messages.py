"""Radars of radar_msgs: what their definitions say against what is read, of rosbags and of rclpy alike."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
from other_messages import OtherMessages, store_with_radars
from test_parameters import SPEC

from bev_perception.conversions import MessageError
from bev_perception.parameters import make_config
from bev_perception.sensors.radar_messages import RADAR_KINDS, RadarFields, read_radar
from bev_perception.structures import RadarScan

STAMP = 3_000_000_005


class FromRosbags:
    def __init__(self) -> None:
        self._make = OtherMessages(store_with_radars())

    def scan(self, rows: Iterable[Iterable[float]]) -> Any:
        return self._make.radar_scan(STAMP, "radar", rows)

    def tracks(self, rows: Iterable[Iterable[float]]) -> Any:
        return self._make.radar_tracks(STAMP, "radar", rows)


class FromRclpy:
    def __init__(self) -> None:
        self._msg = pytest.importorskip("radar_msgs.msg", reason="radar_msgs is not built")

    def scan(self, rows: Iterable[Iterable[float]]) -> Any:
        names = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
        returns = [self._msg.RadarReturn(**dict(zip(names, map(float, row)))) for row in rows]
        return self._stamped(self._msg.RadarScan(returns=returns))

    def tracks(self, rows: Iterable[Iterable[float]]) -> Any:
        tracks = []
        for row in rows:
            track = self._msg.RadarTrack()
            for vector, values in ((track.position, row[:3]), (track.velocity, row[3:])):
                vector.x, vector.y, vector.z = map(float, values)
            tracks.append(track)
        return self._stamped(self._msg.RadarTracks(tracks=tracks))

    def _stamped(self, message: Any) -> Any:
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(STAMP, 1_000_000_000)
        return message


@pytest.fixture(params=[FromRosbags, FromRclpy])
def types(request: pytest.FixtureRequest) -> Any:
    return request.param()


def read(message: Any, kind: str, **change: str) -> tuple[RadarScan, int]:
    """With the fields that the parameters give a radar of this kind."""
    values = {f"radars.RADAR_FRONT.fields.{name}": value for name, value in change.items()}
    config = make_config({"bundle": "b", "radars.RADAR_FRONT.kind": kind, **values}, SPEC)
    return read_radar(message, "RADAR_FRONT", config.radars["RADAR_FRONT"].fields, kind=kind)


def test_a_scan_is_where_its_angles_say(types: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform((1, -1.5, -0.3, -30, 0), (150, 1.5, 0.3, 30, 60), (40, 5))
    scan, bad = read(types.scan(rows), "scan")
    assert (scan.sensor, scan.stamp_ns, scan.compensated, bad) == ("RADAR_FRONT", STAMP, False, 0)
    assert scan.points.dtype == np.float32
    for point, (distance, azimuth, elevation, doppler, _) in zip(scan.points, rows, strict=True):
        ray = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
        assert point[:3] == pytest.approx(distance * ray, rel=1e-5, abs=1e-4)
        assert point[4:] == pytest.approx(doppler * ray[:2], rel=1e-5, abs=1e-4)
        assert point[3] == 0  # an amplitude is no cross section unless the integrator says so


def test_what_the_integrator_says_of_a_scan(types: Any) -> None:
    message = types.scan([(10, 90, 0, 4, 12)])
    scan, _ = read(message, "scan", rcs="amplitude", angle_unit="deg", velocity="compensated")
    assert scan.points[0] == pytest.approx([0, 10, 0, 12, 0, 4], abs=1e-5) and scan.compensated
    with pytest.raises(MessageError) as error:
        read(message, "scan", rcs="rcs")
    assert error.value.reason == "cloud_fields"
    assert "no field 'rcs'; the scan has range, azimuth" in error.value.detail
    assert "radars.RADAR_FRONT.fields.*" in error.value.detail


def test_a_track_moves_along_the_line_of_sight(types: Any) -> None:
    """Its radial speed is what a radar measures: crossing traffic has none."""
    rng = np.random.default_rng(1)
    rows = rng.uniform(-50, 50, (20, 6))
    scan, _ = read(types.tracks([*rows, (30, 0, 0, 0, 12, 0), (0, 0, 0, 1, 1, 1)]), "tracks")
    for point, row in zip(scan.points, rows):
        ray = row[:3] / np.linalg.norm(row[:3])
        assert point[:3] == pytest.approx(row[:3], rel=1e-5)
        assert point[4:] == pytest.approx((ray @ row[3:]) * ray[:2], rel=1e-3, abs=1e-3)
    assert scan.points[20:, 3:].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert not scan.compensated


@pytest.mark.parametrize("kind", ["scan", "tracks"])
def test_nothing_and_nonsense(types: Any, kind: str) -> None:
    make, length = getattr(types, kind), {"scan": 5, "tracks": 6}[kind]
    assert read(make([]), kind)[0].points.shape == (0, 6)
    good, bad = [1.0] * length, [float("nan")] * length
    scan, left_out = read(make([good, bad, good]), kind)
    assert len(scan.points) == 2 and left_out == 1
    with pytest.raises(MessageError, match="cloud_not_finite: all 2 returns"):
        read(make([bad, bad]), kind)
    message = make([good])
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    with pytest.raises(MessageError, match="stamp_not_set"):
        read(message, kind)


def test_a_new_kind_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's own message: its type, its columns, which is what."""
    fields = RadarFields("polar", range="r", azimuth="a", rcs="s", vx="", vy="", doppler="v", velocity="relative")

    def returns(message: Any, reader: str) -> np.ndarray:
        return np.array(message.rows, [(name, "f4") for name in "rasv"])

    kind = type(RADAR_KINDS["scan"])("my_msgs/msg/Scan", returns, lambda msg: len(msg.rows), fields, True)
    monkeypatch.setitem(RADAR_KINDS, "mine", kind)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0))
    scan, _ = read(SimpleNamespace(header=header, rows=[(10.0, 0.0, 7.0, -2.0)]), "mine")
    assert scan.points.tolist() == [[10, 0, 0, 7, -2, 0]]
