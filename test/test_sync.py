"""Frames from stamped messages: every way in which sensors can be late, early, absent, repeated or back in time."""

from __future__ import annotations

import dataclasses
import heapq
import random

import numpy as np
import pytest

from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.structures import CameraCalibration, CameraFrame, EgoPose, Epoch, RadarScan
from bev_perception.sync import FrameSynchronizer, SyncConfig
from bev_perception.sync_config import SensorHealth

MS = 1_000_000
PERIOD = 83_333_333
OFFSETS = {"left": -43 * MS, "front": -35 * MS, "right": -27 * MS, "back": 0}
CONFIG = SyncConfig(("left", "front", "right", "back"), ("near", "far"), period_ns=PERIOD, offsets_ns=OFFSETS)
START = 1_000 * 1000 * MS
PIXEL = np.zeros((2, 2, 3), np.uint8)
CALIBRATION = CameraCalibration(2, 2, np.eye(3), np.eye(4))


def image(sensor, stamp_ns):
    return CameraFrame(sensor, stamp_ns, "bgr8", PIXEL)


def scan(sensor, stamp_ns):
    return RadarScan(sensor, stamp_ns, np.ones((3, 6), np.float32))


def pose(stamp_ns, speed=10.0, shift=0.0):
    seconds = (stamp_ns - START) / 1e9
    transform = make_transform(
        rotation_from_yaw(0.1), np.array([np.cos(0.1), np.sin(0.1), 0]) * speed * seconds + shift
    )
    return EgoPose(stamp_ns, transform, np.array([speed, 0.0, 0.0]))


def drive(duration_s=2.0, start=START, without=(), sensors=(*OFFSETS, "near", "far", "odometry")):
    """All messages of a drive: cameras at 12 Hz, radars at 13 Hz, poses at 50 Hz. -> list of messages by stamp."""
    messages = []
    for name in sensors:
        if name in without:
            continue
        if name in OFFSETS:
            stamps = [start + k * PERIOD + OFFSETS[name] for k in range(1, round(duration_s * 12))]
            messages += [image(name, t) for t in stamps]
        elif name == "odometry":
            messages += [pose(start + k * 20 * MS) for k in range(round(duration_s * 50) + 10)]
        else:
            shift = {"near": 2, "far": 31}[name] * MS
            messages += [scan(name, start + k * 76_923_077 + shift) for k in range(round(duration_s * 13))]
    return sorted(messages, key=lambda m: m.stamp_ns)


def make_sync(config=CONFIG, calibrated=True):
    sync = FrameSynchronizer(config)
    for name in config.cameras if calibrated else ():
        sync.set_camera_calibration(name, CALIBRATION)
    for name in config.radars if calibrated else ():
        sync.set_radar_extrinsics(name, np.eye(4))
    return sync


def add(sync, message):
    if isinstance(message, CameraFrame):
        return sync.add_camera(message)
    return sync.add_radar(message) if isinstance(message, RadarScan) else sync.add_pose(message)


def feed(sync, messages, latency_ns=5 * MS, poll_after_s=0.5):
    """Deliver in the given order, each `latency_ns` after its stamp, polling after every message and then on."""
    frames, now = [], 0
    for message in messages:
        add(sync, message)
        now = max(now, message.stamp_ns + latency_ns)
        frames += sync.poll(now)
    for _ in range(round(poll_after_s * 100)):
        now += 10 * MS
        frames += sync.poll(now)
    return frames


def content(frame):
    """What a frame is made of, comparable."""
    return (
        frame.stamp_ns,
        frame.ego.odom_from_ego.tobytes(),
        frame.ego.epoch,
        tuple((v.frame.sensor, v.frame.stamp_ns, v.ego.odom_from_ego.tobytes()) if v else None for v in frame.cameras),
        tuple(tuple((s.scan.stamp_ns, s.ego.odom_from_ego.tobytes()) for s in sweeps) for sweeps in frame.radars),
        tuple(sorted(frame.missing.items())),
        frame.epoch,
    )


def anchors(duration_s=2.0, start=START):
    return [start + k * PERIOD for k in range(1, round(duration_s * 12))]


def test_complete_frames_at_every_anchor_without_waiting():
    sync = make_sync()
    frames = feed(sync, drive(), poll_after_s=0)
    # The last anchors may still wait for a pose or a scan; what was delivered is complete, in order, at the stamps.
    assert [f.stamp_ns for f in frames] == anchors()[: len(frames)]
    assert len(frames) >= len(anchors()) - 1
    for frame in frames[8:]:
        assert frame.missing == {}
        for view, offset in zip(frame.cameras, OFFSETS.values()):
            assert view.frame.stamp_ns == frame.stamp_ns + offset
        for sweeps in frame.radars:
            stamps = [s.scan.stamp_ns for s in sweeps]
            assert len(stamps) == 6 and stamps == sorted(stamps, reverse=True)
            assert stamps[0] <= frame.stamp_ns - CONFIG.radar_settle_ns < stamps[0] + 77 * MS
            assert stamps[-1] >= frame.stamp_ns - CONFIG.radar_max_age_ns


def test_latency_of_a_complete_frame_is_bounded_by_the_sensors_not_the_deadline():
    sync = make_sync()
    due = {}
    for message in drive():
        add(sync, message)
        for frame in sync.poll(message.stamp_ns):
            due[frame.stamp_ns] = message.stamp_ns - frame.stamp_ns
    # Worst case: the radar scan that proves nothing older is missing comes one period after the settle time.
    assert max(due.values()) <= 77 * MS - CONFIG.radar_settle_ns + 1 * MS


def test_ego_poses_belong_to_each_measurement():
    frame = feed(make_sync(), drive())[-1]
    for stamp, ego in [(v.frame.stamp_ns, v.ego) for v in frame.cameras] + [
        (s.scan.stamp_ns, s.ego) for sweeps in frame.radars for s in sweeps
    ]:
        assert ego.stamp_ns == stamp
        np.testing.assert_allclose(ego.odom_from_ego, pose(stamp).odom_from_ego, atol=1e-9)


@pytest.mark.parametrize("without", [(), ("front",), ("near",), ("left", "right", "far")])
def test_frames_do_not_depend_on_the_order_of_arrival(without):
    """Each sensor in its own order and with its own random delays, below the deadline: the same frames, bit for bit."""
    messages = [m for m in drive(1.6) if not (m.stamp_ns < START + 60 * MS and isinstance(m, CameraFrame))]
    drop = random.Random(1)
    lost = {id(m) for m in messages if isinstance(m, CameraFrame) and drop.random() < 0.1}
    messages = [m for m in messages if id(m) not in lost and getattr(m, "sensor", "") not in without]
    config = dataclasses.replace(CONFIG, deadline_ns=400 * MS)  # fires only for what never comes
    reference = None
    for seed in range(20):
        rng = random.Random(seed)
        arrivals, queue = {}, []
        for k, m in enumerate(messages):
            sensor = getattr(m, "sensor", "odometry")
            arrival = max(m.stamp_ns + rng.randrange(100 * MS), arrivals.get(sensor, 0) + 1)
            arrivals[sensor] = arrival
            heapq.heappush(queue, (arrival, k, m))
        sync = make_sync(config)
        frames = []
        while queue:
            arrival, _, m = heapq.heappop(queue)
            assert add(sync, m) == ""
            frames += sync.poll(arrival)
        found = [content(f) for f in frames]
        reference = reference or found
        # The last frames may still be waiting when the messages end.
        both = min(len(found), len(reference))
        assert both >= 12 and found[:both] == reference[:both]


def test_nearest_image_is_kept_when_a_camera_is_faster_than_the_anchor():
    """A 30 Hz camera has several images in the window: the choice must not depend on what arrived first."""
    messages = drive(without=("front",))
    messages += [image("front", START + k * 33_333_333) for k in range(60)]
    frames = feed(make_sync(), sorted(messages, key=lambda m: m.stamp_ns))
    for frame in frames:
        assert abs(frame.cameras[1].frame.stamp_ns - (frame.stamp_ns - 35 * MS)) <= CONFIG.camera_tolerance_ns * 0.6


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


def test_a_frame_is_complete_with_a_scan_at_the_settle_time_and_a_pose_at_its_last_stamp():
    settled = AT - PAIR.radar_settle_ns
    known = [pose(AT - 20 * MS), pose(AT - 1), image("back", AT), image("side", AT - 30 * MS)]
    counts, _ = frames_after_each([scan("near", settled - 1), pose(AT), scan("near", settled)], PAIR, known)
    assert counts == [0, 0, 0, 1]
    counts, _ = frames_after_each([scan("near", settled), pose(AT)], PAIR, known)
    assert counts == [0, 0, 1]
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
def test_a_sensor_is_waited_for_until_the_deadline_or_until_it_is_silent(late_ns, state):
    """Both limits exactly: `near` is silent for as long as a live sensor may be, or a nanosecond longer."""
    config = dataclasses.replace(PAIR, deadline_ns=150 * MS)
    sync = make_sync(config)
    last = AT - config.radar_settle_ns - config.silence_ns - late_ns
    for m in [scan("near", last), *KNOWN]:
        assert add(sync, m) == ""
    early = sync.poll(AT + 150 * MS - 1)
    frames = early + sync.poll(AT + 150 * MS)
    assert [f.stamp_ns for f in frames] == [AT] and len(early) == (state == "stale")
    assert frames[0].missing == {"near": state}
    assert sync.sensor_states(last + config.silence_ns)["near"] == SensorHealth("degraded", 1.0, 0.0, state)
    assert sync.sensor_states(last + config.silence_ns + 1)["near"].state == "stale"


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


def test_a_measurement_without_a_pose_is_named():
    config = dataclasses.replace(PAIR, max_extrapolation_ns=10 * MS, deadline_ns=150 * MS)
    sync = make_sync(config)
    for m in [pose(AT), image("back", AT), image("side", AT - 30 * MS), scan("near", AT - 50 * MS)]:
        assert add(sync, m) == ""
    (frame,) = sync.poll(AT + 150 * MS)
    assert frame.missing == {"side": "no_pose", "near": "no_pose"}


def test_out_of_order_messages_of_one_sensor():
    messages = drive()
    shuffled = []
    for sensor in (*OFFSETS, "near", "far", "odometry"):
        own = [m for m in messages if getattr(m, "sensor", "odometry") == sensor]
        own[10], own[11] = own[11], own[10]
        shuffled.append([(max(m.stamp_ns, own[max(i - 1, 0)].stamp_ns), i, m) for i, m in enumerate(own)])
    ordered = [m for _, _, m in sorted((x for own in shuffled for x in own), key=lambda x: x[:2])]
    frames = feed(make_sync(), ordered)
    assert [f.stamp_ns for f in frames] == sorted(f.stamp_ns for f in frames)
    assert len(frames) >= len(anchors()) - 1


def test_duplicates_are_refused_and_counted():
    sync = make_sync()
    doubled = [m for message in drive() for m in (message, message)]
    frames = feed(sync, doubled)
    assert [f.stamp_ns for f in frames] == anchors()
    assert sync.counters["odometry/duplicate"] == len([m for m in drive() if isinstance(m, EgoPose)])
    assert sum(sync.counters[f"left/{r}"] for r in ("duplicate", "too_late")) == len(anchors())


@pytest.mark.parametrize("absent", [*OFFSETS, "near", "far"])
def test_sensor_absent_from_the_start(absent):
    sync = make_sync()
    frames = feed(sync, drive(3.0, without=(absent,)))
    late = [f for f in frames if f.stamp_ns > START + 1_500 * MS]
    assert len(late) >= 16
    for frame in late:
        assert frame.missing == {absent: "never_seen"}
    gaps = np.diff([f.stamp_ns for f in late])
    np.testing.assert_allclose(gaps, PERIOD, atol=5)  # also without the anchor: stamps from another camera
    assert sync.counters[f"{absent}/never_seen"] >= 16
    assert sync.sensor_states(START + 3_000 * MS)[absent].state == "never_seen"


@pytest.mark.parametrize("lost", [*OFFSETS, "near", "far"])
def test_sensor_that_vanishes_and_comes_back(lost):
    gone_from, gone_to = START + 2_000 * MS, START + 5_000 * MS
    messages = [m for m in drive(8.0) if getattr(m, "sensor", "") != lost or not gone_from < m.stamp_ns < gone_to]
    sync = make_sync()
    frames = feed(sync, messages)
    gaps = np.diff([f.stamp_ns for f in frames])
    assert gaps.max() < 1.6 * PERIOD and gaps.min() > 0.4 * PERIOD  # never a stall, never a burst
    reasons = {f.missing.get(lost, "") for f in frames if gone_from + 1_700 * MS < f.stamp_ns < gone_to - 700 * MS}
    assert reasons == {"stale"}
    back = [f for f in frames if f.stamp_ns > gone_to + 200 * MS]
    assert back and all(f.missing == {} for f in back)
    assert [f.stamp_ns for f in back] == [t for t in anchors(8.0) if t >= back[0].stamp_ns]


def test_a_silent_sensor_costs_the_deadline_only_until_it_is_stale():
    gone_from = START + 2_000 * MS
    sync = make_sync()
    waited = {}
    for message in (m for m in drive(6.0) if getattr(m, "sensor", "") != "front" or m.stamp_ns < gone_from):
        add(sync, message)
        for frame in sync.poll(message.stamp_ns):
            waited[frame.stamp_ns] = message.stamp_ns - frame.stamp_ns
    first = [w for t, w in waited.items() if gone_from + 100 * MS < t < gone_from + 900 * MS]
    later = [w for t, w in waited.items() if t > gone_from + 1_200 * MS]
    assert min(first) >= CONFIG.deadline_ns and max(first) < CONFIG.deadline_ns + 25 * MS
    assert max(later) < 60 * MS


def test_all_cameras_lost_leaves_radar_frames():
    cut = START + 2_000 * MS
    messages = [m for m in drive(6.0) if not (isinstance(m, CameraFrame) and m.stamp_ns > cut)]
    frames = feed(make_sync(), messages)
    blind = [f for f in frames if f.stamp_ns > cut + 1_200 * MS]
    assert len(blind) > 20
    for frame in blind:
        assert set(frame.missing) == set(OFFSETS) and set(frame.missing.values()) == {"stale"}
        assert frame.cameras == (None,) * 4 and all(frame.radars)


def test_late_image_is_left_out_by_the_deadline_and_then_refused():
    held = START + 10 * PERIOD + OFFSETS["front"]
    messages = drive()
    late = next(m for m in messages if getattr(m, "sensor", "") == "front" and m.stamp_ns == held)
    messages.remove(late)
    # The same camera keeps silent meanwhile, so nothing proves that the image was lost: only the deadline helps.
    messages = [m for m in messages if getattr(m, "sensor", "") != "front" or m.stamp_ns < held]
    sync = make_sync()
    frames = feed(sync, messages)
    frame = next(f for f in frames if f.stamp_ns == START + 10 * PERIOD)
    assert frame.missing == {"front": "late"}
    assert sync.add_camera(late) == "too_late"
    assert sync.counters["front/late"] >= 1 and sync.counters["front/too_late"] == 1


def test_dropped_image_does_not_wait_for_the_deadline():
    held = START + 10 * PERIOD + OFFSETS["front"]
    config = dataclasses.replace(CONFIG, deadline_ns=10_000 * MS)
    messages = [m for m in drive() if not (getattr(m, "sensor", "") == "front" and m.stamp_ns == held)]
    frames = feed(make_sync(config), messages, poll_after_s=0)
    frame = next(f for f in frames if f.stamp_ns == START + 10 * PERIOD)
    assert frame.missing == {"front": "out_of_tolerance"}


def test_a_lost_anchor_image_does_not_cost_its_frame():
    lost = START + 10 * PERIOD
    config = dataclasses.replace(CONFIG, deadline_ns=300 * MS)
    messages = [m for m in drive() if not (getattr(m, "sensor", "") == "back" and m.stamp_ns == lost)]
    frames = feed(make_sync(config), messages)
    assert [f.stamp_ns for f in frames] == anchors()
    assert frames[9].missing == {"back": "out_of_tolerance"}


def test_image_outside_the_tolerance_is_not_used():
    messages = [
        image("front", m.stamp_ns + 41 * MS) if getattr(m, "sensor", "") == "front" else m for m in drive(without=())
    ]
    frames = feed(make_sync(), sorted(messages, key=lambda m: m.stamp_ns))
    assert len(frames) >= 20
    assert {f.missing.get("front") for f in frames[1:-2]} == {"out_of_tolerance"}


def test_bag_loop_resets_once_and_frames_continue():
    sync = make_sync()
    first = feed(sync, drive(), poll_after_s=0.05)
    second = feed(sync, drive(), poll_after_s=0.5)
    assert sync.counters["reset/time_jump_back"] == 1
    # A message may arrive before the clock has jumped; after that the loop is like the first pass.
    assert [f.stamp_ns for f in second][-15:] == anchors()[-15:]
    assert len(second) >= len(first) - 1
    assert second[-1].ego.epoch > first[-1].ego.epoch
    assert first[-1].epoch == Epoch() and second[-1].epoch == Epoch(1, "time_jump_back")


def test_clock_that_jumps_back_resets():
    sync = make_sync()
    feed(sync, drive(1.0))
    assert sync.poll(START - 5_000 * MS) == []
    assert sync.counters["reset/time_jump_back"] == 1
    frames = feed(sync, drive(start=START - 5_000 * MS))
    assert len(frames) >= 20 and {f.epoch for f in frames} == {Epoch(1, "time_jump_back")}


def test_stamps_back_in_time_before_any_poll_reset():
    sync = make_sync()
    assert sync.add_radar(scan("near", START)) == ""
    assert sync.add_radar(scan("near", START - 2_000 * MS)) == ""
    assert sync.counters["reset/time_jump_back"] == 1


def test_future_and_past_stamps_are_refused():
    sync = make_sync()
    feed(sync, drive(1.0), poll_after_s=0)
    now = START + 1_000 * MS
    assert sync.add_camera(image("front", now + 1_500 * MS)) == "future_stamp"
    assert sync.add_pose(pose(now + 5_000 * MS)) == "future_stamp"
    assert sync.add_radar(scan("near", now - 2_500 * MS)) == "too_old"
    assert sync.counters["front/future_stamp"] == sync.counters["near/too_old"] == 1
    assert "reset/time_jump_back" not in sync.counters
    rest = [m for m in drive(3.0) if m.stamp_ns > now]
    assert len(feed(sync, rest)) >= 22


def test_the_limits_of_stamps_belong_to_what_is_allowed():
    def reason(*stamps, now=None):
        """Of the last of these scans."""
        sync = make_sync()
        if now is not None:
            sync.poll(now)
        reasons = [sync.add_radar(scan("near", t)) for t in stamps]
        return reasons[-1] or sync.counters["reset/time_jump_back"]

    assert reason(START + CONFIG.max_future_ns, now=START) == 0
    assert reason(START + CONFIG.max_future_ns + 1, now=START) == "future_stamp"
    assert reason(START - CONFIG.max_past_ns, now=START) == 0
    assert reason(START - CONFIG.max_past_ns - 1, now=START) == "too_old"
    assert reason(START, START - CONFIG.jump_back_ns) == 0
    assert reason(START, START - CONFIG.jump_back_ns - 1) == 1
    sync = make_sync()
    for now, resets in ((START, 0), (START - CONFIG.jump_back_ns, 0), (START - 2 * CONFIG.jump_back_ns - 1, 1)):
        sync.poll(now)
        assert sync.counters["reset/time_jump_back"] == resets


def test_unknown_sensors_and_malformed_scans_are_refused():
    sync = make_sync()
    assert sync.add_camera(image("roof", START)) == "unknown_sensor"
    assert sync.add_radar(scan("roof", START)) == "unknown_sensor"
    for points in (np.zeros((3, 5)), np.zeros(6), np.zeros((1, 3, 6))):
        assert sync.add_radar(RadarScan("near", START, points.astype(np.float32))) == "bad_layout"
    assert sync.counters == {"roof/unknown_sensor": 2, "near/bad_layout": 3}


def test_no_pose_gives_no_frame_and_a_reason():
    sync = make_sync()
    frames = feed(sync, drive(without=("odometry",)))
    assert frames == []
    assert sync.counters["frame/no_pose"] >= 20
    assert sync.sensor_states(START)["odometry"].reason == "never_seen"


def test_odometry_that_stops_is_extrapolated_up_to_the_limit():
    cut = START + 1_000 * MS
    messages = [m for m in drive() if not (isinstance(m, EgoPose) and m.stamp_ns > cut)]
    sync = make_sync()
    frames = feed(sync, messages)
    assert frames[-1].stamp_ns <= cut + CONFIG.max_extrapolation_ns
    assert frames[-1].stamp_ns > cut
    np.testing.assert_allclose(frames[-1].ego.odom_from_ego, pose(frames[-1].stamp_ns).odom_from_ego, atol=1e-6)
    assert sync.counters["frame/no_pose"] >= 8


def test_pose_jump_separates_what_was_measured_before():
    jump = START + 1_060 * MS
    messages = [
        pose(m.stamp_ns, shift=30.0) if isinstance(m, EgoPose) and m.stamp_ns >= jump else m for m in drive(3.0)
    ]
    sync = make_sync()
    frames = feed(sync, messages)
    assert {f.ego.epoch for f in frames if f.stamp_ns < jump - 30 * MS} == {0}
    assert {f.ego.epoch for f in frames if f.stamp_ns > jump + 30 * MS} == {1}
    for frame in frames:
        measured = [v.ego for v in frame.cameras if v] + [s.ego for sweeps in frame.radars for s in sweeps]
        assert all(ego.epoch == frame.ego.epoch for ego in measured)
    after = next(f for f in frames if f.stamp_ns >= jump)
    assert "pose_jump" in after.missing.values()


def test_missing_calibration_is_a_named_reason_until_it_comes():
    sync = make_sync(calibrated=False)
    sync.set_radar_extrinsics("near", np.eye(4))
    half = START + 1_000 * MS
    frames = feed(sync, [m for m in drive() if m.stamp_ns < half], poll_after_s=0)
    expected = {**dict.fromkeys(OFFSETS, "no_calibration"), "far": "no_calibration"}
    assert len(frames) > 5 and frames[-1].missing == expected
    for name in OFFSETS:
        assert sync.set_camera_calibration(name, CALIBRATION) is False
    frames = feed(sync, [m for m in drive() if m.stamp_ns >= half])
    assert frames[-1].missing == {"far": "no_calibration"}


def test_changed_calibration_is_noticed():
    sync = make_sync()
    assert sync.set_camera_calibration("front", dataclasses.replace(CALIBRATION, K=np.eye(3))) is False
    assert sync.set_camera_calibration("front", dataclasses.replace(CALIBRATION, K=2 * np.eye(3))) is True
    assert sync.counters["front/calibration_changed"] == 1
    different = dict(width=3, height=3, distortion_model="fisheye", D=(0.1,), ego_from_cam=2 * np.eye(4))
    for change in ({name: value} for name, value in different.items()):
        assert sync.set_camera_calibration("left", dataclasses.replace(CALIBRATION, **change)) is True
        assert sync.set_camera_calibration("left", CALIBRATION) is True
    assert sync.set_radar_extrinsics("near", np.eye(4)) is False
    assert sync.set_radar_extrinsics("near", 2 * np.eye(4)) is True
    assert sync.counters["near/calibration_changed"] == 1


def test_frames_assembled_after_a_change_of_calibration_are_of_a_new_epoch():
    """The change comes between an anchor's image and the frame's completion: that frame, too, is made with it."""
    other = dataclasses.replace(CALIBRATION, K=2 * np.eye(3))
    changes = {
        8: lambda: sync.set_camera_calibration("front", other),
        9: lambda: sync.set_camera_calibration("front", other),  # said again
        16: lambda: sync.set_radar_extrinsics("near", 2 * np.eye(4)),
    }
    sync, frames = make_sync(), []
    for message in drive():
        frames += feed(sync, [message], poll_after_s=0)
        if getattr(message, "sensor", "") == "back" and (k := anchors().index(message.stamp_ns)) in changes:
            assert len(frames) == k  # the image of frame k is there, the frame is not
            changes[k]()
    expected = [Epoch()] * 8 + [Epoch(1, "calibration_changed")] * 8 + [Epoch(2, "calibration_changed")] * 20
    assert [f.epoch for f in frames] == expected[: len(frames)] and len(frames) > 20
    assert [f.cameras[1].calibration.K[0, 0] for f in frames] == [1.0] * 8 + [2.0] * (len(frames) - 8)


def test_nothing_that_contributes_gives_no_frame():
    sync = make_sync(calibrated=False)
    assert feed(sync, drive()) == []
    assert sync.counters["frame/no_sensor"] >= 20


def test_anchor_images_too_close_to_each_other_are_dropped():
    messages = drive() + [image("back", t + 20 * MS) for t in anchors()]
    sync = make_sync()
    frames = feed(sync, sorted(messages, key=lambda m: m.stamp_ns))
    assert [f.stamp_ns for f in frames] == anchors()
    assert sync.counters["back/too_close"] + sync.counters["back/too_late"] >= 20


def test_buffers_stay_bounded():
    sync = make_sync()
    for k in range(2_000):  # no pose, no poll: nothing is ever taken out
        sync.add_camera(image("front", START + k * 10 * MS))
        sync.add_radar(scan("near", START + k * 10 * MS))
    assert len(sync._cameras["front"].items) == 11  # 4, and 4 in each of the 1.8 periods of a deadline
    assert len(sync._radars["near"].items) == 64


def test_sensor_states():
    sync = make_sync()
    feed(sync, [m for m in drive(2.0) if getattr(m, "sensor", "") != "front" or m.stamp_ns < START + 900 * MS])
    states = sync.sensor_states(START + 2_000 * MS)
    assert set(states) == {*OFFSETS, "near", "far", "odometry"}
    assert states["left"].state == "ok" and states["left"].reason == ""
    assert states["left"].rate_hz == pytest.approx(12.0, rel=0.01)
    assert states["odometry"].rate_hz == pytest.approx(50.0, rel=0.01)
    assert 0.0 < states["left"].age_s < 0.2
    assert states["front"].state == "stale" and 1.0 < states["front"].age_s < 1.3
    assert states["front"].rate_hz == pytest.approx(12.0, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [{"anchor": "roof"}, {"offsets_ns": {"roof": 1}}, {"offsets_ns": {"back": 1}}, {"camera_tolerance_ns": 42 * MS}],
)
def test_inconsistent_configuration_is_refused(change):
    with pytest.raises(ValueError, match=r"roof|offset|tolerance"):
        dataclasses.replace(CONFIG, **change)


def test_radar_only_and_camera_only_rigs():
    radar_only = SyncConfig((), ("near", "far"))
    frames = feed(make_sync(radar_only), drive(3.0, sensors=("near", "far", "odometry")))
    assert len(frames) > 20 and all(all(f.radars) for f in frames[5:])
    camera_only = dataclasses.replace(CONFIG, radars=())
    frames = feed(make_sync(camera_only), drive(sensors=(*OFFSETS, "odometry")))
    assert [f.stamp_ns for f in frames] == anchors() and frames[-1].radars == ()
