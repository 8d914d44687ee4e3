"""What a deadline closed depends on when messages came: it says what it was made of, and is made again of that."""

from __future__ import annotations

import random

import pytest
from sync_drive import MS, START, add, content, drive, make_sync

from bev_perception.structures import COMPLETE, DEADLINE


def late_run(seed: int, most_ms: int):
    """The frames of a drive whose messages come late by up to most_ms, those of each sensor in order."""
    rng = random.Random(seed)
    arrivals, newest = [], {}
    for k, m in enumerate(drive(3.0)):
        sensor = getattr(m, "sensor", "odometry")
        newest[sensor] = max(
            newest.get(sensor, 0), m.stamp_ns + rng.randrange(1, most_ms if rng.random() < 0.02 else 30) * MS
        )
        arrivals.append((newest[sensor], k, m))
    arrivals.sort()
    sync, frames = make_sync(), []
    for now, _, message in arrivals:
        add(sync, message)
        frames += sync.poll(now)
    return frames


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_a_late_run_are_made_again_from_the_recording(seed):
    """The recording has the messages in the order of their stamps; the run saw them late by up to 0.4 s."""
    live = late_run(seed, 400)
    closed = {f.composition.closed_by for f in live}
    assert closed == {COMPLETE, DEADLINE}
    recorded = make_sync(again={f.stamp_ns: f.composition for f in live})
    alone = make_sync()
    again, differ = [], []
    for message in drive(3.0):
        add(recorded, message)
        again += recorded.poll(message.stamp_ns + 5 * MS)
        add(alone, message)
        differ += alone.poll(message.stamp_ns + 5 * MS)
    of = {f.stamp_ns: f for f in again}
    assert len([f for f in live if f.stamp_ns in of]) >= len(live) - 2, "the last ones may have no messages after them"
    for frame in live:
        if frame.stamp_ns in of:
            assert of[frame.stamp_ns].composition == frame.composition
            assert content(of[frame.stamp_ns]) == content(frame)
    plain = {f.stamp_ns: f for f in differ}
    assert any(content(plain[f.stamp_ns]) != content(f) for f in live if f.stamp_ns in plain), "else nothing is shown"


def test_what_the_recording_lacks_is_not_waited_for_without_end():
    live = late_run(0, 400)
    recorded = make_sync(again={f.stamp_ns: f.composition for f in live})
    again = []
    lost = [m for m in drive(6.0) if getattr(m, "sensor", "") != "left"]
    for message in lost:
        add(recorded, message)
        again += recorded.poll(message.stamp_ns + 5 * MS)
    of = {f.stamp_ns: f for f in again}
    assert {f.stamp_ns for f in live} <= set(of)
    assert all("left" in of[f.stamp_ns].missing for f in live)


def test_no_deadline_closes_a_frame_while_messages_wait_to_be_taken_in():
    """The node was held up for 0.3 s: all that it needs has arrived, and lies in its queues."""
    messages = drive(1.0)
    missed, taken = make_sync(), make_sync()
    for sync, first in ((missed, True), (taken, False)):
        frames = []
        for message in messages:
            if message.stamp_ns < START + 600 * MS:
                add(sync, message)
                frames += sync.poll(message.stamp_ns + 5 * MS)
        now = START + 900 * MS
        frames += sync.poll(now, all_taken=first)
        for message in messages:
            if START + 600 * MS <= message.stamp_ns < now:
                add(sync, message)
                frames += sync.poll(now, all_taken=False)
        frames += sync.poll(now)
        by_deadline = [f for f in frames if f.composition.closed_by == DEADLINE and f.stamp_ns < now - 200 * MS]
        assert bool(by_deadline) == first
