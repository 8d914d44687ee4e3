"""Returns that no radar can give are left out by name; a radar that is blind while others see is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bev_perception.conversions import MessageError
from bev_perception.sensors.radar_checks import ALL_ROUND_RAD, EmptyRadars, RadarLimits, drop_impossible
from bev_perception.structures import RadarScan
from bev_perception.sync_config import MS, NS

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes"
START = 1_700_000_000 * NS
GOOD = (30.0, -5.0, 0.5, 7.0, 3.0, 1.0)
LIMITS = RadarLimits()
BAD = {
    "return_too_far": (300.0, 5.0, 0.0, 7.0, 3.0, 1.0),
    "return_too_fast": (30.0, 5.0, 0.0, 7.0, -90.0, 50.0),
    "return_rcs": (30.0, 5.0, 0.0, -101.0, 3.0, 1.0),
    "return_outside_view": (-3.0, 30.0, 0.0, 7.0, 3.0, 1.0),
}
VIEW = np.deg2rad(120.0)


def scan(*rows: tuple[float, ...], stamp_ns: int = START, sensor: str = "RADAR") -> RadarScan:
    return RadarScan(sensor, stamp_ns, np.array(rows, np.float32).reshape(-1, 6), compensated=False)


def test_possible_scans_pass_untouched() -> None:
    for rows in ((), (GOOD,), (GOOD,) * 200):
        given = scan(*rows)
        assert drop_impossible(given, LIMITS, VIEW) == (given, [])


@pytest.mark.parametrize("reason", BAD)
def test_each_impossible_return_is_left_out_by_name(reason: str) -> None:
    given = scan(GOOD, BAD[reason], GOOD)
    kept, ((found, detail),) = drop_impossible(given, LIMITS, VIEW)
    assert found == reason and detail.startswith("1 of 3 returns ") and detail.endswith("were left out")
    assert kept.points.tolist() == scan(GOOD, GOOD).points.tolist()
    assert (kept.sensor, kept.stamp_ns, kept.compensated) == ("RADAR", START, False)


@pytest.mark.parametrize("reason", ["return_too_far", "return_too_fast", "return_rcs"])
def test_a_scan_of_one_return_is_looked_at(reason: str) -> None:
    kept, ((found, _),) = drop_impossible(scan(BAD[reason]), LIMITS, 2 * np.pi)
    assert found == reason and len(kept.points) == 0


@pytest.mark.parametrize("scale", [0.5, 0.95, 1.05])
def test_without_a_field_of_view_the_limits_are_those_of_every_return(scale: float) -> None:
    """Whatever the largest of each column say together, as far, fast and loud need not be one return."""
    rng = np.random.default_rng(4)
    limits = np.array([LIMITS.range_m, LIMITS.speed_mps, LIMITS.rcs_dbsm])
    for _ in range(100):
        places, speeds = (rng.normal(0, 1, (6, n)) for n in (3, 2))
        places *= LIMITS.range_m * rng.uniform(0, scale, (6, 1)) / np.linalg.norm(places, axis=1, keepdims=True)
        speeds *= LIMITS.speed_mps * rng.uniform(0, scale, (6, 1)) / np.linalg.norm(speeds, axis=1, keepdims=True)
        given = scan(*np.hstack([places, LIMITS.rcs_dbsm * rng.uniform(-scale, scale, (6, 1)), speeds]).tolist())
        p = given.points.astype(float)
        sizes = np.stack([np.linalg.norm(p[:, :3], axis=1), np.linalg.norm(p[:, 4:], axis=1), np.abs(p[:, 3])], axis=1)
        possible = (sizes <= limits).all(axis=1)
        if (sizes > limits).sum(axis=0).max() < 4:
            assert drop_impossible(given, LIMITS, ALL_ROUND_RAD)[0].points.tolist() == given.points[possible].tolist()


@pytest.mark.parametrize("reason", BAD)
def test_a_scan_of_impossible_returns_is_a_wrong_unit(reason: str) -> None:
    few, half = scan(*[BAD[reason]] * 3), scan(*[GOOD] * 4, *[BAD[reason]] * 4)
    assert len(drop_impossible(few, LIMITS, VIEW)[0].points) == 0
    assert len(drop_impossible(half, LIMITS, VIEW)[0].points) == 4
    with pytest.raises(MessageError) as error:
        drop_impossible(scan(*[GOOD] * 4, *[BAD[reason]] * 5), LIMITS, VIEW)
    assert error.value.reason == reason
    assert error.value.detail.startswith("5 of 9 returns ") and "radars.RADAR.fields.*" in error.value.detail


def test_real_radars_give_nothing_impossible() -> None:
    """In two cities, unfiltered, relative speeds. Their view is called 120 degrees; up to 76 to a side are found."""
    if not REAL.is_dir():
        pytest.skip(f"no real recordings in {REAL}")
    files = sorted((REAL / "radar_front").glob("*.csv"))
    for path in files:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)[:, 1:]
        given = scan(*rows[:, [0, 1, 2, 5, 6, 7]])
        kept, left_out = drop_impossible(given, LIMITS, np.deg2rad(160.0))
        assert kept is given and left_out == [], path.name
    assert len(files) > 50


def test_the_limits_are_the_parameters() -> None:
    wide = RadarLimits(range_m=1000.0, speed_mps=200.0, rcs_dbsm=200.0)
    given = scan(*BAD.values())
    assert drop_impossible(given, wide, ALL_ROUND_RAD)[0] is given
    assert [reason for reason, _ in drop_impossible(given, LIMITS, ALL_ROUND_RAD)[1]] == list(BAD)[:3]
    assert [reason for reason, _ in drop_impossible(given, wide, VIEW)[1]] == ["return_outside_view"]
    edge = scan((0.0, 30.0, 0.0, 0.0, 0.0, 0.0))  # at 90 degrees
    assert drop_impossible(edge, LIMITS, np.deg2rad(181.0))[1] == []
    assert drop_impossible(edge, LIMITS, np.deg2rad(179.0))[1] != []


def feed(radars: EmptyRadars, seconds: float, seeing: dict[str, bool], start_s: float = 0.0) -> list[tuple[str, float]]:
    """Scans at 10 Hz of each radar, with a return or without -> (radar, seconds) of those refused."""
    refused = []
    for k in range(round(seconds * 10)):
        for name, sees in seeing.items():
            rows = (GOOD,) if sees else ()
            try:
                radars.check(scan(*rows, stamp_ns=START + round((start_s + k / 10) * NS), sensor=name), True)
            except MessageError as error:
                assert error.reason == "radar_empty"
                refused.append((name, start_s + k / 10))
    return refused


def test_a_radar_without_returns_while_another_sees() -> None:
    radars = EmptyRadars(5000 * MS)
    refused = feed(radars, 7.0, {"A": True, "B": False})
    assert refused == [("B", k / 10) for k in range(51, 70)]
    assert feed(radars, 4.0, {"A": True, "B": True}, start_s=7.0) == []
    assert feed(radars, 5.0, {"A": True, "B": False}, start_s=11.0) == []


def test_nobody_is_blind_where_nobody_sees() -> None:
    radars = EmptyRadars(5000 * MS)
    assert feed(radars, 10.0, {"A": False, "B": False}) == []
    assert feed(EmptyRadars(5000 * MS), 10.0, {"A": False}) == []
    feed(radars, 1.0, {"A": True}, start_s=10.0)
    assert feed(radars, 1.0, {"B": False}, start_s=13.0) == []  # A has been silent for two seconds


def test_tracks_may_be_none() -> None:
    radars = EmptyRadars(5000 * MS)
    feed(radars, 7.0, {"A": True})
    for k in range(70):
        radars.check(scan(stamp_ns=START + k * 100 * MS, sensor="B"), expects_returns=False)


def test_time_that_restarts_is_no_blindness() -> None:
    radars = EmptyRadars(5000 * MS)
    feed(radars, 3.0, {"A": True, "B": False}, start_s=100.0)
    assert feed(radars, 4.0, {"A": True, "B": False}) == []


def test_four_of_seven_are_more_than_half_and_enough() -> None:
    with pytest.raises(MessageError, match="return_too_far"):
        drop_impossible(scan(*[GOOD] * 3, *[BAD["return_too_far"]] * 4), LIMITS, VIEW)


def test_a_radar_may_see_nothing_for_five_seconds() -> None:
    assert RadarLimits().empty_ns == 5 * NS
