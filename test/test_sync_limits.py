"""The synchroniser's limits: each exactly, and a nanosecond beyond."""

from __future__ import annotations

import dataclasses

import pytest
from sync_drive import (
    CONFIG,
    MS,
    PERIOD,
    START,
    add,
    image,
    make_sync,
    pose,
    scan,
)

from bev_perception.sync_config import SyncConfig

AT = START + 5_000 * MS  # of the one frame in the tests that follow
PAIR = SyncConfig(("side", "back"), ("near",), period_ns=PERIOD, offsets_ns={"side": -30 * MS}, deadline_ns=10_000 * MS)


def frames_after_each(messages, config, known):
    """The number of frames after `known`, which come first, and after each message; and the last frame."""
    sync, frames, counts = make_sync(config), [], []
    for m in known:
        assert add(sync, m) == ""
    for m in (None, *messages):
        assert m is None or add(sync, m) == ""
        frames += sync.poll(AT + 50 * MS)
        counts.append(len(frames))
    return counts, frames[-1]


@pytest.mark.parametrize(
    ("arriving", "used"),  # ms after the camera's place in the sweep; the last of `arriving` settles the frame
    [
        ([-20], -20),  # early by half the tolerance: what comes later cannot change it
        ([-20.000001, 0], 0),  # early by more: waits for a better one
        ([-21, -20], -20),
        ([-21, 40], 40),
        ([-40, -21, 41], -21),  # no better one: the latest of the early ones
        ([-40, 41], -40),
        ([-41, 41], None),
        ([40], 40),
        ([41], None),
    ],
)
def test_the_first_image_that_is_early_by_at_most_half_the_tolerance_is_used_else_the_latest(arriving, used):
    place = AT - 30 * MS
    config = dataclasses.replace(PAIR, radars=())
    images = [image("side", place + round(ms * MS)) for ms in arriving]
    known = [*(pose(AT + k * 10 * MS) for k in range(-10, 11)), image("back", AT)]
    counts, frame = frames_after_each(images, config, known)
    assert counts == [0] * len(arriving) + [1]
    assert frame.stamp_ns == AT
    if used is None:
        assert frame.missing == {"side": "out_of_tolerance"}
    else:
        assert frame.cameras[0].frame.stamp_ns == place + used * MS


def test_a_frame_is_complete_with_a_pose_at_its_last_stamp_and_a_word_of_every_radar():
    settled = AT - PAIR.radar_settle_ns
    known = [pose(AT - 20 * MS), pose(AT - 1), image("back", AT), image("side", AT - 30 * MS)]
    counts, _ = frames_after_each([pose(AT), scan("near", settled - 30 * MS)], PAIR, known)
    assert counts == [0, 0, 1], "a radar that has never spoken may still be starting"
    counts, frame = frames_after_each([scan("near", settled - 30 * MS), pose(AT), scan("near", settled)], PAIR, known)
    assert counts == [0, 0, 1, 1], "one that has is not waited for"
    assert len(frame.radars[0]) == 1
    late = [*known[:3], image("side", AT + 5 * MS), scan("near", settled)]  # its own pose is waited for
    counts, _ = frames_after_each([pose(AT), pose(AT + 5 * MS - 1), pose(AT + 5 * MS)], PAIR, late)
    assert counts == [0, 0, 0, 1]


def test_scans_from_the_oldest_allowed_to_the_settle_time_are_used_newest_first():
    known = [*(pose(AT + k * 50 * MS) for k in range(-20, 1)), image("back", AT), image("side", AT - 30 * MS)]
    oldest, settled = AT - PAIR.radar_max_age_ns, AT - PAIR.radar_settle_ns
    scans = [scan("near", t) for t in (oldest - 1, oldest, settled - 1, settled, settled + 1)]
    _, frame = frames_after_each([], PAIR, [*scans, *known])
    assert [s.scan.stamp_ns for s in frame.radars[0]] == [settled, settled - 1, oldest]
    _, frame = frames_after_each([], dataclasses.replace(PAIR, radar_sweeps=2), [*scans, *known])
    assert [s.scan.stamp_ns for s in frame.radars[0]] == [settled, settled - 1]


# What the frame at AT needs, but for a scan of `near`.
KNOWN = [*(pose(AT + k * 10 * MS) for k in range(-5, 6)), image("back", AT), image("side", AT - 30 * MS)]


@pytest.mark.parametrize(("late_ns", "state"), [(0, "late"), (1, "stale")])
@pytest.mark.parametrize("sensor", ["side", "near"])
def test_a_camera_is_waited_for_until_the_deadline_or_until_it_is_silent_and_a_radar_never(sensor, late_ns, state):
    """Both limits exactly: the sensor is silent for as long as a live one may be, or a nanosecond longer."""
    config = dataclasses.replace(PAIR, deadline_ns=150 * MS)
    sync = make_sync(config)
    target = {"side": AT - 30 * MS, "near": AT - config.radar_settle_ns}[sensor]
    last = {"side": image, "near": scan}[sensor](sensor, target - config.silence_ns - late_ns)
    others = [m for m in KNOWN if getattr(m, "sensor", "") != sensor]
    for m in [last, *others, *([scan("near", AT - 50 * MS)] if sensor == "side" else [])]:
        assert add(sync, m) == ""
    early = sync.poll(AT + 150 * MS - 1)
    frames = early + sync.poll(AT + 150 * MS)
    assert frames[-1].stamp_ns == AT and bool(early) == (state == "stale" or sensor == "near")
    assert frames[-1].missing == {sensor: state}


@pytest.mark.parametrize(("ago_ns", "reason"), [(0, "late"), (1, "stale")])
def test_a_camera_is_late_until_it_is_silent(ago_ns, reason):
    sync = make_sync(dataclasses.replace(PAIR, radars=(), deadline_ns=150 * MS))
    for m in [image("side", AT - 30 * MS - PAIR.silence_ns - ago_ns), *KNOWN[:-1]]:
        assert add(sync, m) == ""
    frames = sync.poll(AT + 200 * MS)
    assert frames[-1].stamp_ns == AT and frames[-1].missing == {"side": reason}


@pytest.mark.parametrize(("since_ns", "waits"), [(0, False), (1, True)])
def test_a_sensor_that_was_never_seen_is_waited_for_during_the_start_up(since_ns, waits):
    first = AT - PAIR.radar_settle_ns - PAIR.startup_ns + since_ns
    counts, _ = frames_after_each([scan("near", AT)], PAIR, [pose(first), *KNOWN])
    assert counts == ([0, 1] if waits else [1, 1])


def test_another_camera_sets_the_stamps_when_the_anchor_has_not_come_within_the_start_up():
    sync = make_sync(dataclasses.replace(PAIR, radars=(), deadline_ns=150 * MS))
    poses = [pose(AT + k * 50 * MS) for k in range(-1, 25)]
    for m in [*poses, image("side", AT - 30 * MS)]:
        assert add(sync, m) == ""
    first = poses[0].stamp_ns
    assert sync.poll(first + PAIR.startup_ns - 1) == []
    assert [f.stamp_ns for f in sync.poll(first + PAIR.startup_ns)] == [AT]


@pytest.mark.parametrize(("before_ns", "virtual"), [(0, False), (1, True)])
def test_another_camera_sets_a_stamp_more_than_half_a_period_before_the_anchor(before_ns, virtual):
    config = dataclasses.replace(PAIR, radars=(), deadline_ns=150 * MS)
    sync, half = make_sync(config), PERIOD // 2
    for m in [*(pose(AT + k * 20 * MS) for k in range(-5, 20)), *KNOWN[-2:]]:
        assert add(sync, m) == ""
    slot = AT + 2 * PERIOD - half - before_ns
    for m in (image("side", slot - 30 * MS), image("back", AT + 2 * PERIOD)):
        assert add(sync, m) == ""
    stamps = [f.stamp_ns for f in sync.poll(AT + 400 * MS)]
    assert stamps == [AT, *([slot] if virtual else []), AT + 2 * PERIOD]


@pytest.mark.parametrize(("more_ns", "frames"), [(0, 1), (1, 2)])
def test_frames_are_more_than_half_a_period_apart(more_ns, frames):
    config = SyncConfig(("back",), (), period_ns=PERIOD)
    messages = [*(pose(AT + k * 20 * MS) for k in range(10)), image("back", AT)]
    sync = make_sync(config)
    for m in [*messages, image("back", AT + PERIOD // 2 + more_ns)]:
        assert add(sync, m) == ""
    assert len(sync.poll(AT + 100 * MS)) == frames
    assert sync.counters["back/too_close"] == 2 - frames


@pytest.mark.parametrize(("less_ns", "frames"), [(0, 2), (1, 1)])
def test_frames_of_radars_alone_are_a_period_apart(less_ns, frames):
    sync = make_sync(SyncConfig((), ("near",), period_ns=PERIOD))
    scans = [scan("near", AT), scan("near", AT + PERIOD - less_ns)]
    for m in [*(pose(AT + k * 20 * MS) for k in range(-5, 20)), *scans]:
        assert add(sync, m) == ""
    stamps = [f.stamp_ns for f in sync.poll(AT + 1_500 * MS)]
    assert stamps == [s.stamp_ns + 40 * MS for s in scans][:frames]


def test_what_no_later_frame_can_use_is_refused():
    """The next frame is at least half a period and a nanosecond later."""
    config = dataclasses.replace(PAIR, deadline_ns=150 * MS)
    then = AT + PERIOD // 2 + 1
    cases = (
        (lambda t: image("back", t), then),
        (lambda t: image("side", t), then - 30 * MS - config.camera_tolerance_ns),
        (lambda t: scan("near", t), then - 1 - config.radar_max_age_ns),
    )
    for make, oldest in cases:
        sync = make_sync(config)
        for m in [*KNOWN, scan("near", AT)]:
            assert add(sync, m) == ""
        assert [f.stamp_ns for f in sync.poll(AT + 50 * MS)] == [AT]
        assert add(sync, make(oldest - 1)) == "too_late"
        assert add(sync, make(oldest)) == ""


def test_the_limits_of_stamps_belong_to_what_is_allowed():
    def reason(*stamps, now=None):
        """Of the last of these scans."""
        sync = make_sync()
        if now is not None:
            sync.poll(now)
        reasons = [sync.taken.add_radar(scan("near", t)) for t in stamps]
        return reasons[-1] or sync.counters["reset/time_jump_back"]

    assert reason(START + CONFIG.max_future_ns, now=START) == 0
    assert reason(START + CONFIG.max_future_ns + 1, now=START) == "future_stamp"
    assert reason(START - CONFIG.max_past_ns, now=START) == 0
    assert reason(START - CONFIG.max_past_ns - 1, now=START) == "too_old"
    assert reason(START, START - CONFIG.jump_back_ns) == 0
    assert reason(START, START - CONFIG.jump_back_ns - 1) == "stepped_back"
    sync = make_sync()
    for now, resets in ((START, 0), (START - CONFIG.jump_back_ns, 0), (START - 2 * CONFIG.jump_back_ns - 1, 1)):
        sync.poll(now)
        assert sync.counters["reset/time_jump_back"] == resets


def test_a_measurement_without_a_pose_is_named():
    config = dataclasses.replace(PAIR, max_extrapolation_ns=10 * MS, deadline_ns=150 * MS)
    sync = make_sync(config)
    for m in [pose(AT), image("back", AT), image("side", AT - 30 * MS), scan("near", AT - 50 * MS)]:
        assert add(sync, m) == ""
    (frame,) = sync.poll(AT + 150 * MS)
    assert frame.missing == {"side": "no_pose", "near": "no_pose"}
