"""One sensor that steps back in time is that sensor's fault; everything is forgotten only where most of them do."""

from __future__ import annotations

import pytest
from sync_drive import CONFIG, MS, START, add, anchors, drive, feed, image, make_sync, pose, scan

from bev_perception.stamp_guard import RESTART_AFTER_NS, RESTART_MESSAGES
from bev_perception.structures import Epoch

BACK = 1_500 * MS  # further than jump_back_ns, within max_past_ns


@pytest.mark.parametrize(
    ("sensor", "stray"), [("front", image), ("near", scan), ("odometry", lambda _, stamp: pose(stamp))]
)
def test_a_stray_message_costs_itself_and_nothing_else(sensor, stray):
    """One image, scan or pose from 1.5 s ago, in the middle of a drive."""
    messages = drive(4.0)
    plain, disturbed = make_sync(), make_sync()
    expected = feed(plain, messages)
    middle = len(messages) // 2
    now = messages[middle].stamp_ns
    frames = feed(disturbed, [*messages[:middle], stray(sensor, now - BACK), *messages[middle:]])
    assert [f.stamp_ns for f in frames] == [f.stamp_ns for f in expected]
    assert [f.composition for f in frames] == [f.composition for f in expected]
    assert {f.epoch for f in frames} == {Epoch()}
    assert disturbed.counters - plain.counters == {f"{sensor}/stepped_back": 1}


def test_a_sensor_that_goes_on_in_an_earlier_time_is_taken_at_its_word():
    """A driver whose clock was set back by 1.9 s: its newer images are forgotten, nobody else's are."""
    messages = [m for m in drive(6.0) if getattr(m, "sensor", "") != "front" or m.stamp_ns < START + 2_000 * MS]
    shifted = [(t + 1_900 * MS, image("front", t)) for t in range(START + 200 * MS, START + 4_000 * MS, 83 * MS)]
    arrivals = sorted([*((m.stamp_ns, m) for m in messages), *shifted], key=lambda row: row[0])
    sync = make_sync()
    frames = []
    for arrival, message in arrivals:
        add(sync, message)
        frames += sync.poll(arrival)
    refused = sync.counters["front/stepped_back"]
    assert refused == -(-RESTART_AFTER_NS // (83 * MS)) >= RESTART_MESSAGES
    assert sync.counters["front/restarted"] == 1
    assert not any(name.startswith("reset/") for name in sync.counters)
    assert sync.taken.cameras["front"].newest_ns < START + 1_000 * MS
    assert len(frames) >= 5 * 12


def test_odometry_that_is_set_back_alone_begins_a_new_motion():
    sync = make_sync()
    feed(sync, drive(2.0), poll_after_s=0)
    before = sync.taken.poses.at(START + 1_000 * MS).epoch
    for k in range(60):
        sync.taken.add_pose(pose(START + 600 * MS + k * 20 * MS))
    assert sync.counters["odometry/restarted"] == 1
    assert sync.taken.poses.at(START + 1_000 * MS).epoch > before


def test_everything_is_forgotten_once_where_most_sensors_step_back():
    """Before any clock: the second of two is most of two, and of seven the fourth."""
    for sensors in (("front", "left"), (*CONFIG.cameras, *CONFIG.radars)):
        sync = make_sync()
        at = {**dict.fromkeys(CONFIG.cameras, image), **dict.fromkeys(CONFIG.radars, scan)}
        for name in sensors:
            assert add(sync, at[name](name, START)) == ""
        needed = len(sensors) // 2 + 1
        reasons = [add(sync, at[name](name, START - BACK)) for name in sensors]
        assert reasons == ["stepped_back"] * (needed - 1) + [""] * (len(sensors) - needed + 1)
        assert sync.counters["reset/time_jump_back"] == 1


def test_a_lone_sensor_is_restarted_not_everything():
    sync = make_sync()
    for k in range(20):
        add(sync, scan("near", START + k * 77 * MS))
    for k in range(20):
        add(sync, scan("near", START - BACK + k * 77 * MS))
    assert sync.counters["near/restarted"] == 1 and not sync.counters["reset/time_jump_back"]


def test_two_publishers_of_one_topic_never_restart_it():
    """Every other message is 1.5 s old: those are refused for ever, the others go on being used."""
    sync = make_sync()
    reasons = [[], []]
    for k in range(40):
        reasons[0].append(add(sync, scan("near", START + k * 77 * MS)))
        reasons[1].append(add(sync, scan("near", START - BACK + k * 77 * MS)))
    assert set(reasons[0]) == {""} and set(reasons[1][1:]) == {"stepped_back"}
    assert sync.counters["near/restarted"] == 0


def test_a_reset_takes_its_start_from_what_comes_after_it():
    sync = make_sync()
    feed(sync, drive(2.0), poll_after_s=0)
    frames = []
    again = [m for m in drive(2.0) if m.stamp_ns >= START + 500 * MS]
    for message in again:
        add(sync, message)
        frames += sync.poll(START + 2_005 * MS + (message.stamp_ns - START) // 1000)
    assert sync.counters["reset/time_jump_back"] == 1
    after = [f.stamp_ns for f in frames if f.epoch.number == 1]
    assert set(after) <= set(anchors(2.0)) and len(after) > 10


def test_three_messages_in_a_row_over_half_a_second_restart_a_slow_sensor():
    sync = make_sync()
    add(sync, scan("near", START))
    add(sync, scan("left", START))
    steps = [add(sync, scan("near", START - 2 * BACK + k * 300 * MS)) for k in range(3)]
    assert steps == ["stepped_back", "stepped_back", ""] and sync.counters["near/restarted"] == 1
    assert add(sync, scan("near", START - 2 * BACK + 1_000 * MS)) == ""
    assert add(sync, scan("near", START - 3 * BACK)) == "stepped_back"  # what it did before is forgotten


def test_a_sensor_that_was_restarted_does_not_count_as_stepped_back():
    """Of three sensors one restarts; a stray message of another is that one's alone, not a jump of time."""
    sync = make_sync()
    for name in ("near", "left"):
        add(sync, scan(name, START))
    add(sync, image("front", START))
    for k in range(3):
        add(sync, scan("near", START - 2 * BACK + k * 300 * MS))
    assert sync.counters["near/restarted"] == 1
    assert add(sync, image("front", START - BACK)) == "stepped_back"
